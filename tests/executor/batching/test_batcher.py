"""The core of batching, stepped by hand: nothing is lost, nobody starves, no bound is passed."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.batching.batcher import REFUSALS_MAX, Batcher
from executor.batching.lanes import COMPANY_SHARE, LaneKey, Request
from executor.batching.options import BatchLimits, BatchOptions
from executor.errors import DeadlineExceeded, QueueFull

BOUND_S = 0.01
A, B = LaneKey("a", 8, BOUND_S), LaneKey("b", 8, BOUND_S)
ALONE = LaneKey("a")


def batcher_of(**limits):
    return Batcher(BatchLimits(**{"workers": 4, "workers_per_model_max": 2, **limits}))


def request(lane=A, client="c", rows=1, size_bytes=10, deadline_s=math.inf):
    return Request(lane, client=client, rows=rows, size_bytes=size_bytes, deadline_s=deadline_s)


def added(batcher, *requests, now=0.0):
    for each in requests:
        batcher.add(each, now)
    return list(requests)


def learned(batcher, lane=A, fixed_s=0.004, per_row_s=0.0005, now=0.0):
    """Let the batcher see runs of several sizes, so that it knows what they take."""
    for rows in (1, 8, 2, 4, 1, 8):
        batcher.add(request(lane, rows=rows), now)
        batch = batcher.take(now)
        batcher.finished(batch, fixed_s + per_row_s * rows)
        now += 1.0
    return now


# -- batches ----------------------------------------------------------------------------------------


def test_what_has_gathered_runs_together_and_other_lanes_do_not():
    batcher = batcher_of()
    mine = added(batcher, *[request() for _ in range(3)])
    other = added(batcher, request(B))
    first, second = batcher.take(0.0), batcher.take(0.0)
    assert (first.requests, first.rows) == (mine, 3)
    assert second.requests == other
    assert batcher.take(0.0) is None
    assert (batcher.requests, batcher.bytes, batcher.running) == (0, 0, 2)


def test_a_batch_has_so_many_rows_and_a_larger_request_runs_by_itself():
    batcher = batcher_of(workers_per_model_max=4)
    added(batcher, request(rows=5), request(rows=4), request(rows=20), request(rows=1))
    assert [batcher.take(0.0).rows for _ in range(4)] == [5, 4, 20, 1]


def test_a_lane_without_rows_runs_every_request_alone():
    batcher = batcher_of(workers_per_model_max=4)
    mine = added(batcher, *[request(ALONE) for _ in range(3)])
    assert [batcher.take(0.0).requests for _ in range(3)] == [[each] for each in mine]


def test_a_batch_is_no_longer_than_the_latency_bound_allows():
    batcher = batcher_of()
    now = learned(batcher, fixed_s=0.004, per_row_s=0.002)
    added(batcher, *[request() for _ in range(8)], now=now)
    assert batcher.take(now).rows == 4  # 4 + 2 * 4 = 12 ms is twice what one row takes, and over 10 ms


def test_a_model_that_is_slow_with_one_row_may_take_twice_as_long():
    batcher = batcher_of()
    now = learned(batcher, fixed_s=0.45, per_row_s=0.1)
    added(batcher, *[request() for _ in range(8)], now=now)
    assert batcher.take(now).rows == 6  # 1.05 s, and one row takes 0.55


def test_how_many_rows_a_run_has_is_known_once_it_has_ended():
    batcher = batcher_of()
    assert batcher.rows_cap("a") == 0
    learned(batcher, fixed_s=0.004, per_row_s=0.002)
    assert batcher.rows_cap("a") == 4
    batcher.forget("a")
    assert batcher.rows_cap("a") == 0


def test_to_wait_for_a_run_that_one_is_not_in_is_part_of_running_in_company():
    batcher = batcher_of(workers_per_model_max=1)
    now = learned(batcher, fixed_s=0.004, per_row_s=0.0005)
    (first,) = added(batcher, request(), now=now)
    batch = batcher.take(now)
    (soon, late) = added(batcher, request(), request(client="d", rows=8), now=now)
    batcher.finished(batch, 0.0045)
    full_s = 0.004 + 8 * 0.0005
    batch = batcher.take(now + 0.0045)
    assert [each.waited_s for each in (first, soon)] == [0.0, pytest.approx(0.0045 - COMPANY_SHARE * full_s)]
    batcher.finished(batch, 0.0045)
    batcher.take(now + 0.009)
    assert late.waited_s == pytest.approx(0.009 - COMPANY_SHARE * full_s)


def test_who_runs_alone_has_waited_all_the_time_that_it_did():
    batcher = batcher_of(workers_per_model_max=1)
    added(batcher, request(ALONE))
    batch = batcher.take(0.0)
    (second,) = added(batcher, request(ALONE))
    batcher.finished(batch, 0.5)
    batcher.take(0.5)
    assert second.waited_s == 0.5


def test_a_batch_that_did_not_run_waits_again():
    batcher = batcher_of()
    mine = added(batcher, request(), request(), request())
    batch = batcher.take_here(A, 0.0)
    assert (batcher.running, batcher.depth("a")) == (0, (0, 1))
    batcher.cancel(mine[1])
    batcher.put_back(batch, 0.0)
    assert batcher.depth("a") == (2, 0)
    assert batcher.take(0.0).requests == [mine[0], mine[2]]
    assert batcher.figures("a").to_plain()["runs_total"] == 0


# -- waiting for others -----------------------------------------------------------------------------


def latencies(fixed, per_row, waiting, gap, *, hold):
    """The sum of the latencies of those who wait and of the next one, as the head of the module has it."""
    if hold:
        return waiting * (gap + fixed + per_row * (waiting + 1)) + fixed + per_row * (waiting + 1)
    first_s = fixed + per_row * waiting
    return waiting * first_s + (first_s - gap) + fixed + per_row


@pytest.mark.parametrize("gap_s", [0.0001, 0.0005, 0.001, 0.002])
@pytest.mark.parametrize("waiting", [1, 2, 3])
@pytest.mark.parametrize("fixed_s", [0.0005, 0.002, 0.004])
def test_requests_are_held_exactly_when_that_shortens_latencies(gap_s, waiting, fixed_s):
    batcher = batcher_of(workers_per_model_max=1)
    now = learned(batcher, fixed_s=fixed_s, per_row_s=0.0002)
    for number in range(200):  # how often they come
        batcher.cancel(*added(batcher, request(), now=now + number * gap_s))
    now += 199 * gap_s
    added(batcher, *[request() for _ in range(waiting)], now=now)
    gap_s *= 0.95**waiting  # those that came together count too
    pays = latencies(fixed_s, 0.0002, waiting, gap_s, hold=True) < latencies(
        fixed_s, 0.0002, waiting, gap_s, hold=False
    )
    assert (batcher.take(now) is None) == pays
    if pays:
        due_s = batcher.next_due(now)
        assert now < due_s <= now + BOUND_S
        assert batcher.take(due_s).rows == waiting


def test_nobody_is_held_while_another_worker_is_free():
    batcher = batcher_of(workers_per_model_max=2)
    now = learned(batcher)
    for number in range(50):
        batcher.cancel(*added(batcher, request(), now=now + number * 0.0001))
    now += 0.005
    added(batcher, request(), now=now)
    assert batcher.take(now) is not None
    added(batcher, request(), now=now)
    assert batcher.take(now) is None  # this is the last one
    assert batcher.next_due(now) > now


def busy_lane(gap_s=0.0001, per_row_s=0.0005, **limits):
    """A batcher whose lane A is asked every ``gap_s`` and has one run under way, and the time."""
    batcher = batcher_of(workers_per_model_max=3, **limits)
    now = learned(batcher, fixed_s=0.004, per_row_s=per_row_s)
    for number in range(200):
        batcher.cancel(*added(batcher, request(), now=now + number * gap_s))
    now += 199 * gap_s
    added(batcher, request(), now=now)
    return batcher, batcher.take(now), now


def test_a_second_run_beside_one_of_its_lane_waits_for_its_end_where_no_core_is_left():
    batcher, running, now = busy_lane()
    assert running is not None
    added(batcher, request(), now=now)
    added(batcher, request(), now=now + 0.001)
    assert batcher.take(now + 0.001) is None
    assert batcher.due_at(A, now + 0.001) == batcher.next_due(now + 0.001) == now + BOUND_S
    batcher.finished(running, 0.0045)
    assert batcher.take(now + 0.002).rows == 2


def test_it_waits_no_longer_than_the_latency_bound():
    batcher, _, now = busy_lane()
    added(batcher, request(), now=now)
    assert batcher.take(now + 0.99 * BOUND_S) is None
    assert batcher.take(now + BOUND_S).rows == 1


@pytest.mark.parametrize(
    ("how", "waiting"),
    [
        ({"cores_for_runs": 2}, 1),  # it has a core of its own
        ({"gap_s": 0.0015}, 1),  # too few come during a run
        ({"per_row_s": 0.001}, 17),  # the fixed 4 ms are less than a fifth of 4 + 17
        ({"per_row_s": 0.0}, 64),  # it is full
    ],
)
def test_a_second_run_is_begun_where_waiting_gains_nothing(how, waiting, monkeypatch):
    monkeypatch.setattr(A, "rows_max", 64)
    monkeypatch.setattr(A, "latency_bound_s", 0.1)
    batcher, running, now = busy_lane(**how)
    assert running is not None
    added(batcher, *[request() for _ in range(waiting)], now=now)
    assert batcher.take(now).rows == waiting


# -- fairness ---------------------------------------------------------------------------------------


def test_one_client_with_many_requests_does_not_hold_up_another():
    batcher = batcher_of()
    added(batcher, *[request(client="greedy") for _ in range(100)])
    (mine,) = added(batcher, request(client="modest"))
    assert mine in batcher.take(0.0).requests


@given(st.lists(st.integers(1, 8), min_size=2, max_size=5))
def test_clients_get_equal_shares_of_rows_however_large_their_requests(sizes):
    batcher = batcher_of(queue_runs_max=5000, runs_per_model_max=5000)
    for client, rows in enumerate(sizes):
        added(batcher, *[request(client=client, rows=rows) for _ in range(400 // rows)])
    got = dict.fromkeys(range(len(sizes)), 0)
    while sum(got.values()) < 200:
        batch = batcher.take(0.0)
        for each in batch.requests:
            got[each.client] += each.rows
        batcher.finished(batch, None)
    # Deficit round robin: nobody is ahead by more than a quantum and a request, in one round or two.
    assert max(got.values()) - min(got.values()) <= 2 * (8 + max(sizes))


def test_models_take_turns_and_one_cannot_take_every_worker():
    batcher = batcher_of(workers=3, workers_per_model_max=2)
    added(batcher, *[request(ALONE) for _ in range(9)])
    assert [batcher.take(0.0).lane for _ in range(2)] == [ALONE, ALONE]
    assert batcher.take(0.0) is None
    added(batcher, request(B))
    assert batcher.take(0.0).lane is B
    added(batcher, request(B))
    assert batcher.take(0.0) is None  # all three work
    assert batcher.due_at(B, 0.0) == math.inf


def test_a_model_with_much_to_do_takes_its_turn_like_the_others():
    batcher = batcher_of(workers=1)
    added(batcher, *[request(ALONE) for _ in range(3)], *[request(B, rows=8) for _ in range(3)])
    lanes = []
    while (batch := batcher.take(0.0)) is not None:
        lanes.append(batch.lane)
        batcher.finished(batch, None)
    assert lanes == [ALONE, B] * 3


def test_lanes_of_one_model_take_turns():
    batcher = batcher_of(workers=9, workers_per_model_max=9)
    long, short = LaneKey("a", 1, BOUND_S), LaneKey("a", 1, BOUND_S)
    added(batcher, *[request(long) for _ in range(3)], *[request(short) for _ in range(2)])
    assert [batcher.take(0.0).lane for _ in range(5)] == [long, short, long, short, long]


# -- bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "count", "lane", "what"),
    [
        ({"queue_runs_max": 3}, 3, A, "queue_runs_max = 3 runs wait already"),
        ({"runs_per_model_max": 2}, 2, A, "runs_per_model_max = 2 runs wait for model 'a' already"),
        ({"queue_bytes_max": 25}, 2, A, "20 bytes wait, and queue_bytes_max is 25"),
        ({"bytes_per_model_max": 25}, 2, A, "20 bytes wait for model 'a', and bytes_per_model_max is 25"),
    ],
)
def test_a_bound_that_would_be_passed_is_named(limits, count, lane, what):
    batcher = batcher_of(**limits)
    added(batcher, *[request(lane) for _ in range(count)])
    refused = request(lane)
    with pytest.raises(QueueFull, match=what):
        batcher.add(refused, 0.0)
    assert batcher.requests == count
    assert batcher.figures("a").to_plain()["refused_total"]["full"] == 1
    assert refused not in batcher.take(0.0).requests


def test_a_model_at_its_bounds_leaves_room_for_others():
    batcher = batcher_of(runs_per_model_max=2, bytes_per_model_max=25)
    added(batcher, request(), request(), request(B), request(B))


def test_one_request_that_is_larger_than_the_bound_may_wait_by_itself():
    batcher = batcher_of(queue_bytes_max=20, bytes_per_model_max=10)
    added(batcher, request(size_bytes=50))
    with pytest.raises(QueueFull):
        batcher.add(request(size_bytes=50), 0.0)
    assert batcher.take(0.0).rows == 1


@pytest.mark.parametrize("name", BatchLimits.__slots__)
def test_bounds_without_sense_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        BatchLimits(**{name: 0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "always"},
        {"rows_max": 0},
        {"rows_max": 10**6},
        {"latency_bound_s": -1},
        {"latency_bound_s": float("nan")},
        {"pad": (("x", float("inf")),)},
        {"pad": (("x", True),)},
    ],
)
def test_options_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="not"):
        BatchOptions(**wrong)


# -- deadlines --------------------------------------------------------------------------------------


def test_what_cannot_make_it_is_refused_before_it_costs_a_run():
    batcher = batcher_of(workers_per_model_max=1)
    now = learned(batcher, fixed_s=0.004, per_row_s=0.0005)
    with pytest.raises(DeadlineExceeded, match=r"expected in 0\.00[45] s \(0 wait before it\), and 0\.004"):
        batcher.add(request(deadline_s=now + 0.004), now)
    added(batcher, request(deadline_s=now + 0.006), now=now)
    running = batcher.take(now)
    with pytest.raises(DeadlineExceeded):  # it would have been quick enough, without the one that runs
        batcher.add(request(deadline_s=now + 0.006), now)
    added(batcher, request(deadline_s=now + 0.02), now=now)
    batcher.finished(running, 0.0045)
    assert batcher.figures("a").to_plain()["refused_total"] == {"full": 0, "deadline": 2}
    assert batcher.depth("a") == (1, 0)


def test_a_deadline_that_has_passed_is_refused_whatever_is_known():
    with pytest.raises(DeadlineExceeded, match="had passed when it came"):
        batcher_of().add(request(deadline_s=1.0), 1.0)


def test_one_in_so_many_is_tried_all_the_same():
    batcher = batcher_of()
    now = learned(batcher, fixed_s=4.0)
    for _ in range(REFUSALS_MAX - 1):
        with pytest.raises(DeadlineExceeded):
            batcher.add(request(deadline_s=now + 1.0), now)
    added(batcher, request(deadline_s=now + 1.0), now=now)
    with pytest.raises(DeadlineExceeded):
        batcher.add(request(deadline_s=now + 1.0), now)
    assert batcher.requests == 1


def test_what_has_become_too_late_is_not_taken():
    batcher = batcher_of()
    now = learned(batcher)
    late, mine = added(batcher, request(deadline_s=now + 0.1), request(deadline_s=now + 9), now=now)
    batch = batcher.take(now + 0.098)
    assert (batch.requests, batcher.late) == ([mine], [late])
    assert not late.waiting


def test_a_batch_ends_before_it_is_too_slow_for_the_tightest_in_it():
    batcher = batcher_of()
    now = learned(batcher, fixed_s=0.001, per_row_s=0.001)
    tight, *rest = added(batcher, request(deadline_s=now + 0.0035), *[request() for _ in range(6)], now=now)
    assert batcher.take(now).requests == [tight, rest[0]]


def test_who_has_expired_is_given_up_wherever_it_is():
    batcher = batcher_of()
    running, patient = added(batcher, request(deadline_s=1.0), request(deadline_s=3.0))
    batch = batcher.take(0.0)
    waiting, later = added(batcher, request(deadline_s=2.0), request(deadline_s=math.inf))
    assert batcher.next_deadline() == 1.0
    assert batcher.expire(2.0) == [waiting, running]
    assert (batch.live, batcher.requests, batcher.next_deadline()) == (1, 1, 3.0)
    assert batcher.expire(2.5) == []
    batcher.cancel(patient)
    assert batch.live == 0
    assert batcher.take(2.5).requests == [later]
    figures = batcher.figures("a").to_plain()
    assert (figures["expired_total"], figures["cancelled_total"]) == (2, 1)


# -- everything at once -----------------------------------------------------------------------------

LIMITS = BatchLimits(
    queue_runs_max=9,
    runs_per_model_max=6,
    queue_bytes_max=80,
    bytes_per_model_max=60,
    workers=3,
    workers_per_model_max=2,
)
LANES = [
    LaneKey("a", 4, BOUND_S),
    LaneKey("a", 6, 0.0),
    LaneKey("a"),
    LaneKey("b", 4, BOUND_S),
    LaneKey("c", 1, 0.02),
]
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from(LANES),
            st.sampled_from("xyz"),
            st.integers(1, 7),
            st.sampled_from([0.0, 0.003, 0.05, math.inf]),
        ),
        st.tuples(
            st.sampled_from(["take", "take_here", "finish", "fail", "put_back", "cancel"]), st.integers(0, 30)
        ),
        st.tuples(st.just("pass"), st.sampled_from([0.0001, 0.002, 0.02, 0.5])),
    ),
    max_size=90,
)  # fmt: skip


class World:
    """A batcher and what must be so of it. ``ended`` says how each request ended."""

    def __init__(self):
        self.batcher = Batcher(LIMITS)
        self.now = 0.0
        self.numbers = itertools.count()
        self.order = {}
        self.waiting, self.running, self.ended = [], [], {}

    def add(self, lane, client, rows, left_s):
        if not lane.rows_max:
            rows = 1
        each = request(lane, client, rows, size_bytes=4 * rows, deadline_s=self.now + left_s)
        self.order[each] = next(self.numbers)
        of_model = [w for w in self.waiting if w.lane.model == lane.model]
        try:
            self.batcher.add(each, self.now)
        except QueueFull:
            assert (
                len(self.waiting) >= 9
                or len(of_model) >= 6
                or sum(w.size_bytes for w in self.waiting) + each.size_bytes > 80
                or sum(w.size_bytes for w in of_model) + each.size_bytes > 60
            )
        except DeadlineExceeded:
            assert left_s < math.inf
        else:
            self.waiting.append(each)

    def taken(self, batch):
        for each in self.batcher.late:
            self.end(each, "late")
        self.batcher.late = []
        if batch is None:
            return
        assert {each.lane for each in batch.requests} == {batch.lane}
        assert batch.rows == sum(each.rows for each in batch.requests)
        assert len(batch.requests) == 1 or batch.rows <= batch.lane.rows_max
        for each in batch.requests:
            earlier = [
                w for w in self.waiting
                if (w.lane, w.client) == (each.lane, each.client) and self.order[w] < self.order[each]
            ]  # fmt: skip
            assert earlier == []
            self.waiting.remove(each)
        self.running.append(batch)

    def end(self, each, how):
        assert each not in self.ended
        self.ended[each] = how
        if each in self.waiting:
            self.waiting.remove(each)

    def step(self, what, *how):
        if what == "add":
            self.add(*how)
        elif what == "pass":
            self.now += how[0]
            for each in self.batcher.expire(self.now):
                assert each.deadline_s <= self.now
                self.end(each, "expired")
        elif what == "take":
            self.taken(self.batcher.take(self.now))
        elif what == "take_here":
            self.taken(self.batcher.take_here(LANES[how[0] % len(LANES)], self.now))
        elif what == "cancel":
            alive = [*self.waiting, *[r for b in self.running for r in b.requests if r not in self.ended]]
            if alive:
                each = alive[how[0] % len(alive)]
                assert self.batcher.cancel(each) == (each in self.waiting)
                self.end(each, "cancelled")
        elif self.running:
            self.over(what, self.running.pop(how[0] % len(self.running)))

    def over(self, what, batch):
        left = [each for each in batch.requests if each not in self.ended]
        assert batch.live == len(left)
        if what == "put_back":
            self.batcher.put_back(batch, self.now)
            for each in left:  # they are last again
                self.order[each] = next(self.numbers)
            self.waiting += left
        else:
            self.batcher.finished(batch, 0.002 + 0.0003 * batch.rows if what == "finish" else None)
            for each in left:
                self.end(each, "answered")

    def check(self):
        batcher = self.batcher
        assert batcher.requests == len(self.waiting)
        assert batcher.bytes == sum(each.size_bytes for each in self.waiting)
        assert batcher.running == sum(not batch.inline for batch in self.running) <= 3
        for model in "abc":
            of_model = [b for b in self.running if b.lane.model == model]
            assert batcher.depth(model) == (
                sum(each.lane.model == model for each in self.waiting),
                len(of_model),
            )
            assert sum(not batch.inline for batch in of_model) <= 2
        deadlines = [w.deadline_s for w in self.waiting]
        deadlines += [r.deadline_s for b in self.running for r in b.requests if r not in self.ended]
        assert batcher.next_deadline() == min(deadlines, default=math.inf)

    def check_nobody_waits_too_long(self):
        """If there is a worker for a model, its requests are taken, or held, and not past their bound."""
        while self.batcher.running < 3:
            due_s = self.batcher.next_due(self.now)
            free = [
                each for each in self.waiting
                if sum(b.lane.model == each.lane.model for b in self.running) < 2
            ]  # fmt: skip
            assert (due_s == math.inf) == (free == [])
            if not free:
                return
            assert due_s <= max(self.now, min(each.arrived_s + each.lane.latency_bound_s for each in free))
            self.now = max(self.now, due_s)
            before = len(self.waiting)
            self.taken(self.batcher.take(self.now))
            assert len(self.waiting) < before


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_every_request_ends_once_and_every_bound_is_kept(steps):
    world = World()
    for step in steps:
        world.step(*step)
        world.check()
    world.check_nobody_waits_too_long()
    world.check()
    while world.running or world.waiting:
        world.step("take")
        if world.running:
            world.step("finish", 0)
        world.now += 0.02
        world.check()
    assert not any(each.waiting or each.batch for each in world.ended)


@given(STEPS)
def test_clearing_gives_back_everything_that_waits(steps):
    world = World()
    for step in steps:
        world.step(*step)
    assert sorted(map(id, world.batcher.clear())) == sorted(map(id, world.waiting))
    assert (world.batcher.requests, world.batcher.bytes) == (0, 0)
    assert world.batcher.take(world.now) is None


def test_a_model_that_is_forgotten_leaves_nothing():
    batcher = batcher_of()
    learned(batcher)
    waiting, running = added(batcher, request(), request(B))
    batch = batcher.take(9.0)
    batcher.forget(batch.lane.model)
    batcher.forget("b")
    batcher.finished(batch, 0.1)
    other = batcher.take(9.0)
    batcher.finished(other, 0.1)
    assert {waiting, running} == {*batch.requests, *other.requests}
    assert batcher._models == {}
