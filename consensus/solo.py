"""An engine for one embedded process: its own disk is the quorum, so there is nothing to agree on.

It keeps the contract of `consensus.interface` and no entry in memory: an entry is committed in the
very output that persists it, because the driver syncs before it applies. Starting again begins a new
term, so that what is fenced by a term can tell the two runs of a process apart.
"""

from __future__ import annotations

import math

from consensus.configuration import Change, Configuration
from consensus.errors import Busy, EntryTooLarge, InvariantViolated, MembershipRefused
from consensus.interface import (
    EngineStatus,
    Entry,
    EntryKind,
    HardState,
    Leadership,
    Output,
    Recovered,
    Role,
    SnapshotMeta,
)


class SoloEngine:
    """An :class:`~consensus.interface.Engine` without peers; leader from the first moment on.

    ``recovered`` comes from :func:`consensus.recovery.recover`. The first output restores its snapshot and
    commits all its entries again: whatever a single node has persisted is committed.
    ``entry_bytes_max`` bounds the data of one entry, in bytes.
    """

    def __init__(self, node_id: str, recovered: Recovered, *, entry_bytes_max: int = 16 << 20) -> None:
        self._node_id = node_id
        self._configuration = Configuration.of_voters([node_id])
        self._entry_bytes_max = entry_bytes_max
        self._term = recovered.hard_state.term + 1
        snapshot_index = recovered.snapshot.index if recovered.snapshot else 0
        entries = [entry for entry in recovered.entries if entry.index > snapshot_index]
        self._first_index = recovered.entries[0].index if recovered.entries else snapshot_index + 1
        self._last_index = snapshot_index + len(entries)
        self._commit_index = snapshot_index
        self._output = Output(
            persist=[HardState(self._term, node_id)], committed=entries, restore=recovered.snapshot
        )
        self.messages_dropped = 0
        """Messages from peers, of which this engine has none."""

    def receive(self, peer: str, message: bytes, now: float) -> None:
        """Drop it, and count it in ``messages_dropped``."""
        self.messages_dropped += 1

    def propose(self, data: bytes, now: float) -> tuple[int, int]:
        """See :class:`~consensus.interface.Engine`. Committed with the next output."""
        if len(data) > self._entry_bytes_max:
            raise EntryTooLarge(
                f"a proposal has {len(data)} bytes, more than entry_bytes_max = {self._entry_bytes_max}; "
                "send large data beside the log"
            )
        self._last_index += 1
        entry = Entry(self._last_index, self._term, EntryKind.COMMAND, data)
        self._output.persist.append(entry)
        self._output.committed.append(entry)
        return self._term, self._last_index

    def read_index(self, context: int, now: float) -> None:
        """See :class:`~consensus.interface.Engine`. What is appended is committed with the next output."""
        self._output.reads.append((context, self._last_index))

    def transfer_leadership(self, target: str | None, now: float) -> str:
        """Refuse it. See :class:`~consensus.interface.Engine`."""
        if target is not None:
            raise ValueError(f"{target!r} is no other voter; the only voter is {self._node_id}")
        raise Busy("there is nobody who could take over: this is a cluster of one process")

    def transferring(self) -> str | None:
        """To nobody."""
        return None

    def change_membership(self, change: Change, now: float) -> int:
        """Refuse it. See :class:`~consensus.interface.Engine`."""
        raise MembershipRefused(
            f"cannot {change}: this engine serves one process and has no members; start the node with the "
            "raft engine on a data directory of its own to make it part of a cluster"
        )

    def configuration(self) -> Configuration:
        """This node alone."""
        return self._configuration

    def configuration_at(self, index: int) -> bytes:
        """Nothing: no log of this engine says who its members are."""
        return b""

    def tick(self, now: float) -> None:
        """Nothing depends on time here."""

    def next_deadline(self) -> float:
        """Never."""
        return math.inf

    def take_output(self) -> Output:
        """See :class:`~consensus.interface.Engine`."""
        output, self._output = self._output, Output()
        self._commit_index = self._last_index
        return output

    def peer_connected(self, peer: str, now: float) -> None:
        """Nothing: a peer is not waited for."""

    def peer_disconnected(self, peer: str, now: float) -> None:
        """Nothing: a peer is not waited for."""

    def install_snapshot(self, peer: str, term: int, meta: SnapshotMeta, now: float) -> bool:
        """Refuse it: nobody else can lead this log."""
        return False

    def snapshot_delivered(self, peer: str, term: int, index: int, now: float) -> None:
        """Nothing: none was asked for."""

    def compact(self, meta: SnapshotMeta, retain_entries: int) -> int:
        """See :class:`~consensus.interface.Engine`.

        Raises :class:`~consensus.errors.InvariantViolated` for a snapshot of what is not committed.
        """
        if meta.index > self._commit_index:
            raise InvariantViolated(
                f"a snapshot of entry {meta.index} exists and only {self._commit_index} is committed"
            )
        self._first_index = max(self._first_index, meta.index - retain_entries)
        return self._first_index

    def hurry(self, peer: str, index: int, now: float) -> None:
        """Nothing: there is nobody to tell."""

    def leadership(self) -> Leadership:
        """See :class:`~consensus.interface.Engine`."""
        return Leadership(Role.LEADER, self._term, self._node_id)

    def commit_index(self) -> int:
        """See :class:`~consensus.interface.Engine`."""
        return self._commit_index

    def entries_held(self) -> int:
        """See :class:`~consensus.interface.Engine`."""
        return self._last_index - self._first_index + 1

    def status(self) -> EngineStatus:
        """See :class:`~consensus.interface.Engine`."""
        return EngineStatus(
            node_id=self._node_id,
            role=Role.LEADER,
            term=self._term,
            leader=self._node_id,
            first_index=self._first_index,
            last_index=self._last_index,
            commit_index=self._commit_index,
            voters=(self._node_id,),
            match={},
            last_contact_s={},
        )
