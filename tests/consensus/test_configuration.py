"""Who takes part, as bytes and as changes: strict, and one member at a time."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.configuration import (
    ADDRESS_BYTES_MAX,
    CONFIGURATION_BYTES_MAX,
    INCARNATION_MAX,
    NAME_BYTES_MAX,
    OBSERVERS_MAX,
    VOTERS_MAX,
    AddObserver,
    Change,
    Configuration,
    Member,
    Promote,
    Remove,
    Standing,
    change_from_plain,
    change_to_plain,
    changed,
)
from consensus.errors import MembershipRefused

THREE = Configuration.of([Member("a", 1, "a:1"), Member("b", 2, "b:1"), Member("o", 3, "o:1", votes=False)])

names = st.text(min_size=1, max_size=30)
numbers = st.integers(0, INCARNATION_MAX)
members = st.builds(Member, names, numbers, st.text(max_size=40), st.booleans())


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    drawn = draw(st.lists(members, min_size=1, max_size=VOTERS_MAX, unique_by=lambda member: member.name))
    return Configuration.of([*drawn[1:], Member(drawn[0].name, drawn[0].incarnation, drawn[0].address)])


changes = st.one_of(
    st.builds(AddObserver, names, numbers, st.text(max_size=40)),
    st.builds(Promote, names, numbers),
    st.builds(Remove, names, numbers),
)


@given(configurations())
def test_what_is_encoded_is_decoded(configuration: Configuration) -> None:
    assert Configuration.decode(configuration.encode()) == configuration


def test_the_largest_configuration_fits() -> None:
    largest = Configuration.of(
        Member(f"{i:0{NAME_BYTES_MAX}}", INCARNATION_MAX, "x" * ADDRESS_BYTES_MAX, i < VOTERS_MAX)
        for i in range(VOTERS_MAX + OBSERVERS_MAX)
    )
    assert len(largest.encode()) <= CONFIGURATION_BYTES_MAX
    assert Configuration.decode(largest.encode()) == largest


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        [1],
        [2, [["a", 0, "", True]]],
        [True, [["a", 0, "", True]], 1],
        [1, []],
        [1, [["a", 0, "", False]]],
        [1, [["a", 0, "", True], ["a", 1, "", True]]],
        [1, [["b", 0, "", True], ["a", 0, "", True]]],
        [1, [["a", -1, "", True]]],
        [1, [["a", 2**63, "", True]]],
        [1, [["a", True, "", True]]],
        [1, [["a", 0, "", 1]]],
        [1, [["", 0, "", True]]],
        [1, [["a" * (NAME_BYTES_MAX + 1), 0, "", True]]],
        [1, [["a", 0, "x" * (ADDRESS_BYTES_MAX + 1), True]]],
        [1, [[b"a", 0, "", True]]],
        [1, [["a", 0, ""]]],
        [1, [[str(i), 0, "", True] for i in range(VOTERS_MAX + 1)]],
        [1, [[f"{i:02}", 0, "", not i] for i in range(OBSERVERS_MAX + 2)]],
    ],
)
def test_what_is_no_configuration_is_refused(plain: Any) -> None:
    with pytest.raises(ValueError, match=r"a configuration|a member"):
        Configuration.decode(msgpack.packb(plain))


@given(st.binary(max_size=60))
def test_bytes_are_a_configuration_or_refused(data: bytes) -> None:
    try:
        Configuration.decode(data)
    except ValueError:
        return


def test_a_configuration_larger_than_any_is_not_read() -> None:
    with pytest.raises(ValueError, match="at most"):
        Configuration.decode(bytes(CONFIGURATION_BYTES_MAX + 1))


@given(changes)
def test_changes_travel(change: Change) -> None:
    assert change_from_plain(msgpack.unpackb(msgpack.packb(change_to_plain(change)))) == change


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        ["add"],
        ["add", "a", 1],
        ["add", "a", True, ""],
        ["add", "a", -1, ""],
        ["grow", "a", 1],
        [["add"], "a", 1, ""],
        ["remove", "a"],
        ["promote", 1, 1],
        ["remove", "", 1],
    ],
)
def test_what_is_no_change_is_refused(plain: Any) -> None:
    with pytest.raises(ValueError, match=r"change|member"):
        change_from_plain(plain)


def test_standing_is_that_of_an_incarnation() -> None:
    assert THREE.standing("a", 1) is Standing.VOTER
    assert THREE.standing("o", 3) is Standing.OBSERVER
    assert THREE.standing("a", 2) is THREE.standing("x", 0) is Standing.OUTSIDER
    assert (THREE.voters, THREE.observers) == (("a", "b"), ("o",))


def test_what_is_so_already_is_the_same_configuration() -> None:
    for change in (
        AddObserver("a", 1),
        AddObserver("o", 3, "o:1"),
        Promote("a", 1),
        Remove("x", 1),
        Remove("a", 9),
    ):
        assert changed(THREE, change) is THREE


def test_a_member_that_moves_keeps_its_place() -> None:
    assert changed(THREE, AddObserver("a", 1, "new:1")).get("a") == Member("a", 1, "new:1", votes=True)


def test_an_observer_of_another_incarnation_replaces_the_one_before() -> None:
    assert changed(THREE, AddObserver("o", 9, "o:2")).get("o") == Member("o", 9, "o:2", votes=False)


def test_changes_that_make_no_sense_are_refused() -> None:
    many = Configuration.of(
        Member(f"{i:02}", 1, "", i < VOTERS_MAX) for i in range(VOTERS_MAX + OBSERVERS_MAX)
    )
    for before, change, why in (
        (THREE, AddObserver("a", 9), "a voter under another incarnation"),
        (THREE, Promote("x", 1), "no member"),
        (THREE, Promote("o", 9), "a member in another incarnation"),
        (Configuration.of([Member("a", 1)]), Remove("a", 1), "the only voter"),
        (many, AddObserver("x", 1), f"{OBSERVERS_MAX} observers"),
        (many, Promote(many.observers[0], 1), f"{VOTERS_MAX} voters"),
    ):
        with pytest.raises(MembershipRefused, match=why):
            changed(before, change)


@given(configurations(), changes)
def test_a_change_is_one_of_one_members_place(before: Configuration, change: Change) -> None:
    try:
        after = changed(before, change)
    except MembershipRefused:
        return
    assert set(before.members) ^ set(after.members) <= {
        member for each in (before, after) if (member := each.get(change.name)) is not None
    }
    assert after.voters
    assert Configuration.decode(after.encode()) == after
