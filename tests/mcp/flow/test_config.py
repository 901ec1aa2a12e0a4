"""Configurations from plain maps: whole, or refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.errors import ConfigInvalid
from mcp.flow.breaker import BreakerConfig
from mcp.flow.buckets import LeakyBucket, LeakyQueue, TokenBucket
from mcp.flow.concurrency import ConcurrencyConfig
from mcp.flow.config import FlowConfig, LimitConfig, ModelConfig, from_plain, to_plain
from mcp.flow.window import SlidingWindow

EVERYTHING: dict[str, Any] = {
    "clients": {
        "default": {"amount": 10},
        "by_name": {"batch": {"kind": "leaky_queue", "amount": 5, "per_s": 2, "burst": 20}},
        "keys_max": 500,
    },
    "default_model": {"limit": None, "concurrency": None, "breaker": None},
    "models": {
        "large": {
            "limit": {"kind": "sliding_window", "amount": 100, "per_s": 60},
            "concurrency": {"initial": 4, "most": 32},
            "breaker": {"window": "time", "failure_share": 0.25},
            "fallbacks": [
                {"kind": "model", "model": "small"},
                {"kind": "cached", "max_age_s": 60, "when": ["breaker"]},
                {"kind": "fixed", "answer": "[]"},
            ],
        }
    },
    "cluster": {"all": {"amount": 1000}, "large": {"amount": 50, "lease_s": 2, "model": "large"}},
    "cache": {"entries_max": 10, "bytes_max": 1000},
    "in_flight_max": 64,
}


def test_everything_that_can_be_said_is_read_and_written_again() -> None:
    config = from_plain(EVERYTHING)
    large = config.model("large")
    assert large.limit == LimitConfig(kind="sliding_window", amount=100, per_s=60.0)
    assert large.concurrency == ConcurrencyConfig(initial=4, most=32)
    assert large.breaker == BreakerConfig(window="time", failure_share=0.25)
    assert [step.kind for step in large.fallbacks] == ["model", "cached", "fixed"]
    assert large.fallbacks[1].when == ("breaker",)
    assert config.model("other") == ModelConfig(concurrency=None, breaker=None)
    assert config.cluster_limits("large") == ("all", "large")
    assert config.cluster_limits("other") == ("all",)
    plain = to_plain(config)
    assert from_plain(json.loads(json.dumps(plain))) == config
    assert from_plain(msgpack.unpackb(msgpack.packb(plain))) == config


@pytest.mark.parametrize("part", ["concurrency", "breaker"])
def test_the_documented_defaults_are_those_in_force_where_nothing_is_said_of_a_model(part: str) -> None:
    document = Path(__file__).resolve().parents[3] / "docs" / "routing.md"
    text = document.read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{part}` |")]
    in_force = to_plain(from_plain({}))["default_model"][part]
    told = set(re.findall(r'`(\w+)` "?(\w+(?:\.\d+)?)', row))
    assert {(name, f"{value:g}" if name != "window" else value) for name, value in in_force.items()} <= told
    assert f"each node has `in_flight_max` {FlowConfig().in_flight_max}," in text


def test_an_empty_map_is_the_default_and_so_is_what_is_left_out() -> None:
    assert from_plain({}) == FlowConfig()
    assert from_plain(to_plain(FlowConfig())) == FlowConfig()


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        (
            {"client": {}},
            r"^client: unknown field; did you mean clients\?; there are: clients, .*in_flight_max",
        ),
        (
            {"clients": {"default": {"amount": 1, "rate": 2}}},
            r"^clients.default.rate: unknown field; there",
        ),
        (
            {"models": {"m": {"breaker": {"probe": 1}}}},
            r"^models.m.breaker.probe: unknown field; did you mean probes\?; there are",
        ),
        ({"clients": {"default": {}}}, r"^clients.default lacks amount"),
        (
            {"clients": {"default": {"amount": "7"}}},
            r"^clients.default.amount is a whole number, not '7'",
        ),
        ({"clients": {"default": {"amount": 7.5}}}, r"amount is a whole number"),
        ({"clients": {"default": {"amount": True}}}, r"amount is a whole number"),
        ({"clients": {"default": {"amount": 0}}}, r"^clients.default: amount=0"),
        ({"clients": {"default": {"amount": 1, "per_s": "x"}}}, r"per_s is a number"),
        ({"clients": {"default": {"amount": 1, "per_s": float("nan")}}}, r"per_s is a number"),
        ({"clients": {"default": {"amount": 1, "per_s": 10**400}}}, r"per_s is a number"),
        (
            {"clients": {"default": {"kind": "bucket", "amount": 1}}},
            r"kind is one of token_bucket, leaky_bucket, .*, not 'bucket'; did you mean ",
        ),
        ({"clients": {"default": {"kind": "sliding_window", "amount": 1, "burst": 1}}}, r"has no burst"),
        ({"clients": {"default": 5}}, r"^clients.default is a map"),
        ({"clients": {"by_name": []}}, r"^clients.by_name is a map"),
        ({"clients": {"by_name": {5: {"amount": 1}}}}, r"a name in clients.by_name is a text"),
        ({"clients": {"keys_max": 10**6}}, r"keys_max"),
        ({"models": {"m": {"fallbacks": {}}}}, r"^models.m.fallbacks is a list"),
        (
            {"models": {"m": {"fallbacks": [{"kind": "cached"}]}}},
            r"^models.m.fallbacks\[0\]: a fallback of",
        ),
        ({"models": {"m": {"fallbacks": [{"kind": "model", "model": "m"}]}}}, r"cannot be its own fallback"),
        ({"models": {"m": {"fallbacks": [{"kind": "fixed", "answer": "x"}] * 9}}}, r"9 fallbacks"),
        (
            {"models": {"m": {"fallbacks": [{"kind": "fixed", "answer": "x", "when": ["rain"]}]}}},
            r"when\[0\] is",
        ),
        (
            {"models": {"m": {"fallbacks": [{"kind": "fixed", "answer": "x" * 65_537}]}}},
            r"answer has 65537 letters, over the limit of 65536: shorten it",
        ),
        (
            {"models": {"m": {"fallbacks": [{"kind": "fixed", "answer": {"y": {}}}]}}},
            r"answer is a text, not a value of type dict; write it in quotes, and those within as",
        ),
        ({"cluster": {str(n): {"amount": 1} for n in range(9)}}, r"more than 8 cluster limits hold for one"),
        ({"cluster": {"a": {"amount": 1, "lease_s": 0}}}, r"^cluster.a: lease_s"),
        ({"in_flight_max": 0}, r"in_flight_max=0"),
        ({"cache": None}, r"^cache is a map"),
        ([], r"^a map is expected, with fields of clients"),
        (None, r"^a map is expected, with fields of clients"),
        ({5: 6}, r"^5: unknown field; there"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(plain: object, said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        from_plain(plain)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*EVERYTHING, "default", "amount", "kind", "breaker", "concurrency", "m"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50)
@given(JSON)
def test_whatever_is_given_is_a_configuration_or_refused(plain: object) -> None:
    try:
        config = from_plain(plain)
    except ConfigInvalid:
        return
    assert from_plain(to_plain(config)) == config


def test_each_kind_of_limit_makes_its_limiter() -> None:
    kinds = {
        "token_bucket": TokenBucket,
        "leaky_bucket": LeakyBucket,
        "leaky_queue": LeakyQueue,
        "sliding_window": SlidingWindow,
    }
    for kind, made in kinds.items():
        assert type(LimitConfig(kind=kind, amount=3).limiter()) is made  # type: ignore[arg-type]
    with pytest.raises(ConfigInvalid, match="there is no such limit"):
        LimitConfig(kind="x", amount=3)  # type: ignore[arg-type]
