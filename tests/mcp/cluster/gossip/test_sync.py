"""Comparing views: whatever two of them hold, they are equal afterwards, and little is sent for it."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.gossip.codec import Delta, Summary, decode_stream, encode_record, encode_stream
from mcp.cluster.gossip.limits import (
    CARD_BYTES_MAX,
    NAME_BYTES_MAX,
    STREAM_BYTES_MAX,
    SUMMARY_ENTRIES_MAX,
    GossipLimits,
)
from mcp.cluster.gossip.membership import Membership
from mcp.cluster.gossip.sync import answer, delta_pieces, summaries
from mcp.cluster.gossip.updates import Alive, Dead, FullRecord, Left, State

LIMITS = GossipLimits()
NOW = 100.0


def membership(name: str) -> Membership:
    made = Membership(name, f"{name}:1", LIMITS, lambda _event: None, 0.0)
    made.announce(0.0)
    return made


def card(size: int, mark: int = 0) -> bytes:
    packed: bytes = msgpack.packb({"m": mark, "c": "x" * size})
    return packed


def summarised(asker: Membership, now: float = NOW) -> list[Summary]:
    return list(summaries(asker.view, asker.name, asker.address, now, LIMITS))


def deltas(of: Membership, records: Iterable[FullRecord], wants: tuple[str, ...]) -> list[Delta]:
    read = []
    for body in delta_pieces(of.name, of.address, records, wants, STREAM_BYTES_MAX - 17):
        assert len(body) <= STREAM_BYTES_MAX - 17
        delta = decode_stream(body)
        assert isinstance(delta, Delta)
        read.append(delta)
    return read


def records_of(of: Membership, names: Iterable[str], now: float) -> list[FullRecord]:
    return [record.full(now) for name in names if (record := of.view.get(name)) is not None]


def compare(asker: Membership, other: Membership, now: float = NOW) -> int:
    """The whole exchange, until nobody has anything to say; how many records travelled."""
    travelled = 0
    for summary in summarised(asker, now):
        found = answer(other.view, summary, now, LIMITS)
        waiting = [(asker, other, delta) for delta in deltas(other, found.records, found.wants)]
        while waiting:
            to, sender, delta = waiting.pop(0)
            travelled += len(delta.records)
            assert travelled < 1000, "they never come to an end"
            overridden = [r.name for r in delta.records if to.apply_record(r, delta.sender, now)]
            reply = records_of(to, [*delta.wants, *overridden], now)
            if reply:
                waiting += [(sender, to, piece) for piece in deltas(to, reply, ())]
    return travelled


def facts(of: Membership) -> set[tuple[str, int, str, int]]:
    return {(r.name, r.incarnation, r.address, r.card_version) for r in of.view if r.state.present}


member = st.tuples(st.integers(1, 3), st.sampled_from(State), st.integers(1, 3))
views = st.dictionaries(st.sampled_from([f"m{n}" for n in range(8)]), member)


def fill(of: Membership, members: dict[str, tuple[int, State, int]]) -> None:
    for name, (incarnation, state, version) in members.items():
        of.apply(Alive(name, incarnation, f"{name}:1", version, card(1, version)), NOW - 1)
        if state is State.DEAD:
            of.apply(Dead(name, incarnation, "z"), NOW - 1)
        elif state is State.LEFT:
            of.apply(Left(name, incarnation), NOW - 1)


@given(views, views)
@settings(max_examples=60)
def test_two_views_are_equal_after_a_comparison(
    ours: dict[str, tuple[int, State, int]], theirs: dict[str, tuple[int, State, int]]
) -> None:
    a, b = membership("a"), membership("b")
    fill(a, ours)
    fill(b, theirs)
    before = {m.name: {r.name: r.incarnation for r in m.view} for m in (a, b)}
    compare(a, b)
    compare(b, a)
    # Whom one side had for dead is suspected by the other, and nobody refutes here.
    for m in (a, b):
        m.declare_dead(NOW + 10)
    assert a.view.digest == b.view.digest
    assert facts(a) == facts(b)
    for m in (a, b):
        assert all(m.view.get(name).incarnation >= known for name, known in before[m.name].items())  # type: ignore[union-attr]
    assert compare(a, b) == 0


@pytest.mark.parametrize("members", [0, 1, SUMMARY_ENTRIES_MAX, 3 * SUMMARY_ENTRIES_MAX + 1])
def test_summaries_cover_every_name_once(members: int) -> None:
    a = membership("a")
    for number in range(members):
        a.view.learn(Alive(f"n{number:04}", 1, "h:1", 1, b""), 0.0)
    pieces = summarised(a)
    assert [entry.name for piece in pieces for entry in piece.entries] == sorted(r.name for r in a.view)
    for name in ("0", "a", "n0000", "n0256", "n0300x", "n0768", "zz"):
        assert sum(piece.covers(name) for piece in pieces) == 1
    for piece in pieces:
        assert decode_stream(encode_stream(piece)) == piece


def test_large_views_travel_in_bounded_pieces() -> None:
    a, b = membership("a"), membership("b")
    for number in range(40):
        name = f"n{number:03}".ljust(NAME_BYTES_MAX, "x")
        a.view.learn(Alive(name, 1, "h" * 128, 1, card(CARD_BYTES_MAX - 20)), 0.0)
    for number in range(40, 400):
        a.view.learn(Alive(f"n{number:03}".ljust(NAME_BYTES_MAX, "x"), 1, "h:1", 1, b""), 0.0)
    for summary in summarised(a):
        assert len(encode_stream(summary)) < STREAM_BYTES_MAX - 17
    compare(b, a)
    assert a.view.digest == b.view.digest


def test_a_whole_record_fits_into_a_piece_beside_all_the_names_that_can_be_asked_for() -> None:
    name = "n" * NAME_BYTES_MAX
    largest = FullRecord(name, 2**53, State.ALIVE, "h" * 128, 2**53, bytes(CARD_BYTES_MAX), 2**42)
    wants = (name,) * SUMMARY_ENTRIES_MAX
    pieces = list(delta_pieces(name, "h" * 128, [largest] * 20, wants, STREAM_BYTES_MAX - 17))
    assert all(len(piece) <= STREAM_BYTES_MAX - 17 for piece in pieces)
    assert sum(piece.count(encode_record(largest)) for piece in pieces) == 20


def test_only_what_differs_travels() -> None:
    a, b = membership("a"), membership("b")
    same = {f"m{n}": (1, State.ALIVE, 1) for n in range(8)}
    fill(a, same)
    fill(b, same | {"m3": (2, State.ALIVE, 1)})
    compare(a, b)
    fill(b, {"m5": (1, State.ALIVE, 2)})
    assert compare(a, b) == 2
    assert compare(a, b) == 0


def test_what_the_asker_has_to_know_of_itself_comes_first() -> None:
    a, b = membership("m5"), membership("b")
    fill(b, {f"m{n}": (1, State.ALIVE, 1) for n in range(8)})
    (summary,) = summaries(a.view, "m5", "elsewhere:1", NOW, LIMITS, without="m5")
    assert answer(b.view, summary, NOW, LIMITS).records[0].name == "m5"


def test_the_long_dead_are_not_spoken_of_unasked() -> None:
    a, b = membership("a"), membership("b")
    fill(a, {"m1": (2, State.DEAD, 1), "m2": (1, State.LEFT, 1)})
    later = NOW + LIMITS.dead_remembered_s / 2
    compare(a, b, later)
    compare(b, a, later)
    assert [r.name for r in b.view if not r.state.present] == []
    # But who holds them for alive is told.
    fill(b, {"m1": (2, State.ALIVE, 1)})
    compare(b, a, later)
    record = b.view.get("m1")
    assert record is not None
    assert record.state is State.SUSPECT


def test_tombstones_end_everywhere() -> None:
    """However often views are compared, nobody is kept for ever because others remember."""
    nodes = [membership(name) for name in "abc"]
    fill(nodes[0], {"m1": (2, State.DEAD, 1)})
    random_, now = random.Random(3), NOW
    while now < NOW + LIMITS.dead_remembered_s + 30:
        now += 20.0
        x, y = random_.sample(nodes, 2)
        compare(x, y, now)
        for node in nodes:
            node.view.expire(now)
    assert all(node.view.get("m1") is None for node in nodes)
