"""The pump, stepped by hand: what it does when, and what it keeps although it has to wait."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest

from consensus.batch import Batch
from consensus.channel import Chunk, ChunkAck, decode, encode
from consensus.compaction import AGAIN_S
from consensus.errors import (
    Busy,
    ConsensusError,
    DiskFull,
    InvariantViolated,
    OutcomeUnknown,
    StorageFailed,
)
from consensus.interface import EngineStatus, Entry, Record, SnapshotMeta
from consensus.journal import Journal
from consensus.ports import Applied, DriverLimits, StoreSnapshot
from consensus.pump import SEAL_AFTER_S, Pump
from consensus.raft.config import RaftConfig
from consensus.raft.engine import RaftEngine
from consensus.recovery import recover
from consensus.snapshots import SnapshotStore
from consensus.solo import SoloEngine
from simulations.disk import MemoryDisk


class Bench:
    """A pump on a disk in memory; it is its sink, its network and its shell, and notes what it is asked."""

    def __init__(self, voters: Sequence[str] = ("n1",), **limits: int | float) -> None:
        self.disk = MemoryDisk()
        self.journal = Journal.open(self.disk, "journal")
        self.store_ = SnapshotStore.open(self.disk, "snapshots")
        recovered = recover(self.journal, self.store_)
        self.engine = (
            SoloEngine("n1", recovered)
            if len(voters) == 1
            else RaftEngine("n1", voters, recovered, now=0.0, random=random.Random(1), config=RaftConfig())
        )
        self.events: list[str] = []
        self.outcomes: list[Applied | ConsensusError] = []
        self.sent: list[bytes] = []
        self.executed: list[bytes] = []
        self.to_store: list[StoreSnapshot] = []
        self.syncs_due = 0
        self.woken = False
        self.timer_at = math.inf
        self.failure: ConsensusError | None = None
        self.pump = Pump(
            self.engine,
            self.journal,
            self.store_,
            self,
            self,
            self,
            wall=lambda: 0.0,
            generator=random.Random(2),
            limits=DriverLimits(**limits),  # type: ignore[arg-type]
        )
        self.pump.start()
        self.settle()

    def settle(self, now: float = 0.0) -> None:
        """Do what the pump asks for until it asks for nothing; syncs return at once."""
        while self.woken or self.syncs_due:
            if self.syncs_due:
                self.end_sync(now)
            self.woken = False
            self.pump.turn(now)

    def turn(self, now: float) -> None:
        self.woken = False
        self.pump.turn(now)

    def end_sync(self, now: float, error: ConsensusError | None = None) -> None:
        self.syncs_due -= 1
        if error is None:
            self.journal.sync()
        self.pump.synced(now, error)

    def submit(self, command: bytes, deadline: float = 100.0) -> None:
        self.pump.submit(command, self.outcomes.append, deadline)

    # Sink, Network, Shell

    def free(self) -> int:
        return 1000

    def push(self, entry: Entry, batch: Batch) -> None:
        self.events.append(f"apply {entry.index}")
        self.executed.extend(batch.commands)
        self.pump.applied(entry.index, [(i, len(self.executed)) for i in batch.request_ids])

    def restore(self, meta: SnapshotMeta, content: bytes) -> None:
        self.executed = content.split(b"\n")

    def snapshot(self) -> Callable[[], bytes]:
        content = b"\n".join(self.executed)
        return lambda: content

    def send(self, peer: str, message: bytes) -> None:
        self.sent.append(message)

    def flush(self) -> None:
        if self.sent:
            self.events.append("flush")

    def wake(self) -> None:
        self.woken = True

    def arm(self, at: float) -> None:
        self.timer_at = at

    def sync(self) -> None:
        self.events.append("sync")
        self.syncs_due += 1

    def store(self, write: StoreSnapshot) -> None:
        self.to_store.append(write)

    def flush_soon(self) -> None:
        self.pump.flush()

    def reconfigured(self, status: EngineStatus) -> None:
        pass

    def changed(self, status: EngineStatus) -> None:
        self.events.append(f"{status.role}")

    def mishandled(self, error: Exception) -> None:
        self.events.append(f"mishandled {error}")

    def failed(self, error: ConsensusError) -> None:
        self.failure = error


def test_nothing_is_applied_before_its_sync_has_returned() -> None:
    bench = Bench()
    bench.events.clear()
    bench.submit(b"x")
    bench.turn(1.0)
    assert bench.events == ["sync"]
    assert bench.outcomes == []
    bench.end_sync(1.1)
    assert bench.events[1:] == ["apply 1"]
    assert bench.outcomes == [Applied(1, 1)]


def test_a_deadline_is_kept_while_a_sync_is_under_way() -> None:
    bench = Bench()
    bench.submit(b"slow", deadline=2.0)
    bench.turn(1.0)
    bench.submit(b"waits", deadline=3.0)
    assert bench.timer_at <= 2.0
    bench.turn(2.0)
    assert [type(outcome) for outcome in bench.outcomes] == [OutcomeUnknown]
    assert bench.timer_at <= 3.0
    bench.turn(3.0)
    assert [outcome.code for outcome in bench.outcomes[1:]] == ["NOT_LEADER"]  # type: ignore[union-attr]
    bench.end_sync(9.0)
    assert bench.executed == [b"slow"]
    assert len(bench.outcomes) == 2


def test_what_gathers_during_a_sync_shares_the_next_one() -> None:
    bench = Bench()
    bench.submit(b"first")
    bench.turn(1.0)
    bench.events.clear()
    for n in range(5):
        bench.submit(b"%d" % n)
        bench.turn(1.0)
    assert bench.events == []
    bench.woken = False
    bench.end_sync(1.5)
    assert bench.woken, "nobody else calls for a turn: without this they wait for the next deadline"
    bench.turn(1.5)
    bench.end_sync(1.6)
    assert bench.events == ["apply 1", "sync", "apply 2"]


def test_a_failed_sync_ends_it_and_leaves_what_is_pending_unknown() -> None:
    bench = Bench()
    bench.submit(b"x")
    bench.turn(1.0)
    bench.end_sync(1.1, StorageFailed("the disk broke"))
    assert isinstance(bench.failure, StorageFailed)
    assert [type(outcome) for outcome in bench.outcomes] == [OutcomeUnknown]
    assert bench.timer_at == math.inf
    with pytest.raises(StorageFailed):
        bench.submit(b"y")


def test_a_full_disk_is_tried_again_when_it_is_time_and_not_before() -> None:
    bench = Bench(disk_full_retry_s=0.5)
    bench.disk.capacity_bytes = bench.disk.used_bytes
    bench.submit(b"x")
    bench.turn(1.0)
    assert bench.pump.disk_full
    assert bench.timer_at <= 1.5
    with pytest.raises(DiskFull):
        bench.submit(b"y")
    bench.disk.capacity_bytes = None
    bench.turn(1.4)
    assert bench.pump.disk_full
    bench.turn(1.5)
    bench.end_sync(1.6)
    assert not bench.pump.disk_full
    assert bench.executed == [b"x"]
    assert [type(outcome) for outcome in bench.outcomes] == [OutcomeUnknown]


def test_entries_that_are_retained_behind_a_snapshot_refuse_nothing() -> None:
    bench = Bench(log_entries_max=5, log_entries_retained=100)
    for n in range(60):
        bench.submit(b"%d" % n)
        bench.settle(1.0)
        while bench.to_store:
            bench.pump.stored(bench.to_store.pop()())
            bench.settle(1.0)
    assert all(isinstance(outcome, Applied) for outcome in bench.outcomes)


def test_a_log_that_no_snapshot_shortens_refuses_in_the_end() -> None:
    bench = Bench(log_entries_max=5, log_entries_retained=10)
    for n in range(21):
        bench.submit(b"%d" % n)
        bench.settle(1.0)
    with pytest.raises(Busy, match="log_entries_max=5"):
        bench.submit(b"one too many")


def test_the_journal_is_sealed_once_it_has_been_idle() -> None:
    bench = Bench()
    bench.submit(b"x")
    bench.settle(1.0)
    size = bench.journal.bytes_on_disk
    assert bench.timer_at == 1.0 + SEAL_AFTER_S
    bench.turn(1.0 + SEAL_AFTER_S)
    assert bench.journal.bytes_on_disk > size
    assert bench.timer_at == math.inf


def test_that_a_snapshot_is_here_already_is_said_behind_the_sync_that_covers_it() -> None:
    bench = Bench(("n1", "n2", "n3"))
    meta = SnapshotMeta(1, 0, 0, 1, "0" * 64)
    bench.pump.message("n2", encode(Chunk(5, meta, 0, b"x")))
    # Something to persist in the same turn: time for an election.
    bench.pump.connected("n2")
    bench.pump.connected("n3")
    bench.turn(0.0)
    bench.sent.clear()
    bench.pump.message("n2", encode(Chunk(5, meta, 0, b"x")))
    bench.turn(10.0)
    answers = [m for m in map(decode, bench.sent) if isinstance(m, ChunkAck)]
    assert len(answers) == (0 if bench.syncs_due else 1)
    while bench.syncs_due:
        bench.end_sync(10.1)
    answers = [m for m in map(decode, bench.sent) if isinstance(m, ChunkAck)]
    assert answers == [ChunkAck(5, 1, 1, True)]


def test_a_link_that_flapped_between_two_turns_counts_as_broken() -> None:
    bench = Bench(("n1", "n2"))
    bench.pump.connected("n2")
    bench.turn(0.0)
    seen: list[str] = []
    bench.engine.peer_disconnected = lambda peer, now: seen.append(f"-{peer}")  # type: ignore[method-assign]
    bench.engine.peer_connected = lambda peer, now: seen.append(f"+{peer}")  # type: ignore[method-assign]
    bench.pump.disconnected("n2")
    bench.pump.connected("n2")
    bench.turn(0.1)
    assert seen == ["-n2", "+n2"]


def test_a_proposer_that_fails_does_not_stop_the_order() -> None:
    bench = Bench()

    def fails(_outcome: object) -> None:
        raise ValueError("mine")

    bench.pump.submit(b"x", fails, 100.0)
    bench.submit(b"y")
    bench.settle(1.0)
    assert "mishandled mine" in bench.events
    assert bench.executed == [b"x", b"y"]
    assert bench.failure is None


def test_records_are_written_once() -> None:
    bench = Bench()
    written: list[Record] = []
    append = bench.journal.append
    bench.journal.append = lambda records: (written.extend(records), append(records))[1]  # type: ignore[method-assign]
    bench.submit(b"x")
    bench.settle(1.0)
    assert [type(record) for record in written] == [Entry]


def test_a_sink_that_cannot_give_its_snapshot_is_asked_again_and_named_where_the_log_is_full() -> None:
    bench = Bench(log_entries_max=2, log_entries_retained=0)

    def broken() -> Callable[[], bytes]:
        raise ValueError("no snapshot today")

    whole, bench.snapshot = bench.snapshot, broken  # type: ignore[method-assign]
    for number in range(5):
        bench.submit(b"%d" % number)
        bench.settle(1.0)
    with pytest.raises(Busy, match="no snapshot could be taken: ValueError: no snapshot today"):
        bench.submit(b"x")
    assert bench.events.count("mishandled no snapshot today") == 1, "not once for every entry"
    bench.turn(1.0 + AGAIN_S / 2)
    assert bench.events.count("mishandled no snapshot today") == 1
    bench.snapshot = whole  # type: ignore[method-assign]
    bench.turn(1.0 + AGAIN_S)
    (write,) = bench.to_store
    bench.pump.stored(write())
    bench.settle(1.0 + AGAIN_S)
    bench.submit(b"x")
    bench.settle(1.0 + AGAIN_S)
    assert bench.outcomes[-1] == Applied(6, 6)
    assert bench.failure is None


def test_a_mistake_in_the_middle_of_a_turn_ends_the_node_and_is_told() -> None:
    bench = Bench()

    def broken(entry: Entry, batch: Batch) -> None:
        raise KeyError("defect")

    bench.push = broken  # type: ignore[method-assign]
    bench.submit(b"x")
    bench.settle(1.0)
    assert isinstance(bench.failure, InvariantViolated)
    assert "KeyError: 'defect'" in str(bench.failure)
    assert "mishandled 'defect'" in bench.events
    assert isinstance(bench.outcomes[-1], ConsensusError)


def compactions(bench: Bench, commands: int, size: int) -> list[int]:
    """How many commands had been executed when each snapshot was due; it is stored at once."""
    found = []
    for n in range(commands):
        bench.submit(b"x" * size)
        bench.settle(1.0)
        while bench.to_store:
            found.append(n + 1)
            bench.pump.stored(bench.to_store.pop()())
            bench.settle(1.0)
    return found


@pytest.mark.parametrize(("state_bytes", "apart"), [(10, 10), (3000, 30), (1 << 20, 60)])
def test_snapshots_are_as_far_apart_as_the_last_one_is_large_within_bounds(
    state_bytes: int, apart: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(log_bytes_min=1000, log_bytes_max=6000)
    monkeypatch.setattr(bench, "snapshot", lambda: lambda: bytes(state_bytes))
    taken = compactions(bench, 200, 60)  # about 100 bytes in the log, each
    between = [later - earlier for earlier, later in itertools.pairwise(taken)]
    assert taken[0] == pytest.approx(10, abs=2)
    assert between
    assert all(each == pytest.approx(apart, rel=0.15, abs=1) for each in between)


def test_what_stays_behind_a_snapshot_is_bounded_in_bytes_too() -> None:
    held = {}
    for retained in (500, 1 << 20):
        bench = Bench(log_bytes_min=5000, log_bytes_max=5000, log_bytes_retained=retained)
        assert len(compactions(bench, 56, 60)) == 1
        held[retained] = bench.engine.entries_held()
    assert held[1 << 20] >= 56
    assert held[500] <= 56 - 50 + 5 + 1
