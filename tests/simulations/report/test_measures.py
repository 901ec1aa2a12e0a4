"""What faults did to the clients: figures against what one can count on one's fingers, and by brute force."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.chronicle import Call, Commit, Happening
from simulations.report.measures import (
    Calls,
    Progress,
    Typical,
    Window,
    bins,
    by_kind,
    effects,
    percentile,
    superposed,
    typical,
)
from simulations.report.record import Run, Span


def write(begun_s: float, ended_s: float | None, ended: str = "ok") -> Call:
    return Call(begun_s, ended_s, "put", ended, True)  # type: ignore[arg-type]


def test_a_percentile_is_a_value_that_was_there() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([7.0], 0.01) == 7.0
    assert percentile([], 0.5) is None


def test_what_never_was_is_counted_and_no_part_of_the_median() -> None:
    assert typical([3.0, None, 1.0, 2.0]) == Typical(3, 2.0, 3.0, 1)
    assert typical([None]) == Typical(0, None, None, 1)
    assert typical([]) == Typical(0, None, None, 0)


def test_a_window_has_the_calls_that_ended_in_it() -> None:
    calls = Calls(
        [write(0.0, 1.0), write(1.0, 1.5), write(1.0, 1.9), write(1.2, 1.6, "failed"), write(1.0, 2.0)]
    )
    assert calls.window(1.0, 2.0) == Window(3.0, pytest.approx(0.9), 1.0)
    assert calls.window(5.0, 6.0) == Window(0.0, None, None)


times = st.floats(0, 20, allow_nan=False)
writes = st.lists(
    st.tuples(times, st.floats(0, 5), st.sampled_from(["ok", "failed", "unknown"])).map(
        lambda t: write(t[0], t[0] + t[1], t[2])
    ),
    max_size=30,
)


@given(writes, times)
def test_the_next_fresh_write_is_the_first_that_was_begun_later(calls: list[Call], at_s: float) -> None:
    ends = [c.ended_s for c in calls if c.ended == "ok" and c.begun_s >= at_s and c.ended_s is not None]
    assert Calls(calls).fresh_s(at_s) == (min(ends) - at_s if ends else None)


@given(writes, times, st.floats(0, 5))
def test_a_gap_is_the_longest_that_touches_the_time(calls: list[Call], at_s: float, long_s: float) -> None:
    ends = sorted(c.ended_s for c in calls if c.ended == "ok" and c.ended_s is not None)
    pairs = [(a, b) for a, b in itertools.pairwise(ends) if b >= at_s and a <= at_s + long_s]
    assert Calls(calls).gap_s(at_s, at_s + long_s) == max((b - a for a, b in pairs), default=0.0)


def test_reads_and_failed_writes_do_not_end_a_gap() -> None:
    calls = Calls(
        [write(0.0, 1.0), Call(1.0, 2.0, "get", "ok", False), write(2.0, 3.0, "failed"), write(3.0, 5.0)]
    )
    assert calls.gap_s(1.5, 1.6) == 4.0
    assert calls.longest_gap_s == 4.0


def test_a_node_has_caught_up_when_it_has_what_anybody_had() -> None:
    progress = Progress(
        [Commit(0.0, "n1", 1), Commit(1.0, "n1", 10), Commit(2.0, "n2", 9), Commit(3.0, "n2", 12)]
    )
    assert progress.furthest == 12
    assert progress.caught_up_s("n2", 1.5) == 1.5
    assert progress.caught_up_s("n1", 1.5) == 0.0
    assert progress.caught_up_s("n1", 3.0) is None
    assert progress.caught_up_s("n3", 1.5) is None


def test_a_fault_is_held_against_what_was_before_and_after_it() -> None:
    before = [write(at / 10, at / 10 + 0.01) for at in range(20)]
    after = [write(4.5 + at / 5, 4.7 + at / 5) for at in range(20)]
    run = Run(
        "",
        True,
        1,
        "clean",
        "",
        ("n1", "n2"),
        10.0,
        spans=(Span("n2", "lost", 1.0, 10.0),),
        faults=(
            Happening("kill", 2.0, 4.0, ("n1", "n2")),
            Happening("bit_flip", 3.0, 3.0, ("n2",)),
        ),
        commits=(Commit(0.0, "n1", 5), Commit(2.5, "n3", 7), Commit(5.0, "n1", 6), Commit(6.0, "n1", 7)),
        calls=(*before, *after),
    )
    kill, flip = effects(run)
    assert kill.before == Window(10.0, pytest.approx(0.01), pytest.approx(0.01))
    assert kill.during == Window(0.0, None, None)
    assert kill.after.per_s == pytest.approx(3.5)
    assert kill.gap_s == pytest.approx(4.7 - 1.91)
    assert kill.fresh_s == pytest.approx(2.7)
    assert kill.caught_up_s == 2.0  # n2 is lost for good, and n1 was behind n3 when it was over
    assert flip.during == Window(0.0, None, None)
    assert list(by_kind([kill, flip])) == ["bit_flip", "kill"]


@given(writes, st.integers(1, 50))
def test_every_call_that_ended_in_the_run_is_in_one_bin(calls: list[Call], count: int) -> None:
    found = bins(calls, 25.0, count)
    assert len(found) == count
    assert found[-1].ended_s == pytest.approx(25.0)
    for how in ("ok", "failed", "unknown"):
        assert sum(bin_.ended.get(how, 0) for bin_ in found) == sum(call.ended == how for call in calls)


def test_a_call_that_never_ended_is_in_no_bin() -> None:
    (found,) = bins([write(0.0, None, "unknown"), write(0.0, 0.5)], 1.0, 1)
    assert found.ended == {"ok": 1}
    assert found.per_s("ok") == 1.0
    assert found.p99_s == 0.5


def test_faults_of_a_kind_are_laid_over_each_other() -> None:
    calls = [write(at, at + 0.1) for at in (0.5, 1.5, 5.2, 5.3, 6.5)]
    found = superposed(calls, [1.0, 5.0], before_s=1.0, after_s=2.0, width_s=1.0, until_s=6.9)
    # Of the second fault there is no whole second after 6.
    assert [(m.offset_s, m.per_s) for m in found] == [(-1.0, 0.5), (0.0, 1.5), (1.0, 0.0)]
    assert found[1].p50_s == pytest.approx(0.1)
    assert found[2].p99_s is None
    assert math.isclose(found[0].p50_s or 0, 0.1)
