"""Forwarded commands at the leader: each message is answered once, whatever the network does with it."""

from __future__ import annotations

import random

from consensus.batch import Batch, decode_batch
from consensus.channel import Forward, Message, Refused
from consensus.interface import HardState, Leadership, Recovered, Role
from consensus.ports import DriverLimits
from consensus.solo import SoloEngine
from consensus.submission import FORWARDERS_MAX, Submission


class Leader:
    """A leader's submission, what it told its peers, and what it appended."""

    def __init__(self, **limits: int) -> None:
        self.told: list[Message] = []
        self.engine = SoloEngine("n1", Recovered(HardState(0, None), None, []))
        self.submission = Submission(
            self.engine,
            DriverLimits(**limits),
            wall=lambda: 0.0,
            generator=random.Random(1),
            tell=lambda _peer, message: self.told.append(message),
            mishandled=lambda _error: None,
        )

    def forward(self, attempt: int, *commands: bytes, life: bytes = b"a", room: bool = True) -> None:
        ids = [life * 8 + bytes((attempt, n)) * 4 for n in range(len(commands))]
        self.submission.take_forward("n2", Forward(attempt, ids, commands), room=room)

    def appended(self) -> list[bytes]:
        self.submission.hand_over(0.0)
        committed = self.engine.take_output().committed
        return [command for entry in committed for command in decode_batch(entry.data).commands]


def test_a_forward_that_comes_twice_is_taken_once() -> None:
    leader = Leader()
    leader.forward(1, b"x", b"y")
    leader.forward(1, b"x", b"y")
    assert leader.appended() == [b"x", b"y"]


def test_commands_wait_while_leadership_is_handed_over() -> None:
    leader = Leader()
    leader.engine.transferring = lambda: "n2"  # type: ignore[method-assign]
    leader.forward(1, b"theirs")
    leader.submission.add(b"own", 100.0, lambda _outcome: None)
    assert leader.appended() == []
    assert leader.told == []
    assert not leader.submission.due, "a turn would change nothing"
    leader.engine.transferring = lambda: None  # type: ignore[method-assign]
    assert leader.submission.due
    assert leader.appended() == [b"own", b"theirs"]
    assert not leader.submission.due


def test_a_copy_is_never_refused_after_the_first_was_taken() -> None:
    """The proposer would believe that nothing was appended."""
    leader = Leader()
    leader.forward(1, b"x")
    for _ in range(3):
        leader.forward(1, b"x", room=False)
    assert leader.told == []
    assert leader.appended() == [b"x"]


def test_what_was_refused_may_be_forwarded_again_under_another_attempt() -> None:
    leader = Leader()
    leader.forward(1, b"x", room=False)
    leader.forward(2, b"x")
    assert [type(message) for message in leader.told] == [Refused]
    assert leader.appended() == [b"x"]


def test_what_is_in_the_log_and_not_committed_is_not_appended_again() -> None:
    leader = Leader()
    first = Forward(1, [b"a" * 16, b"b" * 16], [b"x", b"y"])
    again = Forward(2, [b"b" * 16, b"c" * 16], [b"y", b"z"])
    leader.submission.take_forward("n2", first, room=True)
    assert leader.appended() == [b"x", b"y"]
    leader.submission.take_forward("n2", again, room=True)
    assert leader.appended() == [b"z"]


def test_what_was_in_the_log_under_another_leader_or_is_committed_may_be_appended() -> None:
    """It may have been truncated; and the state deduplicates."""
    leader = Leader()
    batch = Batch(0.0, 0, [b"a" * 16], [b"x"])
    happened = (lambda: None, leader.submission.wait_again, lambda: leader.submission.committed(batch))
    for attempt, happens in enumerate(happened, 1):
        happens()
        leader.submission.take_forward("n2", Forward(attempt, batch.request_ids, [b"x"]), room=True)
        assert leader.appended() == [b"x"]


def test_another_life_of_the_same_node_counts_its_attempts_from_the_start() -> None:
    leader = Leader()
    leader.forward(5, b"x", life=b"a")
    leader.forward(1, b"y", life=b"b")
    assert leader.appended() == [b"x", b"y"]


def test_the_memory_of_attempts_is_bounded_and_keeps_the_latest() -> None:
    leader = Leader()
    leader.forward(9, b"kept", life=b"k")
    for n in range(FORWARDERS_MAX - 1):
        leader.forward(1, b"-", life=bytes((n,)))
    leader.forward(9, b"kept", life=b"k")
    leader.forward(10, b"more", life=b"k")
    leader.forward(1, b"-", life=b"z")
    leader.forward(10, b"more", life=b"k")
    appended = leader.appended()
    assert appended.count(b"kept") == appended.count(b"more") == 1


class Follower:
    """A follower of ``n9``, who says that it does not lead."""

    def __init__(self) -> None:
        self.forwards: list[Forward] = []
        self.known = Leadership(Role.FOLLOWER, 3, "n9")
        self.submission = Submission(
            self,  # type: ignore[arg-type]
            DriverLimits(forward_backoff_s=0.5),
            wall=lambda: 0.0,
            generator=random.Random(1),
            tell=lambda _peer, message: self.forwards.append(message),  # type: ignore[arg-type]
            mishandled=lambda _error: None,
        )
        self.submission.add(b"x", 100.0, lambda _outcome: None)

    def leadership(self) -> Leadership:
        return self.known

    def deny(self, forward: Forward) -> None:
        self.submission.take_refusal(Refused("NOT_LEADER", forward.attempt, forward.request_ids))


def test_a_leader_that_denies_it_is_not_asked_again_at_once() -> None:
    follower = Follower()
    follower.submission.hand_over(1.0)
    for turn in range(100):
        follower.deny(follower.forwards[-1])
        follower.submission.hand_over(1.0 + turn / 1000)
    assert len(follower.forwards) == 1
    assert follower.submission.next_deadline() == 1.5
    follower.submission.expire(1.5)
    follower.submission.hand_over(1.5)
    assert len(follower.forwards) == 2


def test_the_next_leader_is_asked_at_once() -> None:
    follower = Follower()
    follower.submission.hand_over(1.0)
    follower.deny(follower.forwards[-1])
    follower.submission.hand_over(1.1)
    follower.known = Leadership(Role.FOLLOWER, 3, None)
    follower.submission.hand_over(1.15)
    assert follower.submission.next_deadline() == 100.0
    follower.known = Leadership(Role.FOLLOWER, 4, "n8")
    follower.submission.hand_over(1.2)
    assert len(follower.forwards) == 2
    assert follower.submission.next_deadline() == 100.0
