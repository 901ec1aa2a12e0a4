"""The heart of a node's consensus: persist, then send, then apply. Synchronous, and without a clock.

Events gather (messages, links, proposals, time); one :meth:`Pump.turn` hands all of them to the engine,
takes one output and performs it. One sync covers everything that gathered, which is group commit: a lone
command never waits for company, and a flood shares its syncs. Whoever holds the pump (the asyncio shell
of `consensus.driver`, the virtual world of a simulation) gives it the time and performs its wishes.

From the moment a sync is asked for until it has returned the engine rests: it must not see an
acknowledgement before its own write is durable. Events gather meanwhile, and deadlines are kept.

A full disk stalls the node: nothing is sent, nothing acknowledged, peers' messages are dropped (Raft
takes that for loss), proposals are refused, and the same write is tried again until there is room. A
failed write or sync ends it: what is on the disk is unknown then, and only a restart can find out.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from consensus import channel
from consensus.batch import EMPTY, Batch, decode_batch
from consensus.catch_up import CatchUp
from consensus.changes import Changes
from consensus.channel import (
    Awaited,
    ChangeAnswer,
    ChangeAsk,
    Chunk,
    ChunkAck,
    Forward,
    Malformed,
    ReadAnswer,
    ReadAsk,
    Refused,
)
from consensus.compaction import Compaction
from consensus.configuration import Change
from consensus.errors import Busy, ConsensusError, DiskFull, InvariantViolated, NotLeader
from consensus.interface import Engine, Entry, EntryKind, Leadership, Output, Role, SnapshotMeta
from consensus.ports import (
    ChangeDone,
    Done,
    DriverLimits,
    HandoverDone,
    Log,
    Network,
    ReadDone,
    Shell,
    Sink,
    Snapshots,
)
from consensus.reads import Reads
from consensus.submission import Submission
from consensus.succession import Succession

SEAL_AFTER_S = 0.2


class Pump:
    """Drives one engine. Every ``now`` is in seconds on the engine's clock, which does not go back.

    ``wall`` gives seconds since the epoch for stamps. Nothing here is called from within itself, except
    :meth:`applied`, which a sink may call while it is pushed to, and :meth:`synced` from ``shell.sync``.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Log,
        snapshots: Snapshots,
        sink: Sink,
        network: Network,
        shell: Shell,
        *,
        wall: Callable[[], float],
        generator: random.Random,
        limits: DriverLimits,
    ) -> None:
        self.limits = limits
        self.dropped: dict[str, int] = {}
        self.failure: ConsensusError | None = None
        self._engine = engine
        self._journal = journal
        self._snapshots = snapshots
        self._sink = sink
        self._network = network
        self._shell = shell
        self._submission = Submission(
            engine, limits, wall=wall, generator=generator, tell=self._tell, mishandled=shell.mishandled
        )
        self._reads = Reads(engine, limits, generator=generator, tell=self._tell, mishandled=shell.mishandled)
        self._succession = Succession(engine, mishandled=shell.mishandled)
        self._changes = Changes(
            engine, limits, generator=generator, tell=self._tell, mishandled=shell.mishandled
        )
        self._catch_up = CatchUp(
            engine, snapshots, limits, tell=self._tell, promise=self._promise, drop=self._drop
        )
        self._compaction = Compaction(engine, journal, snapshots, sink, shell, limits, drop=self._drop)
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._links: dict[str, tuple[bool, bool]] = {}
        self._under_way: Output | None = None
        self._retry_at = math.inf
        self._after_sync: list[tuple[str, bytes]] = []
        self._to_apply: deque[tuple[Entry, Batch]] = deque()
        self._applying: deque[tuple[int, int, int]] = deque()
        self._applied = (0, 0, 0)
        self._in_turn = False
        self._tick_at = -math.inf
        self._seal_at = math.inf
        self._awaited = 0
        self._unflushed = False
        self._stopped = False
        self._seen: Leadership | None = None
        self._configuration = engine.configuration()

    # -- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: restore the snapshot that is on the disk, if there is one, and drive the engine."""
        latest = self._snapshots.latest()
        if latest is not None:
            self._restore(latest)
            # The journal forgets whole segments only: the engine begins with all that is left in them.
            self._compaction.begin(latest)
        self._seen = self._engine.leadership()
        self._shell.wake()

    def stop(self) -> None:
        """Stop. What is pending becomes unknown. Nothing more is written or sent."""
        if self._stopped:
            return
        self._stopped = True
        self._shell.arm(math.inf)
        self._catch_up.stop()
        self._submission.give_up("this node stopped")
        self._reads.give_up(NotLeader(None))
        self._succession.give_up(NotLeader(None))
        self._changes.give_up("this node stopped")

    def fail(self, error: ConsensusError) -> None:
        """Go on no more: what this node would do next could do harm."""
        if self.failure is None:
            self.failure = error
            self.stop()
            self._shell.failed(error)

    # -- views --------------------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        """The last entry whose commands have all been executed here."""
        return self._applied[0]

    @property
    def disk_full(self) -> bool:
        """Whether a write waits for room."""
        return self._retry_at < math.inf

    @property
    def unresolved(self) -> int:
        """How many commands that were submitted here have no outcome yet."""
        return len(self._submission)

    # -- events -------------------------------------------------------------------------------------

    def message(self, peer: str, message: bytes) -> None:
        """A peer's message. Over ``inbox_messages_max``, or while the disk is full, it is dropped."""
        if self._stopped or self.disk_full or len(self._inbox) >= self.limits.inbox_messages_max:
            self._drop("inbox_full")
            return
        self._inbox.append((peer, message))
        self._shell.wake()

    def connected(self, peer: str) -> None:
        """Messages to ``peer`` can arrive from now on."""
        self._note_link(peer, self._links.get(peer, (False, True))[0], True)

    def disconnected(self, peer: str) -> None:
        """The link to ``peer`` is gone, and with it what was on its way there, perhaps."""
        self._note_link(peer, True, False)

    def submit(self, command: bytes, done: Done, deadline: float) -> None:
        """Have ``command`` ordered and executed; ``done`` is called once with the outcome, by ``deadline``.

        Raises, or gives as the outcome: :class:`Busy`, :class:`EntryTooLarge`, :class:`DiskFull` and
        :class:`NotLeader` mean that nothing was written; :class:`OutcomeUnknown` that it may have been.
        """
        self._must_run()
        self._check_log_bound()
        self._submission.add(command, deadline, done)
        self._shell.wake()

    def read_index(self, done: ReadDone, deadline: float) -> None:
        """Find the log index behind all that was acknowledged before; ``done`` is called by ``deadline``.

        Raises, or gives as the outcome: :class:`Busy`, :class:`DiskFull`, :class:`NotLeader` when the node
        stops, and :class:`~consensus.errors.ReadUnconfirmed` when no leader confirmed it in time.
        """
        self._must_run()
        self._reads.add(deadline, done)
        self._shell.wake()

    def transfer_leadership(self, target: str | None, done: HandoverDone, deadline: float) -> None:
        """Hand leadership over to ``target``, or to whoever has most of the log; ``done`` by ``deadline``.

        Commands wait meanwhile. Raises, or gives as the outcome: :class:`NotLeader` when this node does not
        lead or the outcome is not known in time, :class:`Busy` when nobody can take over or did, and
        :class:`ValueError` when ``target`` is no voter.
        """
        self._must_run()
        self._succession.add(target, deadline, done)
        self._shell.wake()

    def change_membership(
        self, change: Change, done: ChangeDone, deadline: float, bound: int | None = None
    ) -> None:
        """Have the leader make ``change``; ``done`` is called once, by ``deadline``.

        With the index of the configuration when it is committed: at once if it is so already. ``bound``: only
        this node makes it, at once, and only while it leads that term.
        Raises, or gives as the outcome: :class:`~consensus.errors.MembershipRefused`,
        :class:`~consensus.errors.NotCaughtUp`, :class:`Busy`, :class:`DiskFull` and :class:`NotLeader` mean
        that nothing was changed; :class:`~consensus.errors.OutcomeUnknown` that it may have been.
        """
        self._must_run()
        self._changes.add(change, deadline, done, bound)
        self._shell.wake()

    def await_index(self, index: int) -> None:
        """Somebody here waits for the entry at ``index``: have the leader tell of its commit at once."""
        role, _, leader = self._engine.leadership()
        if index <= max(self._applied[0], self._awaited) or leader is None or role is Role.LEADER:
            return
        self._awaited = index
        if not self._stopped:
            self._tell(leader, Awaited(index))
            self._shell.flush_soon()

    def applied(self, index: int, results: Sequence[tuple[bytes, Any]]) -> None:
        """The sink has executed all commands of the entry at ``index``."""
        while self._applying and self._applying[0][0] <= index:
            self._applied = self._applying.popleft()
        if not self._submission.idle:
            self._submission.executed(index, results)
        if self._to_apply:
            self._shell.wake()

    def turn(self, now: float) -> None:
        """Do everything that is due. Called when the pump asked to be woken, or earlier: it does no harm."""
        if self._stopped:
            return
        self._in_turn = True
        try:
            if self._under_way is None:
                self._feed_engine(now)
                self._perform(self._engine.take_output(), now)
            else:
                self._submission.expire(now)
                self._reads.expire(now)
                self._succession.expire(now)
                self._changes.expire(now)
                if now >= self._retry_at:
                    self._perform(self._under_way, now)
            if now >= self._seal_at:
                self._seal(now)
        except ConsensusError as error:
            self.fail(error)
        except Exception as defect:
            self._broken(defect)
        self._in_turn = False
        self._arm()

    def synced(self, now: float, error: ConsensusError | None = None) -> None:
        """The sync that was asked for has ended, and with ``error`` if it failed."""
        output, self._under_way = self._under_way, None
        if self._stopped or output is None:
            return
        if error is not None:
            self.fail(error)
            return
        try:
            self._performed(output, now)
        except ConsensusError as failure:
            self.fail(failure)
        except Exception as defect:
            self._broken(defect)
        if not self._in_turn:
            self._arm()

    def _broken(self, defect: Exception) -> None:
        """A mistake in the program: what was half done is not known, and going on would build upon it."""
        self._shell.mishandled(defect)
        self.fail(
            InvariantViolated(
                f"{type(defect).__name__}: {defect} (a defect of this library or of what was put into it; "
                "the log has its traceback); start this node again"
            )
        )

    def stored(self, outcome: SnapshotMeta | ConsensusError) -> None:
        """The snapshot that was to be stored is durable, or why not."""
        if self._stopped:
            return
        failure = self._compaction.stored(outcome)
        if failure is not None:
            self.fail(failure)

    # -- events in ----------------------------------------------------------------------------------

    def _feed_engine(self, now: float) -> None:
        if self._links:
            self._take_links(now)
        if self._inbox:
            self._take_inbox(now)
        if not self._submission.idle:
            self._submission.expire(now)
            self._submission.hand_over(now)
        if not self._reads.idle:
            self._reads.expire(now)
            self._reads.hand_over(now)
        if self._succession.busy:
            self._succession.expire(now)
            self._succession.begin(now)
        if not self._changes.idle:
            self._changes.expire(now)
            self._changes.hand_over(now)
        # What came in this turn may have put it off, and nothing makes it come before the last arming knew.
        if now >= self._tick_at and now >= self._engine.next_deadline():
            self._engine.tick(now)

    def _note_link(self, peer: str, went_down: bool, is_up: bool) -> None:
        if not self._stopped:
            self._links[peer] = went_down, is_up
            self._shell.wake()

    def _take_links(self, now: float) -> None:
        links, self._links = self._links, {}
        for peer, (went_down, is_up) in links.items():
            if went_down:
                self._engine.peer_disconnected(peer, now)
            if is_up:
                self._engine.peer_connected(peer, now)
            if self._engine.leadership().leader == peer:
                self._submission.wait_again()
                self._reads.ask_again()
                self._changes.ask_again()

    def _take_inbox(self, now: float) -> None:
        for _ in range(len(self._inbox)):
            peer, data = self._inbox.popleft()
            try:
                message = channel.decode(data)
            except Malformed:
                self._drop("malformed")
                continue
            if type(message) is bytes:
                self._engine.receive(peer, message, now)
                continue
            match message:
                case Forward():
                    self._submission.take_forward(peer, message, room=self._log_has_room())
                case Refused():
                    self._submission.take_refusal(message)
                case ReadAsk():
                    self._reads.take_ask(peer, message)
                case ReadAnswer():
                    self._reads.take_answer(message)
                case Chunk():
                    self._catch_up.take_chunk(peer, message, now)
                case ChunkAck():
                    self._catch_up.take_ack(peer, message, now)
                case Awaited():
                    self._engine.hurry(peer, message.index, now)
                case ChangeAsk() | ChangeAnswer():
                    self._take_change(peer, message)

    def _take_change(self, peer: str, message: ChangeAsk | ChangeAnswer) -> None:
        if isinstance(message, ChangeAsk):
            self._changes.take_ask(peer, message)
        else:
            self._changes.take_answer(message)

    def _must_run(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self._stopped:
            raise NotLeader(None)
        if self.disk_full:
            raise DiskFull("this node's disk is full: it acknowledges nothing until there is room")

    def _check_log_bound(self) -> None:
        if not self._log_has_room():
            limits, failure = self.limits, self._compaction.failure
            raise Busy(
                f"the log holds {self._engine.entries_held()} entries and {len(self._to_apply)} wait to be "
                f"executed, more than twice log_entries_max={limits.log_entries_max} beyond "
                f"log_entries_retained={limits.log_entries_retained}, or more than "
                f"apply_entries_max={limits.apply_entries_max}; retry when it has drained"
                + (f" (no snapshot could be taken: {failure})" if failure else "")
            )

    def _log_has_room(self) -> bool:
        return (
            # What is retained behind a snapshot never gets less, so it must not count.
            self._engine.entries_held() <= 2 * self.limits.log_entries_max + self.limits.log_entries_retained
            and len(self._to_apply) <= self.limits.apply_entries_max
        )

    # -- persist, send ------------------------------------------------------------------------------

    def _perform(self, output: Output, now: float) -> None:
        if not output.persist:
            self._performed(output, now)
            return
        # On their way before the disk is asked: peers write at the same time as this node.
        self._send_all(output.send_early)
        output.send_early = []
        self._flush()
        self._under_way = output
        try:
            self._journal.append(output.persist)
        except DiskFull:
            self._stall(now)
            return
        self._retry_at = math.inf
        self._seal_at = now + SEAL_AFTER_S
        self._shell.sync()

    def _stall(self, now: float) -> None:
        self._retry_at = now + self.limits.disk_full_retry_s
        self._inbox.clear()
        self._submission.give_up("this node's disk is full", DiskFull)
        self._reads.give_up(DiskFull("this node's disk is full: it hears nobody until there is room"))

    def _performed(self, output: Output, now: float) -> None:
        if output.send or self._after_sync:
            self._send_all(output.send)
            for peer, message in self._after_sync:
                self._network.send(peer, message)
            self._after_sync.clear()
            # Somebody waits for these: they leave before anything is executed.
            self._flush()
        for peer in output.snapshot_needed:
            self._catch_up.begin(peer, now)
        self._apply(output)
        if output.send_early:
            self._send_all(output.send_early)
        if self._unflushed:
            # After the answers to clients, which the sink has queued and which leave on the next turn.
            self._shell.flush_soon()
        self._watch()
        self._compaction.look(self._applied, now)
        # What came while a sync was under way has had its turn already.
        if self._inbox or self._links or self._submission.due or self._reads.due or self._changes.due:
            self._shell.wake()

    def _apply(self, output: Output) -> None:
        if output.restore is not None:
            self._restore(output.restore)
        if output.committed:
            self._take_committed(output.committed)
        if self._to_apply:
            self._feed_sink()
        if output.reads:
            self._reads.confirmed(output.reads)
        if output.reads_refused:
            self._reads.refused(output.reads_refused)
        if self._succession.busy:
            self._succession.look()
        if not self._changes.idle:
            self._changes.look()

    def _send_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        for peer, message in messages:
            self._network.send(peer, channel.engine_message(message))
            self._unflushed = True

    def _tell(self, peer: str, message: channel.Message) -> None:
        self._network.send(peer, channel.encode(message))
        self._unflushed = True

    def _promise(self, peer: str, message: channel.Message) -> None:
        self._after_sync.append((peer, channel.encode(message)))

    def flush(self) -> None:
        """What was asked for with ``shell.flush_soon``."""
        if self._unflushed and not self._stopped:
            self._flush()

    def _flush(self) -> None:
        self._unflushed = False
        self._network.flush()

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    # -- apply --------------------------------------------------------------------------------------

    def _take_committed(self, committed: Sequence[Entry]) -> None:
        for entry in committed:
            batch = decode_batch(entry.data) if entry.kind is EntryKind.COMMAND else EMPTY
            self._submission.committed(batch)
            self._to_apply.append((entry, batch))
            self._compaction.executed(len(entry.data))

    def _feed_sink(self) -> None:
        while self._to_apply and len(self._to_apply[0][1].commands) <= self._sink.free():
            entry, batch = self._to_apply.popleft()
            previous = self._applying[-1] if self._applying else self._applied
            self._applying.append((entry.index, entry.term, previous[1]))
            self._sink.push(entry, batch)

    def _watch(self) -> None:
        if self._engine.configuration() is not self._configuration:
            self._configuration = self._engine.configuration()
            self._shell.reconfigured(self._engine.status())
        seen = self._engine.leadership()
        if seen == self._seen:
            return
        self._seen = seen
        if seen.role is not Role.LEADER:
            self._catch_up.stop_sending()
        self._submission.wait_again()
        self._reads.ask_again()
        self._changes.ask_again()
        self._shell.wake()
        self._shell.changed(self._engine.status())

    def _arm(self) -> None:
        if self._stopped:
            return
        resting = self._under_way is not None
        at = min(self._seal_at, self._retry_at)
        if not resting:
            self._tick_at = self._engine.next_deadline()
            at = min(at, self._tick_at)
        if not self._submission.idle:
            at = min(at, self._submission.next_deadline())
        if not self._reads.idle:
            at = min(at, self._reads.next_deadline())
            if not resting:
                at = min(at, self._reads.next_asking())
        if self._succession.busy:
            at = min(at, self._succession.next_deadline())
        if not self._changes.idle:
            at = min(at, self._changes.next_deadline())
            if not resting:
                at = min(at, self._changes.next_asking())
        self._shell.arm(at)

    # -- snapshots ----------------------------------------------------------------------------------

    def _restore(self, meta: SnapshotMeta) -> None:
        if meta.index == self._applied[0] and not self._applying:
            return
        self._to_apply.clear()
        self._applying.clear()
        self._sink.restore(meta, self._snapshots.read(meta))
        self._applied = (meta.index, meta.term, meta.previous_term)
        self._compaction.restored()
        # Commands of ours below the snapshot may have been executed without our seeing it.
        self._submission.wait_again()

    def _seal(self, now: float) -> None:
        """Leave evidence that the last batch was synced, so that damage to it is told from a torn write."""
        if self._under_way is None:
            self._seal_at = math.inf
            self._journal.seal()
        else:
            self._seal_at = now + SEAL_AFTER_S
