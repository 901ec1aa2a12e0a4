"""The one call that asks everything: all or nothing, in order, and never mixed up."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp.errors import InvalidArgument, NotFound
from mcp.flow import admission as module
from mcp.flow.admission import Admission, Request, Ticket
from mcp.flow.breaker import State
from mcp.flow.config import FlowConfig, from_plain
from mcp.flow.leases import UNITS, ShareLedger
from mcp.flow.outcome import Outcome
from mcp.flow.refusal import Reason, Refusal, is_refusal

REQUEST = Request("alice", "m")
BREAKER = {"window_calls": 4, "calls_min": 2, "open_s": 2.0, "jitter": 0.0, "probes": 1}


def admission(**plain: Any) -> Admission:
    return Admission(from_plain(plain), random.Random(1), node="n1")


def ticket(verdict: Ticket | Refusal) -> Ticket:
    assert isinstance(verdict, Ticket), verdict
    return verdict


def reason(verdict: Ticket | Refusal) -> Reason | None:
    return verdict.reason if isinstance(verdict, Refusal) else None


def learned(node: Admission, work_s: float, waited_s: float = 0.0, now: float = 0.0) -> float:
    """Have it know how long requests take."""
    for _ in range(30):
        now += 0.01
        ticket(node.admit(REQUEST, now)).done(Outcome.SUCCEEDED, work_s + waited_s, now, waited_s)
    return now


def test_what_is_done_elsewhere_pays_the_rates_and_holds_nothing() -> None:
    limit = {"kind": "sliding_window", "amount": 2, "per_s": 10}
    node = admission(in_flight_max=1, models={"m": {"limit": limit, "breaker": BREAKER}})
    held = ticket(node.admit(REQUEST, 0.0))
    assert reason(node.admit(REQUEST, 0.0)) is Reason.NODE
    assert node.pay(REQUEST, 0.0) == 0.0
    refused = node.pay(REQUEST, 0.0)
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.error.code) == (Reason.MODEL_RATE, "RESOURCE_EXHAUSTED")
    assert (node.in_flight, node.admitted, node.refused[Reason.MODEL_RATE]) == (1, 2, 1)
    held.done(Outcome.FAILED, 0.1, 1.0)
    ticket(node.admit(REQUEST, 20.0)).done(Outcome.FAILED, 0.1, 20.0)
    assert reason(node.admit(REQUEST, 20.1)) is Reason.BREAKER
    assert node.pay(REQUEST, 20.1) == 0.0


@pytest.mark.parametrize("why", [each for each in Reason if each is not Reason.FAILED])
def test_a_refusal_s_error_is_told_from_others(why: Reason) -> None:
    assert is_refusal(Refusal(why, 1.0, "alice", "m", "n1").error)
    assert not is_refusal(InvalidArgument("no"))
    assert not is_refusal(InvalidArgument("no", details={"reason": ["steps"]}))


def test_by_default_there_are_no_rates_and_what_is_let_in_is_counted() -> None:
    node = admission()
    tickets = [ticket(node.admit(REQUEST, 0.0)) for _ in range(16)]
    assert reason(node.admit(REQUEST, 0.0)) is Reason.CONCURRENCY
    assert (node.in_flight, node.admitted, node.refused[Reason.CONCURRENCY]) == (16, 16, 1)
    assert node.limit_of("m") == (16, 16)
    for held in tickets:
        held.done(Outcome.SUCCEEDED, 0.01, 1.0)
        held.done(Outcome.FAILED, 9.0, 2.0)
    assert node.in_flight == 0, "only the first call of done counts"
    with pytest.raises(NotFound):
        node.limit_of("x")


def test_each_client_has_its_limit_and_some_have_their_own() -> None:
    node = admission(clients={"default": {"amount": 2}, "by_name": {"bob": {"amount": 5}}})
    for client, allowed in (("alice", 2), ("carol", 2), ("bob", 5)):
        request = replace(REQUEST, client=client)
        verdicts = [node.admit(request, 0.0) for _ in range(7)]
        assert sum(isinstance(verdict, Ticket) for verdict in verdicts) == allowed
        assert reason(verdicts[-1]) is Reason.CLIENT_RATE


def test_a_cost_counts_at_every_rate() -> None:
    node = admission(clients={"default": {"amount": 10}}, default_model={"limit": {"amount": 12}})
    ticket(node.admit(replace(REQUEST, cost=10), 0.0))
    assert reason(node.admit(replace(REQUEST, client="bob", cost=3), 0.0)) is Reason.MODEL_RATE
    ticket(node.admit(replace(REQUEST, client="bob", cost=2), 0.0))
    never = node.admit(replace(REQUEST, client="carol", cost=11), 0.0)
    assert isinstance(never, Refusal)
    assert never.error.code == "TOO_LARGE"


def test_a_queue_says_how_long_to_wait() -> None:
    node = admission(default_model={"limit": {"kind": "leaky_queue", "amount": 10, "burst": 2}})
    assert [ticket(node.admit(REQUEST, 0.0)).wait_s for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])
    assert reason(node.admit(REQUEST, 0.0)) is Reason.MODEL_RATE


def test_a_refusal_takes_nothing_from_those_who_had_let_it_in() -> None:
    node = admission(
        clients={"default": {"amount": 5}},
        default_model={"limit": {"kind": "sliding_window", "amount": 3}, "breaker": BREAKER},
    )
    held = [ticket(node.admit(REQUEST, 0.0)) for _ in range(3)]
    for _ in range(50):
        assert reason(node.admit(REQUEST, 0.0)) is Reason.MODEL_RATE
    other = replace(REQUEST, model="other")
    held += [ticket(node.admit(other, 0.0)) for _ in range(2)]
    assert reason(node.admit(other, 0.0)) is Reason.CLIENT_RATE
    assert node.limit_of("m") == (3, 16)
    assert node.in_flight == len(held) == 5


def test_a_model_s_overload_leaves_room_for_the_others_and_the_node_has_its_own_limit() -> None:
    node = admission(default_model={"concurrency": {"initial": 4, "most": 4}}, in_flight_max=6)
    for _ in range(4):
        ticket(node.admit(REQUEST, 0.0))
    assert reason(node.admit(REQUEST, 0.0)) is Reason.CONCURRENCY
    other = replace(REQUEST, model="other")
    for _ in range(2):
        ticket(node.admit(other, 0.0))
    assert reason(node.admit(other, 0.0)) is Reason.NODE


def test_a_breaker_opens_per_model_and_per_node_and_lets_one_probe_through() -> None:
    node = admission(default_model={"breaker": BREAKER})
    for target in (None, "n2"):
        request = replace(REQUEST, node=target)
        for _ in range(2):
            ticket(node.admit(request, 0.0)).done(Outcome.FAILED, 0.1, 0.0)
        refused = node.admit(request, 1.0)
        assert isinstance(refused, Refusal)
        assert (refused.reason, refused.retry_after_s) == (Reason.BREAKER, 1.0)
        assert refused.error.details["node"] == (target or "n1")
    ticket(node.admit(replace(REQUEST, model="other"), 1.0))
    ticket(node.admit(replace(REQUEST, node="n3"), 1.0))
    assert node.breakers(1.0)["n1", "m"] is node.breakers(1.0)["n2", "m"] is State.OPEN
    assert node.breakers(1.0)["n1", "other"] is node.breakers(1.0)["n3", "m"] is State.CLOSED
    probe = ticket(node.admit(REQUEST, 2.0))
    assert reason(node.admit(REQUEST, 2.0)) is Reason.BREAKER
    probe.done(Outcome.SUCCEEDED, 0.1, 2.1)
    assert node.breakers(2.1)["n1", "m"] is State.CLOSED


def test_a_probe_that_something_else_refuses_does_not_use_up_the_probe() -> None:
    node = admission(clients={"default": {"amount": 2, "per_s": 60}}, default_model={"breaker": BREAKER})
    for _ in range(2):
        ticket(node.admit(REQUEST, 0.0)).done(Outcome.FAILED, 0.1, 0.0)
    for _ in range(5):
        assert reason(node.admit(REQUEST, 3.0)) is Reason.CLIENT_RATE
    ticket(node.admit(replace(REQUEST, client="bob"), 3.0))


def test_what_cannot_be_answered_in_time_is_refused_before_it_costs_anything() -> None:
    node = admission(clients={"default": {"amount": 1000}})
    now = learned(node, work_s=0.1)
    before = node.admitted
    assert reason(node.admit(replace(REQUEST, deadline=now), now)) is Reason.TOO_LATE
    assert reason(node.admit(replace(REQUEST, deadline=now + 0.05), now)) is Reason.TOO_LATE
    assert reason(node.admit(replace(REQUEST, deadline=now + 1.0, expected_s=2.0), now)) is Reason.DEADLINE
    assert node.admitted == before
    assert node.in_flight == 0
    ticket(node.admit(replace(REQUEST, deadline=now + 0.2), now))


def test_a_deadline_that_only_the_queue_cannot_meet_is_too_much_and_not_too_late() -> None:
    node, now = admission(default_model={"concurrency": {"initial": 8, "least": 8, "most": 8}}), 0.0
    for _ in range(40):
        held = [ticket(node.admit(REQUEST, now)) for _ in range(8)]
        now += 0.05
        for one in held:
            one.done(Outcome.SUCCEEDED, 0.15, now, 0.1)
    for _ in range(7):
        ticket(node.admit(REQUEST, now))
    refused = node.admit(replace(REQUEST, deadline=now + 0.1), now)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.DEADLINE
    assert refused.error.code == "RESOURCE_EXHAUSTED"
    assert refused.retry_after_s == pytest.approx(0.05)


def test_an_estimate_for_which_everybody_is_refused_is_soon_forgotten() -> None:
    node = admission()
    now = learned(node, work_s=5.0)
    hurried = replace(REQUEST, deadline=now + 1.0)
    assert reason(node.admit(hurried, now)) is Reason.TOO_LATE
    ticket(node.admit(replace(hurried, deadline=now + 7.0), now + 5.1))


def test_low_priority_is_refused_first() -> None:
    node = admission()
    held = [ticket(node.admit(REQUEST, 0.0)) for _ in range(16)]
    for _ in range(20):
        assert reason(node.admit(REQUEST, 0.0)) is Reason.CONCURRENCY
    for one in held[:8]:
        one.done(Outcome.SUCCEEDED, 0.01, 0.0)
    assert reason(node.admit(replace(REQUEST, priority=1), 0.0)) is Reason.CONCURRENCY
    ticket(node.admit(REQUEST, 0.0))


@pytest.mark.parametrize("wrong", [{"priority": -1}, {"priority": 4}, {"cost": 0}, {"cost": -5}])
def test_a_request_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        admission().admit(replace(REQUEST, **wrong), 0.0)


# -- the cluster's limits -------------------------------------------------------------------------


def lease(node: Admission, ledger: ShareLedger, now: float) -> None:
    for name, ask in node.asks(now):
        grant = ledger.grant(name, "n1", seq=ask.seq, held=ask.held, want=ask.want, now=now)
        if grant is not None:
            node.granted(name, grant, now)


def cluster(**limits: Any) -> tuple[Admission, ShareLedger]:
    node, ledger = admission(cluster=limits), ShareLedger()
    for name, limit in node.config.cluster.items():
        ledger.declare(name, limit.shared())
    return node, ledger


def test_a_cluster_s_limit_is_spent_from_a_lease_and_those_of_other_models_are_not_asked() -> None:
    node, ledger = cluster(all={"amount": 100}, mine={"amount": 5, "model": "m"})
    assert reason(node.admit(REQUEST, 0.0)) is Reason.CLUSTER_RATE
    for step in range(100):
        lease(node, ledger, step / 20)
        verdict = node.admit(REQUEST, step / 20)
        if isinstance(verdict, Ticket):
            verdict.done(Outcome.SUCCEEDED, 0.01, step / 20)
    assert 15 <= node.admitted <= 26
    assert ledger.handed_out("mine", 5.0)["n1"] >= 4 * UNITS
    refused = [node.admit(REQUEST, 5.0) for _ in range(10)][-1]
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.limit) == (Reason.CLUSTER_RATE, "mine")
    assert isinstance(node.admit(replace(REQUEST, model="other"), 5.0), Ticket)
    for name, ask in node.give_back(5.0):
        ledger.return_(name, "n1", seq=ask.seq, now=5.0)
    assert ledger.handed_out("mine", 5.0) == ledger.handed_out("all", 5.0) == {}


def test_what_one_cluster_limit_refuses_is_not_taken_from_the_other() -> None:
    node, ledger = cluster(a={"amount": 100}, b={"amount": 1, "model": "m"})
    lease(node, ledger, 0.0)
    other = replace(REQUEST, model="other")
    for _ in range(50):
        node.admit(REQUEST, 1.5)
    free = 0
    while isinstance(node.admit(other, 1.5), Ticket):
        free += 1
    fresh, ledger = cluster(a={"amount": 100}, b={"amount": 1, "model": "m"})
    lease(fresh, ledger, 0.0)
    fresh.admit(REQUEST, 1.5)
    expected = 0
    while isinstance(fresh.admit(other, 1.5), Ticket):
        expected += 1
    assert free == expected > 0


def test_what_the_cluster_refuses_is_taken_from_no_other_rate() -> None:
    node = admission(
        cluster={"all": {"amount": 5, "model": "m"}},
        clients={"default": {"amount": 3, "per_s": 60}},
        default_model={"limit": {"amount": 3, "per_s": 60}},
    )
    for _ in range(10):
        assert reason(node.admit(REQUEST, 0.0)) is Reason.CLUSTER_RATE
    node.configure(replace(node.config, cluster={}))
    assert [reason(node.admit(REQUEST, 0.0)) for _ in range(4)] == [None] * 3 + [Reason.CLIENT_RATE]
    assert [reason(node.admit(replace(REQUEST, client="b"), 0.0))] == [Reason.MODEL_RATE]


def test_a_cluster_that_does_not_answer_is_broken_and_not_too_much() -> None:
    node, ledger = cluster(all={"amount": 100})
    lease(node, ledger, 0.0)
    node.asks(3.0)
    assert reason(node.admit(REQUEST, 4.9)) is None
    assert reason(node.admit(REQUEST, 4.96)) is Reason.CLUSTER_RATE
    refused = node.admit(REQUEST, 5.1)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.LEASE
    assert refused.error.code == "UNAVAILABLE"


def test_an_answer_for_a_limit_that_is_gone_is_ignored() -> None:
    node, ledger = cluster(all={"amount": 100})
    ((_, ask),) = node.asks(0.0)
    grant = ledger.grant("all", "n1", seq=ask.seq, held=0, want=ask.want, now=0.0)
    assert grant is not None
    node.configure(FlowConfig())
    node.granted("all", grant, 0.1)
    ticket(node.admit(REQUEST, 0.2))


# -- another configuration ------------------------------------------------------------------------


def test_what_is_not_changed_goes_on_and_what_is_begins_anew() -> None:
    plain = {
        "clients": {"default": {"amount": 2}, "by_name": {"bob": {"amount": 1}}},
        "default_model": {"limit": {"amount": 9}},
    }
    node = admission(**plain)
    for client in ("alice", "alice", "bob"):
        ticket(node.admit(replace(REQUEST, client=client), 0.0))
    node.configure(from_plain({**plain, "in_flight_max": 5}))
    assert reason(node.admit(REQUEST, 0.0)) is Reason.CLIENT_RATE
    assert reason(node.admit(replace(REQUEST, client="bob"), 0.0)) is Reason.CLIENT_RATE
    node.configure(from_plain({**plain, "clients": {"default": {"amount": 3}}}))
    assert [reason(node.admit(REQUEST, 0.0)) for _ in range(4)] == [None, None, None, Reason.CLIENT_RATE]
    assert node.in_flight == 6


def test_requests_that_are_under_way_while_it_changes_are_still_counted() -> None:
    node = admission()
    held = [ticket(node.admit(REQUEST, 0.0)) for _ in range(4)]
    node.configure(
        from_plain({"default_model": {"concurrency": {"initial": 4, "most": 4}, "breaker": BREAKER}})
    )
    assert reason(node.admit(REQUEST, 0.0)) is Reason.CONCURRENCY
    for one in held:
        one.done(Outcome.FAILED, 0.1, 0.0)
    assert node.breakers(0.0)["n1", "m"] is State.CLOSED, "they were begun under another breaker"
    node.configure(from_plain({"default_model": {"concurrency": None, "breaker": None}}))
    for _ in range(100):
        ticket(node.admit(REQUEST, 0.0))
    assert node.breakers(0.0) == {}


def test_models_beyond_the_bound_share_one_place_until_another_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MODELS_MAX", 2)
    node = admission(default_model={"concurrency": {"initial": 2, "most": 2}})
    held = [ticket(node.admit(replace(REQUEST, model=name), 0.0)) for name in "ab"]
    strangers = [node.admit(replace(REQUEST, model=name), 0.0) for name in "cdef"]
    assert [reason(verdict) for verdict in strangers] == [None, None] + [Reason.CONCURRENCY] * 2
    held[0].done(Outcome.SUCCEEDED, 0.1, 0.0)
    ticket(node.admit(replace(REQUEST, model="e"), 0.0))
    with pytest.raises(NotFound):
        node.limit_of("a")
    assert node.limit_of("e") == (1, 2)


# -- all of it at once ----------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "done", "wait"]),
        st.sampled_from("ab"),
        st.sampled_from("mn"),
        st.integers(0, 3),
        st.integers(1, 3),
        st.sampled_from(Outcome),
    ),
    max_size=80,
)


ADMIT_M: Final = ("admit", "a", "m", 0, 1, Outcome.SUCCEEDED)
ONLY_REFUSED: Final = [
    *[ADMIT_M] * 4,
    ("done", *ADMIT_M[1:]),
    ADMIT_M,
    ("admit", "a", "n", 0, 3, Outcome.SUCCEEDED),
]
"""The client's rate is spent on one model, so that nothing is let in for the other."""


@settings(max_examples=60)
@given(STEPS)
@example(ONLY_REFUSED)
def test_refusals_leave_no_trace(steps: list[tuple[str, str, str, int, int, Outcome]]) -> None:
    """Against a second one that is only asked for what the first let in: both stay equal in what they say."""
    plain = {
        "clients": {"default": {"amount": 6, "per_s": 2}},
        "default_model": {
            "limit": {"kind": "sliding_window", "amount": 5},
            "concurrency": {"initial": 3, "most": 3},
            "breaker": BREAKER,
        },
        "in_flight_max": 5,
    }
    node, shadow, now = admission(**plain), admission(**plain), 0.0
    under_way: list[tuple[Ticket, Ticket]] = []
    for what, client, model, priority, cost, outcome in steps:
        request = Request(client, model, priority, cost)
        if what == "wait":
            now += cost / 8
        elif what == "done" and under_way:
            for one in under_way.pop(0):
                one.done(outcome, 0.1, now, 0.0)
        elif isinstance(verdict := node.admit(request, now), Ticket):
            under_way.append((verdict, ticket(shadow.admit(request, now))))
        assert (node.in_flight, node.admitted) == (shadow.in_flight, shadow.admitted)
        # A model that was only refused is known to the first, with a breaker that has seen nothing.
        unseen = dict.fromkeys(node.breakers(now).keys() - shadow.breakers(now).keys(), State.CLOSED)
        assert node.breakers(now) == shadow.breakers(now) | unseen
        assert node.in_flight == len(under_way) <= 5
