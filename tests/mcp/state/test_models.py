"""Models: a version never changes its bytes, and a hint means one version."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import McpError, ModelNotFound
from mcp.state import events
from mcp.state.applied import Applied
from mcp.state.commands import encode_command
from mcp.state.limits import StateLimits
from mcp.state.state import ReplicatedState

A, B, C = "a" * 64, "b" * 64, "c" * 64


class Feed:
    """Applies a node's commands at consecutive positions."""

    def __init__(self, **limits: Any) -> None:
        self.state = ReplicatedState(StateLimits(**limits))
        self.index = 0

    def __call__(self, op: str, **args: Any) -> Applied:
        self.index += 1
        data = encode_command(f"model.{op}", args)
        return self.state.apply(data, index=self.index, position=0, term=1, time_s=1.0, seed=0)

    def deploy(self, name: str = "m", digest: str = A, holders: tuple[str, ...] = (), **more: Any) -> Applied:
        manifest = {"name": name, "version": None, "digest": digest, "size": 3, "aliases": [], **more}
        return self("deploy", manifest=manifest, holders=list(holders))

    def meaning(self, hint: str) -> str:
        version = self.state.models.resolve(hint)
        return f"{version.name}@{version.version}"


def code(applied: Applied) -> str | None:
    return applied.error[0] if applied.error else None


def test_versions_count_up_and_the_last_deployed_is_active() -> None:
    feed = Feed()
    first = feed.deploy(digest=A)
    assert first.value == {"name": "m", "version": "1", "digest": A, "index": 1}
    assert first.events == (events.ModelDeployed("m", "1", A), events.ModelActivated("m", "1", A))
    assert feed.deploy(digest=B).value["version"] == "2"
    assert feed.deploy(digest=C, version="rc-7").value["version"] == "rc-7"
    assert feed.deploy(digest=C, version="10").value["version"] == "10"
    assert feed.deploy(digest=C).value["version"] == "11"
    assert feed.meaning("m") == "m@11"


def test_a_deploy_may_leave_the_active_version() -> None:
    feed = Feed()
    feed.deploy()
    manifest = {"name": "m", "digest": B, "size": 3}
    second = feed("deploy", manifest=manifest, holders=[], activate=False)
    assert second.events == (events.ModelDeployed("m", "2", B),)
    assert feed.meaning("m") == "m@1"


def test_the_same_version_again_adds_holders_and_aliases_and_is_in_service_again() -> None:
    feed = Feed()
    feed.deploy(version="1", holders=("n1",))
    feed.deploy(version="2", digest=B)
    again = feed.deploy(version="1", holders=("n2",), aliases=["al"])
    assert again.value == {"name": "m", "version": "1", "digest": A, "index": 1}
    assert again.events == (events.ModelActivated("m", "1", A),)
    assert feed.meaning("m") == "m@1"
    assert feed.meaning("al") == "m@1"
    assert feed.state.models.holders(A) == ("n1", "n2")
    assert feed.deploy(version="1").events == (), "it is active already"


def test_the_same_version_again_leaves_the_active_one_if_told_to() -> None:
    feed = Feed()
    feed.deploy(version="1")
    feed.deploy(version="2", digest=B)
    manifest = {"name": "m", "version": "1", "digest": A, "size": 3}
    assert feed("deploy", manifest=manifest, holders=[], activate=False).events == ()
    assert feed.meaning("m") == "m@2"


@pytest.mark.parametrize(
    "other", [{"digest": B}, {"size": 4}, {"task": "t"}, {"family": "f"}, {"tags": ["x"]}]
)
def test_a_version_never_changes(other: dict[str, Any]) -> None:
    feed = Feed()
    feed.deploy(version="1")
    before = feed.state.read("models", {})
    assert code(feed.deploy(version="1", **other)) == "VERSION_CONFLICT"
    assert feed.state.read("models", {}) == before


def test_what_a_hint_means() -> None:
    feed = Feed()
    feed.deploy("glm/large", A, aliases=["big"])
    feed.deploy("glm/large", B)
    feed.deploy("other", C, version="v1.2")
    assert feed.meaning("glm/large") == "glm/large@2"
    assert feed.meaning("glm/large@1") == "glm/large@1"
    assert feed.meaning("glm/large:1") == "glm/large@1"
    assert feed.meaning("other@v1.2") == "other@v1.2"
    assert feed.meaning("big") == "glm/large@2"
    for unknown in ("nothing", "glm/large@3", "big@1", "@1", "glm/large@"):
        with pytest.raises(ModelNotFound) as refusal:
            feed.state.models.resolve(unknown)
        assert refusal.value.details["candidates"] == ["glm/large", "other"]


@given(st.text(max_size=300) | st.integers() | st.none())
def test_any_hint_is_answered_or_refused(hint: Any) -> None:
    feed = Feed()
    feed.deploy()
    try:
        assert feed.state.models.resolve(hint).name == "m"
    except McpError as error:
        assert error.code in {"MODEL_NOT_FOUND", "INVALID_ARGUMENT", "TOO_LARGE"}  # noqa: PT017


def test_activating() -> None:
    feed = Feed()
    feed.deploy(digest=A)
    feed.deploy(digest=B)
    switched = feed("activate", name="m", version="1")
    assert switched.events == (events.ModelActivated("m", "1", A),)
    assert feed.meaning("m") == "m@1"
    assert feed("activate", name="m", version="1").events == ()
    assert code(feed("activate", name="m", version="3")) == "MODEL_NOT_FOUND"
    assert code(feed("activate", name="n", version="1")) == "MODEL_NOT_FOUND"
    assert code(feed("activate", name="m", version=None)) == "INVALID_ARGUMENT"


def test_names_and_aliases_belong_to_one_model() -> None:
    feed = Feed()
    feed.deploy("m", aliases=["al"])
    assert code(feed.deploy("al")) == "INVALID_ARGUMENT"
    assert code(feed.deploy("n", aliases=["m"])) == "INVALID_ARGUMENT"
    assert code(feed.deploy("n", aliases=["al"])) == "INVALID_ARGUMENT"
    assert code(feed.deploy("n", aliases=["n"])) == "INVALID_ARGUMENT"
    assert feed.state.models.get("n") is None
    feed("undeploy", name="m", version=None)
    assert code(feed.deploy("al", aliases=["m"])) is None


def test_undeploying() -> None:
    feed = Feed()
    for digest in (A, B, C):
        feed.deploy(digest=digest)
    gone = feed("undeploy", name="m", version="3")
    assert gone.events == (events.ModelUndeployed("m", "3", C), events.ModelActivated("m", "2", B))
    assert feed("undeploy", name="m", version="1").events == (events.ModelUndeployed("m", "1", A),)
    assert feed.deploy(digest=C).value["version"] == "4", "a number is not given out twice"
    rest = feed("undeploy", name="m", version=None)
    assert rest.events == (events.ModelUndeployed("m", "2", B), events.ModelUndeployed("m", "4", C))
    assert feed.state.read("models", {}) == []
    assert code(feed("undeploy", name="m", version=None)) == "MODEL_NOT_FOUND"
    assert not feed.state.models.is_referenced(C)


def test_holders_are_of_a_digest() -> None:
    feed = Feed()
    feed.deploy("m", A, holders=("n2", "n1"))
    feed.deploy("n", A)
    version = feed.state.models.get("n")
    assert version is not None
    assert version.holders == ("n1", "n2")
    assert feed("holder", digest=A, node="n0").events == (events.HolderChanged(A, "n0", held=True),)
    assert feed("holder", digest=A, node="n0").events == ()
    assert feed("holder", digest=A, node="n1", held=False).events == (
        events.HolderChanged(A, "n1", held=False),
    )
    assert [m["holders"] for m in feed.state.read("models", {})] == [["n0", "n2"], ["n0", "n2"]]
    assert code(feed("holder", digest=B, node="n0")) == "MODEL_NOT_FOUND"


def test_what_a_client_reads() -> None:
    feed = Feed()
    inputs = [{"name": "x", "dtype": "FP32", "shape": [None, "n", -1, 4]}]
    outputs = [{"name": "y", "dtype": "BYTES", "shape": None}]
    feed.deploy(holders=("n1",), aliases=["b", "a"], family="f", task="t", tags=["y", "x"], inputs=inputs)
    feed.deploy(digest=B, outputs=outputs)
    assert feed.state.read("models", {}) == [
        {
            "name": "m",
            "version": "2",
            "versions": ["1", "2"],
            "digest": B,
            "size": 3,
            "aliases": ["a", "b"],
            "family": None,
            "task": None,
            "tags": [],
            "inputs": [],
            "outputs": outputs,
            "batching": None,
            "requirements": None,
            "holders": [],
            "index": 2,
        }
    ]
    first = feed.state.models.get("m", "1")
    assert first is not None
    assert (first.inputs, first.family, first.task, first.tags) == (inputs, "f", "t", ("x", "y"))


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "a:b"},
        {"name": "a@b"},
        {"name": ""},
        {"name": "x" * 129},
        {"name": "m\n"},
        {"version": "1 2"},
        {"version": 1},
        {"digest": "A" * 64},
        {"digest": "a" * 63},
        {"size": -1},
        {"size": True},
        {"aliases": ["x@y"]},
        {"aliases": "al"},
        {"aliases": None},
        {"family": ""},
        {"tags": [1]},
        {"inputs": [{"name": "x", "dtype": "FLOAT", "shape": []}]},
        {"inputs": [{"name": "x", "dtype": ["FP32"], "shape": []}]},
        {"inputs": [{"name": "x", "dtype": "FP32", "shape": [-2]}]},
        {"inputs": [{"name": "x", "dtype": "FP32", "shape": [1.5]}]},
        {"inputs": [{"name": "x", "dtype": "FP32"}]},
        {"inputs": [{"name": "x", "dtype": "FP32", "shape": []}] * 2},
        {"unknown": 1},
    ],
)
def test_a_manifest_is_checked(bad: dict[str, Any]) -> None:
    feed = Feed()
    assert code(feed.deploy(**bad)) == "INVALID_ARGUMENT"
    assert len(feed.state.models) == 0


def test_limits() -> None:
    feed = Feed(models_max=2, model_versions_max=2, model_aliases_max=2, holders_max=2, model_tags_max=1)
    assert code(feed.deploy("m", A, aliases=["a", "b"])) is None
    assert code(feed.deploy("m", B, aliases=["c"])) == "BUSY"
    assert code(feed.deploy("m", B)) is None
    assert code(feed.deploy("m", C)) == "BUSY"
    assert code(feed.deploy("n", C, holders=("n1", "n2"))) is None
    assert code(feed.deploy("o", C)) == "BUSY"
    assert code(feed("holder", digest=C, node="n3")) == "BUSY"
    assert code(feed.deploy("n", A, tags=["x", "y"])) == "TOO_LARGE"


def artefacts_of(state: ReplicatedState) -> dict[str, tuple[int, tuple[str, ...]]]:
    """What there is by digest, found by looking at every version; all of one digest have to agree."""
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for model in state.models.all():
        for version in model.versions.values():
            said = (version.size, version.holders)
            assert found.setdefault(version.digest, said) == said
    return found


CHANGES = st.one_of(
    st.tuples(st.just("deploy"), st.sampled_from("mno"), st.sampled_from("1234"), st.sampled_from((A, B, C))),
    st.tuples(st.just("undeploy"), st.sampled_from("mno"), st.sampled_from(("1", "2", "3", None))),
    st.tuples(st.just("hold"), st.sampled_from((A, B, C)), st.sampled_from(("n1", "n2")), st.booleans()),
    st.tuples(st.just("restart")),
)


@given(st.lists(CHANGES, max_size=30))
def test_what_is_found_by_its_digest_is_what_the_versions_have(changes: list[tuple[Any, ...]]) -> None:
    feed = Feed()
    for change in changes:
        match change:
            case ("deploy", name, version, digest):
                feed.deploy(name, digest, ("n3",), version=version)
            case ("undeploy", name, version):
                feed("undeploy", name=name, version=version)
            case ("hold", digest, node, held):
                feed("holder", digest=digest, node=node, held=held)
            case _:
                feed.state.restore(feed.state.snapshot())
        models, expected = feed.state.models, artefacts_of(feed.state)
        assert {digest: (size, held) for digest, size, held in models.artefacts()} == expected
        assert models.digests() == set(expected)
        for digest in (A, B, C):
            assert models.is_referenced(digest) == (digest in expected)
            assert models.holders(digest) == expected.get(digest, (0, ()))[1]
