"""The waiting queue against a list that is sorted anew for every question."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.scheduler.interface import PRIORITY_MAX, Request
from mcp.cluster.scheduler.waiting_queue import WaitingQueue
from mcp.errors import Busy, InvalidArgument

AGING_S = 1.0
PATIENCE_S = 3.0


@dataclass
class Sorted:
    """What the queue promises, in the most literal way."""

    waiting: list[tuple[Request, float, int]] = field(default_factory=list)
    count: int = 0

    def add(self, request: Request, now: float) -> None:
        self.waiting.append((request, now, self.count))
        self.count += 1

    def key(self, entry: tuple[Request, float, int], now: float) -> tuple[float, float, int]:
        request, arrived, number = entry
        level = min(PRIORITY_MAX, request.priority + math.floor((now - arrived) / AGING_S))
        deadline = math.inf if request.deadline is None else request.deadline
        return -level, min(max(deadline, arrived), arrived + PATIENCE_S), number

    def first(self, now: float) -> Request | None:
        return min(self.waiting, key=lambda entry: self.key(entry, now))[0] if self.waiting else None

    def remove(self, request_id: str) -> None:
        self.waiting = [entry for entry in self.waiting if entry[0].id != request_id]


# Quarters of a second, so that sums are exact and times coincide.
quarters = st.integers(0, 40).map(lambda count: count / 4)
steps = st.one_of(
    st.tuples(st.just("add"), st.integers(0, PRIORITY_MAX), st.none() | quarters),
    st.tuples(st.just("take"), st.none(), st.none()),
    st.tuples(st.just("cancel"), st.integers(0, 100), st.none()),
    st.tuples(st.just("wait"), quarters, st.none()),
    st.tuples(st.just("expire"), st.none(), st.none()),
)


@given(st.lists(steps, max_size=60))
@settings(max_examples=300)
def test_the_order_is_priority_with_age_then_deadline_then_arrival(script: list[tuple]) -> None:  # type: ignore[type-arg]
    queue, model, now = WaitingQueue(aging_s=AGING_S, patience_s=PATIENCE_S), Sorted(), 0.0
    names = map(str, itertools.count())
    for step, value, extra in script:
        if step == "add":
            request = Request(
                next(names), "m", priority=value, deadline=None if extra is None else now + extra
            )
            queue.add(request, now)
            model.add(request, now)
        elif step == "wait":
            now += value
        elif step == "cancel" and model.waiting:
            request = model.waiting[value % len(model.waiting)][0]
            assert queue.remove(request.id)
            assert not queue.remove(request.id)
            model.remove(request.id)
        elif step == "expire":
            late = [r for r, _, _ in model.waiting if r.deadline is not None and r.deadline <= now]
            assert sorted(r.id for r in queue.expired(now)) == sorted(r.id for r in late)
            for request in late:
                model.remove(request.id)
        elif step == "take":
            first = model.first(now)
            assert queue.first(now) == first
            if first is not None:
                queue.remove(first.id)
                model.remove(first.id)
        assert len(queue) == len(model.waiting)
    while model.waiting:
        first = model.first(now)
        assert first is not None
        assert queue.first(now) == first
        queue.remove(first.id)
        model.remove(first.id)
    assert queue.first(now) is None


@given(
    st.integers(0, PRIORITY_MAX),
    st.lists(st.tuples(st.integers(0, PRIORITY_MAX), st.none() | st.floats(0, 5)), min_size=1, max_size=8),
)
def test_nothing_starves_however_urgent_what_comes_after_it(
    priority: int, newcomers: list[tuple[int, float | None]]
) -> None:
    """One leaves for each one that arrives, so whoever is passed over for ever would never leave."""
    queue, now = WaitingQueue(aging_s=AGING_S, patience_s=PATIENCE_S), 0.0
    queue.add(Request("patient", "m", priority=priority), now)
    bound_s = max((PRIORITY_MAX - priority) * AGING_S, PATIENCE_S) + 0.5
    for number, (urgent, deadline_s) in enumerate(itertools.cycle(newcomers)):
        now += 0.25
        deadline = None if deadline_s is None else now + deadline_s
        queue.add(Request(str(number), "m", priority=urgent, deadline=deadline), now)
        first = queue.first(now)
        assert first is not None
        if first.id == "patient":
            break
        queue.remove(first.id)
        assert now <= bound_s
    assert now <= bound_s


def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    queue = WaitingQueue(waiting_max=2)
    queue.add(Request("a", "m"), 0.0)
    queue.add(Request("b", "m"), 0.0)
    with pytest.raises(Busy, match="waiting_max=2"):
        queue.add(Request("c", "m", priority=PRIORITY_MAX), 0.0)
    assert len(queue) == 2
    assert "a" in queue
    assert "c" not in queue


def test_an_id_waits_once() -> None:
    queue = WaitingQueue()
    queue.add(Request("a", "m"), 0.0)
    with pytest.raises(InvalidArgument, match="waits already"):
        queue.add(Request("a", "m"), 1.0)


def test_what_is_gone_takes_no_room() -> None:
    queue = WaitingQueue()
    for number in range(5000):
        queue.add(Request(str(number), "m", deadline=1e6), 0.0)
        queue.remove(str(number))
    held = sum(map(len, queue._levels)) + len(queue._promotions) + len(queue._deadlines)
    assert held < 500


@pytest.mark.parametrize(
    "wrong", [{"waiting_max": -1}, {"aging_s": 0.0}, {"aging_s": math.nan}, {"patience_s": -1.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match="aging_s"):
        WaitingQueue(**wrong)  # type: ignore[arg-type]
