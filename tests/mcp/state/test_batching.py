"""What a manifest says about batching: checked, kept in snapshots, and of schema 2."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from mcp.errors import InvalidArgument
from mcp.state.applied import Applied
from mcp.state.batching import Batching, batching_of, read_batching
from mcp.state.commands import encode_command, schema_of
from mcp.state.state import ReplicatedState

A = "a" * 64
SAID: dict[str, Any] = {
    "mode": "dynamic",
    "rows_max": 8,
    "latency_bound_ms": 2.5,
    "pad": {"mask": 0, "ids": 1},
}


def state_of(schema: int) -> ReplicatedState:
    """A state with that schema in force."""
    state = ReplicatedState(schema_max=2)
    said = {"node": "n1", "address": "n1", "incarnation": 1, "providers": [], "schema": 2}
    for op, args in [("member.hello", said), ("schema.raise", {"schema": schema, "voters": ["n1"]})]:
        applied = apply(state, encode_command(op, args))
        assert applied.error is None
    return state


def apply(state: ReplicatedState, data: bytes) -> Applied:
    return state.apply(data, index=state.applied_index + 1, position=0, term=1, time_s=1.0, seed=0)


def deploying(**more: Any) -> dict[str, Any]:
    return {"manifest": {"name": "m", "digest": A, "size": 3, **more}, "holders": ["n1"]}


def test_what_is_left_out_has_its_default() -> None:
    assert read_batching({}) == Batching("auto", 64, 10.0, ())
    assert read_batching(SAID) == Batching("dynamic", 8, 2.5, (("ids", 1), ("mask", 0)))
    assert batching_of(read_batching(SAID).to_bytes()) == read_batching(SAID)
    assert read_batching(read_batching(SAID).to_plain()) == read_batching(SAID)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "off",
        {"mode": None},
        {"mode": "on"},
        {"mode": ["off"]},
        {"rows_max": 0},
        {"rows_max": 65_537},
        {"rows_max": True},
        {"rows_max": 1.5},
        {"latency_bound_ms": -0.1},
        {"latency_bound_ms": 60_001},
        {"latency_bound_ms": float("nan")},
        {"latency_bound_ms": "5"},
        {"pad": {"x": "0"}},
        {"pad": {"x": float("inf")}},
        {"pad": {"x": True}},
        {"pad": ["x"]},
        {"pad": {f"x{n}": 0 for n in range(65)}},
        {"unknown": 1},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidArgument):
        read_batching(wrong)


def test_it_needs_schema_2_and_other_deploys_do_not() -> None:
    assert schema_of("model.deploy", deploying()) == 1
    assert schema_of("model.deploy", deploying(batching=SAID)) == 2
    assert schema_of("model.deploy", {"manifest": None}) == 1
    assert msgpack.unpackb(encode_command("model.deploy", deploying()))[0] == 1
    assert msgpack.unpackb(encode_command("model.deploy", deploying(batching=SAID)))[0] == 2


def test_an_older_command_that_has_it_is_refused_as_an_older_version_refuses_it() -> None:
    data = msgpack.packb([1, "", 0, 0, "model.deploy", deploying(batching=SAID)])
    old, new = ReplicatedState(schema_max=1), state_of(2)
    refused = [apply(state, data).error for state in (old, new)]
    assert refused[0] == refused[1]
    assert refused[0] is not None
    assert "unknown: 'batching'" in refused[0][1]


def test_it_is_kept_and_survives_a_snapshot() -> None:
    state = state_of(2)
    assert apply(state, encode_command("model.deploy", deploying(batching=SAID))).error is None
    restored = ReplicatedState(schema_max=2)
    restored.restore(state.snapshot())
    assert restored.digest() == state.digest()
    for each in (state, restored):
        model = each.models.get("m")
        assert model is not None
        assert model.batching is not None
        assert batching_of(model.batching) == read_batching(SAID)
        assert each.read("models", {})[0]["batching"] == {**SAID, "pad": {"ids": 1, "mask": 0}}


def test_without_it_a_snapshot_is_what_older_versions_write_and_read() -> None:
    old, new = ReplicatedState(schema_max=1), ReplicatedState(schema_max=2)
    for state in (old, new):
        assert apply(state, encode_command("model.deploy", deploying())).error is None
    assert old.snapshot() == new.snapshot()
    versions = msgpack.unpackb(old.snapshot()[41:])[7][0][3]
    assert len(versions[0]) == 10


def test_a_version_never_changes_it() -> None:
    state = state_of(2)
    first = deploying(version="1", batching=SAID)
    assert apply(state, encode_command("model.deploy", first)).error is None
    assert apply(state, encode_command("model.deploy", first)).error is None
    for other in ({**SAID, "rows_max": 9}, {}):
        refused = apply(state, encode_command("model.deploy", deploying(version="1", batching=other))).error
        assert refused is not None
        assert refused[0] == "VERSION_CONFLICT"
        assert "other settings of batching" in refused[1]
    refused = apply(state, encode_command("model.deploy", deploying(version="1"))).error
    assert refused is not None
    assert refused[0] == "VERSION_CONFLICT"
