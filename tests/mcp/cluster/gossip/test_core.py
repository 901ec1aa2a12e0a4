"""One node, driven by hand: what it answers, what it refuses, and when it wants to be called."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.gossip.codec import (
    Datagram,
    Delta,
    Kind,
    StreamMessage,
    Summary,
    decode_datagram,
    decode_stream,
    encode_datagram,
    encode_stream,
)
from mcp.cluster.gossip.core import Gossip
from mcp.cluster.gossip.events import Event
from mcp.cluster.gossip.limits import (
    CARD_BYTES_MAX,
    DATAGRAM_BYTES_MAX,
    LOAD_BYTES_MAX,
    OUTPUT_MAX,
    STREAM_BYTES_MAX,
    SUMMARIES_PER_S_MAX,
    GossipLimits,
)
from mcp.cluster.gossip.seal import DATAGRAM_LABEL, STREAM_LABEL, Seal
from mcp.cluster.gossip.updates import Alive, Dead, FullRecord, Left, State, Suspect, Update
from mcp.errors import ConfigInvalid, InvalidArgument, TooLarge

KEY = b"k" * 32
DATAGRAMS = Seal(KEY, "mcp", DATAGRAM_LABEL, DATAGRAM_BYTES_MAX)
STREAMS = Seal(KEY, "mcp", STREAM_LABEL, STREAM_BYTES_MAX)


class Driven:
    """The node ``me``, the time, and everything that it said."""

    def __init__(self, others: Iterable[str] = (), *, seeds: Iterable[str] = (), **limits: Any) -> None:
        self.now = 0.0
        self.core = Gossip(
            "me",
            "me:1",
            cluster_id="mcp",
            cluster_key=KEY,
            random_=random.Random(5),
            now=0.0,
            seeds=seeds,
            limits=GossipLimits(**limits),
        )
        self.datagrams: list[tuple[str, Datagram]] = []
        self.streams: list[tuple[str, StreamMessage]] = []
        self.events: list[Event] = []
        names = list(others)
        if names:
            self.hear_stream(Delta(names[0], f"{names[0]}:1", ()))
            self.hear(*(alive(name) for name in names), sender=names[0])
        self.clear()

    def clear(self) -> None:
        self.datagrams.clear()
        self.streams.clear()
        self.events.clear()

    def collect(self) -> None:
        output = self.core.take_output()
        self.datagrams += [(to, decode_datagram(DATAGRAMS.open(data))) for to, data in output.datagrams]
        self.streams += [(to, decode_stream(STREAMS.open(data))) for to, data in output.streams]
        self.events += output.events

    def hear(self, *updates: Update, sender: str = "a", address: str = "", **fields: Any) -> None:
        values: dict[str, Any] = {"kind": Kind.GOSSIP, "seq": 0, "to": "me", "subject": "", "digest": 0}
        message = Datagram(sender=sender, updates=updates, **(values | fields))
        self.core.receive(DATAGRAMS.seal(encode_datagram(message)), address or f"{sender}:1", self.now)
        self.collect()

    def hear_stream(self, message: StreamMessage) -> None:
        self.core.receive_stream(STREAMS.seal(encode_stream(message)), self.now)
        self.collect()

    def run(self, seconds: float) -> None:
        ends_at = self.now + seconds
        while (due := self.core.next_deadline()) <= ends_at:
            self.now = max(self.now, due)
            self.core.tick(self.now)
            self.collect()
        self.now = ends_at

    def state(self, name: str) -> State | None:
        return next((m.state for m in self.core.members(self.now) if m.name == name), None)

    def sent(self, kind: Kind) -> list[tuple[str, Datagram]]:
        return [(to, message) for to, message in self.datagrams if message.kind is kind]


def alive(name: str, incarnation: int = 1) -> Alive:
    return Alive(name, incarnation, f"{name}:1", 1, b"")


# -- answers --------------------------------------------------------------------------------------------


def test_a_ping_is_answered_where_the_view_says_and_a_stranger_where_it_is() -> None:
    node = Driven("ab")
    node.hear(kind=Kind.PING, seq=7, sender="a", address="spoofed:9")
    node.hear(kind=Kind.PING, seq=8, sender="stranger", address="host:9", to="")
    assert [(to, m.seq, m.to) for to, m in node.sent(Kind.ACK)] == [
        ("a:1", 7, "a"),
        ("host:9", 8, "stranger"),
    ]


def test_what_is_meant_for_others_or_comes_from_oneself_is_left_alone() -> None:
    node = Driven("ab")
    node.hear(Dead("b", 1, "a"), kind=Kind.PING, to="b")
    node.hear(Dead("b", 1, "a"), kind=Kind.PING, sender="me")
    assert (node.datagrams, node.state("b")) == ([], State.ALIVE)
    assert node.core.refused == {"MISDIRECTED": 2}


def test_who_is_suspected_is_told_first_and_refutes_in_the_same_breath() -> None:
    node = Driven("abc")
    node.hear(Suspect("me", 1, "b"), kind=Kind.PING, seq=1)
    ((_, ack),) = node.sent(Kind.ACK)
    assert ack.updates[0] == Alive("me", 2, "me:1", 0)
    node.hear(Suspect("b", 1, "c"), *(alive(f"n{number}") for number in range(40)))
    node.hear(kind=Kind.PING, seq=2, sender="b")
    assert node.sent(Kind.ACK)[-1][1].updates[0] == Suspect("b", 1, "c")


def test_who_is_held_for_gone_is_told_so() -> None:
    node = Driven("abc")
    node.hear(Dead("b", 1, "c"), Left("c", 1))
    for name, update in (("b", Dead("b", 1, "b")), ("c", Left("c", 1))):
        node.hear(kind=Kind.PING, seq=2, sender=name)
        assert node.sent(Kind.ACK)[-1][1].updates[0] == update


def test_every_datagram_is_within_its_limit_whatever_there_is_to_tell() -> None:
    node = Driven("ab")
    node.core.set_load({"l": "x" * (LOAD_BYTES_MAX - 5)})
    for number in range(60):
        name = f"n{number:02}" + "x" * 120
        node.hear(Alive(name, 1, "h" * 128, 1, None), Suspect(name, 1, "a"))
    node.run(3.0)
    sizes = [len(encode_datagram(message)) + 17 for _, message in node.datagrams]
    assert 1100 < max(sizes) <= DATAGRAM_BYTES_MAX


# -- probes ---------------------------------------------------------------------------------------------


def probe(node: Driven, name: str) -> Datagram:
    """Wait for a probe of that member; the others answer theirs."""
    while True:
        node.run(0.05)
        for _, ping in node.sent(Kind.PING):
            if ping.to == name:
                node.datagrams.clear()
                return ping
            node.hear(kind=Kind.ACK, seq=ping.seq, sender=ping.to)
        node.clear()


def test_a_probe_is_widened_then_a_suspicion_then_a_death() -> None:
    node = Driven("abcd")
    ping = probe(node, "b")
    node.run(0.16)
    assert {to for to, m in node.sent(Kind.PING_REQUEST) if m.subject == "b"} == {"a:1", "c:1", "d:1"}
    assert ("b:1", ping.seq) in [(to, m.seq) for to, m in node.sent(Kind.PING)]
    assert [to for to, _ in node.streams] == ["b:1"]
    assert node.state("b") is State.ALIVE
    node.run(0.25)
    assert node.state("b") is State.SUSPECT
    assert any(m.to == "b" and Suspect("b", 1, "me") in m.updates for _, m in node.sent(Kind.PING))
    node.run(1.5)
    assert node.state("b") is State.SUSPECT
    node.run(0.15)
    assert node.state("b") is State.DEAD
    assert any(to == "b:1" and Dead("b", 1, "b") in m.updates for to, m in node.sent(Kind.GOSSIP))


@pytest.mark.parametrize("subject", ["", "b"])
def test_an_answer_by_itself_or_by_a_relay_ends_the_probe(subject: str) -> None:
    node = Driven("abc")
    ping = probe(node, "b")
    node.run(0.2)
    node.hear(kind=Kind.ACK, seq=ping.seq, sender="c" if subject else "b", subject=subject)
    node.run(0.19)
    assert node.state("b") is State.ALIVE


@pytest.mark.parametrize(
    "answer",
    [
        {"seq": 1, "sender": "b"},
        {"sender": "c"},
        {"sender": "c", "subject": "a"},
        {"sender": "b", "to": "c"},
    ],
)
def test_an_answer_to_something_else_does_not_end_it(answer: dict[str, Any]) -> None:
    node = Driven("abc")
    ping = probe(node, "b")
    node.hear(**({"kind": Kind.ACK, "seq": ping.seq} | answer))
    node.run(0.41)
    assert node.state("b") is State.SUSPECT


def test_confirmations_bring_the_death_forward() -> None:
    node = Driven("abcdef")
    node.hear(*(Suspect("b", 1, accuser) for accuser in "acde"))
    node.run(0.79)
    assert node.state("b") is State.SUSPECT
    node.run(0.02)
    assert node.state("b") is State.DEAD


def test_relays_that_say_nothing_count_against_the_own_health_and_those_that_say_no_do_not() -> None:
    scores = []
    for nacks in ("", "a", "acd"):
        node = Driven("abcd")
        ping = probe(node, "b")
        node.run(0.2)
        for name in nacks:
            node.hear(kind=Kind.NACK, seq=ping.seq, sender=name, subject="b")
        while node.state("b") is State.ALIVE:
            node.run(0.01)
        scores.append(node.core.health)
    assert scores == [3, 2, 0]


def test_a_relay_passes_the_answer_on_or_says_in_time_that_there_is_none() -> None:
    node = Driven("abc")
    node.hear(kind=Kind.PING_REQUEST, seq=70, sender="a", subject="b")
    ((to, ping),) = node.sent(Kind.PING)
    assert (to, ping.to) == ("b:1", "b")
    node.hear(kind=Kind.ACK, seq=ping.seq, sender="b")
    assert [(to, m.seq, m.to, m.subject) for to, m in node.sent(Kind.ACK)] == [("a:1", 70, "a", "b")]
    node.clear()
    node.hear(kind=Kind.PING_REQUEST, seq=71, sender="a", subject="b")
    node.run(0.13)
    assert [(to, m.seq, m.subject) for to, m in node.sent(Kind.NACK)] == [("a:1", 71, "b")]
    node.hear(kind=Kind.PING_REQUEST, seq=72, sender="a", subject="nobody")
    node.run(0.5)
    assert len(node.sent(Kind.NACK)) == 1


def test_a_node_that_stood_still_gives_the_others_time_to_be_heard() -> None:
    node = Driven("abc")
    node.hear(Suspect("b", 1, "c"))
    node.run(0.1)
    node.now += 10.0
    node.core.tick(node.now)
    assert node.state("b") is State.SUSPECT
    assert node.core.health > 0
    # What came meanwhile is read one after the other, and is no standstill again.
    node.hear(alive("c", 2))
    health = node.core.health
    node.hear(alive("b", 2))
    assert (node.state("b"), node.core.health) == (State.ALIVE, health)
    assert [event.kind for event in node.events if event.name == "b"] == ["suspected", "refuted"]


# -- joining --------------------------------------------------------------------------------------------


def test_a_node_asks_its_seeds_in_turn_and_says_nothing_of_itself_yet() -> None:
    node = Driven(seeds=["s1:1", "s2:1", "s3:1", "s4:1", "s5:1", "me:1"])
    node.run(1.4)
    assert {to for to, _ in node.streams} == {"s1:1", "s2:1", "s3:1", "s4:1", "s5:1"}
    assert all(isinstance(m, Summary) and m.entries == () for _, m in node.streams)


def test_once_it_has_seen_a_view_it_is_announced_to_whoever_sent_it() -> None:
    node = Driven(seeds=["a:1"])
    node.run(0.0)
    node.clear()
    node.hear_stream(Delta("a", "a:1", ()))
    ((to, delta),) = node.streams
    assert to == "a:1"
    assert isinstance(delta, Delta)
    assert [record.name for record in delta.records] == ["me"]


def test_who_can_be_reached_and_is_not_known_to_be_there_is_compared_with() -> None:
    node = Driven("ab")
    node.hear(Dead("b", 1, "a"))
    node.clear()
    for name in ("a", "me"):
        node.core.meet(name, f"{name}:1", node.now)
    node.collect()
    assert node.streams == []
    for name in ("b", "new"):
        node.core.meet(name, f"{name}:1", node.now)
    node.collect()
    assert [to for to, _ in node.streams] == ["b:1", "new:1"]
    assert all(isinstance(message, Summary) for _, message in node.streams)
    node.clear()
    node.core.leave(node.now)
    node.core.meet("new", "new:1", node.now)
    node.collect()
    assert node.streams == []


def test_a_node_whose_name_is_contested_only_looks_on() -> None:
    node = Driven(seeds=["a:1"])
    mine = FullRecord("me", 3, State.ALIVE, "rival:1", 1, b"", 0)
    others = tuple(FullRecord(name, 1, State.ALIVE, f"{name}:1", 1, b"", 0) for name in "abc")
    node.hear_stream(Delta("a", "a:1", (mine, *others)))
    assert node.core.contested
    node.hear(Suspect("b", 1, "c"), kind=Kind.PING, seq=3)
    node.run(10.0)
    assert (node.datagrams, node.state("b")) == ([], State.ALIVE)
    assert all(isinstance(m, Summary) and "me" not in {e.name for e in m.entries} for _, m in node.streams)
    node.hear_stream(Delta("a", "a:1", (replace(mine, state=State.DEAD),)))
    node.clear()
    node.run(1.0)
    assert not node.core.contested
    assert node.sent(Kind.PING)
    assert any(Alive("me", 4, "me:1", 0, b"") in m.updates for _, m in node.datagrams)


def test_summaries_are_answered_only_so_often() -> None:
    node = Driven("a")
    summary = Summary("a", "a:1", "", "", ())
    for _ in range(SUMMARIES_PER_S_MAX + 5):
        node.hear_stream(summary)
    assert len(node.streams) == SUMMARIES_PER_S_MAX
    node.now = 1.5
    node.hear_stream(summary)
    assert len(node.streams) == SUMMARIES_PER_S_MAX + 1


def test_views_that_stay_different_are_compared_and_not_too_often() -> None:
    node = Driven("ab")
    node.hear(digest=1)
    assert node.streams == []
    node.now = 0.6
    for _ in range(5):
        node.hear(digest=1)
        node.hear(digest=node.core.digest)
    assert [to for to, _ in node.streams] == ["a:1"]
    node.now = 1.3
    node.hear(digest=node.core.digest)
    assert len(node.streams) == 1
    node.hear(digest=1)
    assert len(node.streams) == 2


# -- hostile bytes --------------------------------------------------------------------------------------


@given(st.binary(max_size=1500), st.booleans())
@settings(max_examples=60)
def test_strangers_are_refused_and_counted(data: bytes, by_stream: bool) -> None:
    node = Driven("a")
    before = node.core.members(0.0)
    if by_stream:
        node.core.receive_stream(data, 0.0)
    else:
        node.core.receive(data, "x:1", 0.0)
    assert node.core.refused.total() == 1
    assert not node.core.take_output()
    assert node.core.members(0.0) == before


@given(st.binary(min_size=1, max_size=300), st.booleans())
@settings(max_examples=60)
def test_a_holder_of_the_key_that_sends_nonsense_is_refused_too(body: bytes, by_stream: bool) -> None:
    node = Driven("a")
    if by_stream:
        node.core.receive_stream(STREAMS.seal(body), 0.0)
    else:
        node.core.receive(DATAGRAMS.seal(body), "x:1", 0.0)
    assert node.core.refused == {"PROTOCOL_ERROR": 1}
    assert not node.core.take_output()


def test_a_stream_message_is_no_datagram() -> None:
    node = Driven("a")
    message = Datagram(Kind.PING, 1, "a", "me", "", 0)
    node.core.receive(STREAMS.seal(encode_datagram(message)), "a:1", 0.0)
    node.core.receive_stream(DATAGRAMS.seal(encode_stream(Delta("a", "a:1", ()))), 0.0)
    assert node.core.refused == {"AUTHENTICATION_FAILED": 2}


def test_what_was_heard_once_does_no_harm_when_it_is_repeated() -> None:
    node = Driven("abc")
    heard: list[bytes] = []
    story = [
        (Suspect("b", 1, "c"),),
        (alive("b", 2),),
        (Dead("c", 1, "a"),),
        (alive("c", 2),),
        (Left("a", 1),),
    ]
    for updates in story:
        message = Datagram(Kind.PING, 5, "b", "me", "", 0, updates=tuple(updates))
        heard.append(DATAGRAMS.seal(encode_datagram(message)))
        node.core.receive(heard[-1], "b:1", node.now)
    before = node.core.members(node.now)
    node.core.take_output()
    random_ = random.Random(1)
    for _ in range(200):
        node.core.receive(random_.choice(heard), "elsewhere:1", node.now)
    assert node.core.members(node.now) == before
    output = node.core.take_output()
    assert output.events == ()
    assert {to for to, _ in output.datagrams} == {"b:1"}


def test_what_nobody_takes_is_bounded() -> None:
    node = Driven("a")
    ping = DATAGRAMS.seal(encode_datagram(Datagram(Kind.PING, 5, "a", "me", "", node.core.digest)))
    for _ in range(OUTPUT_MAX + 3):
        node.core.receive(ping, "a:1", 0.0)
    assert len(node.core.take_output().datagrams) == OUTPUT_MAX
    assert node.core.dropped == {"datagrams": 3}


# -- what is said ---------------------------------------------------------------------------------------


def test_a_card_has_a_new_version_only_where_it_differs() -> None:
    node = Driven("a")
    for card in ({"a": 1}, {"a": 1}, {"a": 2}):
        node.core.set_card(card, 0.0)
    (own,) = [member for member in node.core.members(0.0) if member.name == "me"]
    assert (own.card_version, own.card) == (2, {"a": 2})


def test_what_is_too_large_or_no_plain_value_is_refused_and_the_old_stays() -> None:
    node = Driven("a")
    node.core.set_card({"a": 1}, 0.0)
    node.core.set_load({"queue": 1})
    with pytest.raises(TooLarge):
        node.core.set_card({"a": "x" * CARD_BYTES_MAX}, 0.0)
    with pytest.raises(InvalidArgument):
        node.core.set_card({"a": object()}, 0.0)
    with pytest.raises(TooLarge):
        node.core.set_load({"queue": "x" * LOAD_BYTES_MAX})
    (own,) = [member for member in node.core.members(0.0) if member.name == "me"]
    assert (own.card, own.load) == ({"a": 1}, {"queue": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "-"},
        {"name": "a b"},
        {"address": ""},
        {"address": "a b"},
        {"seeds": ["no seed"]},
        {"seeds": [f"h{number}:1" for number in range(65)]},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    given_: dict[str, Any] = {"name": "me", "address": "me:1"} | wrong
    with pytest.raises(ConfigInvalid):
        Gossip(
            given_.pop("name"),
            given_.pop("address"),
            cluster_id="mcp",
            cluster_key=KEY,
            random_=random.Random(1),
            now=0.0,
            **given_,
        )


def test_a_node_alone_leaves_at_once() -> None:
    node = Driven()
    node.core.leave(0.0)
    assert node.core.has_left
    assert node.core.next_deadline() == float("inf")
    assert node.state("me") is State.LEFT
