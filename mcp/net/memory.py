"""A network inside the process: the same connections without sockets, for tests and simulations.

Deterministic: everything happens in ``call_soon`` callbacks of the event loop, in the order of the writes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from mcp.errors import ConfigInvalid
from mcp.net.interface import Heard
from mcp.wire.frame import Buffer
from mcp.wire.messages import Message

READ_BYTES_MAX: Final = 64 * 1024
"""The most that one read delivers."""

ProtocolFactory = Callable[[], asyncio.BufferedProtocol]


class Handover(NamedTuple):
    """Messages that go from one end to the other as they are. The frame of each has no body.

    Frames keep their order, and so these are taken in the order in which they were given.
    """

    given: deque[Message]
    taken: deque[Message]


class MemoryTransport(asyncio.Transport):
    """One end of an in-memory connection. What is written counts as unsent until the other end reads it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BufferedProtocol,
        address: str,
        *,
        handover: Handover | None = None,
    ) -> None:
        super().__init__({"peername": address, "handover": handover})
        self._loop = loop
        self._protocol = protocol
        self._other: MemoryTransport | None = None
        self._incoming = bytearray()
        self._incoming_ended = False
        self._scheduled = False
        self._reading = True
        self._closing = False
        self._write_paused = False
        self._high, self._low = READ_BYTES_MAX, READ_BYTES_MAX // 4

    def join(self, other: MemoryTransport) -> None:
        """Make ``other`` the other end."""
        self._other = other

    def is_closing(self) -> bool:
        """Whether the transport is closed or closing."""
        return self._closing

    def close(self) -> None:
        """Close. The other end still receives what was written."""
        self._end(None, lost=False)

    def abort(self) -> None:
        """Close at once. What the other end has not received is lost."""
        self._end(ConnectionResetError("the other end aborted"), lost=True)

    def write(self, data: Buffer) -> None:
        """Send a copy of ``data``."""
        if self._closing or self._other is None or self._other._closing:
            return
        self._other._incoming += data
        self._other._schedule()
        if not self._write_paused and self.get_write_buffer_size() > self._high:
            self._write_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """Send copies of several buffers as one."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Say yes."""
        return True

    def write_eof(self) -> None:
        """Tell the other end that nothing more will come."""
        if self._other is not None:
            self._other._incoming_ended = True
            self._other._schedule()

    def get_write_buffer_size(self) -> int:
        """Bytes that the other end has not read."""
        return 0 if self._other is None or self._other._closing else len(self._other._incoming)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high mark."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks, in bytes."""
        self._high = READ_BYTES_MAX if high is None else high
        self._low = self._high // 4 if low is None else low

    def pause_reading(self) -> None:
        """Deliver nothing more to this end's protocol."""
        self._reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        self._reading = True
        self._schedule()

    def is_reading(self) -> bool:
        """Whether data is delivered."""
        return self._reading and not self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Not supported: a connection keeps its protocol."""
        raise NotImplementedError

    def get_protocol(self) -> asyncio.BufferedProtocol:
        """The protocol of this end."""
        return self._protocol

    def _schedule(self) -> None:
        if not self._scheduled and self.is_reading():
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if not self.is_reading():
            return
        if self._incoming:
            buffer = memoryview(self._protocol.get_buffer(-1)).cast("B")
            size = min(len(buffer), len(self._incoming), READ_BYTES_MAX)
            buffer[:size] = self._incoming[:size]
            del self._incoming[:size]
            self._protocol.buffer_updated(size)
            if self._other is not None:
                self._other._read_by_other()
            self._schedule()
        elif self._incoming_ended:
            self._incoming_ended = False
            if not self._protocol.eof_received():
                self.close()

    def _read_by_other(self) -> None:
        if self._write_paused and self.get_write_buffer_size() <= self._low:
            self._write_paused = False
            self._protocol.resume_writing()

    def _end(self, error: Exception | None, *, lost: bool) -> None:
        if self._closing:
            return
        self._closing = True
        self._loop.call_soon(self._protocol.connection_lost, None)
        other = self._other
        if other is None or other._closing:
            return
        if lost:
            other._incoming.clear()
            other._closing = True
            self._loop.call_soon(other._protocol.connection_lost, error)
        else:
            self.write_eof()


class MemoryDatagrams:
    """A port for datagrams in a :class:`MemoryNetwork` (:class:`mcp.net.interface.DatagramPort`)."""

    def __init__(self, network: MemoryNetwork, name: str) -> None:
        self._network = network
        self._name = name

    @property
    def address(self) -> str:
        """Where it is."""
        return f"memory://{self._name}"

    def send(self, address: str, data: bytes) -> bool:
        """Send one datagram; ``False``: the address is none of this network's."""
        scheme, separator, target = address.partition("://")
        if scheme != "memory" or not separator:
            return False
        self._network.carry(self._name, target, data)
        return True

    def close(self) -> None:
        """Hear nothing any more."""
        self._network.hear_no_more(self._name)


class MemoryNetwork:
    """Names, and who listens at them. Give the same one to listeners and to ``connect``.

    ``handing_over``: a message that is final (:meth:`mcp.net.connection.Connection.begin`) is not encoded for
    the other end, but handed over. Where every message should go as it goes over a wire, leave it out.
    """

    def __init__(self, *, handing_over: bool = False) -> None:
        self._handing_over = handing_over
        self._factories: dict[str, ProtocolFactory] = {}
        self._heard: dict[str, Heard] = {}

    def listen(self, name: str, factory: ProtocolFactory) -> None:
        """Accept at ``name``. Raises :class:`~mcp.errors.ConfigInvalid` if somebody else does."""
        if name in self._factories:
            raise ConfigInvalid(f"memory://{name} is taken; listen at another name")
        self._factories[name] = factory

    def stop_listening(self, name: str) -> None:
        """Accept no more at ``name``. Connections stay."""
        self._factories.pop(name, None)

    def connect(self, name: str, factory: ProtocolFactory) -> asyncio.BufferedProtocol:
        """Connect to ``name`` and return this end's protocol. Raises ``ConnectionRefusedError``."""
        accept = self._factories.get(name)
        if accept is None:
            raise ConnectionRefusedError(f"nobody listens at memory://{name}")
        loop = asyncio.get_running_loop()
        protocols = factory(), accept()
        there: Handover | None = None
        back: Handover | None = None
        if self._handing_over:
            there = Handover(deque(), deque())
            back = Handover(there.taken, there.given)
        near = MemoryTransport(loop, protocols[0], f"memory://{name}", handover=there)
        far = MemoryTransport(loop, protocols[1], "memory://", handover=back)
        near.join(far)
        far.join(near)
        far._protocol.connection_made(far)
        near._protocol.connection_made(near)
        return near._protocol

    # -- datagrams ----------------------------------------------------------------------------------

    def datagrams(self, name: str, heard: Heard) -> MemoryDatagrams:
        """A port at ``name``. Raises :class:`~mcp.errors.ConfigInvalid` if there is one already."""
        if name in self._heard:
            raise ConfigInvalid(f"datagrams to memory://{name} are heard already; take another name")
        self._heard[name] = heard
        return MemoryDatagrams(self, name)

    def hear_no_more(self, name: str) -> None:
        """Close the port at ``name``."""
        self._heard.pop(name, None)

    def carry(self, source: str, target: str, data: bytes) -> None:
        """Bring a datagram to ``target``, if somebody hears there when it arrives."""
        asyncio.get_running_loop().call_soon(self._arrive, source, target, data)

    def _arrive(self, source: str, target: str, data: bytes) -> None:
        heard = self._heard.get(target)
        if heard is not None:
            heard(data, f"memory://{source}")
