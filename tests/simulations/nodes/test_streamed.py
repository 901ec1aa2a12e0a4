"""Streams of steps under seeds, and products that are broken on purpose."""

from __future__ import annotations

from typing import Any

import pytest

from mcp.node import streaming
from mcp.node.stepwise import Steps
from simulations.levels import LEVELS, run_seed
from simulations.nodes.streamed import STREAMS_ARE_WHOLE
from simulations.verdict import Verdict

STREAMED = 52
"""A seed in which some are read to their end and some are left."""


def test_streams_are_read_and_left() -> None:
    outcome = run_seed(LEVELS["node"], STREAMED)
    assert outcome.verdict is Verdict.CLEAN, f"{outcome.reason}; {outcome.command}"
    assert min(outcome.counts["streams read"], outcome.counts["streams left"]) > 0


def test_a_step_that_is_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    took = Steps.took

    def leaves_one_out(self: Steps, outputs: Any) -> Any:
        self.number += self.number == 2
        return took(self, outputs)

    monkeypatch.setattr(Steps, "took", leaves_one_out)
    outcome = run_seed(LEVELS["node"], STREAMED)
    assert (outcome.verdict, outcome.reason.split(":")[0]) == (Verdict.SAFETY, STREAMS_ARE_WHOLE)


def test_a_stream_that_nobody_reads_and_that_goes_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming._Stream, "end", lambda _: None)
    outcome = run_seed(LEVELS["node"], STREAMED)
    assert outcome.verdict is Verdict.LIVENESS
    assert "streams that nobody reads go on" in outcome.reason
