"""How much may be under way at once: requests, and the bytes of their bodies and answers.

Pure. What does not fit is refused as too much (``Busy``) before it is read; it waits nowhere.
"""

from __future__ import annotations

from types import TracebackType

from mcp.errors import Busy
from mcp.gateway.limits import BODIES_BYTES_MAX, REQUESTS_MAX


class Room:
    """What all requests share."""

    def __init__(self, requests_max: int = REQUESTS_MAX, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self._requests_max = requests_max
        self._bytes_max = bytes_max
        self.requests = 0
        """Requests that are under way."""
        self.bytes = 0
        """Bytes that they hold."""

    def request(self) -> Held:
        """The share of one request, to be used in a ``with``; it begins empty."""
        return Held(self)

    def take(self, requests: int, size: int) -> None:
        """Take so much. Raises :class:`~mcp.errors.Busy`, and takes nothing, where it does not fit."""
        if self.requests + requests > self._requests_max:
            raise Busy(f"requests_max={self._requests_max} requests are under way; send it again in a while")
        if size and self.bytes + size > self._bytes_max:
            raise Busy(
                f"{size} bytes do not fit beside the {self.bytes} of other requests"
                f" (bodies_bytes_max={self._bytes_max}); send it again in a while"
            )
        self.requests += requests
        self.bytes += size

    def give(self, requests: int, size: int) -> None:
        """Give it back."""
        self.requests -= requests
        self.bytes -= size


class Held:
    """What one request holds of a :class:`Room`, until the ``with`` ends."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._requests = 0
        self._bytes = 0

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.give(self._requests, self._bytes)
        self._requests = self._bytes = 0

    def enter(self) -> None:
        """Count as a request under way. Raises :class:`~mcp.errors.Busy`."""
        if not self._requests:
            self._room.take(1, 0)
            self._requests = 1

    def grow(self, size: int) -> None:
        """Hold so many bytes more. Raises :class:`~mcp.errors.Busy`."""
        self._room.take(0, size)
        self._bytes += size
