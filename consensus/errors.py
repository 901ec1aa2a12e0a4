"""What can go wrong while agreeing on an order. `mcp.errors` translates these for users.

Every error carries a ``code`` (stable, upper case, used on wires and in logs), and its message says
what was wrong, what was expected and what to do next.
"""

from __future__ import annotations


class ConsensusError(Exception):
    """Root of this package's errors."""

    code = "CONSENSUS"


class NotLeader(ConsensusError):
    """A proposal reached a node that may not append it. Nothing was appended.

    ``leader`` is the node id of the leader as far as this node knows, or ``None``.
    """

    code = "NOT_LEADER"

    def __init__(self, leader: str | None) -> None:
        super().__init__(
            f"this node is not the leader (leader: {leader or 'unknown'}); propose to the leader, "
            "or wait for an election"
        )
        self.leader = leader


class Busy(ConsensusError):
    """A named limit is reached. Nothing was appended; retry later."""

    code = "BUSY"


class EntryTooLarge(ConsensusError):
    """A proposal is larger than ``entry_bytes_max``. Nothing was appended."""

    code = "ENTRY_TOO_LARGE"


class OutcomeUnknown(ConsensusError):
    """The proposal may or may not be committed: its deadline passed, or leadership moved.

    Retry only with the same request id, so that deduplication can recognise it.
    """

    code = "OUTCOME_UNKNOWN"


class ReadUnconfirmed(ConsensusError):
    """No leader has confirmed by the deadline which position a read has to see. Ask again.

    ``leader`` is the node id of the leader as far as this node knows, or ``None``.
    """

    code = "READ_UNCONFIRMED"

    def __init__(self, leader: str | None) -> None:
        super().__init__(
            f"no leader confirmed in time that it leads a quorum (leader: {leader or 'unknown'}); "
            "read again later, or be content with what this node has applied"
        )
        self.leader = leader


class MembershipRefused(ConsensusError):
    """A change of the cluster's members makes no sense, or is not safe as things are. Nothing was changed."""

    code = "MEMBERSHIP_REFUSED"


class NotCaughtUp(MembershipRefused):
    """An observer lags too far behind the log to vote. Nothing was changed; try again later."""

    code = "NOT_CAUGHT_UP"


class StorageError(ConsensusError):
    """The disk refused. Base of the three below."""

    code = "STORAGE"


class DiskFull(StorageError):
    """No room for the next record; nothing of it was kept. Retry when there is room."""

    code = "DISK_FULL"


class StorageFailed(StorageError):
    """A write or a sync failed, so what is on the disk is not known any more. The node must stop."""

    code = "STORAGE_FAILED"


class StorageCorrupt(StorageError):
    """Stored bytes are damaged where they were known to be complete. The node must not start.

    ``path`` and ``offset`` (bytes) say where.
    """

    code = "STORAGE_CORRUPT"

    def __init__(self, path: str, offset: int, problem: str, advice: str) -> None:
        super().__init__(f"{path} is damaged at byte {offset}: {problem}; {advice}")
        self.path = path
        self.offset = offset


class InvariantViolated(ConsensusError):
    """A rule that Raft guarantees does not hold. The node must stop before it does harm."""

    code = "INVARIANT_VIOLATED"
