"""Snapshots between nodes: the leader's transfers to peers that lag, and what comes in from a leader.

The engine says which peer lags behind the log and learns when the peer has caught up; the bytes never
pass through it. An answer that says "durable here" is a promise and is given back to the pump, which
lets it leave behind the sync that covers it.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus import channel
from consensus.channel import Chunk, ChunkAck
from consensus.errors import DiskFull
from consensus.interface import Engine, Role
from consensus.ports import DriverLimits, Snapshots
from consensus.snapshots import SnapshotGone
from consensus.transfer import SnapshotIntake, SnapshotSender


class CatchUp:
    """Both directions for one node. ``tell`` sends now, ``promise`` behind the next sync."""

    def __init__(
        self,
        engine: Engine,
        snapshots: Snapshots,
        limits: DriverLimits,
        *,
        tell: Callable[[str, channel.Message], None],
        promise: Callable[[str, channel.Message], None],
        drop: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._snapshots = snapshots
        self._limits = limits.transfer
        self._tell = tell
        self._promise = promise
        self._drop = drop
        self._senders: dict[str, SnapshotSender] = {}
        self._intake = SnapshotIntake(snapshots.receive, limits.transfer)

    def stop(self) -> None:
        """Throw away what has come in and is not complete."""
        self._intake.abort()

    def stop_sending(self) -> None:
        """This node leads no more."""
        self._senders.clear()

    # -- out ----------------------------------------------------------------------------------------

    def begin(self, peer: str, now: float) -> None:
        """``peer`` lags behind the log: send it the latest snapshot, or go on with that."""
        status, meta = self._engine.status(), self._snapshots.latest()
        if meta is None or status.role is not Role.LEADER:
            return
        sender = self._senders.get(peer)
        if sender is None or sender.term != status.term:
            sender = self._senders[peer] = SnapshotSender(status.term, meta, self._limits, now)
        self._send_chunks(peer, sender, now)

    def take_ack(self, peer: str, ack: ChunkAck, now: float) -> None:
        """Send what the window allows now; the last answer tells the engine."""
        sender = self._senders.get(peer)
        if sender is None:
            return
        if sender.acknowledge(ack, now):
            del self._senders[peer]
            self._engine.snapshot_delivered(peer, sender.term, sender.meta.index, now)
        else:
            self._send_chunks(peer, sender, now)

    def _send_chunks(self, peer: str, sender: SnapshotSender, now: float) -> None:
        try:
            for chunk in sender.due(self._snapshots.read_chunk, now):
                self._tell(peer, chunk)
        except SnapshotGone:
            # A newer snapshot has replaced this one: begin again with it when the engine asks next.
            self._senders.pop(peer, None)

    # -- in -----------------------------------------------------------------------------------------

    def take_chunk(self, peer: str, chunk: Chunk, now: float) -> None:
        """Write a piece of a leader's snapshot; the last one replaces what this node has."""
        status = self._engine.status()
        if chunk.term < status.term or not self._intake.acceptable(chunk):
            self._drop("snapshot_refused")
            return
        if chunk.meta.index <= status.commit_index:
            # What is committed may have come with this very turn: it is durable behind the next sync.
            self._promise(peer, ChunkAck(chunk.term, chunk.meta.index, chunk.meta.size, True))
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
            self._promise(peer, answer)
