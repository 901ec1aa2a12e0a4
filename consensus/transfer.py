"""Streaming a snapshot to a peer that lags behind the log.

A sender keeps a bounded window of chunks in flight. Acknowledgements are cumulative: "I have the first
n bytes". So a lost chunk, a lost acknowledgement or a receiver that has begun anew all look the same:
nothing gets on for a while, and the sender goes back to what it was told last. The receiver writes in
order to a file aside, and the snapshot counts only when its checksum has been verified and it is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from consensus.channel import Chunk, ChunkAck
from consensus.errors import StorageCorrupt
from consensus.interface import SnapshotMeta


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """``chunk_bytes`` at a time, ``window_chunks`` in flight, resent after ``resend_s`` without progress.

    A snapshot larger than ``snapshot_bytes_max`` is refused by the receiver.
    """

    chunk_bytes: int = 256 * 1024
    window_chunks: int = 8
    resend_s: float = 1.0
    snapshot_bytes_max: int = 4 * 1024**3


class Receiver(Protocol):
    """Where a snapshot is being written: see :mod:`consensus.snapshots`."""

    @property
    def received(self) -> int:
        """Bytes written so far, from the start and without gaps."""

    def write(self, offset: int, chunk: bytes) -> None:
        """Append ``chunk`` at ``offset``, which is ``received``."""

    def finish(self) -> SnapshotMeta:
        """Verify and make durable. Raises :class:`~consensus.errors.StorageCorrupt`."""

    def abort(self) -> None:
        """Throw away what was written."""


class SnapshotSender:
    """The leader's side of one transfer to one peer."""

    def __init__(self, term: int, meta: SnapshotMeta, limits: TransferLimits, now: float) -> None:
        self.term = term
        self.meta = meta
        self._limits = limits
        self._acknowledged = 0
        self._told = 0
        self._next: int | None = 0
        self._got_on = now

    def due(self, read: Callable[[SnapshotMeta, int, int], bytes], now: float) -> list[Chunk]:
        """The chunks that may leave now. ``read(meta, offset, length)`` gives their content."""
        if now - self._got_on > self._limits.resend_s:
            # Less than before means a receiver that has begun anew, or an answer that others have overtaken.
            # Going back at once would go on at the speed of the network where a full disk makes it begin
            # anew again and again.
            self._next = self._acknowledged = self._told
            self._got_on = now
        chunks = []
        ceiling = self._acknowledged + self._limits.window_chunks * self._limits.chunk_bytes
        while self._next is not None and self._next < ceiling:
            data = read(self.meta, self._next, self._limits.chunk_bytes)
            chunks.append(Chunk(self.term, self.meta, self._next, data))
            self._next += len(data)
            if self._next >= self.meta.size or not data:
                self._next = None
        return chunks

    def acknowledge(self, ack: ChunkAck, now: float) -> bool:
        """Take an acknowledgement; ``True`` when the peer has made the whole snapshot durable."""
        if ack.term != self.term or ack.index != self.meta.index:
            return False
        self._told = min(ack.received, self.meta.size)
        if self._acknowledged < self._told:
            self._acknowledged, self._got_on = self._told, now
        return ack.done


class SnapshotIntake:
    """The follower's side: at most one incoming snapshot, from whoever leads."""

    def __init__(self, receive: Callable[[SnapshotMeta], Receiver], limits: TransferLimits) -> None:
        self._receive = receive
        self._limits = limits
        self._from: tuple[str, int, SnapshotMeta] | None = None
        self._receiver: Receiver | None = None

    def take(self, peer: str, chunk: Chunk) -> tuple[ChunkAck, SnapshotMeta | None]:
        """Write a chunk. Gives the answer, and the meta once the snapshot is whole and durable.

        A chunk that does not continue what is here changes nothing: the answer says what is here.
        Raises :class:`~consensus.errors.StorageError` when the disk refuses.
        """
        receiver = self._current(peer, chunk)
        if chunk.offset == receiver.received and chunk.offset + len(chunk.data) <= chunk.meta.size:
            receiver.write(chunk.offset, chunk.data)
        received = receiver.received
        if received < chunk.meta.size:
            return ChunkAck(chunk.term, chunk.meta.index, received, False), None
        self._from = self._receiver = None
        try:
            meta = receiver.finish()
        except StorageCorrupt:
            receiver.abort()
            return ChunkAck(chunk.term, chunk.meta.index, 0, False), None
        return ChunkAck(chunk.term, chunk.meta.index, received, True), meta

    def acceptable(self, chunk: Chunk) -> bool:
        """Whether the snapshot that this chunk belongs to is within the limit."""
        return chunk.meta.size <= self._limits.snapshot_bytes_max

    def abort(self) -> None:
        """Give up what is under way."""
        if self._receiver is not None:
            self._receiver.abort()
        self._from = self._receiver = None

    def _current(self, peer: str, chunk: Chunk) -> Receiver:
        wanted = (peer, chunk.term, chunk.meta)
        if self._from != wanted or self._receiver is None:
            self.abort()
            self._from, self._receiver = wanted, self._receive(chunk.meta)
        return self._receiver
