"""Metrics as text, read back by the format's own rules."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.gateway.exposition import Exposition, Family, Histogram, Kind

LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\n|\\")*)"(?:,|$)')


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


def unescaped(text: str) -> str:
    return re.sub(r'\\(\\|n|")', lambda m: "\n" if m[1] == "n" else m[1], text)


def read(text: str) -> tuple[dict[str, str], list[Sample]]:
    """The types by name, and the samples; each after its own HELP and TYPE, of which there is one."""
    types: dict[str, str] = {}
    helped: set[str] = set()
    samples = []
    assert text.endswith("\n") or not text
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in helped
            helped.add(name)
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name in helped
            assert name not in types
            types[name] = kind
            continue
        found = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)", line)
        assert found is not None, line
        name, labels, value = found[1], found[2] or "", found[3]
        pairs = {m[1]: unescaped(m[2]) for m in LABEL.finditer(labels)}
        assert "".join(m[0] for m in LABEL.finditer(labels)) == labels
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        family = base if types.get(base) in ("histogram", "summary") else name
        assert family == list(types)[-1], "the samples of a family stand together"
        samples.append(Sample(name, pairs, float(value)))
    return types, samples


@given(st.text(), st.floats() | st.integers(-(2**60), 2**60))
def test_labels_and_values_are_read_back(label: str, value: float) -> None:
    into = Exposition()
    family = Family("x_total", Kind.COUNTER, "", "a\nb\\", ("label",))
    into.sample(family, value, label)
    types, (sample,) = read(into.text())
    assert types == {"x_total": "counter"}
    assert sample.labels == {"label": label}
    assert sample.value == float(value) or math.isnan(sample.value)


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4), st.floats(0, 1e9))
def test_buckets_of_a_histogram_are_cumulative(counts: list[int], total: float) -> None:
    into = Exposition()
    into.histogram(Family("h", Kind.HISTOGRAM, "", ""), (0.5, 1, 2.5), Histogram(counts, total))
    _, samples = read(into.text())
    buckets = [(s.labels["le"], s.value) for s in samples if s.name == "h_bucket"]
    assert [bound for bound, _ in buckets] == ["0.5", "1", "2.5", "+Inf"]
    assert [value for _, value in buckets] == [sum(counts[: n + 1]) for n in range(4)]
    assert {s.name: s.value for s in samples[4:]} == {"h_count": sum(counts), "h_sum": total}


def test_labels_have_to_be_those_of_the_family() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        Exposition().sample(Family("x", Kind.GAUGE, "", "", ("a",)), 1)
