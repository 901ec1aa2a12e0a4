"""Statuses: too much and broken are never mixed, and nothing that a caller sends is an error of ours."""

from __future__ import annotations

import pytest

from mcp import errors
from mcp.gateway.failures import STATUS, failure


def tree(root: type[errors.McpError]) -> list[type[errors.McpError]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


@pytest.mark.parametrize("kind", tree(errors.McpError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_of_its_kind(kind: type[errors.McpError]) -> None:
    told = failure(kind("words"))
    assert (told.code, told.message) == (kind.code, "words")
    assert (told.status == 500) == (kind is errors.McpError)
    assert (told.status == 429) == issubclass(kind, errors.Busy)
    assert (told.retry_after_s is not None) == (told.status == 429)
    wait = failure(kind("words", details={"retry_after_s": 2.5}))
    assert wait.retry_after_s == (2.5 if told.status in (429, 503) else None)
    if kind.retryable and told.status != 429:
        assert told.status == 503
    assert (
        any(issubclass(kind, named) for named in STATUS if named is not errors.McpError) or told.status == 500
    )


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.InputInvalid, 400),
        (errors.ModelNotFound, 404),
        (errors.TooLarge, 413),
        (errors.Busy, 429),
        (errors.NoLeader, 503),
        (errors.ModelNotReady, 503),
        (errors.InferenceFailed, 503),
        (errors.DiskFull, 503),
        (errors.DeadlineExceeded, 504),
    ],
)
def test_what_clients_rely_on(kind: type[errors.McpError], status: int) -> None:
    assert failure(kind("")).status == status


@pytest.mark.parametrize(
    ("told", "seconds"),
    [(0.2, 1), (1.0, 1), (2.1, 3), (-1, 1), (1e9, 1), ("x", 1), (None, 1), (float("nan"), 1)],
)
def test_a_time_to_come_back_is_in_whole_seconds(told: object, seconds: int) -> None:
    assert failure(errors.Busy("", details={"retry_after_s": told})).retry_after == str(seconds)


@pytest.mark.parametrize(
    ("last", "status", "code", "wait_s"),
    [
        ("BUSY", 429, "BUSY", 5.0),
        ("RESOURCE_EXHAUSTED", 429, "RESOURCE_EXHAUSTED", 5.0),
        ("CIRCUIT_OPEN", 503, "CIRCUIT_OPEN", 5.0),
        ("NO_LEADER", 503, "NO_LEADER", 5.0),
        ("OUTCOME_UNKNOWN", 504, "DEADLINE_EXCEEDED", None),
        ("DEADLINE_EXCEEDED", 504, "DEADLINE_EXCEEDED", None),
        ("OF_A_LATER_VERSION", 504, "DEADLINE_EXCEEDED", None),
        (7, 504, "DEADLINE_EXCEEDED", None),
        (None, 504, "DEADLINE_EXCEEDED", None),
    ],
)
def test_a_deadline_that_passed_while_everybody_refused_is_their_refusal(
    last: object, status: int, code: str, wait_s: float | None
) -> None:
    error = errors.DeadlineExceeded("words", details={"last_code": last, "retry_after_s": 5.0})
    told = failure(error)
    assert (told.status, told.code, told.message, told.retry_after_s) == (status, code, "words", wait_s)
