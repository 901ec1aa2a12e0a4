"""The leader's side: which peer is owed an append, what its answers mean, what is on its way.

A commit by itself is no reason for a message at once: under load the next append tells of it, and a lone
command would cost every follower two messages instead of one. So it waits up to ``commit_notice_s`` for
company, unless somebody at the peer waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from consensus.interface import Output
from consensus.raft.config import RaftConfig
from consensus.raft.flow import Flow
from consensus.raft.log import MemoryLog, Slot
from consensus.raft.membership import Membership
from consensus.raft.messages import Ack, Codec, SnapshotPending
from consensus.raft.seams import Core, Peer

_NO_ENTRIES = b"\x90"


class Replication:
    """Keeps the peers of a leader up to date. It lives as long as the engine, its flows for a term."""

    def __init__(
        self, core: Core, log: MemoryLog, codec: Codec, membership: Membership, config: RaftConfig
    ) -> None:
        self._core, self._log, self._codec, self._config = core, log, codec, config
        self._membership = membership
        self._peers = membership.peers
        self._voters = membership.voters
        self._majority = (len(self._voters) + 1) // 2
        self._leading = False
        self._flows: dict[Peer, Flow] = {}
        self._term = -1
        self._number = 0
        self._first_index = 0
        self.notice_at = math.inf
        """When a commit index has waited long enough."""
        self._fallback_at = -math.inf
        self._encoded: dict[tuple[int, int], bytes] = {}
        self._output = Output()
        self._early = self._output.send_early

    @property
    def term(self) -> int:
        """The last term in which this node led, or -1."""
        return self._term

    @property
    def number(self) -> int:
        """The number of the last message that asked for an answer."""
        return self._number

    @property
    def first_index(self) -> int:
        """Where this leader's first entry stands: once it is committed, so is all that came before."""
        return self._first_index

    def begin(self) -> None:
        """The node has become the leader of the current term: everybody is owed a message."""
        self._term = self._core.term
        self._first_index = self._log.last_index
        self._leading = True
        self._flows = {peer: Flow(self._config, self._core.now) for peer in self._peers}
        self._fallback_at = -math.inf

    def end(self) -> bool:
        """The node leads no more. Returns whether it did until now."""
        led, self._leading, self._flows = self._leading, False, {}
        return led

    def reconfigure(self) -> None:
        """Another configuration is in force: who is new hears from us at once, who is gone never again."""
        core, before = self._core, self._flows
        self._peers, self._voters = self._membership.peers, self._membership.voters
        self._majority = (len(self._voters) + 1) // 2
        self._fallback_at = -math.inf
        if self._leading:
            # A match of 0 is nobody's who has answered: such a one is new, perhaps under an old name.
            known = {peer: before[peer] for peer in self._peers if peer in before and core.match_index[peer]}
            self._flows = {peer: known.get(peer) or Flow(self._config, core.now) for peer in self._peers}

    def connected(self, peer: Peer) -> None:
        """``peer`` can be reached: it hears from us at once."""
        if peer in self._flows:
            self._flows[peer].heartbeat_at = self._core.now

    def disconnected(self, peer: Peer) -> None:
        """``peer`` cannot be reached: what was on its way is lost, and is sent again when it is back."""
        if peer not in self._flows:
            return
        core = self._core
        self._flows[peer].lost(self._number)
        if match := core.match_index[peer]:
            core.next_index[peer] = min(core.next_index[peer], max(match, self._log.base_index) + 1)

    def fallback_at(self) -> float:
        """When the majority, this node included, may have been silent for ``leader_fallback_s``.

        Answers put it off, so it is looked up again only when the time that was found last has come.
        """
        if not self._voters:
            return math.inf
        if self._fallback_at <= self._core.now:
            latest = sorted((self._core.last_response[peer] for peer in self._voters), reverse=True)
            self._fallback_at = latest[self._majority - 1] + self._config.leader_fallback_s
        return self._fallback_at

    def hurry(self, peer: Peer, index: int) -> None:
        """Somebody at ``peer`` waits for ``index``."""
        if peer in self._flows:
            self._flows[peer].awaited = max(self._flows[peer].awaited, index)

    def ask_everybody(self) -> None:
        """Every peer is owed a message that it has to answer, whatever it was sent before."""
        for flow in self._flows.values():
            flow.heartbeat_at = self._core.now

    def answered(self) -> float:
        """A majority, this node included, has answered a message of this number or a higher one."""
        numbers = sorted((self._flows[peer].answered for peer in self._voters), reverse=True)
        return numbers[self._majority - 1] if numbers else math.inf

    # -- answers -----------------------------------------------------------------------------------

    def take_ack(self, sender: Peer, ack: Ack) -> bool:
        """Deliver an answer of the current term; ``False`` when it answers nothing that was sent."""
        core, flow, last = self._core, self._flows[sender], self._log.last_index
        if ack.number > self._number or (ack.success and ack.next_index > last + 1):
            return False
        flow.settled(ack.number)
        flow.answered = max(flow.answered, ack.number)
        reset = ack.reset and flow.is_news(ack.number)
        sent_to = core.next_index[sender]
        next_index = ack.next_index
        if reset:
            # A follower's log may be longer than ours, and an old rejection may point below what it has
            # acknowledged since. PySyncObj takes both as they come (defect 20).
            next_index = min(max(next_index, core.match_index[sender] + 1), last + 1)
        core.deliver(
            sender,
            {"type": "next_node_idx", "reset": reset, "next_node_idx": next_index, "success": ack.success},
        )
        if reset:
            flow.set_back(self._number)
        elif sent_to > core.next_index[sender]:
            core.next_index[sender] = sent_to
        if ack.success and core.match_index[sender] > core.commit_index:
            core.advance()
        return True

    def delivered(self, peer: Peer, index: int) -> None:
        """``peer`` has everything up to ``index``, which is committed, from a snapshot.

        That is what it says, but not in which incarnation, so it does not count before it has answered
        a message behind the snapshot: the next one, which it is owed at once.
        """
        core = self._core
        core.next_index[peer] = max(core.next_index[peer], index + 1)
        core.last_response[peer] = core.now
        self._flows[peer].heartbeat_at = core.now

    # -- appends -----------------------------------------------------------------------------------

    def flush(self, output: Output) -> None:
        """Send to each peer that is owed something: entries, a heartbeat, or a new commit index."""
        core = self._core
        due = self._due()
        if due:
            # An append promises nothing but that we lead the term, and that record is older as a rule. But
            # the only voter's tells an observer of commits that its own sync has yet to make true.
            wait = self._log.term_pending or not self._voters
            self._early = output.send if wait else output.send_early
            self._output = output
            for peer in due:
                self._append_to(peer)
            self._encoded.clear()
        if due or core.heartbeat_at <= core.now:
            times = [flow.heartbeat_at for peer, flow in self._flows.items() if peer in core.connected]
            core.heartbeat_at = min(times, default=core.now + self._config.heartbeat_s)

    def _due(self) -> list[Peer]:
        """Who is owed a message now; and when those are who were not told of the last commit."""
        core = self._core
        now, commit_index, last_index = core.now, core.commit_index, self._log.last_index
        connected, next_index, base_index = core.connected, core.next_index, self._log.base_index
        noticed = self.notice_at <= now or not self._config.commit_notice_s
        due, untold = [], False
        for peer, flow in self._flows.items():
            if peer not in connected:
                continue
            behind = flow.commit_sent < commit_index
            if flow.heartbeat_at <= now:
                due.append(peer)
            elif not base_index < next_index[peer] or not flow.has_room:
                untold = untold or behind
            elif next_index[peer] <= last_index or (behind and (noticed or flow.commit_sent < flow.awaited)):
                due.append(peer)
            else:
                untold = untold or behind
        if not untold or noticed:
            self.notice_at = math.inf
        elif self.notice_at == math.inf:
            self.notice_at = now + self._config.commit_notice_s
        return due

    def _append_to(self, peer: Peer) -> None:
        """Send at least one message, and all that the peer lacks, as far as its window allows.

        PySyncObj has a way of its own, which is cut off: it sends everything at once however long that is,
        cuts large entries into pickled pieces (defect 10), and commits what nobody compared (defect 19).
        """
        core, log, flow = self._core, self._log, self._flows[peer]
        next_index = core.next_index[peer]
        if next_index <= log.base_index:
            self._ask_for_snapshot(peer, flow)
            return
        while True:
            entries = log.message_from(next_index) if flow.has_room else ()
            self._send(peer, flow, next_index - 1, entries)
            if not entries:
                return
            core.next_index[peer] = next_index = entries[-1][1] + 1
            if next_index > log.last_index or not flow.has_room:
                return

    def _send(self, peer: Peer, flow: Flow, prev_index: int, entries: Sequence[Slot]) -> None:
        core = self._core
        number = 0
        if entries or flow.heartbeat_at <= core.now:
            self._number = number = self._number + 1
            flow.heartbeat_at = core.now + self._config.heartbeat_s
        flow.commit_sent = commit_index = core.commit_index
        head = core.term, number, commit_index, prev_index, self._log.term_at(prev_index)
        data = self._codec.encode_append(head, self._encode(entries))
        self._early.append((peer.id, data))
        if entries:
            flow.sent(number, len(data))

    def _encode(self, entries: Sequence[Slot]) -> bytes:
        """Encode once what goes to several peers."""
        if not entries:
            return _NO_ENTRIES
        span = entries[0][1], entries[-1][1]
        encoded = self._encoded.get(span)
        if encoded is None:
            encoded = self._encoded[span] = self._codec.encode_entries(entries)
        return encoded

    def _ask_for_snapshot(self, peer: Peer, flow: Flow) -> None:
        """What the peer lacks is not in the log any more: a heartbeat that speaks of no entry (defect 19)."""
        self._number += 1
        flow.heartbeat_at = self._core.now + self._config.heartbeat_s
        self._output.snapshot_needed.append(peer.id)
        self._early.append((peer.id, self._codec.encode(SnapshotPending(self._core.term, self._number))))
