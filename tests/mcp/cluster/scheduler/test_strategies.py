"""All strategies: what holds whatever happens, and what each is for."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.outcome import Outcome
from mcp.cluster.scheduler.account import IN_FLIGHT_MAX, AccountLimits
from mcp.cluster.scheduler.interface import PRIORITY_MAX, Request, Scheduler
from mcp.cluster.scheduler.least_loaded import LoadWeights
from mcp.cluster.scheduler.load_report import LoadReport
from mcp.cluster.scheduler.strategies import (
    LEAST_LOADED,
    PREDICTED_COMPLETION,
    PRIORITY_QUEUE,
    ROUND_ROBIN,
    STRATEGIES,
    SchedulerSettings,
    Strategies,
)
from mcp.errors import Busy, InvalidArgument, Unavailable

NODES = ("a", "b", "c", "d")
CHOOSING = (LEAST_LOADED, PREDICTED_COMPLETION)


def named(strategy: str, **settings: Any) -> Strategies:
    return Strategies(SchedulerSettings(default=strategy, **settings))


def requests(model: str = "m", **fields: Any) -> Any:
    return (Request(f"r{number}", model, **fields) for number in itertools.count())


def taught(scheduler: Strategies, times: dict[str, float], now: float, count: int = 20) -> None:
    """Let every node answer some requests of size 1, each in its time."""
    for request in itertools.islice(requests(), count):
        for node, took_s in times.items():
            scheduler.started(node, request, now)
            scheduler.finished(node, request, Outcome.ANSWERED, took_s, now, service_s=took_s)


# -- what holds whatever happens ------------------------------------------------------------------

times = st.floats(0, 10) | st.sampled_from([math.nan, math.inf, -1.0, 0.0])
events = st.one_of(
    st.tuples(st.just("choose"), st.sets(st.sampled_from(NODES), min_size=1), st.sampled_from("mn")),
    st.tuples(
        st.just("finish"), st.integers(0, 99), st.tuples(st.sampled_from(Outcome), times, st.none() | times)
    ),
    st.tuples(
        st.just("report"),
        st.sampled_from(NODES),
        st.builds(
            LoadReport,
            cpu=st.floats(0, 1),
            concurrency=st.integers(1, 3),
            running=st.integers(0, 3),
            queued=st.dictionaries(st.sampled_from("mn"), st.integers(0, 9)),
            service_s=st.dictionaries(st.sampled_from("mn"), st.floats(0, 1)),
            age_s=st.floats(0, 2),
        ),
    ),
    st.tuples(st.just("wait"), st.floats(0, 3), st.none()),
    st.tuples(st.just("hand_out"), st.none(), st.none()),
)


class Play:
    """A scheduler and, beside it, what it should know."""

    def __init__(self, strategy: str, draws: int | None, seed: int) -> None:
        self.scheduler = named(strategy, draws=draws, waiting_max=8)
        self.may_wait = strategy == PRIORITY_QUEUE
        self.random = Random(seed)
        self.now = 0.0
        self.numbers = itertools.count()
        self.under_way: list[tuple[str, Request]] = []
        self.waiting: dict[str, Request] = {}

    def send(self, node: str, request: Request) -> None:
        self.scheduler.started(node, request, self.now)
        self.under_way.append((node, request))

    def choose(self, nodes: set[str], model: str) -> None:
        size = self.random.choice([0.0, 1.0, 1e6])
        request = Request(f"r{next(self.numbers)}", model, size, deadline=self.now + 1)
        try:
            choice = self.scheduler.choose(sorted(nodes), request, self.now, self.random)
        except Busy:
            assert len(self.waiting) >= 8
            return
        assert choice.node in nodes or (choice.node is None and self.may_wait)
        assert choice.predicted_s is None or math.isfinite(choice.predicted_s)
        assert choice.deviation_s is None or 0 <= choice.deviation_s < math.inf
        if choice.node is None:
            self.waiting[request.id] = request
        else:
            self.send(choice.node, request)

    def finish(self, which: int, how: tuple[Outcome, float, float | None]) -> None:
        if self.under_way:
            node, request = self.under_way.pop(which % len(self.under_way))
            outcome, took_s, service_s = how
            self.scheduler.finished(node, request, outcome, took_s, self.now, service_s=service_s)

    def report(self, node: str, report: LoadReport) -> None:
        self.scheduler.observed(node, report, self.now)

    def wait(self, seconds: float, _: None) -> None:
        self.now += seconds

    def hand_out(self, _: None, __: None) -> None:
        while found := self.scheduler.next(lambda _: NODES[1:], self.now, self.random):
            request, choice = found
            assert choice.node in NODES[1:]
            del self.waiting[request.id]
            self.send(choice.node, request)

    def end(self) -> None:
        for node, request in self.under_way:
            self.scheduler.finished(node, request, Outcome.ABANDONED, 0.0, self.now)
        self.under_way.clear()
        for request in list(self.waiting.values()):
            assert self.scheduler.cancel(self.waiting.pop(request.id))

    def check(self) -> None:
        counts = Counter(node for node, _ in self.under_way)
        account = self.scheduler.account
        assert all(account.in_flight(node) == counts[node] for node in NODES)
        assert self.scheduler.waiting == len(self.waiting)


@pytest.mark.parametrize("draws", [None, 1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
@given(st.lists(events, max_size=50), st.integers(0, 9))
@settings(max_examples=40)
def test_only_candidates_are_chosen_and_every_request_is_counted_once(
    strategy: str, draws: int | None, script: list[tuple[str, Any, Any]], seed: int
) -> None:
    play = Play(strategy, draws, seed)
    for event, first, second in script:
        getattr(play, event)(first, second)
        play.check()
    play.end()
    play.check()
    assert all(kept.work_s == 0 for kept in map(play.scheduler.account.node, NODES) if kept)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_calls_give_the_same_choices(strategy: str) -> None:
    def play() -> list[str | None]:
        scheduler, random, chosen = named(strategy), Random(7), []
        for number, request in enumerate(itertools.islice(requests(), 50)):
            node = scheduler.choose(NODES, request, number / 100, random).node
            chosen.append(node)
            if node is not None:
                scheduler.started(node, request, number / 100)
        return chosen

    assert play() == play()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_candidates_it_says_so(strategy: str) -> None:
    with pytest.raises(Unavailable, match="no node can run 'm'"):
        named(strategy).choose((), Request("r", "m"), 0.0, Random(1))


def test_a_request_whose_end_is_never_told_is_taken_to_be_lost() -> None:
    scheduler = named(PREDICTED_COMPLETION, account=AccountLimits(in_flight_max=10))
    assert IN_FLIGHT_MAX > 10
    for request in itertools.islice(requests(), 50):
        scheduler.started("a", request, 0.0)
    assert scheduler.account.in_flight("a") == 10


def test_nodes_that_come_and_go_take_no_room() -> None:
    scheduler = named(PREDICTED_COMPLETION, account=AccountLimits(nodes_max=8))
    for number in range(50):
        scheduler.observed(f"n{number}", LoadReport(), 0.0)
    assert scheduler.account.node("n49") is not None
    assert sum(scheduler.account.node(f"n{number}") is not None for number in range(50)) == 8


# -- round robin and selection --------------------------------------------------------------------


@given(st.integers(1, 7), st.integers(1, 40), st.integers(0, 99))
def test_round_robin_gives_every_node_its_share(nodes: int, count: int, seed: int) -> None:
    scheduler, names, random = named(ROUND_ROBIN), [f"n{n}" for n in range(nodes)], Random(seed)
    chosen = Counter(
        scheduler.choose(names, r, 0.0, random).node for r in itertools.islice(requests(), count)
    )
    shares = [chosen[name] for name in names]
    assert max(shares) - min(shares) <= 1


def test_a_strategy_is_selected_by_model() -> None:
    scheduler, random = Strategies(SchedulerSettings(of_model={"m": ROUND_ROBIN})), Random(1)
    assert scheduler.choose(NODES, Request("r1", "m"), 0.0, random).predicted_s is None
    assert scheduler.choose(NODES, Request("r2", "n"), 0.0, random).predicted_s is not None
    scheduler.select("m", None)
    assert scheduler.choose(NODES, Request("r3", "m"), 0.0, random).predicted_s is not None
    scheduler.select("n", LEAST_LOADED)
    assert "least loaded" in scheduler.choose(NODES, Request("r4", "n"), 0.0, random).reason


def test_it_is_what_the_protocol_says() -> None:
    scheduler: Scheduler = Strategies()
    assert scheduler.choose(["a"], Request("r", "m"), 0.0, Random(1)).node == "a"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Strategies(SchedulerSettings(default="fastest")),
        lambda: Strategies(SchedulerSettings(of_model={"m": "fastest"})),
        lambda: Strategies(SchedulerSettings(draws=0)),
        lambda: LoadWeights(cpu=-1.0),
        lambda: LoadWeights(queue=math.nan),
        lambda: Request("r", "m", size=-1.0),
        lambda: Request("r", "m", size=math.nan),
        lambda: Request("r", "m", priority=PRIORITY_MAX + 1),
        lambda: Request("r", "m", deadline=math.inf),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        wrong()


# -- least loaded ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("busy", "weights"),
    [
        (LoadReport(cpu=1.0), LoadWeights()),
        (LoadReport(memory_free=0.0), LoadWeights()),
        (LoadReport(device_memory_free=0.1), LoadWeights()),
        (LoadReport(running=1), LoadWeights()),
        (LoadReport(queued={"other": 1}), LoadWeights()),
        (LoadReport(cpu=0.1), LoadWeights(cpu=10, queue=0)),
    ],
)
def test_whatever_a_node_lacks_counts(busy: LoadReport, weights: LoadWeights) -> None:
    for seed in range(5):
        scheduler = named(LEAST_LOADED, weights=weights)
        scheduler.observed("a", busy, 0.0)
        scheduler.observed("b", LoadReport(device_memory_free=1.0), 0.0)
        assert scheduler.choose(("a", "b"), Request("r", "m"), 0.0, Random(seed)).node == "b"


def test_a_weight_of_nothing_leaves_it_out() -> None:
    scheduler, random = named(LEAST_LOADED, weights=LoadWeights(cpu=0.0)), Random(1)
    scheduler.observed("a", LoadReport(cpu=1.0), 0.0)
    chosen = {scheduler.choose(("a", "b"), Request("r", "m"), 0.0, random).node for _ in range(50)}
    assert chosen == {"a", "b"}


def test_an_old_report_of_a_busy_processor_is_forgotten() -> None:
    scheduler = named(LEAST_LOADED)
    scheduler.observed("a", LoadReport(cpu=1.0), 0.0)
    scheduler.observed("b", LoadReport(cpu=0.2), 60.0)
    assert scheduler.choose(("a", "b"), Request("r", "m"), 60.0, Random(1)).node == "a"


# -- what is old, and what failed -----------------------------------------------------------------


@pytest.mark.parametrize("strategy", CHOOSING)
def test_an_idle_node_in_an_old_report_does_not_draw_everything(strategy: str) -> None:
    """The herd: between two reports the requests that were sent meanwhile have to count."""
    scheduler, random = named(strategy), Random(1)
    taught(scheduler, {"a": 0.1, "b": 0.1}, 0.0)
    scheduler.observed("a", LoadReport(), 10.0)
    scheduler.observed("b", LoadReport(running=1, queued={"m": 3}), 10.0)
    chosen = []
    for request in itertools.islice(requests(), 14):
        node = scheduler.choose(("a", "b"), request, 10.0, random).node
        assert node is not None
        scheduler.started(node, request, 10.0)
        chosen.append(node)
    assert chosen[0] == "a"
    assert 7 <= chosen.count("a") <= 11
    assert set(chosen[:6]) == {"a", "b"}


def test_what_others_send_is_learned_from_the_reports() -> None:
    alone, crowd = named(PREDICTED_COMPLETION), named(PREDICTED_COMPLETION)
    for number, request in enumerate(itertools.islice(requests(), 40)):
        for scheduler, factor in ((alone, 1), (crowd, 5)):
            scheduler.started("a", request, float(number))
            scheduler.observed("a", LoadReport(running=1, queued={"m": factor - 1}), number + 0.5)
            scheduler.finished("a", request, Outcome.ANSWERED, 0.6, number + 0.6, service_s=0.1)
    assert alone.account.others == pytest.approx(1.0, abs=0.05)
    assert crowd.account.others == pytest.approx(5.0, rel=0.2)


def test_late_reports_do_not_make_a_lone_scheduler_believe_in_others() -> None:
    """When a report arrives, the requests that it counted have been answered long since."""
    scheduler = named(PREDICTED_COMPLETION)
    for number, request in enumerate(itertools.islice(requests(), 60)):
        scheduler.started("a", request, float(number))
        scheduler.finished("a", request, Outcome.ANSWERED, 0.2, number + 0.2, service_s=0.2)
        scheduler.observed("a", LoadReport(running=1, age_s=0.4), number + 0.5)
    assert scheduler.account.others == pytest.approx(1.0, abs=0.05)


def test_an_older_report_is_ignored() -> None:
    scheduler = named(LEAST_LOADED)
    scheduler.observed("a", LoadReport(running=0), 5.0)
    scheduler.observed("a", LoadReport(running=9, age_s=2.0), 5.5)
    assert scheduler.account.in_front("a", 5.5) == 0


def test_what_was_in_front_is_done_when_a_later_request_is_answered() -> None:
    scheduler, request = named(LEAST_LOADED), Request("r", "m")
    scheduler.observed("a", LoadReport(running=1, queued={"m": 8}), 0.0)
    scheduler.started("a", request, 0.1)
    assert scheduler.account.in_front("a", 0.2) == pytest.approx(9 + scheduler.account.others)
    scheduler.finished("a", request, Outcome.ANSWERED, 0.9, 1.0)
    assert scheduler.account.in_front("a", 1.0) == 0


@pytest.mark.parametrize("strategy", [*CHOOSING, PRIORITY_QUEUE])
@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.FAULTED, Outcome.REFUSED])
def test_a_node_that_failed_is_left_alone_for_a_while(strategy: str, outcome: Outcome) -> None:
    scheduler, random, names = named(strategy), Random(1), ("a", "b")
    taught(scheduler, {"a": 0.001, "b": 0.01}, 0.0)
    failing = Request("x", "m")
    scheduler.started("a", failing, 100.0)
    scheduler.finished("a", failing, outcome, 0.0001, 100.0)
    for _ in range(20):
        assert scheduler.choose(names, Request("y", "m"), 100.01, random).node == "b"
    assert scheduler.choose(("a",), Request("y", "m"), 101.0, random).node == "a"
    chosen = {scheduler.choose(names, Request("y", "m"), 101.0, random).node for _ in range(50)}
    assert "a" in chosen


def test_failures_in_a_row_double_the_pause_and_an_answer_ends_it() -> None:
    scheduler, request, now = named(PREDICTED_COMPLETION), Request("r", "m"), 0.0
    pauses = []
    for _ in range(9):
        scheduler.finished("a", request, Outcome.FAILED, 0.1, now)
        scheduler.finished("a", request, Outcome.FAILED, 0.1, now)  # the same failure, seen twice
        kept = scheduler.account.node("a")
        assert kept is not None
        pauses.append(kept.aside_until - now)
        now = kept.aside_until
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    scheduler.finished("a", request, Outcome.ANSWERED, 0.1, now)
    scheduler.finished("a", request, Outcome.FAILED, 0.1, now + 1)
    assert kept.aside_until - (now + 1) == pytest.approx(0.1)


def test_a_fast_fault_is_no_measurement() -> None:
    scheduler = named(PREDICTED_COMPLETION)
    taught(scheduler, {"a": 0.1}, 0.0)
    for _ in range(20):
        scheduler.finished("a", Request("r", "m"), Outcome.FAULTED, 0.0001, 1.0)
    assert scheduler.account.service_s("a", "m", 1.0) == pytest.approx(0.1, rel=0.01)


def test_a_timeout_says_that_it_takes_at_least_that_long() -> None:
    scheduler = named(PREDICTED_COMPLETION)
    taught(scheduler, {"a": 0.1}, 0.0)
    for took_s in (0.01, 0.01, 0.01, 0.01):
        scheduler.finished("a", Request("r", "m"), Outcome.TIMED_OUT, took_s, 1.0)
    assert scheduler.account.service_s("a", "m", 1.0) == pytest.approx(0.1, rel=0.01)
    for _ in range(4):
        scheduler.finished("a", Request("r", "m"), Outcome.TIMED_OUT, 1.0, 1.0)
    assert scheduler.account.service_s("a", "m", 1.0) > 0.4


def test_a_place_that_was_reported_as_taken_is_free_when_its_request_ends() -> None:
    scheduler, request = named(PRIORITY_QUEUE), Request("r", "m")
    scheduler.started("a", request, 0.0)
    scheduler.observed("a", LoadReport(running=1), 0.1)
    assert scheduler.choose(("a",), Request("s", "m"), 0.2, Random(1)).node is None
    scheduler.finished("a", request, Outcome.ANSWERED, 0.3, 0.3)
    assert scheduler.account.in_front("a", 0.3) == 0
    found = scheduler.next(lambda _: ("a",), 0.3, Random(1))
    assert found is not None
    assert found[1].node == "a"


def test_a_request_that_is_sent_twice_is_under_way_once() -> None:
    scheduler = named(PREDICTED_COMPLETION)
    taught(scheduler, {"a": 0.1}, 0.0)
    for name in ("r", "r", "s"):
        scheduler.started("a", Request(name, "m"), 1.0)
    kept = scheduler.account.node("a")
    assert kept is not None
    assert scheduler.account.in_flight("a") == 2
    assert kept.work_s == pytest.approx(0.2, rel=0.01)
