"""The checker of answers is shown what it has to find, and what it has to let pass."""

from __future__ import annotations

from typing import Any

import pytest

from mcp.errors import DeadlineExceeded, InputInvalid, McpError, OutcomeUnknown
from simulations.trial.answers import Answers, Call

KEY = ("session", 1)


def call(answers: Answers, *keys: tuple[str, int]) -> Call:
    begun = answers.begin("c1", "accounts", b"a b 1", 10.0)
    begun.keys += keys or (KEY,)
    return begun


def test_calls_that_went_well_are_let_pass() -> None:
    answers = Answers()
    for number in range(1, 4):
        key = ("session", number)
        one = call(answers, key)
        assert answers.executed(key, (number, 0), [number, (1, 2)], failed=False) is None
        answers.told(one, [number, [1, 2]])
    unknown = call(answers, ("session", 8), ("other", 1))
    answers.executed(("other", 1), (9, 0), 1, failed=False)
    answers.told(unknown, error=OutcomeUnknown(""))
    refused = call(answers, ("session", 9))
    answers.executed(("session", 9), (10, 0), None, failed=True)
    answers.told(refused, error=InputInvalid("", details={"index": 10}))
    call(answers, ("session", 10))
    assert answers.check().ok
    assert (len(answers), answers.check().checked) == (5, 6)


@pytest.mark.parametrize(
    ("executed", "told", "found"),
    [
        ([], "value", "was acknowledged, and had no effect"),
        ([("session", 1, "other")], "value", "was told 'value', where 'other' was given"),
        ([("session", 1, "value"), ("other", 1, "value")], "value", "took effect 2 times"),
        ([("session", 1, "value"), ("other", 1, "value")], OutcomeUnknown(""), "took effect 2 times"),
        (
            [("session", 1, "value")],
            DeadlineExceeded(""),
            "was refused with DEADLINE_EXCEEDED, and took effect",
        ),
        ([("session", 1, "value"), ("who", 1, "value")], "value", "nobody asked for it"),
    ],
)
def test_what_is_wrong_is_found(executed: list[tuple[str, int, Any]], told: Any, found: str) -> None:
    answers = Answers()
    one = call(answers, ("session", 1), ("other", 1))
    for place, (session, seq, value) in enumerate(executed, 5):
        answers.executed((session, seq), (place, 0), value, failed=False)
    if isinstance(told, McpError):
        answers.told(one, error=told)
    else:
        answers.told(one, told)
    checked = answers.check()
    assert not checked.ok
    assert found in str(checked)


def test_one_number_that_is_executed_twice_is_found_at_once() -> None:
    answers = Answers()
    assert answers.executed(KEY, (5, 0), 1, failed=False) is None
    assert "at (5, 0) and at (6, 0)" in str(answers.executed(KEY, (6, 0), 1, failed=False))


def test_what_was_over_before_another_began_stands_before_it() -> None:
    answers = Answers()
    one = call(answers, ("session", 1))
    answers.executed(("session", 1), (7, 0), 1, failed=False)
    answers.told(one, 1)
    other = call(answers, ("session", 2))
    answers.executed(("session", 2), (6, 3), 1, failed=False)
    answers.told(other, 1)
    assert "stands at (6, 3), before" in str(answers.check())
