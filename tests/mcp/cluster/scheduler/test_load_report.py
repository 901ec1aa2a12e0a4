"""Load reports: what was written is read, and what a peer must not send is refused."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.cluster.scheduler.load_report import COUNT_MAX, MODELS_MAX, SECONDS_MAX, LoadReport
from mcp.errors import InvalidArgument

shares = st.floats(0, 1).map(lambda share: round(share, 3))
seconds = st.floats(0, 1000).map(lambda time_s: float(f"{time_s:.4g}"))
models = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
reports = st.builds(
    LoadReport,
    cpu=shares,
    memory_free=shares,
    device_memory_free=st.none() | shares,
    concurrency=st.integers(1, 64),
    running=st.integers(0, 64),
    queued=st.dictionaries(models, st.integers(1, COUNT_MAX), max_size=4),
    service_s=st.dictionaries(models, seconds, max_size=4),
    age_s=st.floats(0, 1000).map(lambda age_s: round(age_s, 3)),
)


@given(reports)
def test_what_was_written_is_read(report: LoadReport) -> None:
    plain = report.to_plain()
    assert LoadReport.from_plain(plain) == report
    assert msgpack.unpackb(msgpack.packb(plain)) == plain


def test_a_node_at_rest_costs_nothing() -> None:
    assert LoadReport().to_plain() == {}
    assert LoadReport(queued={"m": 0}).to_plain() == {}


def test_fields_of_a_later_version_are_passed_over() -> None:
    assert LoadReport.from_plain({"cpu": 0.5, "moons": 3}) == LoadReport(cpu=0.5)


def test_a_report_gets_older_and_never_younger() -> None:
    assert LoadReport(age_s=1.0).older_by(0.5).age_s == 1.5
    assert LoadReport(age_s=1.0).older_by(-5.0).age_s == 1.0
    assert LoadReport(age_s=1.0).older_by(1e9).age_s == SECONDS_MAX


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {"cpu": 1.5},
        {"cpu": -0.1},
        {"cpu": math.nan},
        {"cpu": "0.5"},
        {"cpu": True},
        {"cpu": 10**5000},
        {"memory_free": math.inf},
        {"device_memory_free": 2},
        {"concurrency": 0},
        {"concurrency": 10**9},
        {"concurrency": 1.0},
        {"running": -1},
        {"running": 10**5000},
        {"running": False},
        {"queued": []},
        {"queued": {"m": -1}},
        {"queued": {1: 1}},
        {"queued": {"": 1}},
        {"queued": {"m" * 200: 1}},
        {"queued": {f"m{number}": 1 for number in range(MODELS_MAX + 1)}},
        {"service_s": {"m": -1.0}},
        {"service_s": {"m": 1e9}},
        {"age_s": math.nan},
        {"age_s": -1},
    ],
)
def test_what_is_out_of_range_is_refused(plain: Any) -> None:
    with pytest.raises(InvalidArgument, match="load report"):
        LoadReport.from_plain(plain)


@given(
    st.dictionaries(
        st.sampled_from(["cpu", "running", "queued", "service_s", "age_s", "concurrency", "x"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=3)
            | st.binary(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    )
)
def test_anything_is_read_or_refused(plain: dict[str, Any]) -> None:
    try:
        report = LoadReport.from_plain(plain)
    except InvalidArgument:
        return
    assert 0 <= report.cpu <= 1
    assert 0 <= report.age_s <= SECONDS_MAX
    assert report.in_system >= 0
