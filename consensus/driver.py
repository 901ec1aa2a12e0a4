"""The thin asyncio shell around a node's consensus: it gives the pump the time and performs its wishes.

What happens, and in which order, is decided in `consensus.pump`. Here is when: on which turn of the loop,
on which thread, at which time.

The sync is made on the loop while the disk is quick (a hop to a thread costs more than a sync of a good
disk) and there is little to write, and else in a thread. Snapshots are always written in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from consensus.configuration import Change, Configuration
from consensus.errors import ConsensusError, StorageFailed
from consensus.interface import Engine, EngineStatus
from consensus.ports import (
    Applied,
    Done,
    DriverLimits,
    Log,
    Network,
    Sink,
    Snapshots,
    StoreSnapshot,
)
from consensus.pump import Pump

__all__ = ["Applied", "Done", "Driver", "DriverLimits", "Log", "Network", "Offload", "Sink", "Snapshots"]

_T = TypeVar("_T")

TIMER_EARLY_S_MAX = 0.001
"""uvloop counts whole milliseconds, so its timers come up to one too early; each would only be set again."""

Offload = Callable[[Callable[[], Any]], "asyncio.Future[Any]"]
"""Runs blocking work away from the loop."""


class Driver:
    """Drives one engine on the running event loop.

    ``wall`` gives seconds since the epoch for stamps; the loop's clock is the engine's ``now``. ``stopwatch``
    measures syncs, in seconds: the loop's clock may stand still during a turn, as uvloop's does.
    ``on_change(status)`` is called after a change of role, term or leader, ``on_members(status)`` when
    another configuration is in force, ``on_failure(error)`` once when the node cannot go on. Not thread-safe:
    every call on the loop's thread.
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
        stopwatch: Callable[[], float] | None = None,
        offload: Offload | None = None,
        on_change: Callable[[EngineStatus], None] = lambda status: None,
        on_members: Callable[[EngineStatus], None] = lambda status: None,
        on_failure: Callable[[ConsensusError], None] = lambda error: None,
    ) -> None:
        self.limits = limits or DriverLimits()
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._shell = shell = _LoopShell(
            self._loop,
            journal,
            offload,
            stopwatch or self._loop.time,
            self.limits,
            on_change,
            on_members,
            on_failure,
        )
        self._pump = shell.pump = Pump(
            engine,
            journal,
            snapshots,
            sink,
            network,
            shell,
            wall=wall,
            generator=generator,
            limits=self.limits,
        )

    # -- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: restore the snapshot that is on the disk, if there is one, and drive the engine."""
        self._pump.start()

    def stop(self) -> None:
        """Stop driving. What is pending becomes unknown. Nothing more is written or sent."""
        self._pump.stop()

    def fail(self, error: ConsensusError) -> None:
        """Go on no more: what this node would do next could do harm."""
        self._pump.fail(error)

    # -- events -------------------------------------------------------------------------------------

    def on_message(self, peer: str, message: bytes) -> None:
        """A peer's message. Over ``inbox_messages_max``, or while the disk is full, it is dropped."""
        self._pump.message(peer, message)

    def on_connected(self, peer: str) -> None:
        """Messages to ``peer`` can arrive from now on."""
        self._pump.connected(peer)

    def on_disconnected(self, peer: str) -> None:
        """The link to ``peer`` is gone, and with it what was forwarded there, perhaps."""
        self._pump.disconnected(peer)

    def propose(self, command: bytes, *, timeout_s: float) -> asyncio.Future[Applied]:
        """As :meth:`submit`, with a future of the outcome."""
        waiter: asyncio.Future[Applied] = self._loop.create_future()
        self.submit(command, functools.partial(_settle, waiter), timeout_s=timeout_s)
        return waiter

    def submit(self, command: bytes, done: Done, *, timeout_s: float) -> None:
        """Have ``command`` ordered and executed; ``done`` is called with its outcome.

        On any node: a follower forwards. The command may stand in the log more than once when
        leadership moves, so what executes it must deduplicate, or it must be idempotent.

        Raises, or gives as the outcome: :class:`~consensus.errors.Busy`,
        :class:`~consensus.errors.EntryTooLarge`, :class:`~consensus.errors.DiskFull` and
        :class:`~consensus.errors.NotLeader` mean that nothing was written;
        :class:`~consensus.errors.OutcomeUnknown` that it may have been.
        """
        self._pump.submit(command, done, self._loop.time() + timeout_s)

    def read_index(self, *, timeout_s: float) -> asyncio.Future[int]:
        """A future of the log index behind everything that was acknowledged to anybody before this call.

        A read of what is here is linearizable once :attr:`applied_index` has come that far. On any node, and
        without a log write: the leader proves to itself that it still leads.

        Raises, or gives as the outcome: :class:`~consensus.errors.Busy`,
        :class:`~consensus.errors.DiskFull`, :class:`~consensus.errors.NotLeader` when the node stops, and
        :class:`~consensus.errors.ReadUnconfirmed` when no leader confirmed it in time.
        """
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._pump.read_index(functools.partial(_settle, waiter), self._loop.time() + timeout_s)
        return waiter

    def transfer_leadership(
        self, target: str | None = None, *, timeout_s: float = 2.0
    ) -> asyncio.Future[str]:
        """Hand leadership over to ``target``, or to whoever has most of the log; a future of who leads then.

        Commands wait meanwhile, and go to whoever leads afterwards. Raises, or gives as the outcome:
        :class:`~consensus.errors.NotLeader` when this node does not lead or the outcome is not known in
        time, :class:`~consensus.errors.Busy` when nobody can take over, or nobody did and this node leads on,
        and :class:`ValueError` when ``target`` is no voter.
        """
        waiter: asyncio.Future[str] = self._loop.create_future()
        done = functools.partial(_settle, waiter)
        self._pump.transfer_leadership(target, done, self._loop.time() + timeout_s)
        return waiter

    def change_membership(
        self, change: Change, *, timeout_s: float, bound: int | None = None
    ) -> asyncio.Future[int]:
        """Have the leader make ``change``, on any node; a future of the index at which it is committed.

        What is so already is done at once, so it may be asked for again. With ``bound`` nobody but this node
        makes it, at once, and only while it leads that term. Raises, or gives as the outcome:
        :class:`~consensus.errors.MembershipRefused`, :class:`~consensus.errors.NotCaughtUp`,
        :class:`~consensus.errors.Busy`, :class:`~consensus.errors.DiskFull` and
        :class:`~consensus.errors.NotLeader` mean that nothing was changed;
        :class:`~consensus.errors.OutcomeUnknown` that it may have been.
        """
        waiter: asyncio.Future[int] = self._loop.create_future()
        done = functools.partial(_settle, waiter)
        self._pump.change_membership(change, done, self._loop.time() + timeout_s, bound)
        return waiter

    def applied(self, index: int, results: Sequence[tuple[bytes, Any]]) -> None:
        """The sink has executed all commands of the entry at ``index``."""
        self._pump.applied(index, results)

    def await_index(self, index: int) -> None:
        """Somebody here waits for the entry at ``index``: make haste to learn of its commit."""
        self._pump.await_index(index)

    # -- views --------------------------------------------------------------------------------------

    def status(self) -> EngineStatus:
        """The engine's view."""
        return self._engine.status()

    @property
    def configuration(self) -> Configuration:
        """The members, by the configuration in force here."""
        return self._engine.configuration()

    @property
    def leader(self) -> str | None:
        """Who leads, as far as this node knows."""
        return self._engine.leadership().leader

    @property
    def term(self) -> int:
        """The term in which this node is."""
        return self._engine.leadership().term

    @property
    def applied_index(self) -> int:
        """The last entry whose commands have all been executed here."""
        return self._pump.applied_index

    @property
    def disk_full(self) -> bool:
        """Whether the node waits for room on its disk."""
        return self._pump.disk_full

    @property
    def dropped(self) -> dict[str, int]:
        """How many messages were dropped, by reason."""
        return self._pump.dropped

    @property
    def syncs(self) -> tuple[int, float]:
        """How many syncs of the journal there were, and how many seconds they took together."""
        return self._shell.syncs, self._shell.syncs_s

    @property
    def failure(self) -> ConsensusError | None:
        """Why the node cannot go on, if it cannot."""
        return self._pump.failure


class _LoopShell:
    """A :class:`consensus.ports.Shell` on an event loop."""

    pump: Pump

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        journal: Log,
        offload: Offload | None,
        stopwatch: Callable[[], float],
        limits: DriverLimits,
        on_change: Callable[[EngineStatus], None],
        on_members: Callable[[EngineStatus], None],
        on_failure: Callable[[ConsensusError], None],
    ) -> None:
        self._loop = loop
        self._journal = journal
        self._offload = offload or functools.partial(loop.run_in_executor, None)
        self._stopwatch = stopwatch
        self._sync_inline_s_max = limits.sync_inline_s_max
        self._sync_inline_bytes_max = limits.sync_inline_bytes_max
        self.changed = on_change
        self.reconfigured = on_members
        self.failed = on_failure
        self._scheduled = False
        self._sync_s = 0.0
        self.syncs = 0
        self.syncs_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = math.inf

    def wake(self) -> None:
        """See :class:`consensus.ports.Shell`."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self.pump.turn(self._loop.time())

    def arm(self, at: float) -> None:
        """Wake up at ``at``. Most deadlines move away before they come: a timer that is early looks again."""
        self._deadline = at
        if self._timer is not None and self._timer_at <= at < math.inf:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at < math.inf:
            self._timer_at = at
            self._timer = self._loop.call_at(at + TIMER_EARLY_S_MAX, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            self._timer_at = math.inf
            self.arm(self._deadline)
        else:
            self._turn()

    def sync(self) -> None:
        """See :class:`consensus.ports.Shell`."""
        begun = self._stopwatch()
        slow = self._sync_s > self._sync_inline_s_max
        if slow or self._journal.unsynced_bytes > self._sync_inline_bytes_max:
            done = self._offload(self._journal.sync)
            done.add_done_callback(functools.partial(self._synced, begun))
            return
        try:
            self._journal.sync()
        except ConsensusError as error:
            self.pump.synced(self._loop.time(), error)
        else:
            self.pump.synced(self._note_sync(begun))

    def _synced(self, begun: float, done: asyncio.Future[Any]) -> None:
        self.pump.synced(self._note_sync(begun), _error_of(done, "a sync"))

    def _note_sync(self, begun: float) -> float:
        elapsed_s = self._stopwatch() - begun
        self._sync_s += 0.2 * (elapsed_s - self._sync_s)
        self.syncs += 1
        self.syncs_s += elapsed_s
        return self._loop.time()

    def store(self, write: StoreSnapshot) -> None:
        """See :class:`consensus.ports.Shell`."""
        self._offload(write).add_done_callback(self._stored)

    def _stored(self, done: asyncio.Future[Any]) -> None:
        self.pump.stored(_error_of(done, "writing a snapshot") or done.result())

    def flush_soon(self) -> None:
        """See :class:`consensus.ports.Shell`."""
        self._loop.call_soon(self.pump.flush)

    def mishandled(self, error: Exception) -> None:
        """See :class:`consensus.ports.Shell`."""
        context = {"message": "what was handed to the consensus driver failed", "exception": error}
        self._loop.call_exception_handler(context)


def _error_of(done: asyncio.Future[Any], what: str) -> ConsensusError | None:
    if done.cancelled():
        return StorageFailed(f"{what} was abandoned; restart this node")
    error = done.exception()
    if error is None or isinstance(error, ConsensusError):
        return error
    return StorageFailed(f"{what} failed with {type(error).__name__}: {error}; restart this node")


def _settle(waiter: asyncio.Future[_T], outcome: _T | ConsensusError) -> None:
    if waiter.done():
        return
    if isinstance(outcome, ConsensusError):
        waiter.set_exception(outcome)
    else:
        waiter.set_result(outcome)
