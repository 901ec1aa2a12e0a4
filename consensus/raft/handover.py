"""Handing leadership over on purpose (Ongaro 2014, section 3.10).

The leader takes no more proposals, waits until the successor has everything, and tells it to call an
election at once, which everybody takes part in. A successor that has all of the log wins unless messages
get lost; then the leader goes on as before. It gives up after ``election_timeout_max_s``, in
which a cluster without a leader would have elected one, or when the link to the successor breaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from consensus.errors import Busy
from consensus.raft.config import RaftConfig
from consensus.raft.log import MemoryLog
from consensus.raft.membership import Membership
from consensus.raft.messages import Message, TimeoutNow
from consensus.raft.seams import Core, Peer


class Handover:
    """One leader's handing over, if it is at it."""

    def __init__(
        self,
        core: Core,
        log: MemoryLog,
        membership: Membership,
        config: RaftConfig,
        *,
        send: Callable[[Peer, Message], None],
    ) -> None:
        self._core, self._log, self._config, self._send = core, log, config, send
        self._membership = membership
        self._told = False
        self.successor: Peer | None = None
        """Who is to take over."""
        self.until = math.inf
        """When the leader gives it up."""

    def begin(self, successor: Peer | None) -> Peer:
        """Hand over to ``successor``, or to whoever has most of the log. Raises :class:`Busy`."""
        core = self._core
        if self.successor is not None:
            raise Busy(
                f"leadership is being handed over to {self.successor.id} already; wait for the outcome"
            )
        voters = sorted(self._membership.voters, key=lambda peer: peer.id)
        reachable = [peer for peer in voters if peer in core.connected and successor in (None, peer)]
        if not reachable:
            raise Busy(
                f"{'nobody' if successor is None else successor.id} can be reached to take over; "
                "retry when the link is up"
            )
        self.successor = max(reachable, key=lambda peer: (core.match_index[peer], core.last_response[peer]))
        self.until = core.now + self._config.election_timeout_max_s
        return self.successor

    def go_on(self) -> None:
        """Tell the successor as soon as it has everything. Once: a word that is lost ends the attempt.

        Everything has to be committed, too: whoever proposed it here then learns of it from this leader, and
        does not propose it again to the next.
        """
        if self.successor is None or self._told:
            return
        core = self._core
        if min(core.match_index[self.successor], core.commit_index) >= self._log.last_index:
            self._told = True
            self._send(self.successor, TimeoutNow(core.term))

    def tick(self) -> None:
        """Give up if it takes too long."""
        if self.until <= self._core.now:
            self.end()

    def disconnected(self, peer: Peer) -> None:
        """Give up if it was to be ``peer``."""
        if peer == self.successor:
            self.end()

    def end(self) -> None:
        """It has succeeded or failed."""
        self.successor, self.until, self._told = None, math.inf, False
