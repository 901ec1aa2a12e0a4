"""The thin asyncio shell around an engine: persist, then send, then apply.

Events gather while the loop is busy (messages, proposals, the clock); one *pump* hands all of them to
the engine, takes one output, and performs it. One sync covers everything that gathered, which is group
commit: a lone command never waits for company, and a flood shares its syncs.

The sync is made on the loop while the disk is quick (a hop to a thread costs more than a sync of a good
disk) and in a thread once it has been slow. While it runs there, events gather and the engine rests: it
must not see an acknowledgement before its own write is durable.

A full disk stalls the node: nothing is sent, nothing acknowledged, peers' messages are dropped (Raft
takes that for loss), proposals are refused, and the same write is tried again until there is room. A
failed write or sync ends it: what is on the disk is unknown then, and only a restart can find out.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from consensus import channel
from consensus.batch import EMPTY, Batch, decode_batch, encode_batch
from consensus.channel import Chunk, ChunkAck, Forward, Malformed, Refused
from consensus.errors import (
    Busy,
    ConsensusError,
    DiskFull,
    NotLeader,
    OutcomeUnknown,
    StorageFailed,
)
from consensus.interface import Engine, EngineStatus, Entry, EntryKind, Output, Record, Role, SnapshotMeta
from consensus.proposals import Proposal, Proposals
from consensus.snapshots import SnapshotGone
from consensus.transfer import Receiver, SnapshotIntake, SnapshotSender, TransferLimits

SEAL_AFTER_S = 0.2


class Network(Protocol):
    """Where a driver's messages go. Delivery is best effort, per peer in order."""

    def send(self, peer: str, message: bytes) -> None:
        """Queue for the next :meth:`flush`, or drop; never block, never raise."""

    def flush(self) -> None:
        """Put on the wire what was queued; never block, never raise."""


class Log(Protocol):
    """The journal's part that a driver needs: see :mod:`consensus.journal`."""

    def append(self, records: Sequence[Record]) -> None:
        """Write. On :class:`~consensus.errors.DiskFull` nothing of it is kept."""

    def sync(self) -> None:
        """Make durable all that was appended."""

    def seal(self) -> None:
        """Write, without a sync, that everything so far was synced."""

    def compact(self, first_index_kept: int) -> None:
        """Entries below are not needed any more."""


class Snapshots(Protocol):
    """The snapshot store's part that a driver needs: see :mod:`consensus.snapshots`."""

    def latest(self) -> SnapshotMeta | None:
        """The newest durable snapshot."""

    def write(self, index: int, term: int, previous_term: int, content: bytes) -> SnapshotMeta:
        """Store durably."""

    def read(self, meta: SnapshotMeta) -> bytes:
        """The verified content."""

    def read_chunk(self, meta: SnapshotMeta, offset: int, length: int) -> bytes:
        """A piece of the content."""

    def receive(self, meta: SnapshotMeta) -> Receiver:
        """Begin to write a snapshot that comes from a peer."""


class Sink(Protocol):
    """Where committed entries go: the command queue and what is behind it."""

    def free(self) -> int:
        """How many more commands fit now."""

    def push(self, entry: Entry, batch: Batch) -> None:
        """Take an entry's commands. :meth:`Driver.applied` must be called once they are executed."""

    def restore(self, meta: SnapshotMeta, content: bytes) -> None:
        """Replace everything by a snapshot; what was pushed before and not executed is void."""

    def snapshot(self) -> bytes:
        """The state after the last entry for which :meth:`Driver.applied` was called."""


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """Every bound of a driver, with its unit last."""

    proposals_pending_max: int = 16_384
    command_bytes_max: int = 256 * 1024
    commands_per_entry_max: int = 512
    batch_bytes_max: int = 512 * 1024
    inbox_messages_max: int = 4_096
    apply_entries_max: int = 4_096
    log_entries_max: int = 20_000
    log_bytes_max: int = 64 * 1024**2
    log_entries_retained: int = 2_000
    forward_retry_s: float = 2.0
    disk_full_retry_s: float = 0.25
    sync_inline_s_max: float = 0.003
    transfer: TransferLimits = field(default_factory=TransferLimits)


@dataclass(frozen=True, slots=True)
class Applied:
    """A proposal's outcome: where its command stood in the log, and what executing it gave."""

    index: int
    result: Any


Done = Callable[[Applied | ConsensusError], None]
"""Called once with a proposal's outcome, in the middle of the driver's work: it must be quick."""

Offload = Callable[[Callable[[], Any]], "asyncio.Future[Any]"]
"""Runs blocking work away from the loop."""


class Driver:
    """Drives one engine on the running event loop.

    ``wall`` gives seconds since the epoch for stamps; the loop's clock is the engine's ``now``.
    ``on_change(status)`` is called after a change of role, term or leader, ``on_failure(error)`` once
    when the node cannot go on. Not thread-safe: every call on the loop's thread.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Log,
        snapshots: Snapshots,
        sink: Sink,
        network: Network,
        *,
        wall: Callable[[], float],
        generator: random.Random,
        limits: DriverLimits | None = None,
        offload: Offload | None = None,
        on_change: Callable[[EngineStatus], None] = lambda status: None,
        on_failure: Callable[[ConsensusError], None] = lambda error: None,
    ) -> None:
        self.limits = limits or DriverLimits()
        self.dropped: dict[str, int] = {}
        self.disk_full = False
        self._engine = engine
        self._journal = journal
        self._snapshots = snapshots
        self._sink = sink
        self._network = network
        self._wall = wall
        self._random = generator
        self._offload = offload or self._in_thread
        self._on_change = on_change
        self._on_failure = on_failure
        self._loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._proposals = Proposals(
            generator.getrandbits(64).to_bytes(8, "big"),
            pending_max=self.limits.proposals_pending_max,
            command_bytes_max=self.limits.command_bytes_max,
        )
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._batch: list[tuple[bytes, bytes]] = []
        self._to_apply: deque[tuple[Entry, Batch]] = deque()
        self._applying: deque[tuple[int, int, int]] = deque()
        self._applied = (0, 0, 0)
        self._stamp = 0.0
        self._log_bytes = 0
        self._senders: dict[str, SnapshotSender] = {}
        self._intake = SnapshotIntake(snapshots.receive, self.limits.transfer)
        self._after_sync: list[tuple[str, bytes]] = []
        self._compacting = False
        self._compact_to: SnapshotMeta | None = None
        self._scheduled = False
        self._unflushed = False
        self._resting = False
        self._stopped = False
        self._failure: ConsensusError | None = None
        self._sync_s = 0.0
        self._written_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = float("inf")
        self._seen: tuple[Role, int, str | None] | None = None

    # -- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: restore the snapshot that is on the disk, if there is one, and drive the engine."""
        latest = self._snapshots.latest()
        if latest is not None:
            self._restore(latest)
        status = self._engine.status()
        self._seen = (status.role, status.term, status.leader)
        self._wake()

    def stop(self) -> None:
        """Stop driving. What is pending becomes unknown. Nothing more is written or sent."""
        if self._stopped:
            return
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._intake.abort()
        for proposal in self._proposals.drain():
            self._reject(proposal, self._unresolved(proposal, "this node stopped"))

    # -- events -------------------------------------------------------------------------------------

    def on_message(self, peer: str, message: bytes) -> None:
        """A peer's message. Over ``inbox_messages_max``, or while the disk is full, it is dropped."""
        if self._stopped or self.disk_full or len(self._inbox) >= self.limits.inbox_messages_max:
            self._drop("inbox_full")
            return
        self._inbox.append((peer, message))
        self._wake()

    def on_connected(self, peer: str) -> None:
        """Messages to ``peer`` can arrive from now on."""
        if not self._stopped:
            self._engine.peer_connected(peer, self._loop.time())
            if self._engine.status().leader == peer:
                self._proposals.wait_again()
            self._wake()

    def on_disconnected(self, peer: str) -> None:
        """The link to ``peer`` is gone, and with it what was forwarded there, perhaps."""
        if self._stopped:
            return
        self._engine.peer_disconnected(peer, self._loop.time())
        if self._engine.status().leader == peer:
            self._proposals.wait_again()
        self._wake()

    def propose(self, command: bytes, *, timeout_s: float) -> asyncio.Future[Applied]:
        """As :meth:`submit`, with a future of the outcome."""
        waiter: asyncio.Future[Applied] = self._loop.create_future()
        self.submit(command, functools.partial(_settle, waiter), timeout_s=timeout_s)
        return waiter

    def submit(self, command: bytes, done: Done, *, timeout_s: float) -> None:
        """Have ``command`` ordered and executed; ``done`` is called with its outcome.

        On any node: a follower forwards. The command may stand in the log more than once when
        leadership moves, so what executes it must deduplicate, or it must be idempotent.

        Raises, or gives as the outcome: :class:`Busy`, :class:`EntryTooLarge`,
        :class:`DiskFull` and :class:`NotLeader` mean that nothing was written;
        :class:`OutcomeUnknown` that it may have been.
        """
        if self._failure is not None:
            raise self._failure
        if self._stopped:
            raise NotLeader(None)
        if self.disk_full:
            raise DiskFull("this node's disk is full: it acknowledges nothing until there is room")
        self._check_log_bound()
        self._proposals.add(command, self._loop.time() + timeout_s, done)
        self._wake()

    def applied(self, index: int, results: Sequence[tuple[bytes, Any]]) -> None:
        """The sink has executed all commands of the entry at ``index``."""
        while self._applying and self._applying[0][0] <= index:
            self._applied = self._applying.popleft()
        for request_id, result in results:
            proposal = self._proposals.resolve(request_id)
            if proposal is not None:
                self._tell_proposer(proposal, Applied(index, result))
        if self._to_apply:
            self._wake()

    def status(self) -> EngineStatus:
        """The engine's view."""
        return self._engine.status()

    @property
    def applied_index(self) -> int:
        """The last entry whose commands have all been executed here."""
        return self._applied[0]

    @property
    def failure(self) -> ConsensusError | None:
        """Why the node cannot go on, if it cannot."""
        return self._failure

    # -- the pump -----------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._scheduled and not self._resting and not self._stopped:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        if self._resting or self._stopped:
            return
        try:
            now = self._loop.time()
            self._take_inbox(now)
            self._expire(now)
            self._hand_over(now)
            if now >= self._engine.next_deadline():
                self._engine.tick(now)
            self._perform(self._engine.take_output())
        except ConsensusError as error:
            self.fail(error)

    def _perform(self, output: Output) -> None:
        if not output.persist:
            self._performed(output)
            return
        # On their way before the disk is asked: peers write at the same time as this node.
        self._send_all(output.send_early)
        output.send_early = []
        self._flush()
        try:
            self._journal.append(output.persist)
        except DiskFull:
            self._stall(output)
            return
        self.disk_full = False
        self._written_at = self._loop.time()
        self._sync(output)

    def _sync(self, output: Output) -> None:
        if self._sync_s > self.limits.sync_inline_s_max:
            self._resting = True
            begun = self._loop.time()
            done = self._offload(self._journal.sync)
            done.add_done_callback(functools.partial(self._synced, output, begun))
            return
        begun = self._loop.time()
        self._journal.sync()
        self._note_sync(begun)
        self._performed(output)

    def _synced(self, output: Output, begun: float, done: asyncio.Future[Any]) -> None:
        self._resting = False
        self._note_sync(begun)
        try:
            if done.cancelled():
                raise StorageFailed("a sync was abandoned; restart this node")
            if (error := done.exception()) is not None:
                raise error
            if not self._stopped:
                self._performed(output)
        except ConsensusError as error:
            self.fail(error)

    def _note_sync(self, begun: float) -> None:
        self._sync_s += 0.2 * (self._loop.time() - begun - self._sync_s)

    def _stall(self, output: Output) -> None:
        self.disk_full = True
        self._resting = True
        self._inbox.clear()
        for proposal in self._proposals.drain():
            self._reject(proposal, self._unresolved(proposal, "this node's disk is full", DiskFull))
        self._loop.call_later(self.limits.disk_full_retry_s, self._unstall, output)

    def _unstall(self, output: Output) -> None:
        if self._stopped:
            return
        self._resting = False
        try:
            self._perform(output)
        except ConsensusError as error:
            self.fail(error)

    def _performed(self, output: Output) -> None:
        if output.send or self._after_sync:
            self._send_all(output.send)
            for peer, message in self._after_sync:
                self._network.send(peer, message)
            self._after_sync.clear()
            # Somebody waits for these: they leave before anything is executed.
            self._flush()
        for peer in output.snapshot_needed:
            self._begin_transfer(peer)
        if output.restore is not None:
            self._restore(output.restore)
        for entry in output.committed:
            batch = decode_batch(entry.data) if entry.kind is EntryKind.COMMAND else EMPTY
            self._stamp = max(self._stamp, batch.time_s)
            self._to_apply.append((entry, batch))
            self._log_bytes += len(entry.data)
        self._feed_sink()
        self._send_all(output.send_early)
        if self._unflushed:
            # After the answers to clients, which the sink has queued and which leave on the next turn.
            self._loop.call_soon(self._flush)
        self._watch()
        self._maybe_compact()
        if self._inbox or self._batch:
            self._wake()
        self._arm()

    def _send_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        for peer, message in messages:
            self._network.send(peer, channel.engine_message(message))
            self._unflushed = True

    def _flush(self) -> None:
        self._unflushed = False
        self._network.flush()

    def _feed_sink(self) -> None:
        while self._to_apply and len(self._to_apply[0][1].commands) <= self._sink.free():
            entry, batch = self._to_apply.popleft()
            previous = self._applying[-1] if self._applying else self._applied
            self._applying.append((entry.index, entry.term, previous[1]))
            self._sink.push(entry, batch)

    def _watch(self) -> None:
        status = self._engine.status()
        seen = (status.role, status.term, status.leader)
        if seen == self._seen:
            return
        self._seen = seen
        if status.role is not Role.LEADER:
            self._senders.clear()
        self._proposals.wait_again()
        self._wake()
        self._on_change(status)

    def _arm(self) -> None:
        """Wake up at the next deadline. Most move away before they come: an early timer looks again."""
        self._deadline = min(self._engine.next_deadline(), self._proposals.next_deadline())
        if self._timer is not None and self._timer_at <= self._deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._deadline < float("inf"):
            self._timer_at = self._deadline
            self._timer = self._loop.call_at(self._timer_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._seal_when_idle()
        if self._timer_at < self._deadline and not self._stopped:
            self._arm()
        else:
            self._wake()

    def _seal_when_idle(self) -> None:
        """Leave evidence that the last batch was synced, so that damage to it is told from a torn write."""
        if self._written_at is None or self._resting or self._loop.time() - self._written_at < SEAL_AFTER_S:
            return
        self._written_at = None
        try:
            self._journal.seal()
        except ConsensusError as error:
            self.fail(error)

    # -- proposals ----------------------------------------------------------------------------------

    def _hand_over(self, now: float) -> None:
        status = self._engine.status()
        if status.role is Role.LEADER:
            if self._proposals.waiting:
                attempt, taken = self._proposals.take_waiting(now)
                self._append_own(attempt, taken, now)
            if self._batch:
                pairs, self._batch = self._batch, []
                self._append(pairs, now)
            return
        # Whoever forwarded these sends them again once it learns of the next leader.
        self._batch.clear()
        if status.leader is not None:
            self._proposals.wait_again(self._proposals.stale(now - self.limits.forward_retry_s))
            if self._proposals.waiting:
                attempt, taken = self._proposals.take_waiting(now)
                ids, commands = [p.request_id for p in taken], [p.command for p in taken]
                self._tell(status.leader, Forward(attempt, ids, commands))

    def _append_own(self, attempt: int, taken: list[Proposal], now: float) -> None:
        left = self._append([(p.request_id, p.command) for p in taken], now)
        self._proposals.not_appended(attempt, [request_id for request_id, _ in left])

    def _append(self, pairs: list[tuple[bytes, bytes]], now: float) -> list[tuple[bytes, bytes]]:
        """Append in as few entries as the limits allow; gives back what was not appended."""
        at = 0
        while at < len(pairs):
            end = self._entry_end(pairs, at)
            self._stamp = max(self._stamp, self._wall())
            ids, commands = zip(*pairs[at:end], strict=True)
            try:
                self._engine.propose(
                    encode_batch(Batch(self._stamp, self._random.getrandbits(64), ids, commands)), now
                )
            except NotLeader:
                return pairs[at:]
            at = end
        return []

    def _entry_end(self, pairs: list[tuple[bytes, bytes]], at: int) -> int:
        size, end = 0, at
        while end < len(pairs) and end - at < self.limits.commands_per_entry_max:
            size += len(pairs[end][1]) + 32
            if end > at and size > self.limits.batch_bytes_max:
                break
            end += 1
        return end

    def _expire(self, now: float) -> None:
        for proposal in self._proposals.expired(now):
            self._reject(proposal, self._unresolved(proposal, "its deadline passed"))

    @staticmethod
    def _unresolved(
        proposal: Proposal, why: str, refusal: type[ConsensusError] | None = None
    ) -> ConsensusError:
        if proposal.maybe_logged:
            return OutcomeUnknown(f"{why} after the command was sent; retry with the same request id")
        return refusal(why) if refusal is not None else NotLeader(None)

    def _reject(self, proposal: Proposal, error: ConsensusError) -> None:
        self._tell_proposer(proposal, error)

    def _tell_proposer(self, proposal: Proposal, outcome: Applied | ConsensusError) -> None:
        try:
            cast(Done, proposal.waiter)(outcome)
        except Exception as error:  # a proposer's mistake must not stop the order
            context = {"message": "a proposer failed to take its outcome", "exception": error}
            self._loop.call_exception_handler(context)

    def _check_log_bound(self) -> None:
        status = self._engine.status()
        entries = status.last_index - status.first_index
        if entries > 2 * self.limits.log_entries_max or len(self._to_apply) > self.limits.apply_entries_max:
            raise Busy(
                f"the log holds {entries} entries that no snapshot covers and {len(self._to_apply)} "
                f"entries wait to be executed (log_entries_max={self.limits.log_entries_max}, "
                f"apply_entries_max={self.limits.apply_entries_max}); retry when it has drained"
            )

    # -- peers --------------------------------------------------------------------------------------

    def _take_inbox(self, now: float) -> None:
        for _ in range(len(self._inbox)):
            peer, data = self._inbox.popleft()
            try:
                message = channel.decode(data)
            except Malformed:
                self._drop("malformed")
                continue
            match message:
                case bytes():
                    self._engine.receive(peer, message, now)
                case Forward():
                    self._on_forward(peer, message)
                case Refused():
                    self._on_refused(message)
                case Chunk():
                    self._on_chunk(peer, message, now)
                case ChunkAck():
                    self._on_chunk_ack(peer, message, now)

    def _on_forward(self, peer: str, forward: Forward) -> None:
        if self._engine.status().role is not Role.LEADER:
            self._tell(peer, Refused("NOT_LEADER", forward.attempt, forward.request_ids))
            return
        room = len(self._batch) + len(forward.commands) <= self.limits.proposals_pending_max
        fits = all(len(c) <= self.limits.command_bytes_max for c in forward.commands)
        try:
            self._check_log_bound()
        except Busy:
            room = False
        if not room or not fits:
            self._tell(peer, Refused("BUSY", forward.attempt, forward.request_ids))
            return
        self._batch.extend(zip(forward.request_ids, forward.commands, strict=True))

    def _on_refused(self, refused: Refused) -> None:
        again = self._proposals.not_appended(refused.attempt, refused.request_ids)
        if refused.code != "BUSY":
            return
        for proposal in again:
            self._proposals.resolve(proposal.request_id)
            self._reject(proposal, self._unresolved(proposal, "the leader is at its limit", Busy))

    def _on_chunk(self, peer: str, chunk: Chunk, now: float) -> None:
        status = self._engine.status()
        if chunk.term < status.term or not self._intake.acceptable(chunk):
            self._drop("snapshot_refused")
            return
        if chunk.meta.index <= status.commit_index:
            done = ChunkAck(chunk.term, chunk.meta.index, chunk.meta.size, True)
            self._tell(peer, done)
            return
        try:
            answer, meta = self._intake.take(peer, chunk)
        except DiskFull:
            self._intake.abort()
            self._drop("snapshot_disk_full")
            return
        if meta is None:
            self._tell(peer, answer)
        elif self._engine.install_snapshot(peer, chunk.term, meta, now):
            self._after_sync.append((peer, channel.encode(answer)))

    def _on_chunk_ack(self, peer: str, ack: ChunkAck, now: float) -> None:
        sender = self._senders.get(peer)
        if sender is None:
            return
        if sender.acknowledge(ack, now):
            del self._senders[peer]
            self._engine.snapshot_delivered(peer, sender.term, sender.meta.index, now)
            return
        self._send_chunks(peer, sender)

    def _begin_transfer(self, peer: str) -> None:
        status, meta = self._engine.status(), self._snapshots.latest()
        if meta is None or status.role is not Role.LEADER:
            return
        sender = self._senders.get(peer)
        if sender is None or sender.term != status.term:
            sender = SnapshotSender(status.term, meta, self.limits.transfer, self._loop.time())
            self._senders[peer] = sender
        self._send_chunks(peer, sender)

    def _send_chunks(self, peer: str, sender: SnapshotSender) -> None:
        try:
            for chunk in sender.due(self._snapshots.read_chunk, self._loop.time()):
                self._tell(peer, chunk)
        except SnapshotGone:
            # A newer snapshot has replaced this one: begin again with it when the engine asks next.
            self._senders.pop(peer, None)

    def _tell(self, peer: str, message: channel.Message) -> None:
        self._network.send(peer, channel.encode(message))
        self._unflushed = True

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    # -- snapshots ----------------------------------------------------------------------------------

    def _restore(self, meta: SnapshotMeta) -> None:
        if meta.index == self._applied[0] and not self._applying:
            return
        self._to_apply.clear()
        self._applying.clear()
        self._sink.restore(meta, self._snapshots.read(meta))
        self._applied = (meta.index, meta.term, meta.previous_term)
        self._log_bytes = 0
        # Commands of ours below the snapshot may have been executed without our seeing it.
        self._proposals.wait_again()

    def _maybe_compact(self) -> None:
        if self._compact_to is not None:
            self._journal.compact(self._engine.compact(self._compact_to, self.limits.log_entries_retained))
            self._compact_to = None
        status, (index, term, previous_term) = self._engine.status(), self._applied
        latest = self._snapshots.latest()
        grown = index - (latest.index if latest else 0)
        if self._compacting or status.role is Role.CANDIDATE or grown < 2:
            return
        if grown <= self.limits.log_entries_max and self._log_bytes <= self.limits.log_bytes_max:
            return
        self._compacting = True
        self._log_bytes = 0
        content = self._sink.snapshot()
        written = self._offload(functools.partial(self._snapshots.write, index, term, previous_term, content))
        written.add_done_callback(self._snapshot_written)

    def _snapshot_written(self, done: asyncio.Future[Any]) -> None:
        self._compacting = False
        if self._stopped or done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._compact_to = done.result()
            self._wake()
        elif isinstance(error, DiskFull):
            self._drop("snapshot_disk_full")
        elif isinstance(error, ConsensusError):
            self.fail(error)

    def _in_thread(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(None, work)

    # -- the end ------------------------------------------------------------------------------------

    def fail(self, error: ConsensusError) -> None:
        """Go on no more: what this node would do next could do harm."""
        if self._failure is None:
            self._failure = error
            self.stop()
            self._on_failure(error)


def _settle(waiter: asyncio.Future[Applied], outcome: Applied | ConsensusError) -> None:
    if waiter.done():
        return
    if isinstance(outcome, Applied):
        waiter.set_result(outcome)
    else:
        waiter.set_exception(outcome)
