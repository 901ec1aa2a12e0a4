"""The protocol's version, and which other versions can be spoken to."""

from __future__ import annotations

import re
from typing import Final

from mcp.errors import ProtocolError, VersionMismatch

PROTOCOL_VERSION: Final = "1.0"
"""``major.minor``. Another minor version only adds fields that may be ignored."""

_MAJOR_MINOR: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")


def negotiate_version(theirs: object) -> str:
    """The version that two ends speak: the same major, and the lower minor version.

    ``theirs`` is any value that a peer sent. Raises :class:`~mcp.errors.VersionMismatch` for another
    major version and :class:`~mcp.errors.ProtocolError` for what is no version.
    """
    major, minor = _parse(theirs)
    own_major, own_minor = _parse(PROTOCOL_VERSION)
    if major != own_major:
        raise VersionMismatch(
            f"the peer speaks version {theirs} of the protocol and this end {PROTOCOL_VERSION}; "
            f"both must speak the same major version: upgrade the older end",
            details={"theirs": f"{major}.{minor}", "ours": PROTOCOL_VERSION},
        )
    return f"{major}.{min(minor, own_minor)}"


def _parse(version: object) -> tuple[int, int]:
    match = _MAJOR_MINOR.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise ProtocolError(f'a protocol version is a string like "{PROTOCOL_VERSION}", not {version!r:.80}')
    return int(match[1]), int(match[2])
