"""A rolling upgrade of the command schema under load and faults, and products that get it wrong."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from mcp.node.membership import Membership
from mcp.state.commands import SCHEMA_MAX
from mcp.state.schema import Schema
from mcp.state.state import ReplicatedState
from simulations.levels import LEVELS, run_seed
from simulations.nodes.cluster import run
from simulations.nodes.newer import NEWER
from simulations.nodes.upgrade import PAIRS, Upgrade, pair_of, scenario_of
from simulations.verdict import Outcome, Verdict

LEVEL = LEVELS["upgrade"]


def upgraded(seed: int, pair: tuple[int, int]) -> Outcome:
    """The run of ``seed`` with the upgrade from one schema to the other of the ``pair``."""
    return run(scenario_of(seed, pair), kind=functools.partial(Upgrade, pair=pair))


def test_seeds_have_the_upgrades_of_all_pairs_of_schemas() -> None:
    assert {pair_of(seed) for seed in range(30)} == {(1, 2), (2, 3), (3, 4)} == set(PAIRS)
    assert NEWER.keys() == set(range(2, SCHEMA_MAX + 1)), "something is asked for of each"


def test_nothing_is_lost_and_the_newer_command_waits_for_the_last_node() -> None:
    counts: Counter[str] = Counter()
    fired: set[str] = set()
    # 139: a node that stopped at the raise executed what had come with it.
    for seed in (1, 3, 139):
        outcome = upgraded(seed, (1, 2))
        assert outcome.verdict is Verdict.CLEAN, f"{seed}: {outcome.reason}"
        for happened in ("in force", "refused for now", "taken"):
            assert outcome.counts[happened], (seed, happened)
        counts.update({key: int(value) for key, value in outcome.counts.items()})
        fired |= outcome.faults.keys()
    assert len(fired) >= 7, fired
    # A node that was taken back too late stopped and said so; some joined by a snapshot of either schema.
    for happened in ("stopped with advice", "snapshots received", "snapshots taken"):
        assert counts[happened], happened


@pytest.mark.parametrize("pair", PAIRS)
def test_what_a_schema_brings_waits_for_the_last_node(pair: tuple[int, int]) -> None:
    counts: Counter[str] = Counter()
    for seed in (3, 6):
        outcome = upgraded(seed, pair)
        assert outcome.verdict is Verdict.CLEAN, f"{seed}: {outcome.reason}"
        counts.update({key: int(value) for key, value in outcome.counts.items()})
    # Who asks for several commands at once is refused nothing: they are one by one in the log until then.
    for happened in ("in force", "taken", "newer commands", *(["refused for now"] if pair != (2, 3) else [])):
        assert counts[happened], happened
    assert bool(counts["declared"]) == (pair == (3, 4))


def test_the_command_shows_the_same_run_again() -> None:
    first, again = (run_seed(LEVEL, 1, seconds=6) for _ in range(2))
    assert first.trace_hash == again.trace_hash
    assert first.command == "python -m simulations replay 1 --level upgrade --seconds 6"


# -- products that are broken on purpose --------------------------------------------------------------------


def it_is_raised_over_old_nodes(patch: pytest.MonkeyPatch, _new: int) -> None:
    patch.setattr(Schema, "_behind", lambda _self, _schema, _voters: [])


def commands_do_not_wait_for_the_raise(patch: pytest.MonkeyPatch, _new: int) -> None:
    patch.setattr(Schema, "has", lambda _self, _op, _args=None: True)


def it_is_never_raised(patch: pytest.MonkeyPatch, new: int) -> None:
    due = Schema.due
    patch.setattr(Schema, "due", lambda self, voters: None if self.in_force == new - 1 else due(self, voters))


def old_nodes_go_on(patch: pytest.MonkeyPatch, new: int) -> None:
    init = ReplicatedState.__init__

    def newest(self: ReplicatedState, machines: Any, schema_max: int, make_ledger: Any) -> None:
        init(self, machines=machines, schema_max=new, make_ledger=make_ledger)

    patch.setattr(ReplicatedState, "__init__", newest)


def a_node_does_not_say_that_it_went_back(patch: pytest.MonkeyPatch, new: int) -> None:
    hello = Membership._hello
    patch.setattr(Membership, "_hello", lambda self: {**hello(self), "schema": new})


def first_failure(pair: tuple[int, int]) -> Outcome | None:
    # In the first two a node that is upgraded leads before all are; at the end of the last one is taken back.
    for seed in (6, 7, 1):
        outcome = upgraded(seed, pair)
        if outcome.verdict is not Verdict.CLEAN:
            return outcome
    return None


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    ("break_it", "verdict", "rule"),
    [
        (it_is_raised_over_old_nodes, Verdict.SAFETY, "commands of a newer schema wait for the last node"),
        (commands_do_not_wait_for_the_raise, Verdict.SAFETY, "a node stops only for a fault"),
        (it_is_never_raised, Verdict.LIVENESS, "schema {new} is not in force"),
        (old_nodes_go_on, Verdict.SAFETY, "an older version stops at what it cannot execute"),
        (a_node_does_not_say_that_it_went_back, Verdict.SAFETY, "a node stops only for a fault"),
    ],
)
def test_a_broken_product_is_found_out(
    break_it: Callable[[pytest.MonkeyPatch, int], None],
    verdict: Verdict,
    rule: str,
    pair: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_it(monkeypatch, pair[1])
    outcome = first_failure(pair)
    assert outcome is not None
    assert (outcome.verdict, outcome.reason.startswith(rule.format(new=pair[1]))) == (verdict, True), (
        outcome.reason
    )
