"""What a manifest says of requests and nodes: checked, kept in snapshots, and of schema 4."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import InvalidArgument, McpError, VersionConflict
from mcp.state.applied import Applied
from mcp.state.commands import encode_command, schema_of
from mcp.state.requirements import (
    ELEMENTS_MAX,
    REQUIREMENT_FIELDS,
    Requirements,
    read_requirements,
    requirements_of,
)
from mcp.state.state import ReplicatedState

A = "a" * 64
SAID: dict[str, Any] = {
    "length_max": 2048,
    "batch_max": 8,
    "run_bytes": 1 << 20,
    "providers": ["cuda", "cpu"],
}


def state_of(schema: int) -> ReplicatedState:
    """A state with that schema in force."""
    state = ReplicatedState()
    said = {"node": "n1", "address": "n1", "incarnation": 1, "providers": [], "schema": 4}
    apply(state, encode_command("member.hello", said))
    for following in range(2, schema + 1):
        applied = apply(state, encode_command("schema.raise", {"schema": following, "voters": ["n1"]}))
        assert applied.error is None
    return state


def apply(state: ReplicatedState, data: bytes) -> Applied:
    return state.apply(data, index=state.applied_index + 1, position=0, term=1, time_s=1.0, seed=0)


def deploying(**more: Any) -> dict[str, Any]:
    return {"manifest": {"name": "m", "digest": A, "size": 3, **more}, "holders": ["n1"]}


def deploy(state: ReplicatedState, **more: Any) -> Applied:
    return apply(state, encode_command("model.deploy", deploying(**more)))


def test_a_version_keeps_what_was_said_of_it() -> None:
    state = state_of(4)
    assert deploy(state, **SAID).error is None
    assert deploy(state, batching={"mode": "off"}).value["version"] == "2"
    assert deploy(state, batching={"mode": "off"}, size_max=9).value["version"] == "3"
    other = ReplicatedState()
    other.restore(state.snapshot())
    assert other.snapshot() == state.snapshot()
    for each in (state, other):
        found = {
            label: None if version is None else (version.batching is None, version.requirements)
            for label in "123"
            for version in (each.models.get("m", label),)
        }
        assert found["1"] == (True, Requirements(2048, 8, None, 1 << 20, ("cpu", "cuda")).to_bytes())
        assert found["2"] == (False, None)
        assert found["3"] == (False, Requirements(size_max=9).to_bytes())
    (told,) = state.read("models", {})
    assert told["requirements"]["size_max"] == 9


def test_another_word_about_a_version_is_another_version() -> None:
    state = state_of(4)
    assert deploy(state, version="1", **SAID).error is None
    assert deploy(state, version="1", **SAID).error is None
    for other in ({**SAID, "batch_max": 9}, {}):
        refused = deploy(state, version="1", **other)
        assert refused.error is not None
        assert refused.error[0] == VersionConflict.code
        assert "and other requirements, and never changes" in refused.error[1]


def test_it_needs_the_schema_and_nothing_else_does() -> None:
    assert schema_of("model.deploy", deploying()) == 1
    assert schema_of("model.deploy", deploying(batching={})) == 2
    for field in REQUIREMENT_FIELDS:
        assert schema_of("model.deploy", deploying(**{field: 1}, batching={})) == 4
    assert deploy(state_of(3), **SAID).error is not None
    older = state_of(3)
    assert deploy(older).error is None
    # What says nothing is written as it always was.
    assert len(older.models.to_plain()[0][3][0]) == 10


@pytest.mark.parametrize("field", ["length_max", "batch_max", "size_max"])
@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "8", [8], ELEMENTS_MAX + 1])
def test_what_makes_no_sense_is_refused(field: str, wrong: object) -> None:
    with pytest.raises(InvalidArgument):
        read_requirements({field: wrong}, 16)


@pytest.mark.parametrize("wrong", [{"run_bytes": -1}, {"providers": "cpu"}, {"providers": ["c p u"]}])
def test_what_makes_no_sense_elsewhere_is_refused_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(McpError):
        read_requirements(wrong, 16)
    with pytest.raises(McpError):
        read_requirements({"providers": ["cpu"] * 17}, 16)


@given(
    st.none() | st.integers(1, 99),
    st.none() | st.integers(1, 99),
    st.integers(0, 99),
    st.lists(st.sampled_from(["cpu", "cuda"]), unique=True),
)
def test_it_is_read_back_as_it_was(
    length: int | None, size: int | None, run_bytes: int, providers: list[str]
) -> None:
    manifest = {"length_max": length, "size_max": size, "run_bytes": run_bytes, "providers": providers}
    found = read_requirements(manifest, 16)
    assert requirements_of(found.to_bytes()) == found
    assert read_requirements(found.to_plain(), 16) == found
    assert requirements_of(None) == Requirements() == read_requirements({}, 16)
