from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.checking.exactly_once import Fate, check_applied, check_counters, check_counts, fates
from simulations.checking.history import History
from simulations.checking.operations import (
    Absent,
    Call,
    CompareAndSet,
    Conflict,
    Delete,
    Done,
    Failed,
    Found,
    Ok,
    Outcome,
    Put,
    Removed,
    Submit,
    Unknown,
    Written,
)

OK, FAILED, LOST = Ok(Done()), Failed("BUSY"), Unknown()


def requests(*fates: tuple[str, Outcome]) -> History:
    history = History()
    for at, (request, outcome) in enumerate(fates):
        history.record("p", Submit(request), outcome, float(at), request=request)
    return history


def test_the_fate_of_a_request_is_the_best_that_any_sending_was_told() -> None:
    history = requests(("a", LOST), ("a", OK), ("b", FAILED), ("b", LOST), ("c", FAILED), ("c", FAILED))
    history.record("p", CompareAndSet("k", 1, 3), Ok(Conflict(0)), 9.0, request="d")
    history.invoke("p", Submit("e"), 9.0, request="e")
    assert fates(history) == {
        "a": Fate.ACKNOWLEDGED,
        "b": Fate.UNKNOWN,
        "c": Fate.FAILED,
        "d": Fate.UNKNOWN,
        "e": Fate.UNKNOWN,
    }


ASKED = requests(("a", OK), ("b", FAILED), ("c", LOST), ("d", OK))


@pytest.mark.parametrize(
    ("applied", "what"),
    [
        ({"n1": ["a"]}, "'d' 0 times, and it was acknowledged"),
        ({"n1": ["a", "d", "a"]}, "'a' 2 times, and it was acknowledged"),
        ({"n1": ["a", "b", "d"]}, "'b' 1 times, and it was failed"),
        ({"n1": ["c", "a", "d", "c"]}, "'c' 2 times, and it was unknown"),
        ({"n1": ["a", "d", "x"]}, "'x', which nobody asked for"),
        ({"n1": ["a", "d"], "n2": ["d", "a"]}, "in place 0"),
        ({"n1": ["a", "d"], "n2": ["a", "c", "d"]}, "in place 1"),
    ],
)
def test_an_effect_that_is_doubled_lost_invented_or_moved_is_told(
    applied: Mapping[str, Sequence[str]], what: str
) -> None:
    found = check_applied(ASKED, applied)
    assert not found.ok
    assert what in str(found)


@pytest.mark.parametrize("applied", [["a", "d"], ["d", "a"], ["c", "a", "d"], ["a", "d", "c"]])
def test_one_effect_each_passes_wherever_the_unknown_one_is(applied: list[str]) -> None:
    assert check_applied(ASKED, {"n1": applied, "n2": applied}).ok


def test_a_replica_may_be_behind_with_what_nobody_was_promised() -> None:
    assert check_applied(ASKED, {"n1": ["a", "d"], "n2": ["a", "d", "c"]}).ok


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from([OK, FAILED, LOST]), max_size=6),
    st.lists(st.integers(0, 6), max_size=6),
)
def test_effects_are_judged_as_by_counting(outcomes: list[Outcome], applied: list[int]) -> None:
    history = requests(*[(str(n), outcome) for n, outcome in enumerate(outcomes)])
    legal = all(0 <= n < len(outcomes) for n in applied)
    for number, outcome in enumerate(outcomes):
        count = applied.count(number)
        legal = legal and count <= 1 and (outcome != OK or count == 1) and (outcome != FAILED or count == 0)
    assert check_applied(history, {"n": [str(n) for n in applied]}).ok is legal


# -- counted in the final state -------------------------------------------------------------------------


def told(*rows: tuple[Call, Outcome]) -> History:
    history = History()
    for at, (call, outcome) in enumerate(rows):
        history.record("p", call, outcome, float(at))
    return history


WRITES = told(
    (Put("k", 1), Ok(Written(1))),
    (Put("k", 2), LOST),
    (Put("k", 3), FAILED),
    (CompareAndSet("k", 4, 9), Ok(Conflict(1, 1))),
    (CompareAndSet("k", 5, 1), Ok(Written(2))),
)


@pytest.mark.parametrize(("version", "fits"), [(0, False), (1, False), (2, True), (3, True), (4, False)])
def test_a_version_counts_effects(version: int, fits: bool) -> None:
    final = {"k": Found("whatever", version) if version else Absent()}
    assert check_counts(WRITES, final).ok is fits


def test_a_key_that_nobody_wrote_counts_nothing() -> None:
    assert check_counts(WRITES, {"j": Absent()}).ok
    assert not check_counts(WRITES, {"j": Found(1, 1)}).ok


def test_deleted_keys_are_not_counted_and_others_only_from_below() -> None:
    history = told(
        (Put("k", 1), Ok(Written(1))),
        (Delete("k"), Ok(Removed(1))),
        (Put("j", 1), Ok(Written(2))),
        (Put("j", 2), Ok(Written(3))),
    )
    found = check_counts(history, {"k": Absent(), "j": Found(2, 3)})
    assert (found.ok, found.checked) == (True, 1)
    assert not check_counts(history, {"j": Found(2, 1)}).ok


def test_a_deletion_without_effect_hinders_nothing() -> None:
    history = told((Delete("k"), Ok(Removed(0))), (Delete("k"), FAILED), (Put("k", 1), Ok(Written(1))))
    assert check_counts(history, {"k": Found(1, 1)}).checked == 1
    assert not check_counts(history, {"k": Found(1, 2)}).ok
    lost = told((Delete("k"), LOST), (Put("k", 1), Ok(Written(1))))
    assert check_counts(lost, {"k": Found(1, 2)}).checked == 0


@pytest.mark.parametrize(("value", "fits"), [(0, False), (1, False), (2, True), (3, True), (4, False)])
def test_a_counter_tells_lost_and_doubled_increments(value: int, fits: bool) -> None:
    history = told(
        (CompareAndSet("n", 1, 0), Ok(Written(1))),
        (CompareAndSet("n", 2, 1), Ok(Written(2))),
        (CompareAndSet("n", 2, 1), Ok(Conflict(2, 2))),
        (CompareAndSet("n", 3, 2), LOST),
        (CompareAndSet("n", 4, 3), FAILED),
    )
    assert check_counters(history, {"n": value}).ok is fits
