"""The limits and timings of the engine, each with its unit."""

from __future__ import annotations

from dataclasses import dataclass

ENTRY_OVERHEAD_BYTES_MAX = 32
"""What an entry costs on the wire beside its data: four msgpack headers and two 64-bit integers."""

MESSAGE_OVERHEAD_BYTES_MAX = 96
"""What an append costs on the wire beside its entries."""


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """How patient the engine is, and how much it sends at once. All voters use the same values.

    Raises :class:`ValueError` when values do not fit together.
    """

    election_timeout_min_s: float = 0.25
    election_timeout_max_s: float = 0.5
    """A follower that hears nothing for a time drawn from this range calls an election."""

    heartbeat_s: float = 0.05
    """A leader lets each peer hear from it at least this often."""

    leader_fallback_s: float = 0.5
    """A leader that hears from no majority for this long steps down."""

    lost_leader_min_s: float = 0.02
    lost_leader_max_s: float = 0.08
    """A follower whose link to the leader breaks calls an election after a time drawn from this range, unless
    the link is back before: a process that died does not answer again. It is also how long whoever
    lets another node call an election waits with one of its own."""

    entry_bytes_max: int = 960 * 1024
    """The largest ``data`` of one entry. Larger proposals are refused."""

    append_bytes_max: int = 1024 * 1024
    """The largest message between peers; a larger one is dropped unread."""

    append_entries_max: int = 4096
    """The most entries in one message."""

    appends_in_flight_max: int = 64
    """The most unacknowledged messages with entries on their way to one peer."""

    append_bytes_in_flight_max: int = 8 * 1024 * 1024
    """The most unacknowledged bytes on their way to one peer; the last message may exceed it."""

    commit_notice_s: float = 0.001
    """So long a commit index may wait for a message to travel with, unless somebody at the peer waits."""

    promotion_lag_entries_max: int = 256
    """So many entries of the leader's log an observer may lack, at most, when it is promoted: until it has
    them nothing can be committed that needs its acknowledgement (Ongaro 2014, section 4.2.1)."""

    def __post_init__(self) -> None:
        if not 0 < 3 * self.heartbeat_s < self.election_timeout_min_s < self.election_timeout_max_s:
            raise ValueError(
                f"heartbeat_s={self.heartbeat_s}, election_timeout_min_s={self.election_timeout_min_s} and "
                f"election_timeout_max_s={self.election_timeout_max_s} do not fit: expected "
                "0 < 3 * heartbeat_s < election_timeout_min_s < election_timeout_max_s"
            )
        if not 0 < self.lost_leader_min_s <= self.lost_leader_max_s:
            raise ValueError(
                f"lost_leader_min_s={self.lost_leader_min_s} must be positive and at most "
                f"lost_leader_max_s={self.lost_leader_max_s}"
            )
        if not 0 <= self.commit_notice_s <= self.heartbeat_s:
            raise ValueError(
                f"commit_notice_s={self.commit_notice_s} must be from 0 to heartbeat_s={self.heartbeat_s}: "
                "a heartbeat carries the commit index in any case"
            )
        if self.leader_fallback_s < self.election_timeout_min_s:
            raise ValueError(
                f"leader_fallback_s={self.leader_fallback_s} is below election_timeout_min_s="
                f"{self.election_timeout_min_s}: a healthy leader would step down; raise it"
            )
        overhead = ENTRY_OVERHEAD_BYTES_MAX + MESSAGE_OVERHEAD_BYTES_MAX
        if not 0 < self.entry_bytes_max <= self.append_bytes_max - overhead:
            raise ValueError(
                f"entry_bytes_max={self.entry_bytes_max} must be positive and at least {overhead} bytes "
                f"below append_bytes_max={self.append_bytes_max}, so that an entry fits into one message"
            )
        if self.promotion_lag_entries_max < 0:
            raise ValueError(
                f"promotion_lag_entries_max={self.promotion_lag_entries_max} must not be negative"
            )
        for name in ("append_entries_max", "appends_in_flight_max", "append_bytes_in_flight_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
