"""The command queue: what was agreed, in the order in which it was agreed, each command once.

It stands between consensus and an :class:`~executor.interface.Executor` and owns neither thread nor
clock. Log entries go in whole; commands come out one at a time, executed. Three rules make it safe:

* **Order.** An entry is taken only if its index follows the last one's. Entries at or below the index
  at which the queue was resumed are re-deliveries of what the restored state already contains: they
  are skipped, and :meth:`CommandQueue.push_entry` says so. Anything else that does not follow is
  :class:`~executor.errors.OutOfOrder`: a gap, or an entry that came twice to this very queue.
* **Position.** ``applied_index`` moves only when an entry's last command has been executed. A snapshot
  that claims ``applied_index`` must therefore be taken while ``mid_entry`` is false; otherwise the
  first commands of an entry would be executed again after a restore.
* **Time.** Stamps never go back: an entry stamped earlier than one before it gets that one's stamp.
  The largest stamp is part of the replicated state, so ``last_time_s`` belongs into snapshots beside
  ``applied_index``. It is the stamp as of ``applied_index``, never of what merely waits: two nodes with
  the same ``applied_index`` have the same ``last_time_s``, whatever each of them has queued behind it.

Not safe for concurrent use: one thread, or one event loop, owns a queue.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Sequence

from executor.errors import OutOfOrder, QueueFull
from executor.interface import Command, Executor, Result

EXECUTOR_DEFECT = "EXECUTOR_DEFECT"
"""The error code of a result whose executor raised although it must not."""


class _Entry:
    """A log entry that waits. ``through_*`` also cover the empty entries right behind it."""

    __slots__ = ("commands", "index", "seed", "term", "through_index", "through_time_s", "time_s")

    def __init__(self, index: int, term: int, time_s: float, seed: int, commands: Sequence[bytes]) -> None:
        self.index = index
        self.term = term
        self.time_s = time_s
        self.seed = seed
        self.commands = commands
        self.through_index = index
        self.through_time_s = time_s


class CommandQueue:
    """A bounded queue of agreed commands; the head of this module has the rules.

    ``queue_commands_max`` bounds how many commands wait. ``applied_index`` and ``last_time_s`` are what
    the state that the executor starts from was saved with (0 and 0.0 for an empty one); the next entry
    to queue is ``applied_index + 1``.
    """

    def __init__(
        self, queue_commands_max: int = 4096, applied_index: int = 0, last_time_s: float = 0.0
    ) -> None:
        if queue_commands_max < 1:
            raise ValueError(f"queue_commands_max must be at least 1, got {queue_commands_max}")
        self.queue_commands_max = queue_commands_max
        self.executed_total = 0
        """Commands executed by this object."""
        self.skipped_total = 0
        """Entries skipped because the state that the queue was resumed from contains them."""
        self.defects_total = 0
        """Commands whose executor raised, or returned something that is no :class:`Result`."""
        self.last_defect = ""
        """The traceback of the last defect, for this node's log. It may differ between nodes."""
        self.reset(applied_index, last_time_s)

    def reset(self, applied_index: int, last_time_s: float) -> None:
        """Start again from a restored state: what waits is dropped, ``applied_index + 1`` comes next."""
        if applied_index < 0:
            raise ValueError(f"applied_index must not be negative, got {applied_index}")
        if not math.isfinite(last_time_s):
            raise ValueError(f"last_time_s must be finite, got {last_time_s}")
        self._entries: deque[_Entry] = deque()
        self._position = 0
        self._waiting = 0
        self._resumed_index = applied_index
        self._last_index = applied_index
        self._applied_index = applied_index
        self._queued_time_s = last_time_s
        self._applied_time_s = last_time_s

    def __len__(self) -> int:
        """How many commands wait."""
        return self._waiting

    @property
    def free(self) -> int:
        """How many commands may still be queued. At 0 the proposer is to be held back."""
        return max(0, self.queue_commands_max - self._waiting)

    @property
    def applied_index(self) -> int:
        """The last index of which, as of all before it, every command has been executed."""
        return self._applied_index

    @property
    def last_index(self) -> int:
        """The last index that was queued; the next entry has to have the one after it."""
        return self._last_index

    @property
    def last_time_s(self) -> float:
        """The largest stamp up to ``applied_index``, in seconds since the epoch. Save both together."""
        return self._applied_time_s

    @property
    def mid_entry(self) -> bool:
        """Whether an entry is executed in part. Take no snapshot now."""
        return self._position > 0

    def push_entry(self, index: int, term: int, time_s: float, seed: int, commands: Sequence[bytes]) -> bool:
        """Queue a whole log entry; all of its commands or, on an error, none.

        Returns ``False`` if the entry was skipped because the queue was resumed at or after ``index``.
        An entry without commands only moves the index (and the stamp). ``time_s`` is the leader's stamp;
        one that goes back, or is not finite, is replaced by the last one, equally on every node.

        Raises :class:`OutOfOrder` for a gap or a repeat, and :class:`QueueFull` when fewer than
        ``len(commands)`` places are free. An agreed entry cannot be split nor refused for ever, so one
        that is larger than ``queue_commands_max`` is taken when nothing else waits.
        """
        if index <= self._resumed_index:
            self.skipped_total += 1
            return False
        if index != self._last_index + 1:
            kind = "a repeat" if index <= self._last_index else "a gap"
            raise OutOfOrder(
                f"entry {index} is {kind}: the last one was {self._last_index}, so {self._last_index + 1} "
                "is next. After a restart or a snapshot call reset() with its index first."
            )
        if self._waiting and len(commands) > self.free:
            raise QueueFull(
                f"entry {index} has {len(commands)} commands and {self.free} of {self.queue_commands_max} "
                "places are free. Drain the queue, then push the same entry again."
            )
        if math.isfinite(time_s) and time_s > self._queued_time_s:
            self._queued_time_s = time_s
        self._last_index = index
        self._append(_Entry(index, term, self._queued_time_s, seed, commands))
        return True

    def _append(self, entry: _Entry) -> None:
        if entry.commands:
            self._entries.append(entry)
            self._waiting += len(entry.commands)
        elif self._entries:
            self._entries[-1].through_index = entry.index
            self._entries[-1].through_time_s = entry.time_s
        else:
            self._applied_index = entry.index
            self._applied_time_s = entry.time_s

    def pop(self, executor: Executor) -> tuple[Command, Result] | None:
        """Execute the next command; ``None`` when nothing waits.

        Taking and executing are one step, so a command can neither get lost between them nor be seen
        twice. If the executor raises, the result is an error with the code :data:`EXECUTOR_DEFECT` and
        the order goes on; its message names only the exception's type, so that it is equal on every
        node. ``MemoryError`` and what is no ``Exception`` (``KeyboardInterrupt``) pass through: they say
        something about this machine, not about the command. The command then still waits, and the state
        may be half changed: stop the node and restore.
        """
        done = self.drain(executor, 1)
        return done[0] if done else None

    def drain(self, executor: Executor, max_commands: int | None = None) -> list[tuple[Command, Result]]:
        """Execute what waits, at most ``max_commands`` of it, and return it in order. See :meth:`pop`.

        ``max_commands`` may stop within an entry: look at :attr:`mid_entry` before taking a snapshot.
        """
        left = self._waiting if max_commands is None else min(max_commands, self._waiting)
        done: list[tuple[Command, Result]] = []
        while left > 0:
            entry = self._entries[0]
            before = len(done)
            try:
                self._drain_entry(executor, entry, left, done)
            finally:
                executed = len(done) - before
                self._position += executed
                self._waiting -= executed
                self.executed_total += executed
            left -= executed
            if self._position == len(entry.commands):
                self._entries.popleft()
                self._position = 0
                self._applied_index = entry.through_index
                self._applied_time_s = entry.through_time_s
        return done

    def _drain_entry(
        self, executor: Executor, entry: _Entry, most: int, done: list[tuple[Command, Result]]
    ) -> None:
        """Execute at most so many of an entry's commands; what is in ``done`` afterwards was."""
        index, term, time_s, seed = entry.index, entry.term, entry.time_s, entry.seed
        execute, position = executor.execute, self._position
        for data in entry.commands[position : position + most]:
            command = Command(index, position, term, time_s, seed, data)
            try:
                result = execute(command)
            except MemoryError:
                raise
            except Exception as defect:
                self.last_defect = "".join(traceback.format_exception(defect))
                result = self._defect(f"the executor raised {type(defect).__name__}")
            if type(result) is not Result:
                result = self._checked(command, result)
            done.append((command, result))
            position += 1

    def _checked(self, command: Command, result: object) -> Result:
        if isinstance(result, Result):
            return result
        self.last_defect = f"command {command.index}.{command.position}: returned {type(result).__name__}"
        return self._defect(f"the executor returned {type(result).__name__} instead of a Result")

    def _defect(self, what: str) -> Result:
        self.defects_total += 1
        return Result(error=(EXECUTOR_DEFECT, f"{what}; the node's log has the details"))
