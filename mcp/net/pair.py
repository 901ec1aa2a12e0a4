"""Two connected connections in one process."""

from __future__ import annotations

from mcp.clock import Clock
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.net.interface import Handler, RequestsRefused
from mcp.net.limits import DEFAULT_LIMITS, Limits
from mcp.net.listener import Listener
from mcp.net.memory import MemoryNetwork
from mcp.wire.handshake import Identity


async def memory_pair(
    initiator: Identity,
    acceptor: Identity,
    *,
    initiator_handler: Handler | None = None,
    acceptor_handler: Handler | None = None,
    limits: Limits = DEFAULT_LIMITS,
    clock: Clock | None = None,
    network: MemoryNetwork | None = None,
) -> tuple[Connection, Connection]:
    """Connect two ends in memory and return ``(initiator's, acceptor's)``, both open.

    The same code as over sockets, deterministic. They have a network of their own if none is given.
    Raises as :func:`~mcp.net.dial.connect`.
    """
    network = network or MemoryNetwork()
    listener = Listener(
        "memory://pair",
        acceptor,
        acceptor_handler or RequestsRefused(),
        limits=limits,
        clock=clock,
        network=network,
    )
    await listener.start()
    near = await connect(
        "memory://pair", initiator, initiator_handler, limits=limits, clock=clock, network=network
    )
    (far,) = listener.connections
    network.stop_listening("pair")
    return near, far
