"""A node's part in the gossip: the shell around :mod:`mcp.cluster.gossip.core`.

Datagrams go by UDP between the ports that nodes listen at, stream messages over the links between members
or a connection made for them (:mod:`mcp.node.couriers`). What comes of it is a view of who is there, what
each can do and how busy it is. The view decides nothing about membership: who votes is decided by the log.

Both ways are sealed with the cluster's key. A node without a key listens on its own machine only, which the
settings see to, and so do its datagrams; its seal proves nothing. A node that is reached by a Unix socket has
no datagrams: it is probed by stream. A node alone (engine "solo") speaks to nobody and sees itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mcp.cluster.gossip.core import Gossip
from mcp.cluster.gossip.events import Event, EventKind
from mcp.cluster.gossip.limits import DEFAULT_LIMITS
from mcp.cluster.gossip.updates import State
from mcp.cluster.gossip.view import Member
from mcp.cluster.router.nodes import View
from mcp.errors import InvalidArgument, McpError, Unavailable
from mcp.net.address import Address, Scheme, parse_address
from mcp.net.connection import TIMER_EARLY_S_MAX, Connection
from mcp.net.datagrams import hear_group, open_datagrams
from mcp.net.exchange import Exchange
from mcp.net.interface import DatagramPort
from mcp.net.names import Names, is_literal
from mcp.node.card import make_card, make_load, node_record, takes_part
from mcp.node.config import is_private
from mcp.node.couriers import GOSSIP, Couriers
from mcp.node.surroundings import Surroundings
from mcp.version import VERSION

if TYPE_CHECKING:
    from mcp.node.assembly import Assembly

LOOK_S: Final = 0.5
"""So often the node looks at itself, and at whom it may ask; what has changed goes out with the gossip."""
BEACON_S: Final = 1.0
"""So often a node that sees nobody calls everybody on its network, where it was told to."""
FAREWELL_S: Final = 0.12
"""A node that stops takes so long to tell it: two rounds, to three others each, and those tell the rest."""
VIEW: Final = "VIEW"
"""The type of the request for a node's view."""

_log = logging.getLogger("mcp.node")


@dataclass(slots=True)
class Carried:
    """Messages that went one way, sealed as they are, and their bytes."""

    messages: int = 0
    size: int = 0

    def add(self, sealed: bytes) -> None:
        """One more."""
        self.messages += 1
        self.size += len(sealed)


class Gossiping:
    """See the head of this module. All calls on the loop's thread.

    ``visit(address)`` opens a connection that is no link between nodes.
    """

    def __init__(
        self, parts: Assembly, around: Surroundings, visit: Callable[[str], Awaitable[Connection]]
    ) -> None:
        self.operations: dict[str, Callable[[Exchange], None]] = {
            GOSSIP: self._on_stream,
            VIEW: self._answer_view,
        }
        """What it answers, by type of request."""
        self.couriers = Couriers(self._link, visit, around.clock)
        self._sent = Carried()
        self._received = {"datagram": Carried(), "stream": Carried()}
        self._parts = parts
        self._around = around
        self._alone = parts.config.engine == "solo"
        self._names = Names(around.resolve)
        self._ports: list[DatagramPort] = []
        self._group: asyncio.DatagramTransport | None = None
        self._core: Gossip | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = float("inf")
        self._looking: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._seeds: list[str] = []
        self._load: dict[str, Any] = {}
        self._capacity = around.gauges.capacity()
        self._view: View | None = None

    # -- life ---------------------------------------------------------------------------------------

    async def listen(self, address: Address) -> None:
        """Hear datagrams at ``address`` too. Raises :class:`~mcp.errors.ConfigInvalid`."""
        if self._alone or address.scheme is Scheme.UNIX:
            return
        port = await open_datagrams(
            address, self._on_datagram, names=self._names, network=self._around.network
        )
        # Sent is from the first that fits, and what only this machine reaches fits only itself.
        self._ports.append(port)
        self._ports.sort(key=lambda each: is_private(each.address))

    async def start(self, address: str) -> None:
        """Begin; others reach this node at ``address``. Raises :class:`~mcp.errors.ConfigInvalid`."""
        self._loop = asyncio.get_running_loop()
        config, now = self._parts.config, self._now()
        if "cuda" in self._parts.providers:
            await asyncio.to_thread(self._around.gauges.open)
        self._core = Gossip(
            config.node_id,
            _plain(address),
            cluster_id=config.cluster_id,
            cluster_key=config.cluster_key or b"",
            random_=self._around.clock.random(),
            now=now,
        )
        self._look(self._core, now)
        if self._alone:
            return
        if config.broadcast is not None:
            self._group = await hear_group(config.broadcast, self._on_datagram)
        self._looking = asyncio.ensure_future(self._keep_looking(self._core))
        self._pump()

    async def leave(self) -> None:
        """Tell the others that this node goes; for ``FAREWELL_S`` at most."""
        core = self._core
        if core is None or self._alone:
            return
        core.leave(self._now())
        self._pump()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._gone.wait()

    async def close(self) -> None:
        """Say and hear nothing any more."""
        self._core = None
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self.couriers.close()
        self._names.close()
        for port in self._ports:
            port.close()
        if self._group is not None:
            self._group.close()

    # -- what others want to know -------------------------------------------------------------------

    def members(self) -> tuple[Member, ...]:
        """All that are known, in the order of their names, dead and left ones for a while.

        Raises :class:`~mcp.errors.Unavailable` before the node has started.
        """
        return self._running().members(self._now())

    def view(self) -> View:
        """Those that are there and in the cluster, for the router and the scheduler; at most ``LOOK_S`` old.

        Raises :class:`~mcp.errors.Unavailable` before the node has started.
        """
        if self._view is None:
            there = (member for member in self.members() if member.state.present and takes_part(member))
            self._view = View(node_record(member, self._deployed_at) for member in there)
        return self._view

    def contacts(self) -> tuple[str, ...]:
        """Where others that are there can be reached, those that are in the cluster first."""
        if self._core is None:
            return ()
        others = [m for m in self.members() if m.state.present and m.name != self._core.name]
        return tuple(member.address for member in sorted(others, key=lambda m: not takes_part(m)))

    def met(self, peer: str) -> None:
        """A link to ``peer`` is up."""
        address = self._parts.roster.address_of(peer)
        if self._core is not None and address is not None:
            self._core.meet(peer, _plain(address), self._now())
            self._pump()

    def to_plain(self) -> dict[str, Any]:
        """The view as plain values: the payload of ``VIEW_RESULT``."""
        core, now = self._running(), self._now()
        if self._alone:
            self._look(core, now)
        members = [
            {
                "node": member.name,
                "address": member.address,
                "state": member.state.name.lower(),
                "age_s": max(0.0, now - member.since),
                "incarnation": member.incarnation,
                "role": self._parts.roster.role_of(member.name),
                "card": dict(member.card),
                "load": dict(member.load),
            }
            for member in core.members(now)
        ]
        return {
            "node": core.name,
            "contested": core.contested,
            "health": core.health,
            "refused": dict(sorted(core.refused.items())),
            "members": members,
        }

    def figures(self) -> dict[str, Any]:
        """Members by state, what was sent, received, refused and lost; empty before the node has started."""
        core, couriers = self._core, self.couriers
        if core is None:
            return {}
        states = dict.fromkeys((state.name.lower() for state in State), 0)
        for member in core.members(self._now()):
            states[member.state.name.lower()] += 1
        return {
            "members": states,
            "health": core.health,
            "sent": {
                "datagram": (self._sent.messages, self._sent.size),
                "stream": (couriers.sent, couriers.sent_bytes),
            },
            "received": {way: (each.messages, each.size) for way, each in self._received.items()},
            "refused": dict(sorted(core.refused.items())),
            "lost": couriers.lost,
            "dropped": couriers.dropped,
        }

    def _answer_view(self, exchange: Exchange) -> None:
        exchange.reply(exchange.message.reply("VIEW_RESULT", self.to_plain()))

    def _deployed_at(self, key: str) -> int | None:
        name, _, version = key.rpartition("@")
        found = self._parts.state.models.get(name, version)
        return None if found is None else found.index

    # -- what comes in and what goes out ------------------------------------------------------------

    def _on_datagram(self, data: bytes, sender: str) -> None:
        if self._core is not None:
            self._received["datagram"].add(data)
            self._core.receive(data, sender, self._now())
            self._pump()

    def _on_stream(self, exchange: Exchange) -> None:
        # Who asks does not matter: the seal shows whether a holder of the cluster's key has said it.
        sealed = exchange.message.payload.get("sealed")
        if not isinstance(sealed, bytes):
            raise InvalidArgument("a GOSSIP request carries a sealed message in its payload's field 'sealed'")
        if self._alone:
            raise InvalidArgument("this node is alone (engine 'solo') and gossips with nobody")
        core = self._running()
        self._received["stream"].add(sealed)
        core.receive_stream(sealed, self._now())
        exchange.reply(exchange.message.reply("GOSSIP_RESULT", {}))
        self._pump()

    def _pump(self) -> None:
        """Send what is to be sent, tell what has happened, and wake up when something is due."""
        core, loop = self._core, self._loop
        if core is None or loop is None:
            return
        output = core.take_output()
        for address, data in output.datagrams:
            self._send(address, data)
        for address, sealed in output.streams:
            self.couriers.send(address, sealed)
        if output.events:
            self._view = None
            for event in output.events:
                _tell(event)
        if core.has_left:
            self._gone.set()
        due = core.next_deadline()
        if due < self._armed_at:
            if self._timer is not None:
                self._timer.cancel()
            self._armed_at = due
            self._timer = loop.call_at(due + TIMER_EARLY_S_MAX, self._wake)

    def _wake(self) -> None:
        self._timer, self._armed_at = None, float("inf")
        core, looking, now = self._core, self._looking, self._now()
        if core is None or looking is None or looking.done():
            return  # the timer ends with the task, and so with the loop's last turn
        if core.next_deadline() <= now:
            core.tick(now)
        self._pump()

    def _send(self, address: str, data: bytes) -> None:
        in_memory = address.startswith("memory:")
        ports = [port for port in self._ports if port.address.startswith("memory:") is in_memory]
        if ports:
            port = ports[-1] if is_private(address) else ports[0]
            port.send(address, data)
            self._sent.add(data)

    def _link(self, address: str) -> Connection | None:
        """The link to whoever is reached there, if it is up."""
        links, core = self._parts.links, self._core
        if core is not None:
            for member in core.members(self._now()):
                if member.address == address and (found := links.connection(member.name)) is not None:
                    return found
        for peer, addresses in self._parts.roster.peers().items():
            if address in map(_plain, addresses) and (found := links.connection(peer)) is not None:
                return found
        return None

    # -- looking at oneself -------------------------------------------------------------------------

    async def _keep_looking(self, core: Gossip) -> None:
        said, beacon_at = "", self._now()
        while True:
            await asyncio.sleep(LOOK_S)
            now = self._now()
            try:
                if not core.leaving:
                    self._look(core, now)
                if self._group is not None and beacon_at <= now and not self.contacts():
                    beacon_at = now + BEACON_S
                    self._send(str(self._parts.config.broadcast), core.beacon())
            except Exception as error:  # or this node would never say anything new of itself again
                if said != str(error):
                    said = str(error)
                    expected = isinstance(error, McpError)
                    _log.error("gossip: %s", error, exc_info=None if expected else error)
            self._pump()

    def _look(self, core: Gossip, now: float) -> None:
        """Say what this node can do and how busy it is, and ask those whom it may ask now."""
        self._view = None
        parts, gauges = self._parts, self._around.gauges
        load = make_load(
            gauges.sample(),
            queue=parts.pool.queued,
            running=parts.pool.running,
            applied_index=parts.driver.applied_index,
        )
        if load != self._load:
            self._load = load
            core.set_load(load)
        core.set_card(self.card(), now)
        seeds = self._whom_to_ask()
        if seeds != self._seeds:
            self._seeds = seeds
            core.set_seeds(seeds)

    def card(self) -> dict[str, Any]:
        """What this node can do now; the others hear of it within ``LOOK_S`` and a moment."""
        parts = self._parts
        ready = {
            f"{version.name}@{version.version}": version.index
            for model in parts.state.models.all()
            for version in model.versions.values()
            if parts.shelf.info(version.digest) is not None
        }
        return make_card(
            models=ready,
            providers=parts.providers,
            capacity=self._capacity,
            workers=parts.config.workers,
            labels=parts.config.labels,
            standing=str(parts.driver.status().standing),
            version=VERSION,
        )

    def _whom_to_ask(self) -> list[str]:
        """The members' addresses; and those to join, until this node is a member and sees somebody.

        Not at once where links to the members are made: it hears of them as soon as one is up.
        """
        if self._looking is None and not self._parts.config.joins:
            return []
        found = [address for addresses in self._parts.roster.peers().values() for address in addresses]
        if self._parts.roster.outside or not self.contacts():
            for address in self._parts.config.join:
                found += self._resolved(parse_address(address))
        seeds = [seed for seed in dict.fromkeys(map(_plain, found)) if seed != self._running().address]
        return seeds[: DEFAULT_LIMITS.seeds_max]

    def _resolved(self, address: Address) -> list[str]:
        """Every address that a name stands for now; as it is, where that is not known."""
        if address.scheme is not Scheme.TCP or is_literal(address.host):
            return [str(address)]
        found = self._names.addresses(address.host)
        return [str(Address(Scheme.TCP, host=host, port=address.port)) for host in found] or [str(address)]

    # -- details ------------------------------------------------------------------------------------

    def _running(self) -> Gossip:
        if self._core is None:
            raise Unavailable("this node is starting or stopping; ask again, or ask another one")
        return self._core

    def _now(self) -> float:
        return 0.0 if self._loop is None else self._loop.time()


@functools.lru_cache(maxsize=1024)
def _plain(address: str) -> str:
    """The one way to write an address."""
    return str(parse_address(address))


def _tell(event: Event) -> None:
    if event.kind is EventKind.CONFLICT:
        _log.warning(
            "node %s is claimed at %s and at %s; give one of the two another name",
            event.name,
            event.address,
            event.other_address,
        )
    elif event.kind is not EventKind.UPDATED:
        _log.info("gossip: %s at %s: %s", event.name, event.address, event.kind)
