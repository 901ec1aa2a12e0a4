"""What is queued to be sent, and what of it the transport has taken.

The transport is asked to hold nothing back (its high-water mark is 0): it takes a batch, and whatever the
system does not accept at once stops the queue until the transport has written it. So what is queued is
queued here, as the caller's own buffers: a large tensor waits as a view and is passed on in slices, and at
most one slice is ever copied.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from mcp.wire.frame import Buffer

SLICE_BYTES: Final = 256 * 1024
"""Large buffers are passed to the transport in slices of this size."""
BATCH_BYTES: Final = 256 * 1024
"""Small buffers are passed to the transport together, up to this size."""
_SMALL_BYTES: Final = 64 * 1024


class Outbox:
    """A queue of buffers in front of one transport. Positions count bytes since the connection was made."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._queue: deque[Buffer] = deque()
        self._writable = True
        self._holds_nothing = True
        self.queued = 0
        """The position after the last byte that was put."""
        self.handed = 0
        """The position after the last byte that the transport took."""

    def attach(self, transport: asyncio.Transport) -> None:
        """Use ``transport``, from now on."""
        self._transport = transport
        # With TLS a mark of 0 would stop the queue for good: it counts as reached by nothing.
        secure = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=_SMALL_BYTES if secure else 0)
        self._holds_nothing = not secure

    def __bool__(self) -> bool:
        """Whether anything waits to be passed on."""
        return bool(self._queue)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the operating system has not taken yet."""
        unsent = self.queued - self.handed
        if self._transport is None or (self._writable and self._holds_nothing):
            return unsent
        return unsent + self._transport.get_write_buffer_size()

    @property
    def sent(self) -> int:
        """The position after the last byte that the operating system took."""
        return self.queued - self.backlog_bytes

    def put_one(self, buffer: bytes) -> None:
        """Queue one buffer, which nobody changes."""
        self._queue.append(buffer)
        self.queued += len(buffer)

    def put(self, buffers: Iterable[Buffer]) -> None:
        """Queue buffers. They are sent by :meth:`flush`; leave them unchanged until then."""
        for buffer in buffers:
            self._queue.append(buffer)
            self.queued += len(buffer)

    def flush(self) -> None:
        """Pass on as much as the transport takes now."""
        transport = self._transport
        queue = self._queue
        while queue and self._writable and transport is not None and not transport.is_closing():
            if len(queue) == 1 or len(queue[0]) > _SMALL_BYTES:
                transport.write(self._take_slice())
            else:
                transport.writelines(self._take_batch())

    def pause(self) -> None:
        """The transport has more than it can write now."""
        self._writable = False

    def resume(self) -> None:
        """The transport has written everything."""
        self._writable = True

    def clear(self) -> None:
        """Forget what is queued, and the transport. Positions stay."""
        self._queue.clear()
        self._transport = None

    def _take_slice(self) -> Buffer:
        buffer = self._queue.popleft()
        if len(buffer) > SLICE_BYTES:
            view = memoryview(buffer)
            self._queue.appendleft(view[SLICE_BYTES:])
            buffer = view[:SLICE_BYTES]
        self.handed += len(buffer)
        return buffer

    def _take_batch(self) -> list[Buffer]:
        queue = self._queue
        batch: list[Buffer] = []
        size = 0
        while queue and size < BATCH_BYTES and len(queue[0]) <= _SMALL_BYTES:
            buffer = queue.popleft()
            size += len(buffer)
            batch.append(buffer)
        self.handed += size
        return batch
