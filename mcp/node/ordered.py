"""The command queue and the replicated state behind it: what the driver feeds.

One entry is executed as a whole, then its results go back to whoever proposed and its events to the
node. A long backlog is executed in slices, so that the loop stays responsive; the queue in front is
bounded, and the driver stops feeding it, and accepting proposals, when it is full.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgpack

from consensus.batch import Batch
from consensus.driver import Driver
from consensus.errors import ConsensusError, InvariantViolated
from consensus.interface import Entry, SnapshotMeta
from executor.interface import Command, Result
from executor.queue import CommandQueue
from mcp.errors import VersionMismatch
from mcp.state.applied import Applied, Incapable
from mcp.state.events import Event
from mcp.state.state import ReplicatedState

_log = logging.getLogger("mcp.node")


class StateExecutor:
    """The replicated state as an executor: a deterministic one."""

    def __init__(self, state: ReplicatedState) -> None:
        self._state = state

    def execute(self, command: Command) -> Result:
        """Apply one command; the result's value is the state's :class:`~mcp.state.state.Applied`."""
        index, position, term, time_s, seed, data = command
        apply = self._state.apply
        return Result(apply(data, index=index, position=position, term=term, time_s=time_s, seed=seed))

    def snapshot(self) -> bytes:
        """The whole state."""
        return self._state.snapshot()

    def frozen(self) -> Callable[[], bytes]:
        """The whole state as it is now, to be written down later."""
        return self._state.frozen()

    def restore(self, snapshot: bytes) -> None:
        """Replace the whole state."""
        self._state.restore(snapshot)


class OrderedState:
    """Executes committed entries in order, on the loop."""

    def __init__(
        self,
        state: ReplicatedState,
        *,
        queue_commands_max: int,
        commands_per_slice: int,
        on_applied: Callable[[int, Sequence[Event]], None],
        on_restored: Callable[[int], None],
    ) -> None:
        self.state = state
        self._executor = StateExecutor(state)
        self._queue = CommandQueue(queue_commands_max)
        self._slice = commands_per_slice
        self._entries: deque[tuple[int, Sequence[bytes]]] = deque()
        self._on_applied = on_applied
        self._on_restored = on_restored
        self._driver: Driver | None = None
        self._later: asyncio.Handle | None = None
        self._closed = False

    def bind(self, driver: Driver) -> None:
        """Results go to this driver."""
        self._driver = driver

    def close(self) -> None:
        """Execute nothing more, also of what the driver still pushes on its way out."""
        self._closed = True
        self._entries.clear()
        if self._later is not None:
            self._later.cancel()

    # -- what the driver calls (consensus.driver.Sink) ----------------------------------------------

    def free(self) -> int:
        """How many more commands the queue takes."""
        return self._queue.free

    def push(self, entry: Entry, batch: Batch) -> None:
        """Queue an entry's commands, and execute what the slice allows."""
        if self._closed:
            return
        self._queue.push_entry(entry.index, entry.term, batch.time_s, batch.seed, batch.commands)
        self._entries.append((entry.index, batch.request_ids))
        if self._later is None:
            self._run()

    def snapshot(self) -> Callable[[], bytes]:
        """The state and the clock of the order, as they are now."""
        last_time_s, state = self._queue.last_time_s, self._executor.frozen()

        def written() -> bytes:
            packed: bytes = msgpack.packb([last_time_s, state()])
            return packed

        return written

    def restore(self, meta: SnapshotMeta, content: bytes) -> None:
        """Go to a snapshot's position; what was queued before it is void."""
        try:
            last_time_s, state = msgpack.unpackb(content)
            self._executor.restore(state)
        except Incapable as error:
            raise InvariantViolated(f"the snapshot of index {meta.index}: {error}") from None
        except Exception as error:
            raise InvariantViolated(
                f"the verified snapshot of index {meta.index} cannot be restored ({error}): it was written "
                "by an incompatible version; run the version that wrote it, or upgrade all nodes in order"
            ) from error
        self._entries.clear()
        self._queue.reset(meta.index, last_time_s)
        self._on_restored(meta.index)

    # -- executing ----------------------------------------------------------------------------------

    def _run(self) -> None:
        self._later = None
        try:
            self._run_slice()
        except ConsensusError as error:
            self._fail(error)
        except MemoryError:
            # The state may be half changed. What is on the disk is whole: a restart finds it.
            self._fail(InvariantViolated("out of memory while executing a command; start this node again"))

    def _fail(self, error: ConsensusError) -> None:
        self.close()
        if self._driver is not None:
            self._driver.fail(error)

    def _run_slice(self) -> None:
        budget = self._slice
        while self._entries and budget > 0:
            index, request_ids = self._entries.popleft()
            budget -= max(1, len(request_ids))
            self._execute(index, request_ids)
        if self._entries:
            self._later = asyncio.get_running_loop().call_soon(self._run)

    def _checked(self, index: int, result: Result) -> Applied:
        applied = result.value
        if not isinstance(applied, Applied):
            code, message = result.error or ("INTERNAL", "no result")
            _log.critical("entry %d: %s: %s\n%s", index, code, message, self._queue.last_defect)
            return Applied(None, (code, message, {}), (), executed=False)
        # What is recorded is the same on every node: a user's executor may give that code too.
        if applied.error is not None and applied.error[0] == VersionMismatch.code and not applied.recorded:
            raise InvariantViolated(f"entry {index}: {applied.error[1]}")
        return applied

    def _execute(self, index: int, request_ids: Sequence[bytes]) -> None:
        results: list[tuple[bytes, Applied]] = []
        events: list[Event] = []
        drained = self._queue.drain(self._executor, len(request_ids))
        for request_id, (_, result) in zip(request_ids, drained, strict=True):
            applied = result.value
            if type(applied) is not Applied or applied.error is not None:
                applied = self._checked(index, result)
            results.append((request_id, applied))
            if applied.events:
                events.extend(applied.events)
        if self._driver is not None:
            self._driver.applied(index, results)
        self._on_applied(index, events)
