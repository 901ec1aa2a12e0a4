"""Moments become spans."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.chronicle import Happening, Life, Role
from simulations.report.record import Span, Still
from simulations.report.timeline import elections, spans, stills, within


def told(found: tuple[Span, ...]) -> list[tuple[str, float, float, int]]:
    return [(span.state, span.begun_s, span.ended_s, span.term) for span in found]


def test_a_node_is_what_it_says_until_it_says_otherwise_or_dies() -> None:
    lives = [Life(0.0, "n1", "up"), Life(5.0, "n1", "down", "killed"), Life(6.0, "n1", "up")]
    roles = [
        Role(0.0, "n1", "follower", 1),
        Role(2.0, "n1", "candidate", 2),
        Role(2.5, "n1", "leader", 2, "n1"),
        Role(5.1, "n1", "leader", 2, "n1"),  # on its way when it died
        Role(7.0, "n1", "follower", 3, "n2"),
    ]
    found = spans(["n1"], roles, lives, 10.0)
    assert told(found) == [
        ("follower", 0.0, 2.0, 1),
        ("candidate", 2.0, 2.5, 2),
        ("leader", 2.5, 5.0, 2),
        ("down", 5.0, 6.0, 0),
        ("up", 6.0, 7.0, 0),
        ("follower", 7.0, 10.0, 3),
    ]
    assert found[3].detail == "killed"
    assert elections(found) == {2: "n1"}


def test_who_is_followed_may_change_within_a_term() -> None:
    lives = [Life(0.0, "n1", "up")]
    roles = [
        Role(0.0, "n1", "follower", 3),
        Role(0.2, "n1", "follower", 3, "n2"),
        Role(0.9, "n1", "follower", 3, "n2"),
    ]
    assert spans(["n1"], roles, lives, 5.0) == (
        Span("n1", "follower", 0.0, 0.2, 3, "knows no leader"),
        Span("n1", "follower", 0.2, 5.0, 3, "follows n2"),
    )


@pytest.mark.parametrize("role", ["candidate", "leader"])
def test_an_election_and_a_reign_are_one_span_whoever_is_said_to_lead(role: str) -> None:
    roles = [Role(0.0, "n1", role, 3), Role(0.2, "n1", role, 3, "n1")]
    found = spans(["n1"], roles, [Life(0.0, "n1", "up")], 5.0)
    assert told(found) == [(role, 0.0, 5.0, 3)]


def test_a_node_that_is_lost_stays_so_and_one_that_never_starts_is_down() -> None:
    lives = [Life(0.0, "n1", "up"), Life(1.0, "n1", "down"), Life(1.0, "n1", "lost", "damaged")]
    found = spans(["n1", "n2"], [], lives, 4.0)
    assert told(found) == [("up", 0.0, 1.0, 0), ("lost", 1.0, 4.0, 0), ("down", 0.0, 4.0, 0)]


states = st.sampled_from(["up", "down", "lost"])
moments = st.floats(-1, 12, allow_nan=False)
lives_ = st.lists(st.builds(Life, moments, st.just("n1"), states), max_size=8)
roles_ = st.lists(
    st.builds(Role, moments, st.just("n1"), st.sampled_from(["leader", "follower"]), st.integers(1, 3)),
    max_size=8,
)


@given(lives_, roles_)
def test_spans_have_no_gaps_and_do_not_overlap(lives: list[Life], roles: list[Role]) -> None:
    found = spans(["n1"], roles, lives, 10.0)
    assert found[0].begun_s == 0.0
    assert found[-1].ended_s == 10.0
    for one, two in itertools.pairwise(found):
        assert one.ended_s == two.begun_s
        assert one.begun_s < one.ended_s


def test_a_process_stands_still_until_it_goes_on_or_dies_or_the_run_ends() -> None:
    lives = [
        Life(1.0, "n1", "still"),
        Life(1.5, "n1", "still"),
        Life(2.0, "n1", "going"),
        Life(3.0, "n2", "still"),
        Life(3.5, "n2", "down"),
        Life(4.0, "n2", "going"),
        Life(5.0, "n1", "still"),
    ]
    assert stills(["n1", "n2"], lives, 6.0) == (
        Still("n1", 1.0, 2.0),
        Still("n1", 5.0, 6.0),
        Still("n2", 3.0, 3.5),
    )


def test_faults_end_when_all_is_healed() -> None:
    faults = [Happening("delay", 4.0, 9.0, ("n1",)), Happening("kill", 1.0, 2.0, ("n1",))]
    assert [(f.kind, f.ended_s) for f in within(faults, 5.0, 8.0)] == [("kill", 2.0), ("delay", 5.0)]
    assert [(f.kind, f.ended_s) for f in within(faults, None, 8.0)] == [("kill", 2.0), ("delay", 8.0)]
