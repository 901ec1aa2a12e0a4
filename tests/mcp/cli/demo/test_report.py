"""The verdict: passed only if every promise was kept, and each way to fail is told apart."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mcp.cli.demo.audit import Findings
from mcp.cli.demo.cluster import ephemeral_ports_begin, free_ports
from mcp.cli.demo.digits import Digits, load_digits
from mcp.cli.demo.report import Report, summary
from mcp.cli.demo.workload import DURABLE_COUNT, REPLICATED_COUNT, Request, Way, planned
from mcp.errors import Busy

LABELS = np.arange(10, dtype=np.int64)
DIGITS = Digits(Path("digits.onnx"), np.zeros((10, 64), np.float32), LABELS)


def answered_requests() -> list[Request]:
    ways = [Way.DIRECT] * 8 + [Way.DURABLE, Way.REPLICATED]
    return [Request(i, way, f"r{i}", label=i, latency_s=0.001 * (i + 1)) for i, way in enumerate(ways)]


def report_of(requests: list[Request], findings: Findings, *, states_equal: bool = True) -> Report:
    report = Report(3, "digits", "1", states_equal=states_equal, failover_ms=100.0)
    report.count_requests(requests, DIGITS)
    report.judge(requests, findings)
    return report


def test_every_promise_kept_is_passed() -> None:
    report = report_of(answered_requests(), Findings())
    assert report.passed
    assert (report.requests, report.answered, report.accuracy) == (10, 10, 1.0)
    assert (report.direct, report.durable, report.replicated) == (8, 1, 1)
    assert report.p50_ms == pytest.approx(4.5)
    assert json.loads(json.dumps(report.to_json()))["passed"] is True


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        (Findings(lost=["a on n1"]), "1 lost: a on n1"),
        (Findings(duplicated=["b on n2"]), "1 applied twice: b on n2"),
        (Findings(differing=["c on n3"]), "1 not equal: c on n3"),
        (Findings(lost=[f"k{i}" for i in range(9)]), "9 lost: k0, k1, k2, k3, k4 and 4 more"),
    ],
)
def test_what_the_audit_found_fails_it(findings: Findings, words: str) -> None:
    report = report_of(answered_requests(), findings)
    assert report.failures == [words]
    assert report.to_json()["passed"] is False


def test_a_request_without_an_answer_fails_it() -> None:
    requests = answered_requests()
    requests[3].label, requests[3].error = None, Busy("full")
    report = report_of(requests, Findings())
    assert report.failures == ["1 not answered: r3: BUSY (full)", "accuracy 0.900 is below 0.97"]


def test_wrong_answers_fail_it() -> None:
    requests = answered_requests()
    requests[3].label = 9
    assert report_of(requests, Findings()).failures == ["accuracy 0.900 is below 0.97"]


def test_unequal_states_and_a_failover_that_never_came_fail_it() -> None:
    assert len(report_of(answered_requests(), Findings(), states_equal=False).failures) == 1
    report = Report(3, "digits", "1", states_equal=True)
    report.count_requests(answered_requests(), DIGITS)
    report.judge(answered_requests(), Findings())
    assert report.failures == ["no write was acknowledged after the leader was killed"]


def test_the_summary_says_it_in_words() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(summary(report_of(answered_requests(), Findings(lost=["a on n1"]))))
    text = capture.get()
    assert "10 of 10 answered: 8 direct, 1 durable, 1 replicated" in text
    assert "FAILED: 1 lost: a on n1" in text


def test_every_scan_is_asked_once_and_most_directly() -> None:
    requests = planned(899, random.Random(1))
    assert [request.scan for request in requests] == list(range(899))
    assert Counter(request.way for request in requests) == {
        Way.DIRECT: 899 - DURABLE_COUNT - REPLICATED_COUNT,
        Way.DURABLE: DURABLE_COUNT,
        Way.REPLICATED: REPLICATED_COUNT,
    }
    assert len({request.id for request in requests}) == 899


def test_the_scans_are_real_and_the_model_is_small() -> None:
    digits = load_digits()
    assert digits.images.shape == (899, 64)
    assert (digits.images.min(), digits.images.max()) == (0, 16)
    assert set(digits.labels) == set(range(10))
    assert digits.model.stat().st_size <= 500_000


def test_ports_are_distinct_and_outside_the_system_s_own() -> None:
    ports = free_ports(3, random.Random(7))
    assert len(set(ports)) == 3
    assert max(ports) < ephemeral_ports_begin()
