"""How mutants are placed, taken back, refused, hunted and told about."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from consensus import recovery
from consensus.journal import Journal
from consensus.raft.guards import Ballot
from consensus.raft.replication import Replication
from simulations.__main__ import simulations
from simulations.engine import process
from simulations.levels import LEVELS
from simulations.mutants import hunt as hunting
from simulations.mutants.catalogue import MUTANTS, NoSuchMutant, select
from simulations.mutants.command import EXIT_SURVIVED, EXIT_VOID, exit_code
from simulations.mutants.hunt import Fate, Hunt, hunt
from simulations.mutants.mutant import ROOTS, Group, Mutant, Patch, SeamGone


def production() -> dict[tuple[str, str], object]:
    """Everything that a mutant may replace: what modules hold, and what their classes define."""
    found: dict[tuple[str, str], object] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ROOTS:
            continue
        for attribute, value in vars(module).items():
            found[name, attribute] = value
            if isinstance(value, type):
                found |= {(f"{name}.{attribute}", inner): it for inner, it in vars(value).items()}
    return found


@pytest.fixture(scope="module")
def before() -> dict[tuple[str, str], object]:
    return production()


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_a_mutant_changes_production_and_is_undone(
    mutant: Mutant, before: dict[tuple[str, str], object]
) -> None:
    with mutant.applied():
        during = production()
        assert any(during[place] is not value for place, value in before.items())
    after = production()
    assert all(after[place] is value for place, value in before.items())


def test_there_are_enough_and_each_says_what_it_is() -> None:
    assert len(MUTANTS) >= 40
    assert len({mutant.group for mutant in MUTANTS.values()}) >= 6
    for mutant in MUTANTS.values():
        assert mutant.level in LEVELS
        assert len(mutant.what) > 40, mutant.name
        assert mutant.what.endswith("."), mutant.name
    assert sum(mutant.survives is not None for mutant in MUTANTS.values()) <= 0.05 * len(MUTANTS)


def placed(place: Callable[[Patch], None]) -> Mutant:
    group = Group("test")
    group.mutant()(place)
    return group.mutants[0]


def test_what_fails_while_a_mutant_is_placed_is_undone_too() -> None:
    original = Ballot.admit

    def half_placed(patch: Patch) -> None:
        patch.method(Ballot, "admit", lambda _self, _term, _voter: True)
        patch.method(Ballot, "count", lambda _self: None)

    with pytest.raises(SeamGone), placed(half_placed).applied():
        pass
    assert Ballot.admit is original


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        (lambda patch: patch.method(Journal, "sync_later", lambda _self: None), "Journal does not define"),
        (lambda patch: patch.method(Journal, "sync", lambda _self, _n: None), r"takes \(self\) now"),
        (lambda patch: patch.function(recovery, "restore", lambda: None), "recovery does not define restore"),
        (lambda patch: patch.value(Replication, "answered", lambda _self: 0), "is no property any more"),
        (lambda patch: patch.method(Replication, "number", lambda _self: 0), "cannot be called any more"),
    ],
)
def test_a_seam_that_moved_is_named(place: Callable[[Patch], None], complaint: str) -> None:
    moved = Mutant("moved", "test", "engine", "A seam that is gone.", place)
    with pytest.raises(SeamGone, match=f"mutant moved: .*{complaint}"), moved.applied():
        pass


def test_a_function_is_replaced_wherever_it_was_imported() -> None:
    original = recovery.recover

    def replaced(patch: Patch) -> None:
        patch.function(recovery, "recover", lambda journal, store: None)

    with placed(replaced).applied():
        assert process.recover is recovery.recover is not original
    assert process.recover is recovery.recover is original


def test_an_unknown_name_is_refused_with_those_that_may_be_meant() -> None:
    told = "there is no mutant sync-skipped; did you mean sync-is-skipped[^,]*\\? --list names all of them"
    with pytest.raises(NoSuchMutant, match=told):
        select(["sync-is-skipped", "sync-skipped"])
    with pytest.raises(NoSuchMutant, match="there is no mutant nope; --list names all of them"):
        select(["nope"])
    result = CliRunner().invoke(simulations, ["mutants", "sync-skipped"])
    assert result.exit_code == 2
    assert "did you mean sync-is-skipped" in result.output
    assert "votes-are-counted-twice" not in result.output


def test_the_list_names_all_with_what_they_are() -> None:
    result = CliRunner().invoke(simulations, ["mutants", "--list", "--json"])
    told = [json.loads(line) for line in result.output.splitlines()]
    assert [mutant["name"] for mutant in told] == list(MUTANTS)
    assert told[0]["what"] == MUTANTS[told[0]["name"]].what
    for_people = CliRunner().invoke(simulations, ["mutants", "--list"])
    assert for_people.exit_code == 0
    assert all(name in for_people.output for name in MUTANTS)


def harmless(patch: Patch) -> None:
    """Nothing changes."""
    admit = patch.original(Ballot, "admit")

    def again(self: Ballot, term: int, voter: int) -> bool:
        return bool(admit(self, term, voter))

    patch.method(Ballot, "admit", again)


def failing(patch: Patch) -> None:
    """The mutant's own code is wrong."""

    def wrong(self: Ballot, term: int, voter: int) -> bool:
        return bool(self.voters_of(term, voter))  # type: ignore[attr-defined]

    patch.method(Ballot, "admit", wrong)


def test_what_changes_nothing_survives() -> None:
    assert hunt(placed(harmless), range(2)).fate is Fate.SURVIVED


def test_a_mutant_that_fails_by_itself_has_caught_nothing() -> None:
    found = hunt(placed(failing), range(2))
    assert found.fate is Fate.BROKEN
    assert "voters_of" in found.reason


def test_a_catch_counts_only_if_the_seed_is_clean_without_the_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    run = hunting.run_seed

    def always_broken(level: Any, seed: int) -> Any:
        with MUTANTS["sends-before-the-sync"].applied():
            return run(level, seed)

    monkeypatch.setattr(hunting, "run_seed", always_broken)
    assert hunt(placed(harmless), range(3)).fate is Fate.UNCLEAN


def found(fate: Fate, name: str = "sync-is-skipped") -> Hunt:
    return Hunt(name, fate, 1, 0.0)


def test_exit_codes() -> None:
    excused = next(mutant.name for mutant in MUTANTS.values() if mutant.survives)
    caught, survived = found(Fate.CAUGHT), found(Fate.SURVIVED, excused)
    assert exit_code([caught] * 19 + [survived], everything=True) == 0
    assert exit_code([caught] * 18 + [survived], everything=True) == EXIT_SURVIVED
    assert exit_code([survived], everything=False) == 0
    assert exit_code([caught] * 99 + [found(Fate.SURVIVED)], everything=True) == EXIT_SURVIVED
    assert exit_code([caught, found(Fate.BROKEN)], everything=False) == EXIT_VOID
    assert exit_code([caught, found(Fate.UNCLEAN)], everything=False) == EXIT_VOID
