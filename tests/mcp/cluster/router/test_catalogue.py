"""What a hint means: by the declared order, and never by a guess."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_worlds import NAMES, model, models

from mcp.cluster.router.catalogue import CANDIDATES_MAX, RESOLVED_MAX, Catalogue, Stage
from mcp.cluster.router.features import Hint
from mcp.cluster.router.models import ModelRecord, VersionRecord
from mcp.errors import InvalidArgument, ModelNotFound, TooLarge


def active(record: ModelRecord) -> VersionRecord:
    return next(each for each in record.versions if each.version == record.active)


def meaning(hint: str, records: Sequence[ModelRecord]) -> tuple[Stage, list[str], str | None] | None:
    """The oracle: every step looks at every model."""
    records = sorted(records, key=lambda record: record.name)
    if names := [m.name for m in records if m.name == hint]:
        return Stage.NAME, names, None
    for m in records:
        for v in m.versions:
            if hint in (f"{m.name}@{v.version}", f"{m.name}:{v.version}"):
                return Stage.VERSION, [m.name], v.version
    if names := [m.name for m in records if hint in m.aliases]:
        return Stage.ALIAS, names, None
    if names := [m.name for m in records if active(m).family == hint]:
        return Stage.FAMILY, names, None
    if names := [m.name for m in records if active(m).task == hint]:
        return Stage.TASK, names, None
    if names := [m.name for m in records if all(tag in active(m).tags for tag in hint.split(","))]:
        return Stage.TAGS, names, None
    return None


HINTS = st.one_of(
    NAMES,
    st.tuples(NAMES, st.sampled_from("@:,"), NAMES).map("".join),
    st.text("abc1@:,", min_size=1, max_size=5),
)


@settings(max_examples=40)
@given(models(), st.lists(HINTS, min_size=1, max_size=4))
def test_a_hint_means_what_the_declared_order_says(records: list[ModelRecord], hints: list[str]) -> None:
    catalogue = Catalogue(records)
    for hint in [*hints, *hints]:
        expected = meaning(hint, records)
        if expected is None:
            with pytest.raises(ModelNotFound) as caught:
                catalogue.resolve(hint)
            assert set(caught.value.details["candidates"]) <= {m.name for m in records} | {
                f"{m.name}@{v.version}" for m in records for v in m.versions
            }
            continue
        found = catalogue.resolve(hint)
        assert (found.stage, list(found.models)) == expected[:2]
        assert (found.pinned.version if found.pinned else None) == expected[2]
        assert hint in str(found.reason)


@settings(max_examples=40)
@given(models(), st.builds(Hint, *[NAMES | st.just("")] * 5, tags=st.lists(NAMES, max_size=2).map(tuple)))
def test_of_a_hint_in_parts_every_part_holds(records: list[ModelRecord], hint: Hint) -> None:
    catalogue = Catalogue(records)
    named = hint.name or hint.alias
    if not (named or hint.family or hint.task or hint.tags) or (hint.version and not named):
        with pytest.raises(InvalidArgument):
            catalogue.resolve(hint)
        return
    expected = []
    for m in sorted(records, key=lambda record: record.name):
        meant = [v for v in m.versions if v.version == (hint.version or m.active)]
        expected += [
            (m.name, v.version)
            for v in meant
            if hint.name in ("", m.name)
            and (not hint.alias or hint.alias in m.aliases)
            and hint.family in ("", v.family)
            and hint.task in ("", v.task)
            and set(hint.tags) <= set(v.tags)
        ]
    if not expected:
        with pytest.raises(ModelNotFound):
            catalogue.resolve(hint)
        return
    found = catalogue.resolve(hint)
    assert list(found.models) == [name for name, _ in expected]
    assert (found.pinned is not None) is bool(hint.version)
    if found.pinned is not None:
        assert [(found.pinned.model, found.pinned.version)] == expected


def test_one_text_may_mean_everything_and_the_first_step_decides() -> None:
    """The same hint, while what answered it is taken away step by step."""
    records = [
        model("x"),
        model("by-alias", aliases=("x",)),
        model("by-family", family="x"),
        model("by-task", task="x"),
        model("by-tag", tags=("x",)),
    ]
    assert Catalogue([records[0], *records[2:]]).resolve("x").stage is Stage.NAME
    stages = [Catalogue(records[taken:]).resolve("x").stage for taken in range(1, 5)]
    assert stages == [Stage.ALIAS, Stage.FAMILY, Stage.TASK, Stage.TAGS]
    versioned = Catalogue([model("x"), model("y", aliases=("x@1",), family="x:1", tags=("x@1",))])
    assert versioned.resolve("x@1").stage is versioned.resolve("x:1").stage is Stage.VERSION


def test_a_version_in_a_hint_in_parts_has_to_be_what_the_other_parts_say() -> None:
    old, new = (VersionRecord(version=v, family=f"f{v}", task="t", tags=(f"tag{v}",)) for v in "12")
    catalogue = Catalogue([ModelRecord("a", "2", (old, new))])
    meant = Hint(name="a", version="1", family="f1", task="t", tags=("tag1",))
    assert catalogue.resolve(meant).pinned == catalogue.version("a", "1")
    for other in (
        Hint(name="a", version="1", family="f2"),
        Hint(name="a", version="1", task="u"),
        Hint(name="a", version="1", tags=("tag1", "tag2")),
        Hint(name="a", version="3"),
        Hint(name="b", version="1"),
    ):
        with pytest.raises(ModelNotFound):
            catalogue.resolve(other)


def test_what_candidates_have_in_common_is_known() -> None:
    catalogue = Catalogue([model("a", family="glm", task="chat"), model("b", family="glm", task="text")])
    found = catalogue.resolve("glm")
    assert (found.model, found.family, found.task) == (None, "glm", None)


def test_an_unknown_version_lists_those_that_there_are() -> None:
    catalogue = Catalogue([model("glm", "1", "2")])
    with pytest.raises(ModelNotFound) as caught:
        catalogue.resolve("glm@3")
    assert caught.value.details["candidates"] == ["glm@1", "glm@2"]


def test_a_refusal_lists_a_bounded_number() -> None:
    catalogue = Catalogue(model(f"m{number:04}") for number in range(CANDIDATES_MAX + 50))
    with pytest.raises(ModelNotFound) as caught:
        catalogue.resolve("nobody")
    assert len(caught.value.details["candidates"]) == CANDIDATES_MAX
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("hint", ["", 7, None, ["a"], {"name": "a"}])
def test_what_is_no_hint_is_refused(hint: object) -> None:
    with pytest.raises(InvalidArgument):
        Catalogue([model("a")]).resolve(hint)  # type: ignore[arg-type]


def test_a_hint_is_bounded() -> None:
    catalogue = Catalogue([model("a")])
    for hint in ("x" * 257, "é" * 129, Hint(family="x" * 257), Hint(tags=("a",) * 33)):
        with pytest.raises(TooLarge):
            catalogue.resolve(hint)


def test_what_is_remembered_is_bounded() -> None:
    catalogue = Catalogue([model("a", tags=tuple(f"t{number}" for number in range(30)))])
    meant = [Hint(tags=(f"t{x}", f"t{y}", f"t{z}")) for x in range(30) for y in range(30) for z in range(5)]
    for hint in meant:
        assert catalogue.resolve(hint).models == ("a",)
    assert len(meant) > RESOLVED_MAX
    assert len(catalogue._resolved) <= RESOLVED_MAX
    with pytest.raises(ModelNotFound):
        catalogue.resolve("nobody")
    assert "nobody" not in catalogue._resolved


@pytest.mark.parametrize(
    "records",
    [
        [model("a"), model("a")],
        [model("a", "1", "1")],
        [model("a", "1", active="2")],
        [model("a"), model("b", aliases=("a",))],
        [model("a", aliases=("x",)), model("b", aliases=("x",))],
    ],
)
def test_records_that_contradict_each_other_are_refused(records: list[ModelRecord]) -> None:
    with pytest.raises(InvalidArgument):
        Catalogue(records)
