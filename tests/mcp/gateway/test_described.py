"""What is told of models, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mcp.client.results import ClusterStatus, ModelStatus, NodeStatus
from mcp.errors import ModelInvalid, ModelNotFound, Unavailable
from mcp.gateway.described import find_model, is_ready, model_metadata, repository_index
from mcp.gateway.limits import MODELS_COUNTED_MAX
from mcp.gateway.statistics import Statistics

DIGITS = ModelStatus(
    "digits",
    "2",
    ["1", "2"],
    "d" * 64,
    ["numbers"],
    ["n1"],
    inputs=[{"name": "x", "dtype": "FP32", "shape": ["batch", 64, None]}],
    outputs=[{"name": "y", "dtype": "INT64", "shape": None}],
)
OTHER = ModelStatus("other", "1", ["1"], "e" * 64, [], ["n1"])


def told(name: str, ready: bool, problem: ModelInvalid | None = None) -> ModelStatus:
    return ModelStatus(name, "2", ["1", "2"], "d" * 64, [], [], ready=ready, problem=problem)


def cluster(*nodes: NodeStatus) -> ClusterStatus:
    return ClusterStatus(list(nodes), None, 0, [], [])


def node(name: str, *models: ModelStatus) -> NodeStatus:
    return NodeStatus(name, name, models=list(models))


def test_a_model_is_found_by_name_or_alias_and_with_its_versions() -> None:
    models = [OTHER, DIGITS]
    assert find_model(models, "digits", None) is find_model(models, "numbers", "1") is DIGITS
    with pytest.raises(ModelNotFound, match="there are: other, digits"):
        find_model(models, "nothing", None)
    with pytest.raises(ModelNotFound, match="it has 1, 2"):
        find_model(models, "digits", "3")
    with pytest.raises(ModelNotFound, match="there are: none"):
        find_model([], "x", None)


def test_metadata_have_minus_one_where_a_dimension_is_open() -> None:
    metadata = model_metadata(DIGITS)
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64, -1]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "INT64", "shape": [-1]}]


def test_a_model_is_ready_where_any_node_that_answers_has_it_ready() -> None:
    away = NodeStatus("n3", "n3", error=Unavailable("gone"), models=[told("digits", True)])
    loading = cluster(node("n1", told("digits", False)), node("n2", told("other", True)), away)
    assert not is_ready(DIGITS, None, loading)
    assert is_ready(DIGITS, "1", loading)
    assert is_ready(DIGITS, "2", cluster(node("n1", told("digits", False)), node("n2", told("digits", True))))
    assert not is_ready(DIGITS, "1", cluster(away))


def test_the_index_has_every_version_and_says_why_one_is_not_ready() -> None:
    broken = cluster(node("n1", told("digits", False, ModelInvalid("no model")), told("other", False)))
    states = {(e["name"], e["version"]): e["state"] for e in repository_index([DIGITS, OTHER], broken)}
    assert states == {
        ("digits", "1"): "READY",
        ("digits", "2"): "UNAVAILABLE",
        ("other", "1"): "LOADING",
    }
    assert "MODEL_INVALID: no model" in str(repository_index([DIGITS], broken))


def test_counts_are_of_the_version_that_answered_or_was_asked() -> None:
    counted = Statistics()
    counted.succeeded("digits", "2", 0.001, 1.5)
    counted.succeeded("digits", "1", 0.002, 2.5)
    counted.failed("numbers", None, 0.003, exists=True)
    counted.failed("digits", "2", 0.004, exists=False)
    known = len(counted._counts)
    counted.failed("nothing", None, 1.0, exists=False)
    assert len(counted._counts) == known
    first, second = counted.of([DIGITS])["model_stats"]
    assert (first["version"], first["inference_count"], first["last_inference"]) == ("1", 1, 2500)
    assert first["inference_stats"]["success"] == {"count": 1, "ns": 2_000_000}
    assert second["inference_stats"]["fail"] == {"count": 2, "ns": 7_000_000}
    assert counted.of([DIGITS], "1")["model_stats"] == [first]
    assert counted.of([]) == {"model_stats": []}


def test_so_many_models_are_counted_and_no_more() -> None:
    counted = Statistics()
    for number in range(MODELS_COUNTED_MAX + 5):
        counted.failed(f"m{number}", None, 0.0, exists=True)
    assert len(counted._counts) == MODELS_COUNTED_MAX


class Looked(list[ModelStatus]):
    """Counts how often it is gone through."""

    times = 0

    def __iter__(self) -> Iterator[ModelStatus]:
        self.times += 1
        return super().__iter__()


def test_the_index_goes_once_through_what_a_node_tells_however_many_models_there_are() -> None:
    models = [ModelStatus(f"m{at}", "1", ["1"], "d" * 64, [], []) for at in range(9)]
    looked = Looked(ModelStatus(f"m{at}", "1", ["1"], "d" * 64, [], [], ready=at < 5) for at in range(9))
    index = repository_index(models, cluster(NodeStatus("n1", "n1", models=looked)))
    assert [entry["state"] for entry in index] == ["READY"] * 5 + ["LOADING"] * 4
    assert looked.times == 1
