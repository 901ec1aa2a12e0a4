"""The state behind the simulated log: a chain of digests, so that equal states mean equal histories."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Sequence

import msgpack

from consensus.batch import Batch
from consensus.interface import Entry, SnapshotMeta
from simulations.engine.observer import Observer
from simulations.invariants import Violation
from simulations.world import World

Report = Callable[[int, Sequence[tuple[bytes, int]]], None]
"""The index of an entry that was executed, and the result of each of its commands by request id."""


class Register:
    """A :class:`consensus.ports.Sink`. The result of a command is its number in the order.

    ``padding_bytes`` makes snapshots as large. With ``lag_s`` above 0 entries are executed up to as much
    later, and no more than ``queue_commands_max`` commands wait.
    """

    def __init__(
        self,
        world: World,
        node: str,
        observer: Observer,
        report: Report,
        *,
        padding_bytes: int,
        queue_commands_max: int,
        lag_s: float,
        generator: random.Random,
    ) -> None:
        self._world = world
        self._node = node
        self._observer = observer
        self._report = report
        self._padding_bytes = padding_bytes
        self._room = queue_commands_max
        self._lag_s = lag_s
        self._random = generator
        self._waiting: deque[tuple[Entry, Batch]] = deque()
        self._queued = 0
        self._queued_index = 0
        self._scheduled = False
        self.closed = False
        self.index = 0
        self.count = 0
        self.digest = bytes(16)

    def free(self) -> int:
        """See :class:`consensus.ports.Sink`."""
        return self._room - self._queued

    def push(self, entry: Entry, batch: Batch) -> None:
        """See :class:`consensus.ports.Sink`."""
        self._observer.committed(self._node, entry, batch, self._queued_index)
        self._queued_index = entry.index
        self._waiting.append((entry, batch))
        self._queued += len(batch.commands)
        if self._lag_s == 0:
            self._run()
        elif not self._scheduled:
            self._scheduled = True
            self._world.after(self._random.random() * self._lag_s, self._run_later)

    def _run_later(self) -> None:
        self._scheduled = False
        if not self.closed:
            self._run()

    def _run(self) -> None:
        while self._waiting:
            entry, batch = self._waiting.popleft()
            self._queued -= len(batch.commands)
            results = []
            chain = hashlib.blake2b(self.digest, digest_size=16)
            for request_id, command in zip(batch.request_ids, batch.commands, strict=True):
                chain.update(command)
                self.count += 1
                results.append((request_id, self.count))
            chain.update(b"%d %d" % (entry.index, batch.seed))
            self.index, self.digest = entry.index, chain.digest()
            self._observer.executed(self._node, self.index, self.digest)
            self._report(entry.index, results)

    def snapshot(self) -> Callable[[], bytes]:
        """See :class:`consensus.ports.Sink`."""
        packed: bytes = msgpack.packb([self.index, self.count, self.digest, self._padding()])
        return lambda: packed

    def _padding(self) -> bytes:
        return (self.digest * (self._padding_bytes // 16 + 1))[: self._padding_bytes]

    def restore(self, meta: SnapshotMeta, content: bytes) -> None:
        """See :class:`consensus.ports.Sink`."""
        self._waiting.clear()
        self._queued = 0
        self.index, self.count, self.digest, padding = msgpack.unpackb(content)
        if padding != self._padding():
            raise Violation(
                "state machine safety", f"{self._node} restores a snapshot of {meta.index} that nobody took"
            )
        self._queued_index = self.index
        self._observer.restored(self._node, meta, self.digest)
