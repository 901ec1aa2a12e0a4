"""A snapshot arrives whole or not at all, whatever happens to its chunks."""

from __future__ import annotations

import hashlib
import random

import pytest

from consensus.channel import Chunk, ChunkAck
from consensus.errors import StorageCorrupt
from consensus.interface import SnapshotMeta
from consensus.transfer import SnapshotIntake, SnapshotSender, TransferLimits

CONTENT = bytes(range(256)) * 40
META = SnapshotMeta(9, 2, 2, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
LIMITS = TransferLimits(chunk_bytes=1000, window_chunks=3, resend_s=1.0)


class Aside:
    """A receiver in memory that verifies as the real store does."""

    def __init__(self, meta: SnapshotMeta) -> None:
        self.meta, self.content = meta, b""

    @property
    def received(self) -> int:
        return len(self.content)

    def write(self, offset: int, chunk: bytes) -> None:
        assert offset == len(self.content)
        self.content += chunk

    def finish(self) -> SnapshotMeta:
        if hashlib.sha256(self.content).hexdigest() != self.meta.sha256:
            raise StorageCorrupt("aside", 0, "wrong digest", "send it again")
        return self.meta

    def abort(self) -> None:
        self.content = b""


def read(meta: SnapshotMeta, offset: int, length: int) -> bytes:
    return CONTENT[offset : offset + length]


def transfer(generator: random.Random, loss: float, damage: float) -> tuple[bool, int]:
    """Run one transfer over a link that loses, damages and doubles; gives (done, steps)."""
    sender = SnapshotSender(4, META, LIMITS, now=0.0)
    intake = SnapshotIntake(Aside, LIMITS)
    now = 0.0
    for step in range(2000):
        now += 0.4
        answers: list[ChunkAck] = []
        for chunk in sender.due(read, now):
            for _ in range(1 + (generator.random() < 0.1)):
                if generator.random() < loss:
                    continue
                data = chunk.data
                if generator.random() < damage:
                    data = bytes([data[0] ^ 1]) + data[1:]
                answer, whole = intake.take("leader", Chunk(4, META, chunk.offset, data))
                assert whole in (None, META)
                answers.append(answer)
        for answer in answers:
            if generator.random() >= loss and sender.acknowledge(answer, now):
                return True, step
    return False, 2000


@pytest.mark.parametrize("seed", range(20))
def test_it_arrives_under_loss_and_damage(seed: int) -> None:
    done, _ = transfer(random.Random(seed), loss=0.2, damage=0.03)
    assert done


def test_who_has_begun_anew_is_gone_back_to_also_after_its_first_chunk() -> None:
    sender = SnapshotSender(4, META, LIMITS, now=0.0)
    sender.due(read, 0.1)
    sender.acknowledge(ChunkAck(4, META.index, 3000, done=False), 0.2)
    sender.due(read, 0.2)
    # A chunk from the beginning came late, and its receiver took it for another beginning.
    for now in (0.3, 0.6, 0.9, 1.2):
        sender.acknowledge(ChunkAck(4, META.index, 1000, done=False), now)
        assert sender.due(read, now) == []
    assert [chunk.offset for chunk in sender.due(read, 1.3)] == [1000, 2000, 3000]


def test_a_receiver_that_begins_anew_again_and_again_is_sent_a_window_now_and_then() -> None:
    sender = SnapshotSender(4, META, LIMITS, now=0.0)
    sent = 0
    for turn in range(500):
        now = 0.01 * turn
        sent += len(sender.due(read, now))
        # Its disk is full: after every other chunk it has nothing.
        sender.acknowledge(ChunkAck(4, META.index, 1000 * (turn % 2), done=False), now)
    assert sent <= 2 * 3 * 5  # in five seconds, of which each is resend_s


def test_a_window_bounds_what_is_in_flight() -> None:
    sender = SnapshotSender(4, META, LIMITS, now=0.0)
    assert len(sender.due(read, 0.1)) == 3
    assert sender.due(read, 0.2) == []
    sender.acknowledge(ChunkAck(4, 9, 1000, False), 0.3)
    assert [c.offset for c in sender.due(read, 0.3)] == [3000]


def test_silence_makes_it_send_again_from_what_was_acknowledged() -> None:
    sender = SnapshotSender(4, META, LIMITS, now=0.0)
    sender.due(read, 0.1)
    sender.acknowledge(ChunkAck(4, 9, 2000, False), 0.2)
    sender.due(read, 0.2)
    assert [c.offset for c in sender.due(read, 1.3)] == [2000, 3000, 4000]


def test_an_acknowledgement_of_another_term_or_snapshot_is_ignored() -> None:
    sender = SnapshotSender(4, META, LIMITS, now=0.0)
    assert not sender.acknowledge(ChunkAck(3, 9, META.size, True), 0.1)
    assert not sender.acknowledge(ChunkAck(4, 8, META.size, True), 0.1)


def test_a_damaged_whole_is_thrown_away_and_the_answer_says_so() -> None:
    intake = SnapshotIntake(Aside, TransferLimits(chunk_bytes=len(CONTENT)))
    answer, whole = intake.take("leader", Chunk(4, META, 0, b"\xff" + CONTENT[1:]))
    assert (answer.received, answer.done, whole) == (0, False, None)
    answer, whole = intake.take("leader", Chunk(4, META, 0, CONTENT))
    assert answer.done
    assert whole == META


def test_another_leader_begins_afresh() -> None:
    intake = SnapshotIntake(Aside, LIMITS)
    intake.take("old", Chunk(4, META, 0, CONTENT[:1000]))
    answer, _ = intake.take("new", Chunk(5, META, 1000, CONTENT[1000:2000]))
    assert answer.received == 0


def test_a_snapshot_over_the_limit_is_not_acceptable() -> None:
    intake = SnapshotIntake(Aside, TransferLimits(snapshot_bytes_max=META.size - 1))
    assert not intake.acceptable(Chunk(4, META, 0, b""))
