"""What each step of a stream is fed, what of it is told, and when it is over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.inspection import ModelInfo, TensorInfo
from mcp.errors import InputInvalid, InvalidArgument, McpError
from mcp.node.stepwise import STEPS_MAX, Recurrence, Steps, read_recurrence

INFO = ModelInfo(
    inputs=(TensorInfo("state", "INT64", (None, 2)), TensorInfo("limit", "INT64", (None, 1))),
    outputs=(
        TensorInfo("next", "INT64", (None, 2)),
        TensorInfo("value", "INT64", (None, 1)),
        TensorInfo("over", "BOOL", (None, 1)),
        TensorInfo("said", "BYTES", (None, 1)),
    ),
    providers=("cpu",),
    fallback=(),
    outputs_unsupported=(),
    size_bytes=1,
)
CARRY = {"next": "state"}


def fibonacci(inputs: Any) -> dict[str, Any]:
    a, b = inputs["state"][:, :1], inputs["state"][:, 1:]
    return {"next": np.hstack([b, a + b]), "value": a + b, "over": a + b >= inputs["limit"]}


def inputs(limit: int = 10**9) -> dict[str, Any]:
    return {"state": np.array([[0, 1]]), "limit": np.array([[limit]])}


@given(st.integers(1, 30), st.integers(1, 1000))
def test_the_state_goes_round_and_the_rest_stays_until_the_first_end(steps_max: int, limit: int) -> None:
    steps = Steps(Recurrence(CARRY, ("value",), "over", steps_max), inputs(limit))
    told = []
    while steps.reason is None:
        told.append(steps.took(fibonacci(steps.inputs))["value"].item())
    expected = [1, 2]
    while len(expected) < 30:
        expected.append(expected[-2] + expected[-1])
    ended = next(number for number, each in enumerate(expected, 1) if each >= limit)
    assert told == expected[: min(ended, steps_max)]
    assert steps.number == len(told)
    assert steps.reason == ("until" if ended <= steps_max else "steps")
    assert steps.inputs["limit"].item() == limit
    assert steps.state_bytes == 16


def test_a_row_that_goes_on_keeps_the_stream_going() -> None:
    steps = Steps(Recurrence({}, ("value",), "over", 9), {})
    outputs = {"value": np.zeros(1), "over": np.array([[True], [False]])}
    steps.took(outputs)
    assert steps.reason is None
    steps.took({**outputs, "over": np.array([[1.5], [-1]])})
    assert steps.reason == "until"


def test_a_state_that_is_a_row_of_a_batch_keeps_no_batch() -> None:
    batch = np.zeros((64, 1000))
    steps = Steps(Recurrence(CARRY, (), None, 9), inputs())
    steps.took({"next": batch[3:4]})
    assert steps.inputs["state"].base is None
    assert steps.state_bytes == 8000


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"carry": CARRY}, ("value", "over", "said")),
        ({"carry": CARRY, "outputs": ["value", "value"]}, ("value",)),
        ({"carry": CARRY, "outputs": []}, ()),
        ({}, ("next", "value", "over", "said")),
    ],
)
def test_what_is_told_is_what_is_not_carried_or_what_was_asked_for(said: Any, told: Any) -> None:
    assert read_recurrence({"steps": 3, **said}, INFO).told == told


def test_a_model_whose_outputs_are_all_carried_tells_all() -> None:
    only = ModelInfo(INFO.inputs, INFO.outputs[:1], ("cpu",), (), (), 1)
    found = read_recurrence({"steps": 3, "carry": CARRY}, only)
    assert (found.told, found.wanted) == (("next",), ["next"])


def test_every_output_that_is_needed_is_wanted_once() -> None:
    said = {"steps": 3, "carry": CARRY, "outputs": ["value", "over"], "until": "over"}
    assert read_recurrence(said, INFO).wanted == ["value", "over", "next"]


@pytest.mark.parametrize(
    ("said", "error", "why"),
    [
        ({}, InvalidArgument, "'steps'"),
        ({"steps": 0}, InvalidArgument, "1 to steps_max"),
        ({"steps": STEPS_MAX + 1}, InvalidArgument, "1 to steps_max"),
        ({"steps": 1, "carry": [1]}, InvalidArgument, "'carry'"),
        ({"steps": 1, "carry": {"next": 1}}, InvalidArgument, "'carry'"),
        ({"steps": 1, "carry": {"nex": "state"}}, InputInvalid, "no output 'nex'"),
        ({"steps": 1, "carry": {"next": "stat"}}, InputInvalid, "no input 'stat'"),
        ({"steps": 1, "carry": {"over": "state"}}, InputInvalid, "BOOL and cannot be carried"),
        ({"steps": 1, "carry": {"next": "limit", "value": "limit"}}, InputInvalid, "two outputs"),
        ({"steps": 1, "until": 1}, InvalidArgument, "'until'"),
        ({"steps": 1, "until": "end"}, InputInvalid, "no output 'end'"),
        ({"steps": 1, "until": "said"}, InputInvalid, "is a text"),
        ({"steps": 1, "outputs": ["end"]}, InputInvalid, "no output 'end'"),
        ({"steps": 1, "outputs": "value"}, InvalidArgument, "'outputs'"),
    ],
)
def test_what_does_not_fit_is_refused_and_says_why(said: Any, error: type[McpError], why: str) -> None:
    with pytest.raises(error, match=why):
        read_recurrence(said, INFO)
