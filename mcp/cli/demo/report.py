"""The verdict of a demo: what was measured, what was promised, and whether the two agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mcp.cli.demo.audit import Findings
from mcp.cli.demo.digits import ACCURACY_MIN, Digits
from mcp.cli.demo.workload import Request, Way
from mcp.errors import McpError

FAILURES_SHOWN = 5


@dataclass(slots=True)
class Report:
    """What ``--json`` prints; the names are those of the fields.

    ``requests`` are inferences, ``answered`` those that came back with the model's answer. ``acknowledged``
    counts durable commands: keys written and inferences submitted. ``lost`` and ``duplicated`` are found by
    reading each back from every node; ``compared`` are the replicas' results of replicated inferences.
    ``failover_ms`` is from SIGKILL to the first acknowledgement of a write that was begun after it.
    ``p50_ms`` and ``p99_ms`` are of direct inferences, the failover included.
    """

    nodes: int
    model: str
    model_version: str
    requests: int = 0
    answered: int = 0
    direct: int = 0
    durable: int = 0
    replicated: int = 0
    compared: int = 0
    accuracy: float = 0.0
    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    differing: int = 0
    failover_ms: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    states_equal: bool = False
    applied_index: int = 0
    state_digest: str | None = None
    killed: str = ""
    successor: str = ""
    duration_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every promise was kept."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Return every field, and ``passed``."""
        return {"passed": self.passed, **{name: getattr(self, name) for name in self.__slots__}}

    def count_requests(self, requests: Sequence[Request], digits: Digits) -> None:
        """Take answers, accuracy and latencies from the requests."""
        answered = [request for request in requests if request.answered]
        ways = Counter(request.way for request in answered)
        self.requests, self.answered = len(requests), len(answered)
        self.direct, self.durable, self.replicated = (ways[way] for way in Way)
        self.compared = sum(len(request.record.replicas) for request in answered if request.record)
        right = sum(request.label == int(digits.labels[request.scan]) for request in answered)
        self.accuracy = round(right / len(requests), 4)
        latencies = [request.latency_s * 1000 for request in answered if request.way is Way.DIRECT]
        if latencies:
            self.p50_ms, self.p99_ms = (round(float(p), 3) for p in np.percentile(latencies, (50, 99)))

    def judge(self, requests: Sequence[Request], findings: Findings) -> None:
        """Compare what was found with what was promised, and fill ``failures``."""
        self.lost, self.duplicated = len(findings.lost), len(findings.duplicated)
        self.differing = len(findings.differing)
        unanswered = [
            f"{request.id}: {reason(request.error)}" for request in requests if not request.answered
        ]
        self.failures = [
            *named("not answered", unanswered),
            *named("lost", findings.lost),
            *named("applied twice", findings.duplicated),
            *named("not equal", findings.differing),
        ]
        if self.accuracy < ACCURACY_MIN:
            self.failures.append(f"accuracy {self.accuracy:.3f} is below {ACCURACY_MIN}")
        if self.failover_ms is None:
            self.failures.append("no write was acknowledged after the leader was killed")
        if not self.states_equal:
            self.failures.append("the nodes' states are not equal at the end")


def reason(error: McpError | None) -> str:
    """Return why a request has no answer, as far as that is known."""
    return f"{error.code} ({error.message})" if error else "no answer"


def named(what: str, which: Sequence[str]) -> list[str]:
    """Return a sentence that counts and names the first few, or nothing for none."""
    if not which:
        return []
    more = f" and {len(which) - FAILURES_SHOWN} more" if len(which) > FAILURES_SHOWN else ""
    return [f"{len(which)} {what}: {', '.join(which[:FAILURES_SHOWN])}{more}"]


def summary(report: Report) -> Group:
    """Return the short table that a person understands."""
    rows = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column()
    for name, text in sentences(report):
        rows.add_row(name, text)
    verdict = (
        Text(f"passed in {report.duration_s:.1f} s: nothing lost, nothing applied twice", style="bold green")
        if report.passed
        else Text("\n".join(f"FAILED: {failure}" for failure in report.failures), style="bold red")
    )
    return Group(Text(), rows, Text(), verdict)


def sentences(report: Report) -> list[tuple[str, str]]:
    """Return the rows of the summary: what it is about, and what happened."""
    failover = "no write succeeded" if report.failover_ms is None else f"{report.failover_ms:.0f} ms"
    latency = (
        "none" if report.p50_ms is None else f"{report.p50_ms:.1f} ms median, {report.p99_ms:.1f} ms p99"
    )
    states = (
        f"equal on all {report.nodes} nodes at log position {report.applied_index}"
        if report.states_equal
        else "NOT equal"
    )
    return [
        ("model", f"{report.model} version {report.model_version}, agreed on by {report.nodes} nodes"),
        (
            "requests",
            f"{report.answered} of {report.requests} answered: {report.direct} direct, "
            f"{report.durable} durable, {report.replicated} replicated",
        ),
        ("accuracy", f"{report.accuracy:.1%} on scans that the model never saw"),
        ("leader", f"{report.killed} killed with SIGKILL under load, {report.successor} took over"),
        ("failover", f"{failover} from the kill to the next acknowledged write"),
        (
            "durable commands",
            f"{report.acknowledged} acknowledged, {report.lost} lost, {report.duplicated} applied twice",
        ),
        (
            "replicas",
            f"{report.compared} results of replicated inferences compared, {report.differing} differ",
        ),
        ("states", states),
        ("direct inference", latency),
    ]
