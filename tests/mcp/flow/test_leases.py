"""A cluster's limit in shares: never more than the limit, hardly less, whatever gets lost on the way."""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import Busy, ConfigInvalid, InvalidArgument, NotFound
from mcp.flow.leases import HOLDERS_MAX, LIMITS_MAX, UNITS, Grant, SharedLimit, ShareLedger
from mcp.flow.limiter import ADMITTED, Rate, Refused
from mcp.flow.shares import DRIFT_MAX, Ask, LeasedShare

NAME = "all"


@dataclass
class Cluster:
    """Nodes that spend a limit, one ledger, and messages between them that come late or never."""

    limit: SharedLimit
    demands: list[Callable[[float], float]]
    seed: int
    lost: float = 0.0
    delay_s: float = 0.05
    drift: float = 0.0
    cut_off: dict[int, tuple[float, float]] = field(default_factory=dict)
    admitted: list[float] = field(default_factory=list)
    asks: int = 0
    offered: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.ledger = ShareLedger()
        self.ledger.declare(NAME, self.limit)
        self.nodes = [LeasedShare(self.limit) for _ in self.demands]
        self.rates = [1 + self.drift * self.random.uniform(-1, 1) for _ in self.demands]
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        for number in range(len(self.nodes)):
            self.later(0.0, lambda n=number: self.tick(n))
            self.later(0.0, lambda n=number: self.arrival(n, first=True))

    def later(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (self.now + delay_s, next(self.order), do))

    def local(self, number: int) -> float:
        """The node's own clock: another zero, another pace."""
        return 1000.0 * number + self.now * self.rates[number]

    def arrival(self, number: int, first: bool = False) -> None:
        rate = self.demands[number](self.now)
        if not first and rate > 0:
            self.offered += 1
            if self.nodes[number].admit(self.local(number)) is ADMITTED:
                self.admitted.append(self.now)
        self.later(
            self.random.expovariate(rate) if rate > 0 else 0.1, lambda: self.arrival(number, rate <= 0)
        )

    def tick(self, number: int) -> None:
        ask = self.nodes[number].due(self.local(number))
        if ask is not None:
            self.asks += 1
            self.send(number, lambda: self.decide(number, ask))
        self.later(self.limit.lease_s / 100, lambda: self.tick(number))

    def send(self, number: int, do: Callable[[], None]) -> None:
        begin, end = self.cut_off.get(number, (0.0, 0.0))
        if self.random.random() >= self.lost and not begin <= self.now < end:
            self.later(self.random.uniform(0, 2 * self.delay_s), do)

    def decide(self, number: int, ask: Ask) -> None:
        grant = self.ledger.grant(NAME, f"n{number}", seq=ask.seq, held=ask.held, want=ask.want, now=self.now)
        if grant is not None:
            self.send(number, lambda: self.nodes[number].answered(grant, self.local(number)))

    def in_use(self) -> int:
        """What the nodes may spend at this instant, seen by nobody but the test."""
        return sum(node.units for number, node in enumerate(self.nodes) if self.local(number) < node.ends_at)

    def run(self, until_s: float) -> None:
        while self.heap[0][0] <= until_s:
            self.now, _, do = heapq.heappop(self.heap)
            do()
            handed_out = sum(self.ledger.handed_out(NAME, self.now).values())
            assert self.in_use() <= handed_out <= self.limit.units
        self.now = until_s

    def most_in(self, window_s: float) -> int:
        most = begin = 0
        for end, at in enumerate(self.admitted):
            while self.admitted[begin] <= at - window_s:
                begin += 1
            most = max(most, end - begin + 1)
        return most

    def used(self, begin_s: float, end_s: float) -> float:
        """The share of the limit that was used between two times."""
        count = sum(begin_s <= at < end_s for at in self.admitted)
        return count / (self.limit.rate.amount * (end_s - begin_s) / self.limit.rate.per_s)


def steady(*demands: float) -> list[Callable[[float], float]]:
    return [lambda _, demand=demand: demand for demand in demands]  # type: ignore[misc]


LIMIT = SharedLimit(Rate(400), lease_s=2.0, skew_s=0.2)
SKEWED = (600.0, 300.0, 150.0, 75.0, 40.0)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_a_limit_that_is_wanted_thrice_holds_within_5_percent(seed: int, lost: float) -> None:
    cluster = Cluster(LIMIT, steady(*SKEWED), seed, lost=lost, drift=DRIFT_MAX / 2)
    cluster.run(16.0)
    assert 0.95 <= cluster.used(4.0, 16.0) <= 1.01
    assert cluster.most_in(4.0) <= 1.05 * 4 * 400 + len(SKEWED)
    assert cluster.asks < cluster.offered / 25, "the log is written to by the second, not by the request"


def test_what_moves_from_node_to_node_takes_its_share_along() -> None:
    def busy(number: int) -> Callable[[float], float]:
        return lambda now: 800.0 if int(now / 10) % 3 == number else 10.0

    cluster = Cluster(LIMIT, [busy(number) for number in range(3)], 1, lost=0.1)
    cluster.run(40.0)
    for begin_s in (0.0, 10.0, 20.0, 30.0):
        assert cluster.used(begin_s + 4, begin_s + 10) >= 0.9
    assert cluster.most_in(4.0) <= 1.05 * 4 * 400 + 3


def test_one_node_alone_may_use_nearly_all_of_it() -> None:
    cluster = Cluster(LIMIT, steady(800.0, 0.0, 0.0, 0.0, 0.0, 0.0), 1)
    cluster.run(12.0)
    assert 0.95 <= cluster.used(3.0, 12.0) <= 1.01


def test_a_small_limit_is_shared_by_more_nodes_than_it_has_requests() -> None:
    cluster = Cluster(SharedLimit(Rate(2), 5.0), steady(*[5.0] * 5), 1)
    cluster.run(60.0)
    assert 0.9 <= cluster.used(10.0, 60.0) <= 1.05


def test_a_node_that_is_cut_off_keeps_its_share_no_longer_than_the_lease() -> None:
    cluster = Cluster(LIMIT, steady(400.0, 400.0), 1, cut_off={0: (5.0, 15.0)})
    cluster.run(10.0)
    assert not cluster.nodes[0].lost(cluster.local(0) - 4.0)
    assert cluster.nodes[0].lost(cluster.local(0))
    assert not cluster.nodes[1].lost(cluster.local(1))
    assert cluster.in_use() == cluster.nodes[1].units >= 0.95 * LIMIT.units
    cluster.run(20.0)
    assert not cluster.nodes[0].lost(cluster.local(0))
    assert cluster.nodes[0].units == pytest.approx(LIMIT.units / 2, rel=0.1)


# -- the ledger -----------------------------------------------------------------------------------


def ledger_of(amount: int = 100, lease_s: float = 10.0, skew_s: float = 0.0) -> ShareLedger:
    ledger = ShareLedger()
    ledger.declare(NAME, SharedLimit(Rate(amount), lease_s, skew_s))
    return ledger


def units(ledger: ShareLedger, node: str, seq: int, held: int, want: int, now: float) -> int:
    grant = ledger.grant(NAME, node, seq=seq, held=held, want=want * UNITS, now=now)
    assert grant is not None
    assert grant.seq == seq
    return grant.units // UNITS


def test_what_is_wanted_by_more_than_there_is_goes_in_equal_parts_but_nobody_gets_more_than_wanted() -> None:
    ledger = ledger_of()
    assert units(ledger, "a", 1, 0, 1000, 0.0) == 100
    assert units(ledger, "b", 1, 0, 20, 0.0) == 0, "nothing is left until somebody gives way"
    assert units(ledger, "a", 2, 1, 1000, 1.0) == 80
    assert units(ledger, "b", 2, 1, 20, 1.0) == 0, "nobody knows yet that a has heard of it"
    assert units(ledger, "a", 3, 2, 1000, 2.0) == 80
    assert units(ledger, "b", 3, 2, 20, 2.0) == 20


def test_a_lost_answer_costs_what_it_carried_until_the_lease_ends() -> None:
    ledger = ledger_of()
    assert units(ledger, "a", 1, 0, 60, 0.0) == 80, "and half of what is left as headroom"
    assert units(ledger, "b", 1, 0, 1000, 1.0) == 20
    # The answer to b was lost; b asks again and holds nothing, so it is charged once and not twice.
    assert units(ledger, "b", 2, 0, 1000, 2.0) == 20
    assert ledger.handed_out(NAME, 9.9) == {"a": 80 * UNITS, "b": 20 * UNITS}
    assert ledger.handed_out(NAME, 10.0) == {"a": 0, "b": 20 * UNITS}
    assert units(ledger, "b", 3, 2, 1000, 10.0) == 100


def test_an_answer_that_was_lost_and_would_have_shrunk_a_share_frees_nothing() -> None:
    ledger = ledger_of()
    assert units(ledger, "a", 1, 0, 1000, 0.0) == 100
    units(ledger, "b", 1, 0, 1000, 1.0)
    assert units(ledger, "a", 2, 1, 1000, 2.0) == 50
    assert units(ledger, "b", 2, 0, 1000, 3.0) == 0, "a may never have heard of the 50"
    assert units(ledger, "b", 3, 0, 1000, 9.99) == 0
    assert units(ledger, "b", 4, 0, 1000, 10.0) == 50, "now the 100 have ended"


def test_what_a_node_wants_no_more_is_free_at_once() -> None:
    ledger = ledger_of()
    assert units(ledger, "a", 1, 0, 1000, 0.0) == 100
    assert 10 <= units(ledger, "a", 2, 1, 10, 1.0) <= 60
    assert units(ledger, "b", 1, 0, 1000, 1.0) >= 40


def test_what_is_returned_is_free_at_once_and_overtaken_requests_change_nothing() -> None:
    ledger = ledger_of()
    units(ledger, "a", 5, 0, 1000, 0.0)
    ledger.return_(NAME, "a", seq=5, now=0.5)
    assert ledger.handed_out(NAME, 0.5) == {"a": 100 * UNITS}, "that one was sent before the last request"
    assert ledger.grant(NAME, "a", seq=4, held=0, want=1, now=0.6) is None
    ledger.return_(NAME, "a", seq=6, now=1.0)
    ledger.return_(NAME, "nobody", seq=1, now=1.0)
    assert ledger.handed_out(NAME, 1.0) == {}
    assert units(ledger, "b", 1, 0, 1000, 1.0) == 100


def test_the_ledger_counts_a_share_for_longer_than_the_node_uses_it() -> None:
    ledger = ledger_of(skew_s=3.0)
    units(ledger, "a", 1, 0, 1000, 0.0)
    assert units(ledger, "b", 1, 0, 1000, 12.9) == 0
    assert units(ledger, "b", 2, 1, 1000, 13.0) == 100


def test_a_stamp_that_goes_back_ends_nothing_and_frees_nothing() -> None:
    ledger = ledger_of()
    units(ledger, "a", 1, 0, 1000, 5.0)
    units(ledger, "b", 1, 0, 1000, 1.0)
    assert ledger.handed_out(NAME, 14.9)["a"] == 100 * UNITS
    assert ledger.handed_out(NAME, 15.0)["a"] == 0


ASKS = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.integers(0, 3),
        st.booleans(),
        st.integers(0, 150_000),
        st.sampled_from([0.0, 0.3, 2.0, 6.0]),
    ),
    max_size=60,
)


@given(ASKS)
def test_shares_never_sum_to_more_than_the_limit_and_copies_of_a_ledger_agree(
    asks: list[tuple[str, int, bool, int, float]],
) -> None:
    """Nodes as the rules want them, to whom answers come or not; what they may use is added up here."""
    ledger, now = ledger_of(skew_s=0.5), 0.0
    seqs = dict.fromkeys("abcd", 0)
    using: dict[str, tuple[int, int, float]] = {}
    for node, kind, heard, want, pause_s in asks:
        now += pause_s
        seqs[node] += 1
        held, share, until = using.get(node, (0, 0, 0.0))
        if kind == 0:
            using.pop(node, None)
            ledger.return_(NAME, node, seq=seqs[node], now=now)
        else:
            using[node] = (held, min(share, want), until)
            sent_at = now - 0.2
            grant = ledger.grant(NAME, node, seq=seqs[node], held=held, want=want, now=now)
            assert grant is not None
            if heard:
                using[node] = (grant.seq, grant.units, sent_at + grant.lease_s)
        in_use = {name: share if until > now else 0 for name, (_, share, until) in using.items()}
        charged = ledger.handed_out(NAME, now)
        assert sum(charged.values()) <= 100 * UNITS
        assert all(share <= charged.get(name, 0) for name, share in in_use.items())
        plain = ledger.to_plain()
        assert json.loads(json.dumps(plain)) == plain
        ledger = ShareLedger.from_plain(plain)
        assert ledger.to_plain() == plain


def test_the_order_in_which_nodes_came_does_not_show_in_the_plain_state() -> None:
    one, other = ledger_of(), ledger_of()
    for name in ("a", "b"):
        one.grant(NAME, name, seq=1, held=0, want=0, now=1.0)
    for name in ("b", "a"):
        other.grant(NAME, name, seq=1, held=0, want=0, now=1.0)
    assert [row[1] for row in one.to_plain()[2]] == [row[1] for row in other.to_plain()[2]] == ["a", "b"]


def test_limits_are_declared_and_withdrawn() -> None:
    ledger = ledger_of()
    ledger.declare("b", SharedLimit(Rate(5)))
    ledger.declare("a", SharedLimit(Rate(5)))
    assert list(ledger.limits) == ["a", NAME, "b"]
    units(ledger, "n", 1, 0, 1000, 0.0)
    ledger.declare(NAME, SharedLimit(Rate(50), 10.0, 0.0))
    assert units(ledger, "n", 2, 1, 1000, 1.0) == 50
    ledger.withdraw(NAME, 1.0)
    ledger.withdraw(NAME, 1.0)
    with pytest.raises(NotFound, match="no cluster limit 'all'; there are: a, b"):
        ledger.handed_out(NAME, 1.0)


def test_a_limit_that_comes_back_counts_what_may_still_be_used_of_it() -> None:
    ledger = ledger_of()
    before = units(ledger, "n", 1, 0, 1000, 0.0)
    ledger.withdraw(NAME, 1.0)
    ledger = ShareLedger.from_plain(json.loads(json.dumps(ledger.to_plain())))
    ledger.declare(NAME, LIMIT)
    assert ledger.handed_out(NAME, 2.0) == {"n": before * UNITS}
    assert units(ledger, "other", 1, 0, 1000, 2.0) <= LIMIT.rate.amount - before
    # What has ended is forgotten, also where nobody asks for it any more.
    ledger.withdraw(NAME, 3.0)
    assert ledger.to_plain()[2]
    ledger.withdraw("whatever", 100.0)
    assert ledger.to_plain()[1:] == [[], []]


def test_everything_that_can_grow_is_bounded() -> None:
    ledger = ledger_of()
    for number in range(HOLDERS_MAX):
        ledger.grant(NAME, f"n{number}", seq=1, held=0, want=1, now=0.0)
    with pytest.raises(Busy):
        ledger.grant(NAME, "one more", seq=1, held=0, want=1, now=9.9)
    assert ledger.grant(NAME, "one more", seq=1, held=0, want=1, now=10.0)
    for number in range(LIMITS_MAX - 1):
        ledger.declare(f"l{number}", LIMIT)
    with pytest.raises(Busy):
        ledger.declare("one more", LIMIT)
    ledger.declare(NAME, LIMIT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": 0},
        {"held": 1},
        {"held": -1},
        {"want": -1},
        {"want": 10**13},
        {"node": ""},
        {"node": "x" * 257},
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_changes_nothing(wrong: dict[str, Any]) -> None:
    ledger = ledger_of()
    before = ledger.to_plain()[1:]
    asked = {"node": "n", "seq": 1, "held": 0, "want": 1, "now": 1.0, **wrong}
    with pytest.raises(InvalidArgument):
        ledger.grant(NAME, asked.pop("node"), **asked)
    assert ledger.to_plain()[1:] == before


@pytest.mark.parametrize("lease_s", [0.0, -1.0, 3601.0, float("nan")])
def test_a_lease_that_is_none_is_refused(lease_s: float) -> None:
    with pytest.raises(ConfigInvalid):
        SharedLimit(Rate(1), lease_s)


# -- the node's share -----------------------------------------------------------------------------


def holder(amount: int = 100) -> tuple[LeasedShare, Ask]:
    """A share that has asked for the first time, at 100 s."""
    share = LeasedShare(SharedLimit(Rate(amount), lease_s=10.0))
    ask = share.due(100.0)
    assert ask is not None
    return share, ask


def count(share: LeasedShare, now: float, tries: int = 1000) -> int:
    return sum(share.admit(now) is ADMITTED for _ in range(tries))


def test_without_a_share_nothing_is_let_in_and_a_new_one_starts_empty() -> None:
    share, ask = holder()
    assert isinstance(share.admit(100.0), Refused)
    share.answered(Grant(ask.seq, 50 * UNITS, 10.0), 100.1)
    assert count(share, 100.1) == 0
    assert count(share, 100.2) == 5
    assert count(share, 109.0) == 10, "a fifth of what the share has in a second"


def test_a_share_ends_with_its_lease_counted_from_when_it_was_asked_for() -> None:
    share, ask = holder()
    share.answered(Grant(ask.seq, 100 * UNITS, 10.0), 105.0)
    assert count(share, 109.89) == 20
    assert share.ends_at == pytest.approx(109.9)
    assert count(share, 109.9) == 0
    assert count(share, 500.0) == 0


def test_only_the_answer_to_the_last_request_counts_and_only_once() -> None:
    share, first = holder()
    second = share.due(101.0)
    assert second is not None
    assert (second.seq, second.held) == (first.seq + 1, 0)
    share.answered(Grant(first.seq, 100 * UNITS, 10.0), 101.1)
    assert share.units == 0
    share.answered(Grant(second.seq, 30 * UNITS, 10.0), 101.2)
    share.answered(Grant(second.seq, 90 * UNITS, 10.0), 101.3)
    assert share.units == 30 * UNITS


def test_a_node_lowers_its_share_to_what_it_wants_before_it_asks() -> None:
    share, ask = holder()
    share.answered(Grant(ask.seq, 80 * UNITS, 10.0), 100.1)
    again = share.due(106.0)
    assert again == Ask(ask.seq + 1, ask.seq, UNITS), "nobody has asked for anything"
    assert share.units == UNITS


def test_it_asks_for_more_as_soon_as_more_is_wanted_but_not_at_every_request() -> None:
    share, ask = holder()
    share.answered(Grant(ask.seq, UNITS, 10.0), 100.0)
    asks = []
    for step in range(1, 200):
        share.admit(100 + step / 100)
        if (again := share.due(100 + step / 100)) is not None:
            asks.append((step, again.want))
    assert 50 <= asks[0][0] <= 60, "not before a twentieth of the lease has passed"
    assert asks[0][1] > 5 * UNITS
    assert len(asks) <= 4


def test_what_is_given_back_is_used_no_more() -> None:
    share, ask = holder()
    share.answered(Grant(ask.seq, 80 * UNITS, 10.0), 100.0)
    assert count(share, 101.0) == 16
    returned = share.give_back(102.0)
    assert (returned.seq, returned.want) == (ask.seq + 1, 0)
    share.answered(Grant(returned.seq, 80 * UNITS, 10.0), 102.0)
    assert share.units == 0
    assert count(share, 105.0) <= 16, "what was in the bucket, and nothing more comes"
    assert count(share, 106.0) == 0


def test_a_request_that_costs_more_than_the_bucket_holds_is_let_in_on_credit() -> None:
    share, ask = holder()
    share.answered(Grant(ask.seq, 10 * UNITS, 10.0), 100.0)
    assert share.admit(101.0, 30) is ADMITTED
    verdict = share.admit(101.0, 1)
    assert isinstance(verdict, Refused)
    assert verdict.retry_after_s == pytest.approx(2.9, abs=0.01)
    assert isinstance(share.admit(103.8), Refused)
    assert share.admit(103.91) is ADMITTED


def test_a_cost_that_would_give_is_refused_and_undoing_gives_back() -> None:
    share, ask = holder()
    share.answered(Grant(ask.seq, 100 * UNITS, 10.0), 100.0)
    with pytest.raises(InvalidArgument):
        share.admit(101.0, 0)
    assert share.admit(101.0, 5) is ADMITTED
    share.undo(5)
    assert count(share, 101.0) == 20
