"""Models and nodes to route among, by hand and drawn."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mcp.cluster.router.features import Features, Tensor, measured
from mcp.cluster.router.models import ModelRecord, TensorSpec, VersionRecord
from mcp.cluster.router.nodes import NodeRecord, NodeState

IDS = (TensorSpec("ids", "INT64", ("batch", "length")),)


def model(
    name: str, *versions: str, active: str | None = None, aliases: tuple[str, ...] = (), **said: Any
) -> ModelRecord:
    versions = versions or ("1",)
    records = tuple(VersionRecord(version=version, **said) for version in versions)
    return ModelRecord(name, active or versions[-1], records, aliases)


def node(name: str, *ready: str, at: int = 10, **said: Any) -> NodeRecord:
    return NodeRecord(name, f"{name}:7000", ready=dict.fromkeys(ready, at), **said)


def request(hint: Any, *tensors: Tensor, **said: Any) -> Features:
    length, batch, size = measured(tensors)
    return Features(hint, tensors or None, length, batch, size, **said)


# Few names for everything, so that a family is called like a model and a tag like an alias.
NAMES = st.sampled_from(["a", "b", "c", "d", "a/b", "1"])
DTYPES = st.sampled_from(["INT64", "FP32", "BYTES"])
SIZES = st.integers(0, 3)


@st.composite
def versions(draw: st.DrawFn, version: str) -> VersionRecord:
    return VersionRecord(
        version=version,
        index=draw(st.integers(0, 4)),
        family=draw(st.none() | NAMES),
        task=draw(st.none() | NAMES),
        tags=tuple(draw(st.lists(NAMES, max_size=2))),
        inputs=tuple(draw(st.lists(specs(), max_size=2, unique_by=lambda spec: spec.name))),
        length_max=draw(st.none() | SIZES),
        batch_max=draw(st.none() | SIZES),
        size_max=draw(st.none() | st.integers(0, 60)),
        run_bytes=draw(st.integers(0, 3)),
        providers=tuple(draw(st.lists(st.sampled_from(["cpu", "cuda"]), max_size=1))),
    )


@st.composite
def specs(draw: st.DrawFn) -> TensorSpec:
    size = SIZES | st.none() | st.sampled_from(["n", -1])
    shape = draw(st.none() | st.lists(size, max_size=3).map(tuple))
    return TensorSpec(draw(st.sampled_from(["x", "y"])), draw(DTYPES), shape)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.none() | st.lists(SIZES, max_size=3).map(tuple))
    return Tensor(draw(st.sampled_from(["x", "y", ""])), draw(DTYPES), shape, draw(st.integers(0, 40)))


@st.composite
def models(draw: st.DrawFn) -> list[ModelRecord]:
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    rest = draw(st.permutations([name for name in ["a", "b", "c", "d", "a/b", "1"] if name not in names]))
    found = []
    for name in names:
        labels = draw(st.lists(st.sampled_from(["1", "2", "a"]), min_size=1, max_size=3, unique=True))
        records = tuple(draw(versions(label)) for label in labels)
        aliases = (rest.pop(),) if rest and draw(st.booleans()) else ()
        found.append(ModelRecord(name, draw(st.sampled_from(labels)), records, aliases))
    return found


@st.composite
def features(draw: st.DrawFn, hint: Any = "a") -> Features:
    given = tuple(draw(st.lists(tensors(), max_size=2)))
    length, batch, size = measured(given)
    known = draw(st.booleans())
    return Features(hint, given if known else None, length, batch, size, position=draw(st.integers(0, 5)))


@st.composite
def nodes(draw: st.DrawFn, keys: list[str]) -> list[NodeRecord]:
    count = draw(st.integers(0, 6))
    return [
        NodeRecord(
            f"n{number}",
            f"n{number}:7000",
            state=draw(st.sampled_from(NodeState)),
            ready=draw(st.dictionaries(st.sampled_from(keys), st.integers(0, 6))) if keys else {},
            providers=draw(st.sampled_from([(), ("cpu",), ("cpu", "cuda")])),
            memory_free_bytes=draw(st.none() | st.integers(0, 60)),
            labels=draw(st.dictionaries(st.sampled_from(["gpu", "zone"]), st.sampled_from(["", "eu"]))),
            queue=draw(st.integers(0, 3)),
        )
        for number in draw(st.permutations(range(count)))
    ]
