"""The cluster key and the TLS files, as options and environment give them.

The key comes from a file or from the environment, never from the command line, which every user of the
machine can read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from mcp.errors import ConfigInvalid

CLUSTER_KEY_VARIABLE: Final = "MCP_CLUSTER_KEY"
KEY_FILE_BYTES_MAX: Final = 4096


def cluster_key(key_file: Path | None) -> bytes | None:
    """Return the shared secret: the file's content without surrounding white space, else the variable's.

    ``None`` when neither is given. Raises :class:`~mcp.errors.ConfigInvalid` for an empty or oversize key.
    """
    if key_file is None:
        value = os.environ.get(CLUSTER_KEY_VARIABLE)
        return checked(value.encode(), CLUSTER_KEY_VARIABLE) if value is not None else None
    with key_file.open("rb") as file:
        return checked(file.read(KEY_FILE_BYTES_MAX + 1), str(key_file))


def checked(content: bytes, source: str) -> bytes:
    """Return the key in ``content``, or refuse it by name of its source."""
    if len(content) > KEY_FILE_BYTES_MAX:
        raise ConfigInvalid(
            f"{source} has more than {KEY_FILE_BYTES_MAX} bytes, so it is hardly a key; "
            "make one with: openssl rand -hex 32"
        )
    key = content.strip()
    if not key:
        raise ConfigInvalid(f"{source} holds no key; make one with: openssl rand -hex 32")
    return key
