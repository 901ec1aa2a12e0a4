"""Reads of one node: who is asked what, and which answer serves whom. The engine's part is played here."""

from __future__ import annotations

import math
import random

import pytest

from consensus.channel import ReadAnswer, ReadAsk
from consensus.errors import Busy, ConsensusError, DiskFull, NotLeader, ReadUnconfirmed
from consensus.interface import HardState, Leadership, Recovered, Role
from consensus.ports import DriverLimits
from consensus.reads import Reads
from consensus.solo import SoloEngine

LEADER = Leadership(Role.LEADER, 1, "me")
FOLLOWER = Leadership(Role.FOLLOWER, 1, "n1")
ALONE = Leadership(Role.FOLLOWER, 1, None)


class Engine(SoloEngine):
    """Says who leads as it is told, and collects what it is asked."""

    def __init__(self) -> None:
        super().__init__("me", Recovered(HardState(0, None), None, []))
        self.seen = FOLLOWER
        self.asked: list[int] = []
        self.refuses: type[ConsensusError] | None = None

    def leadership(self) -> Leadership:
        return self.seen

    def read_index(self, context: int, now: float) -> None:
        if self.refuses is NotLeader:
            raise NotLeader(None)
        if self.refuses is not None:
            raise self.refuses("no")
        self.asked.append(context)


class Reader:
    """A node's reads, what they told whom, and what became of them."""

    def __init__(self, seen: Leadership = FOLLOWER, seed: int = 1, **limits: float) -> None:
        self.engine = Engine()
        self.engine.seen = seen
        self.told: list[tuple[str, ReadAsk | ReadAnswer]] = []
        self.outcomes: dict[str, int | ConsensusError] = {}
        self.mishandled: list[Exception] = []
        self.reads = Reads(
            self.engine,
            DriverLimits(**limits),  # type: ignore[arg-type]
            generator=random.Random(seed),
            tell=lambda peer, message: self.told.append((peer, message)),
            mishandled=self.mishandled.append,
        )

    def add(self, *names: str, deadline: float = 10.0) -> None:
        for name in names:
            self.reads.add(deadline, lambda outcome, name=name: self.outcomes.__setitem__(name, outcome))

    def asks(self) -> list[int]:
        """Hand over at time 0, and take the numbers that were asked of the leader."""
        self.reads.hand_over(0.0)
        return self.take()

    def take(self) -> list[int]:
        told, self.told = self.told, []
        assert all(peer == "n1" for peer, _ in told)
        return [message.number for _, message in told if isinstance(message, ReadAsk)]


def test_reads_that_gather_are_one_question_and_one_answer_serves_them() -> None:
    reader = Reader()
    reader.add("a", "b", "c")
    [number] = reader.asks()
    assert reader.asks() == []
    reader.reads.take_answer(ReadAnswer(number, 17))
    assert reader.outcomes == {"a": 17, "b": 17, "c": 17}
    assert reader.reads.next_deadline() == reader.reads.next_asking() == math.inf


def test_what_comes_while_a_question_is_open_shares_the_next_one() -> None:
    reader = Reader()
    reader.add("a")
    [first] = reader.asks()
    reader.add("b", "c")
    assert reader.asks() == []
    assert not reader.reads.due
    reader.reads.take_answer(ReadAnswer(first, 5))
    assert reader.outcomes == {"a": 5}, "b and c came after the question: the answer may be too old for them"
    assert reader.reads.due
    [second] = reader.asks()
    reader.reads.take_answer(ReadAnswer(first, 6))
    assert reader.outcomes == {"a": 5}
    reader.reads.take_answer(ReadAnswer(second, 7))
    assert reader.outcomes == {"a": 5, "b": 7, "c": 7}


def test_a_question_that_may_be_lost_is_asked_again_and_either_answer_serves() -> None:
    reader = Reader(read_retry_s=0.1)
    reader.add("a")
    [first] = reader.asks()
    reader.add("b")
    assert reader.reads.next_asking() == 0.1
    reader.reads.hand_over(0.05)
    assert reader.take() == []
    reader.reads.hand_over(0.1)
    [second] = reader.take()
    assert second > first
    reader.reads.take_answer(ReadAnswer(first, 5))
    assert reader.outcomes == {"a": 5}
    reader.reads.take_answer(ReadAnswer(second, 6))
    assert reader.outcomes == {"a": 5, "b": 6}


@pytest.mark.parametrize("leadership", [LEADER, FOLLOWER])
def test_an_open_question_is_not_asked_again_because_nothing_was_refused(leadership: Leadership) -> None:
    reader = Reader(leadership)
    reader.add("a")
    reader.reads.hand_over(0.0)
    before = len(reader.told) + len(reader.engine.asked)
    for _ in range(3):  # as after every output of an engine
        reader.reads.confirmed([])
        reader.reads.refused([])
        assert not reader.reads.due
        reader.reads.hand_over(0.0)
    assert before == len(reader.told) + len(reader.engine.asked) == 1


def test_an_answer_that_nobody_asked_for_serves_nobody() -> None:
    earlier, reader = Reader(seed=1), Reader(seed=2)
    for each in (earlier, reader):
        each.add("a")
    [number] = earlier.asks()
    [own] = reader.asks()
    for wrong in (number, 0, own - 1, own + 1, -5, 2**80):
        reader.reads.take_answer(ReadAnswer(wrong, 99))
        assert reader.outcomes == {}
    reader.reads.take_answer(ReadAnswer(own, 3))
    assert reader.outcomes == {"a": 3}


def test_nobody_is_asked_while_nobody_leads_and_the_next_leader_is_asked_at_once() -> None:
    reader = Reader(ALONE)
    reader.add("a")
    assert reader.asks() == []
    assert not reader.reads.due
    assert reader.reads.next_asking() == math.inf
    reader.engine.seen = FOLLOWER
    reader.reads.ask_again()
    assert reader.reads.due
    [first] = reader.asks()
    reader.engine.seen = ALONE
    reader.reads.ask_again()
    assert reader.asks() == []
    assert reader.reads.next_asking() == math.inf, "there is nothing to do before somebody leads"
    reader.engine.seen = LEADER
    reader.reads.ask_again()
    reader.reads.hand_over(0.0)
    [second] = reader.engine.asked
    assert second > first
    reader.reads.confirmed([(second, 8)])
    assert reader.outcomes == {"a": 8}


def test_a_read_fails_at_its_deadline_and_says_who_leads() -> None:
    reader = Reader()
    reader.add("a", deadline=1.0)
    reader.add("b", deadline=2.0)
    [number] = reader.asks()
    reader.add("c", deadline=1.0)
    assert reader.reads.next_deadline() == 1.0
    reader.reads.expire(0.9)
    assert reader.outcomes == {}
    reader.reads.expire(1.0)
    assert sorted(reader.outcomes) == ["a", "c"]
    for outcome in reader.outcomes.values():
        assert isinstance(outcome, ReadUnconfirmed)
        assert outcome.leader == "n1"
    assert reader.reads.next_deadline() == 2.0
    reader.reads.take_answer(ReadAnswer(number, 4))
    assert reader.outcomes["b"] == 4
    reader.add("d", deadline=3.0)
    reader.asks()
    reader.reads.expire(3.0)
    assert reader.reads.next_asking() == math.inf


def test_too_many_reads_are_refused_and_there_is_room_again_afterwards() -> None:
    reader = Reader(reads_pending_max=2)
    reader.add("a", "b")
    with pytest.raises(Busy, match="reads_pending_max=2"):
        reader.add("c")
    [number] = reader.asks()
    reader.reads.take_answer(ReadAnswer(number, 1))
    reader.add("c")
    assert reader.asks() != []


def test_giving_up_tells_everybody_once() -> None:
    reader = Reader()
    reader.add("a")
    [number] = reader.asks()
    reader.add("b")
    reader.reads.give_up(DiskFull("no room"))
    assert {type(outcome) for outcome in reader.outcomes.values()} == {DiskFull}
    reader.outcomes.clear()
    reader.reads.take_answer(ReadAnswer(number, 1))
    reader.reads.expire(100.0)
    assert reader.outcomes == {}
    assert not reader.reads.due
    assert reader.reads.next_asking() == math.inf


def test_the_leader_asks_its_engine_once_for_itself_and_for_all_that_asked_it() -> None:
    reader = Reader(LEADER)
    reader.add("a")
    for peer, number in (("n2", 5), ("n3", 70), ("n2", 6), ("n2", 4)):
        reader.reads.take_ask(peer, ReadAsk(number))
    reader.reads.hand_over(0.0)
    [number] = reader.engine.asked
    assert reader.told == []
    reader.reads.confirmed([(number, 9)])
    assert sorted(reader.told) == [("n2", ReadAnswer(6, 9)), ("n3", ReadAnswer(70, 9))]
    assert reader.outcomes == {"a": 9}
    assert not reader.reads.due


def test_a_question_of_a_peer_does_not_wait_for_one_that_is_open_and_takes_others_along() -> None:
    reader = Reader(LEADER)
    reader.add("a")
    reader.reads.hand_over(0.0)
    reader.reads.take_ask("n2", ReadAsk(5))
    reader.add("b")
    reader.reads.hand_over(0.0)
    first, second = reader.engine.asked
    reader.reads.confirmed([(first, 3)])
    assert reader.outcomes == {"a": 3}
    reader.reads.confirmed([(second, 4)])
    assert reader.outcomes == {"a": 3, "b": 4}
    assert reader.told == [("n2", ReadAnswer(5, 4))]


def test_whoever_leads_no_more_answers_nobody() -> None:
    reader = Reader(LEADER)
    reader.add("a")
    reader.reads.take_ask("n2", ReadAsk(5))
    reader.reads.hand_over(0.0)
    [number] = reader.engine.asked
    reader.engine.seen = FOLLOWER
    reader.reads.refused([number])
    reader.reads.take_ask("n3", ReadAsk(6))
    assert reader.asks() != [], "its own read goes to the next leader"
    reader.reads.confirmed([(number, 9)])
    assert reader.told == []


@pytest.mark.parametrize("refusal", [Busy, NotLeader])
def test_what_the_engine_refuses_is_asked_again_later(refusal: type[ConsensusError]) -> None:
    reader = Reader(LEADER, read_retry_s=0.1)
    reader.engine.refuses = refusal
    reader.add("a")
    reader.reads.hand_over(0.0)
    assert not reader.reads.due
    reader.engine.refuses = None
    reader.reads.hand_over(0.1)
    reader.reads.confirmed([(reader.engine.asked[0], 2)])
    assert reader.outcomes == {"a": 2}


def test_a_reader_that_fails_does_not_keep_the_others_waiting() -> None:
    reader = Reader()

    def fail(_outcome: object) -> None:
        raise ValueError("the reader's mistake")

    reader.reads.add(10.0, fail)
    reader.add("b")
    [number] = reader.asks()
    reader.reads.take_answer(ReadAnswer(number, 3))
    assert reader.outcomes == {"b": 3}
    assert [type(error) for error in reader.mishandled] == [ValueError]
