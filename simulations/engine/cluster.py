"""A cluster of engines under one scenario: load and faults, then peace, then it has to come back."""

from __future__ import annotations

import functools
import gc
import traceback
from collections import Counter
from dataclasses import dataclass

from consensus.errors import ConsensusError, OutcomeUnknown
from consensus.interface import Role
from consensus.ports import Applied
from simulations.chaos import Chaos
from simulations.chronicle import SILENT, Chronicle, Ended
from simulations.collector import collected_by_hand
from simulations.engine.ambush import Ambush
from simulations.engine.node import READS_WHAT_IT_LEFT, STOPS_FOR_FAULTS, Node, State
from simulations.engine.observer import Observer
from simulations.engine.operator import Operator
from simulations.engine.process import Process
from simulations.engine.requests import Requests
from simulations.engine.scenario import Scenario
from simulations.faults import FaultKind
from simulations.invariants import ProposalsResolveOnce, Violation
from simulations.network import Endpoint, Network
from simulations.verdict import Outcome, Verdict
from simulations.world import Standstill, World

RECOVERY_TIMEOUTS = 5
"""Once healed, the cluster has as many times its longest election timeout to come back."""

OVERDUE_S = 0.05
"""How much later than its deadline a proposal may resolve: a turn has to come first."""


COMES_BACK = "a healed cluster comes back"
COMMAND = "command"
"""The one sort of call that this level has."""


class NotRecovered(Exception):
    """The cluster did not come back in time."""


@dataclass(slots=True)
class Ticket:
    """One proposal that was handed to a node, until it is resolved or the node's process has died."""

    command: bytes
    process: Process
    deadline: float
    begun_s: float
    """By the world's clock."""
    outcome: Applied | ConsensusError | None = None


class Cluster:
    """One run of one scenario; ``chronicle`` is told what happens."""

    def __init__(self, scenario: Scenario, chronicle: Chronicle = SILENT) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed, chronicle)
        self.fired: Counter[FaultKind] = Counter()
        self.counts: Counter[str] = Counter()
        names = (*scenario.nodes, *scenario.fresh)
        self.observer = Observer(
            names,
            scenario.nodes,
            fallback_s=scenario.raft.leader_fallback_s,
            lag_entries_max=scenario.raft.promotion_lag_entries_max,
        )
        endpoints: dict[str, Endpoint] = {}
        self.network = Network(
            self.world,
            endpoints,
            names=names,
            delay_s=scenario.habits.delay_s,
            redial_s=scenario.habits.redial_s,
            late_s=4 * scenario.patience_s,
            fired=self._count,
        )
        self.nodes = {
            name: Node(name, scenario, self.world, self.observer, self.network, self._count) for name in names
        }
        endpoints.update(self.nodes)
        self.chaos = Chaos(self.world, self.network, self.nodes, scenario.plan, self._count)
        self.operator = Operator(
            self.world,
            self.nodes,
            scenario.moves,
            scenario.fresh,
            self.counts,
            patience_s=scenario.patience_s,
        )
        self.requests = Requests(self.world, scenario, self.nodes, self.observer, self.counts)
        self._ambush = Ambush(self.world, scenario, self.network, self.nodes)
        self._random = self.world.stream("load")
        self._commands = 0
        self.recovery_s = 0.0

    def _count(self, kind: FaultKind) -> None:
        self.fired[kind] += 1

    def run(self) -> Outcome:
        """Run it to its end, or to the first thing that is wrong."""
        verdict, reason = Verdict.CLEAN, ""
        try:
            self._run()
        except Violation as violation:
            verdict, reason = Verdict.SAFETY, str(violation)
        except (NotRecovered, Standstill) as problem:
            verdict, reason = Verdict.LIVENESS, str(problem)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            verdict = Verdict.CRASH
            reason = f"{type(error).__name__} in {last.name} ({last.filename}:{last.lineno}): {error}"
        planned = {fault.kind for fault in self.scenario.plan.faults if fault.at_s < self.scenario.seconds}
        if verdict is Verdict.CLEAN and planned and planned.isdisjoint(self.fired):
            verdict, reason = Verdict.VOID, "none of the planned faults had an effect"
        failed_at_s = None if verdict in (Verdict.CLEAN, Verdict.VOID) else self.world.now
        if failed_at_s is not None:
            self.world.tell("verdict", f"{verdict}: {reason}")
        return self._outcome(verdict, reason, failed_at_s)

    def _outcome(self, verdict: Verdict, reason: str, failed_at_s: float | None) -> Outcome:
        counts: dict[str, float] = dict(sorted(self.counts.items()))
        counts["entries"] = self.observer.agreement.tip
        counts["terms"] = len(self.observer.elections.leaders)
        counts["messages"] = self.network.delivered
        counts["starts"] = sum(node.lives for node in self.nodes.values())
        counts["events"] = self.world.events
        counts["recovery_s"] = round(self.recovery_s, 6)
        for rule, checked in (self.observer.checked | self._checked_of_lives()).items():
            self.world.chronicle.checked(rule, checked)
        return Outcome(
            self.scenario.seed,
            "engine",
            verdict,
            reason,
            self.world.trace_hash,
            self.world.now,
            failed_at_s,
            len(self.nodes),
            {str(kind): count for kind, count in self.fired.items()},
            counts,
            story=self.world.story,
        )

    def _checked_of_lives(self) -> dict[str, int]:
        lives = sum(node.lives for node in self.nodes.values())
        return {STOPS_FOR_FAULTS: lives, READS_WHAT_IT_LEFT: lives, COMES_BACK: int(self.recovery_s > 0)}

    def _run(self) -> None:
        for node in self.nodes.values():
            node.start()
        self.chaos.unleash()
        self._burst_later()
        self.requests.begin()
        self.world.run(self.scenario.seconds)
        self._recover()

    # -- load ---------------------------------------------------------------------------------------

    def _burst_later(self) -> None:
        self.world.after(self._random.expovariate(self.scenario.load.bursts_per_s), self._burst)

    def _burst(self) -> None:
        if self.world.now >= self.scenario.seconds:
            return
        load, draw = self.scenario.load, self._random
        count = draw.randint(1, load.burst_max)
        up = [node for node in self.nodes.values() if node.process is not None and not node.paused]
        if up:
            node = draw.choice(up)
            for _ in range(count):
                self.submit(node, draw.randint(0, load.command_bytes_max), load.timeout_s)
            self._ambush.burst()
        self._burst_later()

    def submit(self, node: Node, size: int, timeout_s: float) -> Ticket | None:
        """Propose a fresh command on ``node``; ``None`` when that is refused at once."""
        process = node.process
        assert process is not None
        self._commands += 1
        command = b"%08x" % self._commands + bytes(size)
        ticket = Ticket(command, process, node.clock.now() + timeout_s, self.world.now)
        self.counts["submitted"] += 1
        try:
            process.pump.submit(command, functools.partial(self._resolved, ticket), ticket.deadline)
        except ConsensusError as error:
            self.counts[f"refused {error.code}"] += 1
            self.world.chronicle.call(self.world.now, self.world.now, COMMAND, "failed", write=True)
            self.observer.resolved(command, error)
            return None
        self._look_at_deadline(node, ticket)
        return ticket

    def _resolved(self, ticket: Ticket, outcome: Applied | ConsensusError) -> None:
        ticket.outcome = outcome
        self.counts["applied" if isinstance(outcome, Applied) else outcome.code] += 1
        self.world.chronicle.call(ticket.begun_s, self.world.now, COMMAND, how_it_ended(outcome), write=True)
        self.observer.resolved(ticket.command, outcome)

    def _look_at_deadline(self, node: Node, ticket: Ticket) -> None:
        due = node.clock.when(ticket.deadline)
        self.world.at(max(due, node.resumed_at) + OVERDUE_S, self._must_be_resolved, node, ticket)

    def _must_be_resolved(self, node: Node, ticket: Ticket) -> None:
        if ticket.outcome is not None or ticket.process is not node.process:
            return
        due = max(node.clock.when(ticket.deadline), node.resumed_at)
        if node.paused or due + OVERDUE_S > self.world.now:
            self.world.at(
                max(due + OVERDUE_S, self.world.now + OVERDUE_S), self._must_be_resolved, node, ticket
            )
            return
        ProposalsResolveOnce.overdue(ticket.command, node.name, self.world.now - due)

    # -- recovery -----------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Heal everything: one leader, a fresh write, and equal states have to follow in time."""
        world, patience = self.world, self.scenario.patience_s
        healed_at = world.now
        world.tell("chaos", "everything is healed")
        self.chaos.heal()
        self.operator.stop()
        end = healed_at + RECOVERY_TIMEOUTS * patience
        write: Ticket | None = None
        while (missing := self._missing(write)) is not None:
            if world.now >= end:
                raise NotRecovered(
                    f"{missing}, {RECOVERY_TIMEOUTS} x {patience:.3f} s after everything was healed"
                )
            if self.leader() is not None and (write is None or self._is_over(write)):
                write = self._fresh_write(end)
            world.run(min(end, world.now + patience / 16))
        self.recovery_s = world.now - healed_at
        world.tell("verdict", f"recovered in {self.recovery_s:.3f} s")

    def _fresh_write(self, end: float) -> Ticket | None:
        node = self._random.choice([node for node in self.members() if node.process is not None])
        return self.submit(node, 10, max(end - self.world.now, 0.1))

    def _is_over(self, write: Ticket) -> bool:
        """Whether it has its outcome, or is with a node that was removed meanwhile, which waits in vain."""
        return write.outcome is not None or all(write.process is not node.process for node in self.members())

    def _missing(self, write: Ticket | None) -> str | None:
        if self.leader() is None:
            return "there is no leader that all agree on"
        if write is None or not isinstance(write.outcome, Applied):
            return "a fresh write has not succeeded"
        up = [node.process.register for node in self.members() if node.process is not None]
        states = {(register.index, register.digest) for register in up}
        if len(states) > 1:
            return f"states differ: applied indexes are {sorted(register.index for register in up)}"
        return None

    def leader(self) -> str | None:
        """Who leads, if all nodes that are not lost run and agree on one of them."""
        nodes = [node for node in self.members() if node.state is not State.LOST]
        views = [node.process.engine.status() for node in nodes if node.process is not None]
        leaders = {view.leader for view in views}
        leading = [view.node_id for view in views if view.role is Role.LEADER]
        if len(views) < len(nodes) or len(leading) != 1 or leaders != set(leading):
            return None
        return leading[0]

    def members(self) -> list[Node]:
        """The nodes that the last configuration of whoever leads the highest term names, as they are now.

        All that the cluster was started with, while nobody leads. Others may be cut off for ever.
        """
        views = [
            (node.process.engine.leadership(), node.process.engine.configuration())
            for node in self.nodes.values()
            if node.process is not None
        ]
        leading = [(seen.term, known) for seen, known in views if seen.role is Role.LEADER]
        if not leading:
            return [self.nodes[name] for name in self.scenario.nodes]
        _, configuration = max(leading, key=lambda each: each[0])
        members = [(self.nodes[member.name], member.incarnation) for member in configuration.members]
        return [
            node
            for node, number in members
            if node.process is None or number in (0, node.process.journal.incarnation)
        ]


def how_it_ended(outcome: Applied | ConsensusError) -> Ended:
    """A proposal's outcome, as a call of a client."""
    if isinstance(outcome, Applied):
        return "ok"
    return "unknown" if isinstance(outcome, OutcomeUnknown) else "failed"


def run(scenario: Scenario, chronicle: Chronicle = SILENT) -> Outcome:
    """Run ``scenario`` to its end. The same scenario gives the same outcome, in any process."""
    with collected_by_hand():
        outcome = Cluster(scenario, chronicle).run()
        gc.collect()
    return outcome
