"""Which nodes may answer for a version."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_worlds import node, nodes, versions

from mcp.cluster.router.models import VersionRecord, candidate
from mcp.cluster.router.nodes import NODES_MAX, POOLS_MAX, NodeRecord, NodeState, View
from mcp.cluster.router.rules import Rule
from mcp.cluster.router.selector import About, Requirement, Selector
from mcp.errors import InvalidArgument, TooLarge

REQUIREMENTS = st.one_of(
    st.builds(
        Requirement, st.just(About.LABEL), st.sampled_from(["gpu", "zone"]), st.sampled_from([None, "", "eu"])
    ),
    st.builds(Requirement, st.just(About.PROVIDER), st.sampled_from(["cpu", "cuda"])),
    st.builds(Requirement, st.just(About.NODE), st.sampled_from(["n0", "n1"])),
)
SELECTORS = st.none() | st.lists(REQUIREMENTS, min_size=1, max_size=2).map(tuple).map(Selector)


def meant(node: NodeRecord, requirement: Requirement) -> bool:
    if requirement.about is About.NODE:
        return node.node == requirement.name
    if requirement.about is About.PROVIDER:
        return requirement.name in node.providers
    if requirement.value is None:
        return requirement.name in node.labels
    return node.labels.get(requirement.name) == requirement.value


def may_answer(
    node: NodeRecord, record: VersionRecord, selector: Selector | None, position: int, need: int
) -> bool:
    """The oracle: one condition after the other."""
    at = node.ready.get(f"a@{record.version}")
    return (
        at is not None
        and at >= max(position, record.index)
        and (selector is None or all(meant(node, each) for each in selector.requirements))
        and (record.providers == () or bool(set(record.providers) & set(node.providers)))
        and (node.memory_free_bytes is None or node.memory_free_bytes >= need)
    )


@settings(max_examples=40)
@given(
    nodes(["a@1", "a@2"]),
    versions("1"),
    SELECTORS,
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 60)), min_size=1, max_size=3),
)
def test_eligible_is_who_meets_every_condition(
    known: list[NodeRecord],
    record: VersionRecord,
    selector: Selector | None,
    asked: list[tuple[int, int]],
) -> None:
    view, version = View(known), candidate("a", record)
    for position, need in asked:
        found = view.eligible(version, selector, position, need)
        able = [each for each in known if may_answer(each, record, selector, position, need)]
        able.sort(key=lambda each: each.node)
        alive = [each for each in able if each.state is NodeState.ALIVE]
        assert list(found.nodes) == (alive or able)
        assert (found.reason is None) is (able == [])
        if found.reason is not None:
            assert str(found.reason).startswith(
                f"{len(found.nodes)} of {len(known)} nodes may answer for a@1"
            )
            assert ("suspected" in str(found.reason)) is (not alive)
        told = view.obstacles(version, selector, position, need)
        assert sum(told.values()) == len(known) - len(able)


def test_a_version_that_was_deployed_anew_is_another() -> None:
    view = View([node("n1", "a@1", at=10)])
    old, new = (candidate("a", VersionRecord(version="1", index=index)) for index in (5, 11))
    assert view.eligible(old, None, 0, 0).nodes
    assert not view.eligible(new, None, 0, 0).nodes


def test_memory_and_position_are_each_looked_at() -> None:
    view = View(
        [
            node("n1", "a@1", at=5, memory_free_bytes=100),
            node("n2", "a@1", at=9, memory_free_bytes=50),
            node("n3", "a@1", at=9),
        ]
    )
    version = candidate("a", VersionRecord(version="1"))

    def able(position: int, need_bytes: int) -> list[str]:
        return [each.node for each in view.eligible(version, None, position, need_bytes).nodes]

    assert able(5, 50) == ["n1", "n2", "n3"]
    assert able(5, 51) == ["n1", "n3"]
    assert able(6, 50) == ["n2", "n3"]
    assert able(6, 51) == ["n3"]
    assert able(5, 101) == ["n3"]
    assert able(10, 0) == []


def test_one_of_the_providers_will_do() -> None:
    view = View([node("n1", "a@1", providers=("cpu",)), node("n2", "a@1", providers=("cpu", "cuda"))])
    version = candidate("a", VersionRecord(version="1", providers=("cuda", "rocm")))
    assert [each.node for each in view.eligible(version, None, 0, 0).nodes] == ["n2"]


def test_a_selector_means_labels_with_and_without_values() -> None:
    def selects(written: str, **labels: str) -> bool:
        selector = Rule.parse(f"when length > 1 use a on {written}").selector
        assert selector is not None
        return selector.selects("n1", labels, ("cpu",))

    assert selects("label:gpu", gpu="")
    assert selects("label:gpu", gpu="a100")
    assert selects("label:zone=eu", zone="eu")
    assert not selects("label:zone=eu", zone="us")
    assert not selects("label:gpu", zone="eu")
    assert selects("node:n1")
    assert not selects("node:n2")
    assert selects("provider:cpu")
    assert not selects("provider:cuda")
    assert not selects("node:n1, provider:cuda")
    assert selects("node:n1, provider:cpu")


def test_nobody_is_told_by_reason() -> None:
    view = View(
        [
            node("n1", "a@1", at=3),
            node("n2"),
            node("n3", "a@1", memory_free_bytes=5),
            node("n4", "a@1", labels={"zone": "us"}),
        ]
    )
    version = candidate("a", VersionRecord(version="1"))
    assert view.obstacles(version, None, 7, 6) == {
        "not at log position 7": 1,
        "not ready": 1,
        "without 6 bytes of free memory": 1,
    }
    in_europe = Selector((Requirement(About.LABEL, "zone", "eu"),))
    assert view.obstacles(version, in_europe, 0, 0) == {"not ready": 1, "not on label:zone=eu": 3}
    on_cuda = candidate("a", VersionRecord(version="1", providers=("cuda", "rocm")))
    assert view.obstacles(on_cuda, None, 0, 0) == {"not ready": 1, "without provider cuda or rocm": 3}


def test_a_view_is_bounded_and_has_each_node_once() -> None:
    with pytest.raises(InvalidArgument):
        View([node("n1"), node("n1")])
    with pytest.raises(TooLarge):
        View(node(f"n{number}") for number in range(NODES_MAX + 1))


def test_what_a_view_remembers_is_bounded() -> None:
    view = View([node("n1", "a@1")])
    version = candidate("a", VersionRecord(version="1"))
    selectors = [Selector((Requirement(About.NODE, f"n{number}"),)) for number in range(POOLS_MAX + 10)]
    for selector in selectors:
        assert bool(view.eligible(version, selector, 0, 0).nodes) is selector.selects("n1", {}, ())
    assert len(view._found) <= POOLS_MAX
