"""The version of this software. The protocol's own is :data:`mcp.wire.version.PROTOCOL_VERSION`."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
