"""Which node to ask next: everything that a client knows about the nodes, as plain data.

Pure: the time and the randomness are arguments. A node is known by the address at which it was
reached; its id is learned from the handshake, so that a leader named by id can be found.

A node that failed is set aside for a while that doubles with every failure in a row, with jitter, so
that many clients do not come back together. Failures that arrive while it is already set aside are
the same failure seen by many callers and count once. Outliers are spared (:mod:`mcp.client.load`). Among the
nodes that are left, two are drawn at random and the one that is expected to answer first is taken: that is
within a constant of the best choice and, unlike always taking the best, does not send every client
to the same node (Mitzenmacher 2001, "The Power of Two Choices in Randomized Load Balancing").
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mcp.client.kinds import CallKind
from mcp.client.load import Faults, Load, LoadLimits, Standing, outliers
from mcp.cluster.outcome import Outcome


@dataclass(frozen=True, slots=True)
class RoutingLimits:
    """The limits of :class:`Routing`."""

    nodes_max: int = 64
    """Nodes that are remembered; more are not learned."""
    backoff_first_s: float = 0.05
    backoff_max_s: float = 2.0
    refusal_latency_s: float = 0.1
    """A refusal counts as an answer this slow, or an overloaded node would look fast."""
    outlier_interval_s: float = 0.25
    """Which nodes are outliers is looked at so often, and after each fault."""
    load: LoadLimits = LoadLimits()  # noqa: RUF009 (immutable)
    refresh_interval_min_s: float = 0.5
    """The members are asked for at most this often."""
    refresh_interval_max_s: float = 30.0
    """And at least this often, while there are calls."""


@dataclass(slots=True)
class _Node:
    address: str
    seed: bool
    loads: dict[CallKind, Load]
    faults: Faults
    node_id: str | None = None
    connected: bool = False
    failures: int = 0
    retry_at: float = float("-inf")


class Routing:
    """The nodes that a client knows, and the choice among them. Not for use by several threads."""

    def __init__(
        self, seeds: Sequence[str], random_: random.Random, limits: RoutingLimits | None = None
    ) -> None:
        """Start with the addresses that the user gave; these are never forgotten."""
        self._random = random_
        self._limits = limits or RoutingLimits()
        self._nodes = {address: self._new(address, seed=True) for address in seeds}
        self._outliers: frozenset[str] = frozenset()
        self._outliers_until = float("-inf")
        self._leader: str | None = None
        self._stale = True
        self._refreshed_at = float("-inf")

    def _new(self, address: str, *, seed: bool, node_id: str | None = None) -> _Node:
        limits = self._limits.load
        return _Node(address, seed, {kind: Load(limits) for kind in CallKind}, Faults(limits), node_id)

    @property
    def addresses(self) -> list[str]:
        """Every address that is known, the seeds first."""
        return list(self._nodes)

    @property
    def leader(self) -> str | None:
        """The id of the node that led when somebody last said so."""
        return self._leader

    def node_id(self, address: str) -> str | None:
        """The id of the node at ``address``, once it has been reached or was learned."""
        node = self._nodes.get(address)
        return node.node_id if node else None

    def address_of(self, node_id: str) -> str | None:
        """The address of a node, preferring one that is connected."""
        for node in self._nodes.values():
            if node.node_id == node_id and node.connected and not node.failures:
                return node.address
        found = [node for node in self._nodes.values() if node.node_id == node_id]
        found.sort(key=lambda node: (not node.connected, node.failures))
        return found[0].address if found else None

    def in_backoff(self, address: str, now: float) -> bool:
        """Whether the node at ``address`` is set aside after a failure."""
        return self._nodes[address].retry_at > now

    # -- choosing ---------------------------------------------------------------------------------

    def pick(
        self,
        kind: CallKind,
        now: float,
        *,
        avoid: Collection[str] = (),
        to_leader: bool = False,
    ) -> str:
        """The address to send to. ``avoid`` are the nodes that this call tried before.

        Commands, and whatever is sent with ``to_leader``, go to the leader while it is known and
        not set aside. A node that is set aside is picked only when all are: then the one whose
        time is up first.
        """
        if (to_leader or kind is CallKind.COMMAND) and self._leader is not None:
            leader = self.address_of(self._leader)
            if leader and leader not in avoid and not self.in_backoff(leader, now):
                return leader
        if len(self._nodes) == 1:
            return next(iter(self._nodes))
        candidates = self._candidates(now, avoid)
        if len(candidates) > 1 and kind is CallKind.INFER:
            spared = self._spared(now)
            candidates = [node for node in candidates if node.address not in spared] or candidates
        if len(candidates) > 2:
            candidates = self._random.sample(candidates, 2)
        return self._less_loaded(candidates, kind, now).address

    def _candidates(self, now: float, avoid: Collection[str]) -> list[_Node]:
        ready = [node for node in self._nodes.values() if node.retry_at <= now]
        if not ready:
            return [min(self._nodes.values(), key=lambda node: node.retry_at)]
        untried = [node for node in ready if node.address not in avoid]
        connected = [node for node in untried if node.connected]
        return connected or untried or ready

    def _less_loaded(self, nodes: Sequence[_Node], kind: CallKind, now: float) -> _Node:
        if len(nodes) == 1:
            return nodes[0]
        times = [node.loads[kind].time_s(now) for node in nodes]
        # A node without a measurement is given the benefit of the doubt, and still pays for its queue.
        known = [time_s for time_s in times if time_s is not None]
        assumed = min(known, default=self._limits.load.time_min_s)
        scores = [
            (node.loads[kind].ahead(now) + 1) * (assumed if time_s is None else time_s)
            for node, time_s in zip(nodes, times, strict=True)
        ]
        best = min(scores)
        return self._random.choice([node for node, s in zip(nodes, scores, strict=True) if s == best])

    def _spared(self, now: float) -> frozenset[str]:
        """The outliers among the nodes that are connected and not set aside."""
        if now >= self._outliers_until:
            self._outliers_until = now + self._limits.outlier_interval_s
            standings = {
                node.address: Standing(node.loads[CallKind.INFER].time_s(now), node.faults.share(now))
                for node in self._nodes.values()
                if node.connected and node.retry_at <= now
            }
            self._outliers = outliers(standings, self._limits.load)
        return self._outliers

    def untried(self, now: float, avoid: Collection[str]) -> bool:
        """Whether a node outside ``avoid`` is there that is not set aside."""
        for node in self._nodes.values():  # noqa: SIM110 (a generator costs more than this)
            if node.address not in avoid and node.retry_at <= now:
                return True
        return False

    def to_connect(self, now: float) -> list[str]:
        """The nodes that are worth dialling: neither connected nor set aside."""
        return [n.address for n in self._nodes.values() if not n.connected and n.retry_at <= now]

    @property
    def all_connected(self) -> bool:
        """Whether no node is missing."""
        for node in self._nodes.values():  # noqa: SIM110 (a generator costs more than this)
            if not node.connected:
                return False
        return True

    # -- what happened ----------------------------------------------------------------------------

    def started(self, kind: CallKind, address: str, now: float) -> float:
        """A call was sent to ``address``; :meth:`finished` is owed, with what this gives."""
        node = self._nodes.get(address)
        return node.loads[kind].sent(now) if node else 0.0

    def finished(
        self,
        kind: CallKind,
        address: str,
        outcome: Outcome,
        now: float,
        elapsed_s: float,
        *,
        ahead: float = 0.0,
        queue: int | None = None,
    ) -> None:
        """A call to ``address`` ended after ``elapsed_s``. ``queue``: what the node said of its own."""
        node = self._nodes.get(address)
        if node is None:
            return
        load = node.loads[kind]
        load.ended()
        if outcome is Outcome.ANSWERED or outcome is Outcome.FAULTED:
            node.failures = 0
            node.retry_at = float("-inf")
            load.answered(now, elapsed_s, ahead, queue)
        elif outcome is Outcome.REFUSED:
            load.measured(now, max(elapsed_s, self._limits.refusal_latency_s))
        elif outcome is Outcome.TIMED_OUT:
            load.measured(now, elapsed_s)
        if kind is CallKind.INFER:
            self._note_faults(node, outcome, now)
        if outcome is Outcome.TIMED_OUT:
            if kind is CallKind.COMMAND:
                self._distrust_leader(node)
        elif outcome is Outcome.FAILED:
            self._set_aside(node, now)

    def _note_faults(self, node: _Node, outcome: Outcome, now: float) -> None:
        fault = outcome is Outcome.FAULTED or outcome is Outcome.TIMED_OUT
        if fault or outcome is Outcome.ANSWERED:
            node.faults.answered(now, fault=fault)
            if fault:
                self._outliers_until = float("-inf")

    def connected(self, address: str, node_id: str | None) -> None:
        """A connection to ``address`` is up, and the node there proved to be ``node_id``."""
        node = self._nodes.get(address)
        if node:
            node.connected = True
            node.node_id = node_id or node.node_id

    def disconnected(self, address: str, now: float, *, failed: bool) -> None:
        """The connection to ``address`` is gone, or could not be made; ``failed`` sets it aside."""
        node = self._nodes.get(address)
        if node is None:
            return
        node.connected = False
        if failed:
            self._set_aside(node, now)

    def _set_aside(self, node: _Node, now: float) -> None:
        self._stale = True
        self._distrust_leader(node)
        if node.retry_at > now:
            return
        limits = self._limits
        ceiling = min(limits.backoff_max_s, limits.backoff_first_s * 2.0 ** min(node.failures, 32))
        node.failures += 1
        node.retry_at = now + ceiling * (0.5 + 0.5 * self._random.random())

    def _distrust_leader(self, node: _Node) -> None:
        if node.node_id is not None and node.node_id == self._leader:
            self._leader = None
            self._stale = True

    # -- discovery --------------------------------------------------------------------------------

    def leader_is(self, node_id: str | None) -> None:
        """A node named the leader, or (``None``) said that there is none."""
        if node_id == self._leader:
            return
        self._leader = node_id
        if node_id is not None and self.address_of(node_id) is None:
            self._stale = True

    def not_leader(self, address: str) -> None:
        """The node at ``address`` says that it knows no leader: if it was thought to lead, it does not."""
        node = self._nodes.get(address)
        if node:
            self._distrust_leader(node)

    def learn(self, members: Iterable[tuple[str, str]]) -> None:
        """Take in ``(node id, address)`` of the cluster's members as one of them tells it.

        A member that is reached under another address already is not added a second time. A node
        that is neither a seed nor a member any more is forgotten.
        """
        told = dict(members)
        addresses = set(told.values())
        for address, node in list(self._nodes.items()):
            if not node.seed and address not in addresses and not node.connected:
                del self._nodes[address]
        for node_id, address in sorted(told.items()):
            self._learn_one(node_id, address)

    def hear(self, members: Iterable[tuple[str, str]]) -> None:
        """Take in ``(node id, address)`` as one tells it who may not know better: nobody is forgotten."""
        for node_id, address in members:
            self._learn_one(node_id, address)

    def _learn_one(self, node_id: str, address: str) -> None:
        known = self._nodes.get(address)
        if known:
            known.node_id = known.node_id or node_id
            return
        same = [node for node in self._nodes.values() if node.node_id == node_id]
        reached = any(node.connected or node.failures == 0 for node in same)
        if not reached and len(self._nodes) < self._limits.nodes_max:
            self._nodes[address] = self._new(address, seed=False, node_id=node_id)

    def refresh_due(self, now: float) -> bool:
        """Whether to ask for the members: never learned, a failure, an unknown leader, or long ago."""
        limits = self._limits
        idle_s = now - self._refreshed_at
        return idle_s >= (limits.refresh_interval_min_s if self._stale else limits.refresh_interval_max_s)

    def refreshing(self, now: float) -> None:
        """The members are being asked for now."""
        self._stale = False
        self._refreshed_at = now

    def refresh_failed(self) -> None:
        """Nobody told the members: they are to be asked for again."""
        self._stale = True
