"""What is asked of a cluster of engines beside commands: reads, and to hand leadership over.

Both come at random times on random nodes, at a pace that the seed draws, from a stream of their own: so a
scenario has the same cluster, load and faults with them as without. Whenever a new leader has committed
its first entry every node is asked for a read, several times: one may be the leader before, which does
not know yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from consensus.errors import ConsensusError
from simulations.engine.node import Node
from simulations.engine.observer import Observer
from simulations.engine.process import Process
from simulations.engine.scenario import Scenario
from simulations.invariants import ReadsAreFresh
from simulations.world import World

READS_PER_S = (0.0, 0.5, 2.0)
HANDOVERS_PER_S = (0.0, 0.0, 0.1)
"""Of these one is drawn; on average."""

ROUNDS_PER_REIGN = 3
"""So often all nodes are asked within a heartbeat of a new leader's first commit."""

OVERDUE_S = 0.05
"""How much later than its deadline a read may end: a turn has to come first."""


class Requests:
    """See the head of this module. It begins with :meth:`begin` and ends with the time under fire."""

    def __init__(
        self,
        world: World,
        scenario: Scenario,
        nodes: Mapping[str, Node],
        observer: Observer,
        counts: Counter[str],
    ) -> None:
        self._world, self._scenario, self._nodes = world, scenario, nodes
        self._observer, self._counts = observer, counts
        self._random = world.stream("requests")
        self._reads_per_s = self._random.choice(READS_PER_S)
        self._handovers_per_s = self._random.choice(HANDOVERS_PER_S)

    def begin(self) -> None:
        """Ask from now on."""
        self._later(self._reads_per_s, self._read)
        self._later(self._handovers_per_s, self._hand_over)
        if self._reads_per_s > 0:
            self._observer.on_reign = self._read_everywhere_soon

    def _read_everywhere_soon(self) -> None:
        for _ in range(ROUNDS_PER_REIGN):
            self._world.after(self._random.random() * self._scenario.raft.heartbeat_s, self._read_everywhere)

    def _read_everywhere(self) -> None:
        for node in self._nodes.values():
            if node.process is not None and not node.paused:
                self._read(node, node.process)

    def _later(self, per_s: float, ask: Callable[[Node, Process], None]) -> None:
        if per_s > 0:
            self._world.after(self._random.expovariate(per_s), self._ask, per_s, ask)

    def _ask(self, per_s: float, ask: Callable[[Node, Process], None]) -> None:
        if self._world.now >= self._scenario.seconds:
            return
        node = self._random.choice(list(self._nodes.values()))
        if node.process is not None and not node.paused:
            ask(node, node.process)
        self._later(per_s, ask)

    def _read(self, node: Node, process: Process) -> None:
        """Ask for a position: it must be behind everything that is committed by now, anywhere."""
        floor, ended = self._observer.agreement.tip, list[bool]()
        deadline = node.clock.now() + self._scenario.load.timeout_s

        def done(outcome: int | ConsensusError) -> None:
            ended.append(True)
            if isinstance(outcome, int):
                self._counts["reads"] += 1
                ReadsAreFresh.confirmed(node.name, outcome, floor)

        try:
            process.pump.read_index(done, deadline)
        except ConsensusError:
            return
        due = max(node.clock.when(deadline), node.resumed_at) + OVERDUE_S
        self._world.at(due, self._look, node, process, deadline, ended)

    def _look(self, node: Node, process: Process, deadline: float, ended: list[bool]) -> None:
        """Look again when the read has to have ended."""
        if ended or node.process is not process:
            return
        due = max(node.clock.when(deadline), node.resumed_at) + OVERDUE_S
        if not node.paused and due <= self._world.now:
            ReadsAreFresh.overdue(node.name, self._world.now - due)
        again = max(due, self._world.now + OVERDUE_S)
        self._world.at(again, self._look, node, process, deadline, ended)

    def _hand_over(self, node: Node, process: Process) -> None:
        """Ask to hand leadership over. What becomes of it is nobody's right; that it harms nobody is."""

        def done(outcome: str | ConsensusError) -> None:
            self._counts["handovers"] += isinstance(outcome, str)

        try:
            process.pump.transfer_leadership(None, done, node.clock.now() + self._scenario.patience_s)
        except ConsensusError:
            self._counts["handovers refused"] += 1
