"""Suspicion timeouts, local health, and limits that fit together."""

from __future__ import annotations

import pytest

from mcp.cluster.gossip.health import LocalHealth
from mcp.cluster.gossip.limits import GossipLimits
from mcp.cluster.gossip.suspicion import Suspicion
from mcp.errors import ConfigInvalid


def suspicion(confirmations_max: int) -> Suspicion:
    return Suspicion("a", 10.0, min_s=1.0, max_s=5.0, confirmations_max=confirmations_max)


def test_each_confirmation_shortens_the_timeout_by_less_than_the_one_before() -> None:
    suspected = suspicion(3)
    expires = [suspected.expires_at]
    for accuser in "bcd":
        assert suspected.confirm(accuser)
        expires.append(suspected.expires_at)
    assert expires == pytest.approx([15.0, 13.0, 11.8300750, 11.0])


def test_an_accuser_counts_once_and_one_too_many_does_not() -> None:
    suspected = suspicion(1)
    assert not suspected.confirm("a")
    assert suspected.expires_at == 15.0
    assert suspected.confirm("b")
    assert not suspected.confirm("b")
    assert not suspected.confirm("c")
    assert (suspected.expires_at, suspected.accusers) == (11.0, {"a", "b"})


def test_where_nobody_can_confirm_the_longest_timeout_holds() -> None:
    suspected = suspicion(0)
    assert not suspected.confirm("b")
    assert suspected.expires_at == 15.0


def test_a_standstill_is_made_up_for() -> None:
    suspected = suspicion(1)
    suspected.postpone(2.0)
    suspected.postpone(0.5)
    suspected.confirm("b")
    assert suspected.expires_at == 13.5


def test_health_stays_between_well_and_its_worst() -> None:
    health = LocalHealth(3)
    health.better()
    assert (health.score, health.multiplier) == (0, 1)
    health.worse()
    health.worse(5)
    assert (health.score, health.multiplier) == (3, 4)
    health.better()
    assert health.score == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"probe_interval_s": 0.0},
        {"probe_interval_s": float("nan")},
        {"dead_remembered_s": float("inf")},
        {"probe_timeout_s": 0.4},
        {"suspicion_max_mult": 0.5},
        {"members_max": -1},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigInvalid):
        GossipLimits(**wrong)  # type: ignore[arg-type]


def test_limits_grow_with_the_cluster_as_they_should() -> None:
    limits = GossipLimits()
    assert [limits.transmissions(n) for n in (1, 3, 50, 1000)] == [3, 6, 16, 28]
    assert [limits.suspicion_min_s(n) for n in (0, 3, 100, 1000)] == pytest.approx([0.8, 0.8, 0.8, 1.2])
    assert [limits.reconnect_s(n) for n in (1, 10, 50)] == [5.0, 5.0, 25.0]
