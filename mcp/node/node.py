"""A node: the composition root, embeddable in a running asyncio program.

::

    async with Node.local("data") as node, node.client() as client:
        await client.deploy("digits", Path("digits.onnx"))
        answer = await client.infer("digits", image)

The node starts and stops its parts and hears its connections; it decides nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from consensus.configuration import INCARNATION_MAX
from consensus.errors import ConsensusError
from consensus.interface import EngineStatus
from executor.errors import ExecutorError
from executor.interface import Executor
from mcp.client.client import Client
from mcp.errors import ConfigInvalid, InvalidArgument, McpError, NameTaken, Unavailable
from mcp.net.address import Address, Scheme, parse_address
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.net.exchange import Exchange
from mcp.net.limits import DEFAULT_LIMITS, Limits, files_max, fitting
from mcp.net.listener import Listener
from mcp.net.tls import client_context, server_context
from mcp.node.assembly import Assembly
from mcp.node.config import NodeConfig
from mcp.node.machines import checked_executors
from mcp.node.namesakes import Starter, answers_there, refuse_to_be_a_second
from mcp.node.ownership import claim, claim_journal, disclaim, has_moved, is_newcomer
from mcp.node.surroundings import Surroundings
from mcp.node.translation import translated
from mcp.wire.handshake import Established, Identity, Role

_log = logging.getLogger("mcp.node")
STEP_S = 0.25
LOOK_AGAIN_S = 1.0
SWEEP_S = 600.0
DIAL_TIMEOUT_S = 2.0
PORT_TRIES = 8
"""So many free ports are tried where one is asked for that is free for connections and for datagrams."""
HAND_OVER_S = 1.0
"""A node that stops while it leads waits at most so long for another to take over."""
SHUT_OUT_S = 10.0
"""A node that is nothing but refused for so long, because others are linked to a process of its name, stops:
a link to a process that has died is given up earlier."""
PEER_LIMITS = Limits(keepalive_s=0.5, dead_after_s=2.0)
"""Between nodes a silent link is given up quickly: TCP takes long to resume after a partition."""


class Node:
    """One node of a cluster, or a whole cluster of one.

    ``executors`` are state machines of the user's own, by name: fed from the same log, each command once,
    and part of the same snapshots. Every node of a cluster needs the same: a command for one that a node
    lacks is refused with ``Unsupported``, and a node that lacks one that was used stops. ``surroundings`` are
    time, network, disk and threads: the real ones unless a simulation brings its own. :meth:`start` raises
    :class:`~mcp.errors.McpError` for whatever keeps the node from starting: a port that is taken, a data
    directory in use, damaged storage.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        executors: Mapping[str, Executor] | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.config = config
        self._executors = checked_executors(executors)
        self.addresses: tuple[str, ...] = ()
        self._around = surroundings or Surroundings()
        self._clock = self._around.clock
        self._memory = self._around.network
        self._stack = contextlib.AsyncExitStack()
        self._failed: asyncio.Future[McpError] | None = None
        self._parts: Assembly | None = None
        self._starting: asyncio.Future[None] | None = None
        self._step_due = asyncio.Event()
        self._journal = 0

    @classmethod
    def local(
        cls, path: str | Path, *, executors: Mapping[str, Executor] | None = None, **settings: Any
    ) -> Self:
        """A whole cluster in this process: durable below ``path``, and no port.

        ``settings`` are further fields of :class:`~mcp.node.config.NodeConfig`.
        """
        config = NodeConfig("local", Path(path), listen=(), engine="solo", **settings)
        return cls(config, executors=executors)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    # -- what users ask -----------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """What others are told to dial."""
        config = self.config
        known = config.advertise or config.voters.get(config.node_id)
        return known or (self.addresses[0] if self.addresses else self._memory_address)

    def client(self, **settings: Any) -> Client:
        """A client of this node, in this process and without a port."""
        return Client(
            [self._memory_address],
            cluster_id=self.config.cluster_id,
            cluster_key=self.config.cluster_key,
            clock=self._clock,
            network=self._memory,
            **settings,
        )

    def status(self, *, with_digest: bool = True, with_models: bool = True) -> dict[str, Any]:
        """What this node says of itself: the payload of ``STATUS_RESULT``.

        With its digest that costs a pass over the whole state, with its models one over those. Raises
        ``Unavailable`` while it does not run.
        """
        report = self._running().report
        return report.status(with_digest=with_digest, with_models=with_models, rested=False)

    @property
    def position(self) -> tuple[int, int]:
        """The term, and the last log position that was executed here; zeros while it does not run."""
        if self._parts is None:
            return 0, 0
        return self._parts.driver.term, self._parts.driver.applied_index

    async def wait_failed(self) -> McpError:
        """Wait until the node cannot go on (a failed disk, a broken invariant); gives the reason."""
        if self._failed is None:
            raise Unavailable("the node has not been started")
        return await asyncio.shield(self._failed)

    # -- start and stop -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover from the disk, listen, and join the others. Returns before there is a leader.

        Raises :class:`~mcp.errors.InvalidArgument` when the node is started already, which goes on.
        """
        if self._starting is not None or self._parts is not None:
            raise InvalidArgument("this node is started already; stop it before you start it again")
        starting = self._starting = asyncio.ensure_future(self._start())
        try:
            await starting
        except BaseException as error:
            self._starting = None
            await self.stop()
            if isinstance(error, ConsensusError | ExecutorError | OSError):
                raise translated(error) from error
            if isinstance(error, asyncio.CancelledError) and not _cancelling():
                raise Unavailable("this node was stopped while it was starting") from None
            raise
        finally:
            self._starting = None

    async def stop(self) -> None:
        """Stop in good order. What clients were promised is on the disk already.

        A node that leads hands leadership over first: the others need not miss it before they elect.
        """
        starting = self._starting
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        try:
            await self._hand_over()
        finally:
            await self._stack.aclose()
            self._parts = None

    async def _start(self) -> None:
        self._failed = asyncio.get_running_loop().create_future()
        claimed = await asyncio.to_thread(claim, self.config)
        try:
            await self._open()
        except BaseException:
            if claimed:  # nothing was promised with it yet: whoever mends the command may start as another
                await asyncio.to_thread(disclaim, self.config)
            raise
        await self._begin()

    async def _open(self) -> None:
        """Everything up to the moment in which the node takes part."""
        # For a journal that is made: no two ever have the same number, and none has 0.
        incarnation = 1 + int.from_bytes(self._clock.entropy(8), "big") % INCARNATION_MAX
        opening = asyncio.ensure_future(
            asyncio.to_thread(self._around.open_files, self.config.data_dir, incarnation)
        )
        try:
            files = await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])  # or it would hold the directory, and nobody would close it
            if opening.exception() is None:
                opening.result().close()
            raise
        self._stack.callback(files.close)
        self._journal = files.journal.incarnation
        await asyncio.to_thread(claim_journal, self.config, self._journal)
        for note in files.journal.recovered_notes:
            _log.warning("recovery: %s", note)
        tls = self._tls_to_peers()
        self._parts = Assembly(
            self.config,
            files,
            self._around,
            self._executors,
            functools.partial(self._dial, tls),
            functools.partial(self._visit, tls),
            self._stack,
            self._on_failure,
            self._on_change,
        )
        # Whoever listens in memory alone is reached by this process alone, and so is everybody of its name.
        if self.config.engine != "solo" and self.config.listen:
            await self._refuse_to_be_a_second(self._parts, tls)
        await self._listen(self._parts)

    async def _refuse_to_be_a_second(self, parts: Assembly, tls: ssl.SSLContext | None) -> None:
        """Raise where another process has this node's name: before anybody could take the two for one."""
        config = self.config
        own = {config.voters.get(config.node_id), config.advertise} - {None}
        others = [address for addresses in parts.roster.peers().values() for address in addresses]
        starter = Starter(
            config.node_id,
            self._journal,
            reached=sorted(str(address) for address in own.difference(config.listen)),
            others=[*others, *config.join],
            fresh=is_newcomer(config.data_dir),
        )
        # No node id has a colon: under its own name nobody would let it in who has the same.
        visit = functools.partial(self._visit, tls, name=f"{config.node_id}:starting")
        await refuse_to_be_a_second(visit, self._clock, starter)

    async def _begin(self) -> None:
        """Take part. Others may send already: nothing is waited for before the driver has started."""
        parts = self._running()
        parts.membership.address = parts.joining.address = self.address
        if self.config.engine != "solo":  # on the loop, for that reason: it is one small file
            parts.joining.moved = has_moved(self.config.data_dir, self.address)
        parts.driver.start()
        parts.links.start()
        self._stack.push_async_callback(parts.links.stop)
        if self.config.engine == "solo":
            await parts.membership.step()
        joining = asyncio.ensure_future(parts.joining.run())
        self._stack.push_async_callback(_end, joining)
        if self.addresses and self.address not in self.addresses:
            answering = asyncio.ensure_future(self._look_whether_reached(parts.joining.journal))
            self._stack.push_async_callback(_end, answering)
        await parts.gossiping.start(self.address)
        self._stack.push_async_callback(parts.gossiping.leave)
        maintenance = asyncio.ensure_future(self._maintain(parts))
        self._stack.push_async_callback(_end, maintenance)

    async def _look_whether_reached(self, journal: int) -> None:
        """Say so where the address that others are told is not this process: it listens elsewhere."""
        visit = functools.partial(self._visit, self._tls_to_peers(), name=f"{self.config.node_id}:starting")
        if not await answers_there(visit, self._clock, self.address, self.config.node_id, journal):
            _log.warning(
                "node %s listens at %s, and others are told %s, where it does not answer to itself: correct "
                "--listen, --advertise or its entry in --peers, unless only others reach it there",
                self.config.node_id,
                ", ".join(self.addresses),
                self.address,
            )

    async def _hand_over(self) -> None:
        parts = self._parts
        if parts is None or parts.driver.leader != self.config.node_id:
            return
        if not parts.roster.voters_besides():
            return
        with contextlib.suppress(ConsensusError):
            successor = await parts.driver.transfer_leadership(timeout_s=HAND_OVER_S)
            _log.info("node %s hands leadership over to %s and stops", self.config.node_id, successor)

    async def _listen(self, parts: Assembly) -> None:
        context = self._tls_to_listen()
        if context is not None and self.config.tls_ca is None:
            _log.warning("TLS without an authority (tls_ca): nobody who connects is asked for a certificate")
        limits = replace(fitting(files_max(), len(self.config.listen)), poll_s=self.config.poll_s)
        bound = [await self._listen_at(parts, address, context, limits) for address in self.config.listen]
        if self._memory_address not in self.config.listen:
            await self._listen_at(parts, self._memory_address, None, DEFAULT_LIMITS)
        self.addresses = tuple(map(str, bound))

    async def _listen_at(
        self, parts: Assembly, address: str, context: ssl.SSLContext | None, limits: Limits
    ) -> Address:
        """Listen for connections, and for datagrams at the same port."""
        free = parse_address(address)
        any_port = free.scheme is Scheme.TCP and free.port == 0
        for attempt in range(1, PORT_TRIES + 1):
            listener = Listener(
                address,
                self._identity(),
                self,
                clock=self._clock,
                ssl=context,
                limits=limits,
                network=self._memory,
                admit=self._admit,
            )
            await listener.start()
            place = listener.bound_address
            try:
                await parts.gossiping.listen(place)
            except BaseException as error:
                await listener.close()
                # Of the free ports this one is taken for datagrams alone.
                if any_port and attempt < PORT_TRIES and isinstance(error, ConfigInvalid):
                    continue
                raise
            self._stack.push_async_callback(listener.close)
            parts.listeners.append(listener)
            break
        return place

    async def _maintain(self, parts: Assembly) -> None:
        """Look after what nobody asks for, for ever: what goes wrong with it once is tried again."""
        loop = asyncio.get_running_loop()
        looked = swept = loop.time()
        said = ""
        while True:
            self._step_due.clear()
            try:
                self._look_whether_shut_out(parts)
                await parts.membership.step()
                parts.admitting.look()
                parts.rollouts.look()
                parts.replacing.look()
                if loop.time() - looked >= LOOK_AGAIN_S:
                    looked = loop.time()
                    parts.follower.look_again()
                if loop.time() - swept >= SWEEP_S:
                    swept = loop.time()
                    used = parts.state.models.digests() | parts.state.inferences.blobs()
                    await parts.artefacts.sweep(used)
            except Exception as error:
                if said != str(error):
                    said = str(error)
                    expected = isinstance(error, McpError)
                    _log.error("maintenance: %s", error, exc_info=None if expected else error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STEP_S):
                    await self._step_due.wait()

    def _look_whether_shut_out(self, parts: Assembly) -> None:
        failed = self._failed
        if parts.links.shut_out_s() < SHUT_OUT_S or failed is None or failed.done():
            return
        error = NameTaken(
            f"for {SHUT_OUT_S:g} s node {self.config.node_id} was refused wherever it dialled: others have a "
            "link to another process of its name. If this is the right one, stop the other. If not, this one "
            "needs a name (--node-id), an address and a data directory of its own"
        )
        _log.critical("node %s cannot go on: %s: %s", self.config.node_id, error.code, error)
        failed.set_result(error)

    # -- connections (mcp.net.interface.Handler) ----------------------------------------------------

    def _admit(self, peer: Established, address: str) -> None:
        """Let in whoever has proved to be of the cluster, but no second process of a name."""
        if peer.role is Role.NODE and self._parts is not None:
            self._parts.links.refuse_a_second(peer.node_id, peer.journal, address)

    def on_connected(self, connection: Connection) -> None:
        """A peer or a client is there."""
        if self._is_peer(connection):
            # Whoever has dialled: a link that only one end gives up is not made again by the other.
            connection.watch_closely(PEER_LIMITS)
            self._running().links.adopt(connection)

    def on_request(self, exchange: Exchange) -> None:
        """Answer a request."""
        self._running().dispatch.on_request(exchange)

    def on_notice(self, connection: Connection, body: memoryview) -> None:
        """Another node's consensus message; from a client it is ignored."""
        peer = connection.peer
        if peer.role is Role.NODE and self._parts is not None:
            self._parts.driver.on_message(peer.node_id, bytes(body))

    def on_closed(self, connection: Connection, reason: McpError | None) -> None:
        """A peer or a client is gone."""
        if self._parts is not None and self._is_peer(connection):
            self._parts.links.release(connection)

    def _is_peer(self, connection: Connection) -> bool:
        # Also one that is no member, as far as this node knows: it may be new, and even lead.
        peer = connection.peer
        return self.config.engine != "solo" and peer.role is Role.NODE and peer.node_id != self.config.node_id

    async def _dial(self, context: ssl.SSLContext | None, address: str) -> Connection:
        try:
            return await connect(
                address,
                self._identity(),
                self,
                clock=self._clock,
                ssl=context,
                timeout_s=DIAL_TIMEOUT_S,
                limits=PEER_LIMITS,
                network=self._memory,
            )
        except NameTaken as error:
            if self._parts is not None:
                self._parts.links.shut_out(error)
            raise

    async def _visit(
        self, context: ssl.SSLContext | None, address: str, name: str | None = None
    ) -> Connection:
        """A connection that only asks, and that neither end takes for a link between nodes."""
        return await connect(
            address,
            replace(self._identity(), node_id=name or self.config.node_id, role=Role.CLIENT, journal=0),
            clock=self._clock,
            ssl=context,
            timeout_s=DIAL_TIMEOUT_S,
            limits=PEER_LIMITS,
            network=self._memory,
        )

    # -- details ------------------------------------------------------------------------------------

    @property
    def _memory_address(self) -> str:
        return f"memory://{self.config.node_id}"

    def _identity(self) -> Identity:
        config = self.config
        key = config.cluster_key or b""
        return Identity(config.cluster_id, config.node_id, key, Role.NODE, self._journal)

    def _tls_to_listen(self) -> ssl.SSLContext | None:
        config = self.config
        if config.tls_cert is None or config.tls_key is None:
            return None
        return server_context(config.tls_cert, config.tls_key, authority=config.tls_ca)

    def _tls_to_peers(self) -> ssl.SSLContext | None:
        config = self.config
        if config.tls_cert is None and config.tls_ca is None:
            return None
        return client_context(authority=config.tls_ca, certificate=config.tls_cert, key=config.tls_key)

    def _running(self) -> Assembly:
        if self._parts is None:
            raise Unavailable("this node is not running; start it, or ask another one")
        return self._parts

    def _on_change(self, status: EngineStatus) -> None:
        self._step_due.set()
        _log.info(
            "node %s is %s in term %d, leader %s",
            self.config.node_id,
            status.role,
            status.term,
            status.leader or "unknown",
        )

    def _on_failure(self, error: ConsensusError) -> None:
        _log.critical("node %s cannot go on: %s: %s", self.config.node_id, error.code, error)
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(translated(error))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
