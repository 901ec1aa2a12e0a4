"""Nodes that come back at other addresses, among all the other faults."""

from __future__ import annotations

import random

import pytest

from mcp.node.joining import Joining
from simulations.levels import LEVELS, run_seed
from simulations.moves import draw_relocations
from simulations.verdict import Verdict

MANY = 5
"""A seed with eight moves."""


def test_nodes_that_move_are_found() -> None:
    outcome = run_seed(LEVELS["node"], MANY)
    assert outcome.verdict is Verdict.CLEAN, f"{outcome.reason}; {outcome.command}"
    assert outcome.counts["nodes moved"] == outcome.counts["starts elsewhere"] == 8


def test_one_that_tells_nobody_where_it_is_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told_nobody(_: Joining) -> None:
        return

    monkeypatch.setattr(Joining, "_tell_where", told_nobody)
    outcome = run_seed(LEVELS["node"], MANY)
    assert outcome.verdict is Verdict.LIVENESS
    assert "is thought to be at" in outcome.reason


def test_a_founder_that_is_alone_stays() -> None:
    draws = range(100)
    assert not any(draw_relocations(random.Random(draw), 1, 20.0) for draw in draws)
    assert any(draw_relocations(random.Random(draw), 3, 20.0) for draw in draws)
