"""Where a listener is: ``host:port``, ``tcp://host:port``, ``unix:///path`` or ``memory://name``."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from mcp.errors import InvalidArgument

UNIX_PATH_BYTES_MAX: Final = 103
"""The longest path of a Unix socket that all systems take."""


class Scheme(enum.StrEnum):
    """The transport that an address names."""

    TCP = "tcp"
    UNIX = "unix"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. ``host`` and ``port`` for TCP; ``path`` for Unix (file) and memory (name)."""

    scheme: Scheme
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """The form that :func:`parse_address` reads; TCP without its scheme."""
        if self.scheme is not Scheme.TCP:
            return f"{self.scheme}://{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read an address. Raises :class:`~mcp.errors.InvalidArgument` with an example of what is right."""
    if not isinstance(text, str):
        raise InvalidArgument(f"an address is a string, not {type(text).__name__}")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _parse_tcp(text, text)
    if scheme == Scheme.TCP:
        return _parse_tcp(rest, text)
    if scheme == Scheme.UNIX:
        return _parse_unix(rest, text)
    if scheme == Scheme.MEMORY and rest:
        return Address(Scheme.MEMORY, path=rest)
    raise _invalid(text, "it has no known scheme")


def _parse_tcp(rest: str, text: str) -> Address:
    host, separator, port = rest.rpartition(":")
    if not host and _is_port(port):
        raise InvalidArgument(
            f"{text!r:.200} is a port alone, and an address is HOST:PORT: write 127.0.0.1:{port} for this "
            "machine only, or the host name or IP address at which others reach it"
        )
    if not separator or not host:
        raise _invalid(text, "it needs a host and a port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _invalid(text, "an IPv6 address goes in brackets")
    if not host or any(character in "/[]@?# " or character < " " for character in host):
        raise _invalid(text, "its host is no name and no IP address")
    if not _is_possible(host):
        raise _invalid(text, "a part of its host's name is empty, too long, or of letters that no name has")
    if not _is_port(port):
        raise _invalid(text, f"its port {port!r} is no number in 0..65535")
    return Address(Scheme.TCP, host=host, port=int(port))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def _is_possible(host: str) -> bool:
    """Whether a resolver can be asked for it: one that it cannot be asked for raises what nobody expects."""
    try:
        host.encode("idna")
    except UnicodeError:
        return ":" in host
    return True


def _parse_unix(path: str, text: str) -> Address:
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise _invalid(text, "a Unix socket needs the absolute path of a file")
    if len(path.encode(errors="replace")) > UNIX_PATH_BYTES_MAX:
        raise _invalid(text, f"its path is longer than {UNIX_PATH_BYTES_MAX} bytes, which systems refuse")
    return Address(Scheme.UNIX, path=path)


def _invalid(text: str, reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"{text!r:.200} is no address: {reason}; write host:port, [::1]:7400, tcp://host:port or unix:///path"
    )
