"""The one interface between the agreed order and the work.

Commands come out of consensus in one order, the same on every node. A :class:`Executor` turns each
into a :class:`Result`. It must be a function of the commands alone: every node that executes the same
commands holds the same state and gives the same results. Time and randomness come from the command.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from executor.batching.options import BatchOptions

Array = np.ndarray[Any, Any]


class Command(NamedTuple):
    """One agreed command.

    ``index`` is the log position of the entry that carried it, ``position`` its place within that
    entry (both count on without gaps: a position starts at 0 in every entry). ``term`` is the entry's.
    ``time_s`` is the leader's stamp in seconds since the epoch; it never goes back from one command
    to the next. ``seed`` is the entry's random seed (64 bits). ``data`` is opaque to this package.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name, which nobody wants here
    position: int
    term: int
    time_s: float
    seed: int
    data: bytes


@dataclass(slots=True)
class Result:
    """What executing one command gave. Exactly one of the two is meaningful: an error is a value.

    ``error`` is ``None`` on success; otherwise ``(code, message)``, equal on every node.
    """

    value: object = None
    error: tuple[str, str] | None = None


class Pool(Protocol):
    """Runs loaded models for coroutines: :class:`executor.pool.InferencePool`, or a simulated one."""

    inline_total: int
    threaded_total: int

    @property
    def queued(self) -> int:
        """How many runs wait."""

    @property
    def running(self) -> int:
        """How many runs are under way."""

    async def run(
        self,
        key: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Run a model and return its outputs by name."""

    def try_inline(
        self, key: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array] | None:
        """Run it here and now if it is known to be short; ``None``: use :meth:`run`."""

    def forget(self, key: str) -> None:
        """The model is unloaded, or replaced under its key."""

    async def aclose(self) -> None:
        """Refuse what waits and stop what runs."""


class Ticket(Protocol):
    """A request that has been taken and not answered yet.

    ``waited_s``, once it is answered: how long it waited before its run, in seconds, beyond what it takes to
    be run together with others.
    """

    rows: int
    waited_s: float


@runtime_checkable
class BatchingPool(Protocol):
    """A pool that also runs several requests as one: :class:`executor.pool.InferencePool`."""

    def submit(
        self,
        key: str,
        inputs: Mapping[str, Array],
        done: Callable[[dict[str, Array] | None, BaseException | None], object],
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        client: Hashable = "",
        options: BatchOptions = BatchOptions(),  # noqa: B008 (immutable)
        calls: int = 1,
    ) -> dict[str, Array] | Ticket:
        """Run a model, maybe together with other requests: the outputs at once, or ``done`` later.

        ``calls``: so many inferences are in this request, for the figures.
        """

    def cancel(self, ticket: Any) -> None:
        """Nobody waits any more: ``done`` is not called."""

    def figures(self, key: str) -> dict[str, Any]:
        """What waits for a model and what became of the requests for it."""

    def rows_cap(self, key: str) -> int:
        """How many rows of several requests a model's runs have at most just now; 0: not known."""

    def run_totals(self) -> dict[str, tuple[int, float]]:
        """By model how many runs there were, and how many seconds they took together."""


class Executor(Protocol):
    """Runs agreed commands, one at a time, in order."""

    def execute(self, command: Command) -> Result:
        """Run one command. Never raises: whatever goes wrong is a :class:`Result` with an error."""

    def snapshot(self) -> bytes:
        """The whole state as bytes, from which :meth:`restore` builds an equal one."""

    def restore(self, snapshot: bytes) -> None:
        """Replace the state. Raises :class:`~executor.errors.SnapshotInvalid`, leaving it as it was."""
