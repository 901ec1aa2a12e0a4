"""Whole nodes under seeds: clean runs, the same runs, and products that are broken on purpose."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.journal import Journal
from consensus.reads import Reads
from mcp.client.one_call import Chunk
from mcp.cluster.gossip.updates import State
from mcp.cluster.replacement import Seen, Watch
from mcp.cluster.replacement import Verdict as Decided
from mcp.errors import McpError
from mcp.flow.leases import Grant, ShareLedger
from mcp.flow.limiter import TICKS_PER_S
from mcp.flow.shares import LeasedShare
from mcp.node import kept, routing
from mcp.node.deploy import Deployer
from mcp.node.fallbacks import Given
from mcp.node.inference import DirectInference
from mcp.node.kept import KeptAnswers
from mcp.node.links import PeerLinks
from mcp.node.machines import UserMachine
from mcp.node.order import Order
from mcp.node.rollouts import RolloutDriver
from mcp.node.scheduling import Place, Scheduling
from mcp.state.applied import Applied
from mcp.state.commands import Moment
from mcp.state.inferences import Inferences
from mcp.state.rollouts import Rollout, Rollouts
from mcp.state.state import ReplicatedState
from simulations.faults import LINK_KINDS, Fault, FaultKind, FaultPlan
from simulations.levels import LEVELS, run_seed
from simulations.moves import Kind, Move
from simulations.nodes.cluster import run
from simulations.nodes.ledger import GRANTS_FIT
from simulations.nodes.owner import DECIDE_ALIKE, SHARES_FIT
from simulations.nodes.replacing import AFTER_THE_TIME
from simulations.nodes.rollouts import ONE_STATE
from simulations.nodes.scenario import KINDS, Scenario
from simulations.nodes.workload import INSTEAD_IS_TOLD, RESULTS_ARE_RIGHT
from simulations.verdict import Outcome, Verdict

REPOSITORY = Path(__file__).resolve().parents[3]
FAILED_SEEDS = Path(__file__).parents[1] / "failed_node_seeds.txt"

ROLLS_OUT = 29
"""A seed with rollouts, of which one goes on in the end."""
FAILS = 14
"""A seed whose second version fails, and a rollout of it is rolled back for that."""
REPLACES = 24
"""A seed in which a spare takes a dead voter's place,"""
SUCCEEDS = 20
"""and one in which another node leads while it is dead."""
FALL_BACK = (3, 11)
"""Seeds in which limits refuse, and something is done instead."""


def failed_seeds() -> Iterator[int]:
    for line in FAILED_SEEDS.read_text().splitlines():
        if line and not line.startswith("#"):
            yield int(line.split()[0])


@pytest.mark.parametrize("seed", list(failed_seeds()))
def test_a_seed_that_once_failed_does_not_fail_again(seed: int) -> None:
    outcome = run_seed(LEVELS["node"], seed)
    assert outcome.verdict is Verdict.CLEAN, f"{outcome.reason}; {outcome.command}"


def test_seeds_are_clean_and_their_faults_fire() -> None:
    fired: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for seed in range(1000, 1006):
        outcome = run_seed(LEVELS["node"], seed)
        assert outcome.verdict is Verdict.CLEAN, f"{outcome.reason}; {outcome.command}"
        assert outcome.virtual_seconds >= 20
        fired.update(outcome.faults)
        counts.update({name: int(count) for name, count in outcome.counts.items()})
    assert len(fired) >= 12, fired
    for happened in ("snapshots taken", "snapshots received", "segments compacted", "infer", "reports"):
        assert counts[happened], happened
    for happened in ("runs in workers", "runs on loops", "runs shared"):
        assert counts[happened], happened
    for rule in ("linearizability", "read your writes", "exactly one effect", "fencing"):
        assert counts[f"checked {rule}"] > 100, rule


def test_the_same_seed_is_the_same_run_in_another_process_and_under_another_hash_seed() -> None:
    def elsewhere(hash_seed: str) -> str:
        code = (
            "from simulations.levels import LEVELS, run_seed; "
            "print(run_seed(LEVELS['node'], 5, seconds=6).trace_hash)"
        )
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    here = run_seed(LEVELS["node"], 5, seconds=6).trace_hash
    assert elsewhere("1") == elsewhere("2") == here
    assert run_seed(LEVELS["node"], 6, seconds=6).trace_hash != here


def three_nodes() -> Scenario:
    scenarios = (Scenario.draw_fixed(seed) for seed in range(100))
    return next(scenario for scenario in scenarios if len(scenario.nodes) == 3)


AMOUNTS = {
    FaultKind.CLOCK_DRIFT: 1.2,
    FaultKind.LOSS: 0.5,
    FaultKind.THROTTLE: 2000.0,
    FaultKind.DISK_FULL: 1.0,
    FaultKind.IO_ERROR: 0.0,
    FaultKind.TORN_WRITE: 1.0,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_fires(kind: FaultKind) -> None:
    nodes, peers = (("n1",), ()) if kind not in LINK_KINDS else (("n1",), ("n2", "n3"))
    faults = [Fault(kind, at, 1.5, nodes, peers, AMOUNTS.get(kind, 0.3)) for at in (2.0, 4.0)]
    if kind is FaultKind.BIT_FLIP:
        # It is noticed when the disk is read, before another snapshot takes the damaged one's place.
        faults.append(Fault(FaultKind.KILL, 4.001, 0.5, nodes))
    outcome = run(replace(three_nodes(), seconds=6, plan=FaultPlan(tuple(faults))))
    assert outcome.verdict is Verdict.CLEAN, outcome.reason
    assert outcome.faults.get(str(kind), 0) > 0


def test_members_come_and_go() -> None:
    kinds = (Kind.JOIN, Kind.OBSERVE, Kind.REPLACE, Kind.REMOVE)
    moves = tuple(Move(kind, 1.0 + 4.0 * number, 0.0) for number, kind in enumerate(kinds))
    outcome = run(replace(three_nodes(), plan=FaultPlan(), moves=moves, fresh=("n4", "n5")))
    assert outcome.verdict is Verdict.CLEAN, outcome.reason
    assert {kind: outcome.counts.get(f"{kind} done") for kind in kinds} == dict.fromkeys(kinds, 1)
    assert outcome.counts["disks emptied"] == 1


def losing_disks_under_load(seed: int) -> Scenario:
    """Snapshots all the time: whoever has lost its disk is sent one before anything else."""
    scenario = Scenario.draw_fixed(seed)
    return replace(
        scenario,
        plan=FaultPlan(),
        moves=(Move(Kind.REPLACE, 3.0, 0.0), Move(Kind.REPLACE, 10.0, 0.9)),
        limits=replace(scenario.limits, log_entries_max=5, log_entries_retained=0, commands_per_entry_max=1),
        load=replace(scenario.load, clients=4, workers=4, pause_s=0.1),
    )


def test_whoever_lost_its_disk_asks_in_also_behind_a_snapshot_that_names_the_lost_one() -> None:
    outcome = run(losing_disks_under_load(1))
    assert outcome.verdict is Verdict.CLEAN, outcome.reason
    assert outcome.counts["replace done"] == 2


def test_whoever_lost_its_disk_and_is_restarted_before_it_was_taken_in_asks_again() -> None:
    kills = [Fault(FaultKind.KILL, 3.2 + 0.3 * n, 0.05, ("n1",)) for n in range(15)]
    moves = (Move(Kind.REPLACE, 3.0, 0.0),)
    outcome = run(replace(three_nodes(), plan=FaultPlan(tuple(kills)), moves=moves))
    assert outcome.verdict is Verdict.CLEAN, outcome.reason
    assert outcome.counts["replace done"] == 1


# -- products that are broken on purpose --------------------------------------------------------------------


@functools.cache
def sound(seed: int) -> Outcome:
    """What a seed is while nothing is broken: ask before something is. Once for each worker of xdist's."""
    outcome = run_seed(LEVELS["node"], seed)
    assert outcome.verdict is Verdict.CLEAN, outcome.reason
    return outcome


def sessions_are_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    async def at_once(_self: Order, _index: int, _timeout_s: float) -> None:
        return

    patch.setattr(Order, "wait_applied", at_once)


def an_executor_is_not_in_snapshots(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UserMachine, "snapshot", lambda _self: b"\x90")


def syncs_are_skipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "_sync_file", lambda _self: None)


def a_lost_node_keeps_its_inferences(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Inferences, "lost", lambda _self, _node, _moment: [])


def a_deploy_needs_no_quorum(patch: pytest.MonkeyPatch) -> None:
    async def alone(self: Deployer, _manifest: dict[str, Any], _timeout_s: float) -> set[str]:
        return {self._node_id}

    patch.setattr(Deployer, "_replicate", alone)


def writes_of_one_call_are_not_sent_again(patch: pytest.MonkeyPatch) -> None:
    """What the first attempt left without a result is said to be written."""

    def values(self: Chunk) -> list[Any]:
        got = self.results or [None] * len(self.operations)
        return [each[1] if type(each) is list else {"version": 1, "index": 1} for each in got]

    patch.setattr(Chunk, "values", values)
    patch.setattr(Chunk, "rest", lambda _self: iter(()))


def commands_are_applied_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReplicatedState, "_issue", _anew)


def _anew(state: ReplicatedState, command: Any, moment: Any) -> Any:
    value, error, events = state._execute(command, moment)
    return Applied(value, error, events, executed=True)


def links_are_not_stopped(patch: pytest.MonkeyPatch) -> None:
    async def halfway(self: PeerLinks) -> None:
        for connection in list(self._up.values()):
            connection.close()

    patch.setattr(PeerLinks, "stop", halfway)


def reads_are_asked_at_network_speed(patch: pytest.MonkeyPatch) -> None:
    hand_over = Reads.hand_over

    def always(self: Reads, now: float) -> None:
        hand_over(self, now)
        self._again = True

    patch.setattr(Reads, "hand_over", always)


def routers_are_made_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routing, "_same", lambda one, other: len(other) > 0 and one[0] is other[0])


def a_share_is_all_that_there_is(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ShareLedger, "_fair", staticmethod(lambda limit, _holders, _node: limit.units))
    patch.setattr("mcp.flow.leases.min", lambda one, _other: one, raising=False)


def shares_are_used_beyond_their_end(patch: pytest.MonkeyPatch) -> None:
    answered = LeasedShare.answered

    def for_longer(self: LeasedShare, grant: Grant, now: float) -> None:
        answered(self, grant, now)
        self._until += 10 * TICKS_PER_S

    patch.setattr(LeasedShare, "answered", for_longer)


def a_place_is_kept_when_its_request_fails(patch: pytest.MonkeyPatch) -> None:
    end = Scheduling.end

    def unless_it_failed(self: Scheduling, place: Place, error: McpError | None) -> None:
        if error is None:
            end(self, place, error)

    patch.setattr(Scheduling, "end", unless_it_failed)


def a_rollout_changes_twice_at_once(patch: pytest.MonkeyPatch) -> None:
    change = Rollouts._change

    def twice(self: Rollouts, rollout: Rollout, moment: Moment) -> Rollout:
        change(self, rollout, moment)
        return change(self, rollout, moment)

    patch.setattr(Rollouts, "_change", twice)


def nobody_drives_rollouts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RolloutDriver, "look", lambda _self: None)


@pytest.mark.xdist_group("rollouts")
@pytest.mark.parametrize(
    ("break_it", "verdict", "told"),
    [
        (a_rollout_changes_twice_at_once, Verdict.SAFETY, ONE_STATE),
        (nobody_drives_rollouts, Verdict.LIVENESS, "goes on, and does not wait for requests"),
    ],
)
def test_rollouts_are_looked_after(
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    verdict: Verdict,
    told: str,
) -> None:
    assert sound(ROLLS_OUT).counts["rollouts going"] >= 2
    break_it(monkeypatch)
    outcome = run_seed(LEVELS["node"], ROLLS_OUT)
    assert (outcome.verdict, told in outcome.reason) == (verdict, True), outcome.reason


def test_a_version_that_fails_is_rolled_back() -> None:
    assert sound(FAILS).counts["runs that failed"] >= 1
    assert sound(FAILS).counts["rollouts rolled back"] >= 1


def dead_voters_are_replaced_early(patch: pytest.MonkeyPatch) -> None:
    made = Watch.__init__

    def hasty(self: Watch, node: str, after_s: float, *, heard_s: float) -> None:
        made(self, node, after_s / 3, heard_s=heard_s)

    patch.setattr(Watch, "__init__", hasty)


def gossip_alone_is_believed(patch: pytest.MonkeyPatch) -> None:
    look = Watch.look

    def believing(self: Watch, now: float, term: int, members: Sequence[Seen]) -> Decided:
        self._term, self._looked_s = term, now
        self._silent = {(each.name, each.journal): each.state_since_s for each in members}
        voters = [replace(each, contact_s=each.state_since_s) for each in members if each.state is State.DEAD]
        return look(self, now, term, [*voters, *(each for each in members if each.state is not State.DEAD)])

    patch.setattr(Watch, "look", believing)


@pytest.mark.parametrize(
    ("break_it", "seed"), [(dead_voters_are_replaced_early, REPLACES), (gossip_alone_is_believed, SUCCEEDS)]
)
def test_replacements_are_looked_after(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], seed: int
) -> None:
    assert sound(seed).counts["voters replaced"]
    break_it(monkeypatch)
    outcome = run_seed(LEVELS["node"], seed)
    assert (outcome.verdict, AFTER_THE_TIME in outcome.reason) == (Verdict.SAFETY, True), outcome.reason


def what_is_declared_is_given_as_the_models(patch: pytest.MonkeyPatch) -> None:
    def unsaid(self: DirectInference, exchange: Any, model: Any, given: Given) -> None:
        payload = self._payload(exchange, model, given.answer.specs)
        exchange.reply(exchange.message.reply("INFER_RESPONSE", payload), given.answer.segments)

    patch.setattr(DirectInference, "_give", unsaid)


def answers_are_kept_for_ever(patch: pytest.MonkeyPatch) -> None:
    find = KeptAnswers.find

    def however_old(
        self: KeptAnswers, model: Any, payload: Any, segments: Any, _max_age_s: float, now: float
    ) -> Any:
        return find(self, model, payload, segments, 1e9, now)

    patch.setattr(KeptAnswers, "find", however_old)


def all_requests_are_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kept, "_digest", lambda _wanted, _tensors: b"")


@pytest.mark.xdist_group("given instead")
@pytest.mark.parametrize(
    ("break_it", "rule"),
    [
        (what_is_declared_is_given_as_the_models, INSTEAD_IS_TOLD),
        (answers_are_kept_for_ever, INSTEAD_IS_TOLD),
        (all_requests_are_the_same, RESULTS_ARE_RIGHT),
    ],
)
def test_what_is_given_instead_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], rule: str
) -> None:
    for kind in ("cached", "fixed"):
        assert sum(sound(seed).counts.get(f"fallback {kind}", 0) for seed in FALL_BACK) > 20
    break_it(monkeypatch)
    outcomes = [run_seed(LEVELS["node"], seed) for seed in FALL_BACK]
    assert any(each.verdict is Verdict.SAFETY and each.reason.startswith(rule) for each in outcomes)


@pytest.mark.parametrize(
    ("break_it", "seeds", "rule"),
    [
        (routers_are_made_once, (0,), DECIDE_ALIKE),
        (a_share_is_all_that_there_is, (0,), GRANTS_FIT),
        # Nodes renew their shares in time, unless they are cut off.
        (shares_are_used_beyond_their_end, (19, 37), SHARES_FIT),
    ],
)
def test_what_is_declared_is_looked_after(
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    seeds: tuple[int, ...],
    rule: str,
) -> None:
    for seed in seeds:
        assert sound(seed).counts["declared"]
        assert sound(seed).counts["shares granted"]
    break_it(monkeypatch)
    outcomes = [run_seed(LEVELS["node"], seed) for seed in seeds]
    assert any(outcome.verdict is Verdict.SAFETY and rule in outcome.reason for outcome in outcomes)


def first_failure(seeds: Iterable[int]) -> Outcome | None:
    for seed in seeds:
        outcome = run_seed(LEVELS["node"], seed)
        if outcome.verdict not in (Verdict.CLEAN, Verdict.VOID):
            return outcome
    return None


@pytest.mark.parametrize(
    ("break_it", "likely", "verdict", "rule"),
    [
        (sessions_are_not_waited_for, 0, Verdict.SAFETY, ""),
        (an_executor_is_not_in_snapshots, 1, Verdict.SAFETY, ""),
        (syncs_are_skipped, 0, None, ""),
        (a_deploy_needs_no_quorum, 0, Verdict.SAFETY, "an acknowledged deploy is on a quorum"),
        (commands_are_applied_twice, 0, Verdict.SAFETY, ""),
        (writes_of_one_call_are_not_sent_again, 0, Verdict.SAFETY, "linearizability"),
        (links_are_not_stopped, 0, Verdict.CRASH, "tasks left"),
        (reads_are_asked_at_network_speed, 0, Verdict.SAFETY, "no loop spins"),
        (a_place_is_kept_when_its_request_fails, 4, Verdict.LIVENESS, "places of requests that are over"),
    ],
)
def test_a_broken_product_is_found_out(
    break_it: Callable[[pytest.MonkeyPatch], None],
    likely: int,
    verdict: Verdict | None,
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_it(monkeypatch)
    outcome = first_failure([*range(likely, 12), *range(likely)])
    assert outcome is not None
    assert verdict in (outcome.verdict, None), outcome.reason
    assert outcome.reason.startswith(rule)
