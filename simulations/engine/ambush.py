"""Cuts a leader off in the middle of a burst: what it has sent is in part elsewhere, and it does not know.

Faults that come at random times mostly find a cluster at rest. Here the answers are lost first, and then, a
moment later, everything: the leader is left with entries of its own, of which some are on other nodes and
none is known to be committed, and its successor has some of them. That is where logs differ most.
"""

from __future__ import annotations

from collections.abc import Mapping

from consensus.interface import Role
from simulations.engine.node import Node
from simulations.engine.scenario import Scenario
from simulations.faults import FaultKind
from simulations.network import Network
from simulations.world import World

PER_BURST = (0.0, 0.0, 0.05, 0.2)
"""Of these one is drawn: so many bursts are an occasion."""


class Ambush:
    """See the head of this module. One at a time."""

    def __init__(self, world: World, scenario: Scenario, network: Network, nodes: Mapping[str, Node]) -> None:
        self._world, self._scenario = world, scenario
        self._network, self._nodes = network, nodes
        self._random = world.stream("ambush")
        self._per_burst = self._random.choice(PER_BURST)
        self._under_way = False

    def burst(self) -> None:
        """A burst of commands has just begun somewhere."""
        draw, leader = self._random, self._leader()
        if leader is None or self._under_way or draw.random() >= self._per_burst:
            return
        self._under_way = True
        habits, patience_s = self._scenario.habits, self._scenario.patience_s
        moment_s = 4 * habits.delay_s + habits.sync_s
        deaf_s = draw.random() * moment_s
        mute_s = deaf_s + draw.random() * moment_s
        peers = [name for name in self._nodes if name != leader]
        self._world.after(deaf_s, self._cut, [(peer, leader) for peer in peers])
        self._world.after(mute_s, self._cut, [(leader, peer) for peer in peers])
        self._world.after(mute_s + patience_s * draw.uniform(1.0, 3.0), self._let_go, leader, peers)

    def _leader(self) -> str | None:
        views = [node.process.engine.status() for node in self._nodes.values() if node.process is not None]
        leading = [view for view in views if view.role is Role.LEADER]
        return max(leading, key=lambda view: view.term).node_id if leading else None

    def _cut(self, pairs: list[tuple[str, str]]) -> None:
        if self._world.now < self._scenario.seconds:
            self._network.add(pairs, FaultKind.ONE_WAY, 0.0)

    def _let_go(self, leader: str, peers: list[str]) -> None:
        self._under_way = False
        for pairs in ([(peer, leader) for peer in peers], [(leader, peer) for peer in peers]):
            self._network.remove(pairs, FaultKind.ONE_WAY, 0.0)
