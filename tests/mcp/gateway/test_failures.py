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
    assert failure(errors.Busy("", details={"retry_after_s": told})).retry_after_s == seconds
