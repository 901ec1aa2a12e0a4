"""How much is on its way to a peer, and which answers are out of date.

Defect 24: PySyncObj advances a peer's next index when it sends, and sets it back to what an acknowledgement
names. With several messages on their way that sends every entry several times: each acknowledgement
sets back past what is in flight, and each message behind a lost one is rejected on its own and sets
back again. And it sends the whole rest of the log at once, however long that is.

Messages are numbered, and answers carry the number of what they answer. So an answer settles every
message up to its number, and a rejection counts only if its message was sent after the last time
that the next index was set back. The window bounds what is in flight; while it is full a peer gets
heartbeats only, right behind the last entry sent: if something got lost, that one is rejected.
"""

from __future__ import annotations

from collections import deque

from consensus.raft.config import RaftConfig


class Flow:
    """The leader's view of its messages to one peer."""

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_count_max",
        "_in_flight",
        "_set_back_at",
        "answered",
        "awaited",
        "commit_sent",
        "heartbeat_at",
    )

    def __init__(self, config: RaftConfig, now: float) -> None:
        self._in_flight: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._bytes_max = config.append_bytes_in_flight_max
        self._count_max = config.appends_in_flight_max
        self._set_back_at = 0
        self.heartbeat_at = now
        """When the peer has to hear from us next, in seconds."""
        self.answered = 0
        """The highest number of a message that the peer has answered in this term."""
        self.awaited = 0
        """The highest index that somebody at the peer waits for."""
        self.commit_sent = 0
        """The highest commit index that the peer was told."""

    @property
    def has_room(self) -> bool:
        """Whether more entries may be sent."""
        return len(self._in_flight) < self._count_max and self._bytes < self._bytes_max

    def hurries(self, commit_index: int) -> bool:
        """Whether somebody at the peer waits to be told of a commit."""
        return self.commit_sent < min(self.awaited, commit_index)

    def sent(self, number: int, size: int) -> None:
        """Message ``number`` with entries, ``size`` bytes, is on its way."""
        self._in_flight.append((number, size))
        self._bytes += size

    def settled(self, number: int) -> None:
        """Message ``number`` was answered: whatever was sent before it has arrived or is lost."""
        while self._in_flight and self._in_flight[0][0] <= number:
            self._bytes -= self._in_flight.popleft()[1]

    def is_news(self, number: int) -> bool:
        """Whether a rejection of message ``number`` says something that is not known yet."""
        return number > self._set_back_at

    def set_back(self, number: int) -> None:
        """The next index was set back; ``number`` was the last message before that.

        What is in flight stays in the account: it will be rejected, and settled by that.
        """
        self._set_back_at = number

    def lost(self, number: int) -> None:
        """The connection broke: nothing up to message ``number`` is in flight any more."""
        self._set_back_at = number
        self._in_flight.clear()
        self._bytes = 0
