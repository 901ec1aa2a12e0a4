"""What host names stand for, asked for again now and then, so that who sends never waits for a resolver."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

RESOLVE_AGAIN_S: Final = 30.0
"""A name is asked for again after so long, if somebody still uses it: what a Kubernetes headless service
stands for changes with its pods."""

FAILED_AGAIN_S: Final = 2.0
"""The same for a name that no resolver knew."""

NAMES_MAX: Final = 256
"""The names that are remembered; the one that was asked for first makes room."""

ADDRESSES_MAX: Final = 64
"""The addresses that are taken of one name."""

Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""Gives the IP addresses of a host name, the preferred one first. Raises ``OSError`` where there are none."""


async def system_resolve(host: str) -> list[str]:
    """Ask the system. Raises ``OSError``."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def is_literal(host: str) -> bool:
    """Whether it is an IP address already."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(slots=True)
class _Name:
    addresses: tuple[str, ...] = ()
    again_at: float = 0.0
    asking: asyncio.Task[None] | None = None


class Names:
    """Names and what they stand for. All calls on the loop's thread."""

    def __init__(self, resolve: Resolve = system_resolve, *, again_s: float = RESOLVE_AGAIN_S) -> None:
        self._resolve = resolve
        self._again_s = again_s
        self._names: dict[str, _Name] = {}

    def addresses(self, host: str) -> tuple[str, ...]:
        """The IP addresses of ``host``, as far as they are known; where that is long ago it is asked again.

        Empty while the first answer is not there. What a name stood for holds until there is a new answer.
        """
        if is_literal(host):
            return (host,)
        name = self._names.get(host)
        if name is None:
            self._make_room()
            name = self._names[host] = _Name()
        if name.asking is None and asyncio.get_running_loop().time() >= name.again_at:
            name.asking = asyncio.ensure_future(self._ask(host, name))
        return name.addresses

    def close(self) -> None:
        """Ask no more."""
        for name in self._names.values():
            if name.asking is not None:
                name.asking.cancel()
        self._names.clear()

    async def _ask(self, host: str, name: _Name) -> None:
        after_s = self._again_s
        try:
            found = await self._resolve(host)
            name.addresses = tuple(address for address in found if is_literal(address))[:ADDRESSES_MAX]
        except (OSError, UnicodeError):
            after_s = min(after_s, FAILED_AGAIN_S)
        finally:
            name.asking = None
        name.again_at = asyncio.get_running_loop().time() + after_s

    def _make_room(self) -> None:
        if len(self._names) >= NAMES_MAX:
            oldest = self._names.pop(next(iter(self._names)))
            if oldest.asking is not None:
                oldest.asking.cancel()
