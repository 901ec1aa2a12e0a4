"""Making views equal for sure: entry by seeds, comparing views that differ, and finding back who was cut off.

Every datagram has the digest of its sender's view. One that differs from this node's own is no news while
news is on the way; but where nothing has changed here for ``settle_s`` and it still differs, something
did not arrive on one side or the other, and the views are compared (:mod:`mcp.cluster.gossip.sync`). A
card that is known to be there and too large for a datagram is fetched in the same way, without waiting.

Nobody probes the dead. So that two halves of a cluster that took each other for dead find back, every
node knocks now and then at somebody dead, or at a seed that is not in the view. Who is alive hears from
the knock that it is held for dead, refutes, and the comparison does the rest.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from mcp.cluster.gossip.codec import Delta, Kind, Summary, encode_stream, is_address
from mcp.cluster.gossip.limits import SUMMARIES_PER_S_MAX
from mcp.cluster.gossip.membership import Membership
from mcp.cluster.gossip.post import Post
from mcp.cluster.gossip.sync import answer, delta_pieces, summaries
from mcp.cluster.gossip.updates import FullRecord, State
from mcp.errors import ConfigInvalid

SEEDS_AT_ONCE = 3
"""Seeds that are tried in one attempt to join; the next attempt goes on with the following ones."""


class AntiEntropy:
    """See the head of this module."""

    def __init__(
        self, membership: Membership, post: Post, random_: random.Random, seeds: Iterable[str], now: float
    ) -> None:
        self._membership = membership
        self._limits = membership.limits
        self._post = post
        self._random = random_
        self._seeds: list[str] = []
        self.set_seeds(seeds)
        self._join_at = now
        self._sync_at = now + self._jittered(self._limits.sync_interval_s)
        self._sync_allowed_at = now
        self._knock_at = now + self._jittered(self._limits.reconnect_interval_s)
        self._answered_since = now
        self._answered = 0
        self.refused_summaries = 0
        """Summaries that were not answered because too many had been."""

    def set_seeds(self, seeds: Iterable[str]) -> None:
        """Take these seeds from now on. Raises :class:`~mcp.errors.ConfigInvalid`."""
        found = [seed for seed in dict.fromkeys(seeds) if seed != self._membership.address]
        if len(found) > self._limits.seeds_max:
            raise ConfigInvalid(f"{len(found)} seeds are over seeds_max={self._limits.seeds_max}; give fewer")
        for seed in found:
            if not is_address(seed):
                raise ConfigInvalid(f"a seed is an address of 1 to 128 visible characters, not {seed!r:.80}")
        self._random.shuffle(found)
        self._seeds = found

    @property
    def _looking(self) -> bool:
        """Whether this node has yet to find the others, or its name."""
        membership = self._membership
        return membership.rival is not None or membership.view.present <= 1

    def next_deadline(self) -> float:
        """When :meth:`tick` is to be called next."""
        joining = self._join_at if self._looking else float("inf")
        return min(joining, self._sync_at, self._knock_at)

    def tick(self, now: float) -> None:
        """Try seeds, knock, and compare."""
        membership, limits = self._membership, self._limits
        if self._join_at <= now and self._looking:
            self._join_at = now + self._jittered(limits.join_retry_s)
            self._try_seeds(now)
            membership.look_after_rival(now)
        if self._knock_at <= now:
            self._knock_at = now + self._jittered(limits.reconnect_s(membership.view.present))
            membership.view.expire(now)
            self._knock(now)
        if self._sync_at <= now:
            self._sync_at = now + self._jittered(limits.sync_interval_s)
            others = membership.others_present()
            record = membership.view.get(self._random.choice(others)) if others else None
            if record is not None:
                self.compare(record.address, now)

    def on_digest(self, sender: str, address: str, digest: int, now: float) -> None:
        """Somebody has said what its view comes to."""
        view = self._membership.view
        if digest == view.digest or now < self._sync_allowed_at:
            return
        lacking = view.get(sender) is None or any(record.card_is_missing for record in view)
        if lacking or now - view.changed_at >= self._limits.settle_s:
            self.compare(address, now)

    def meet(self, name: str, address: str, now: float) -> None:
        """Somebody can be reached, again or for the first time: compare, unless it is known to be there.

        Each of many that come at one time: the one compared with first may know nobody itself.
        """
        record = self._membership.view.get(name)
        if record is None or not record.state.present:
            self.compare(address, now)

    def compare(self, address: str, now: float) -> None:
        """Send the whole view in summaries."""
        membership = self._membership
        self._sync_allowed_at = now + self._jittered(self._limits.sync_interval_min_s)
        without = membership.withheld_unasked
        for summary in summaries(
            membership.view, membership.name, membership.address, now, self._limits, without
        ):
            self._post.stream(address, encode_stream(summary))

    def on_summary(self, summary: Summary, now: float) -> None:
        """Somebody has listed what it has: say what differs."""
        if now - self._answered_since >= 1.0:
            self._answered_since, self._answered = now, 0
        self._answered += 1
        if self._answered > SUMMARIES_PER_S_MAX:
            self.refused_summaries += 1
            return
        membership = self._membership
        record = membership.view.get(summary.sender)
        if record is not None and record.state.present and record.address != summary.address:
            membership.view.conflict(record, record.address, summary.address, now)
        found = answer(membership.view, summary, now, self._limits, membership.withheld)
        self._send_delta(summary.address, found.records, found.wants)

    def on_delta(self, delta: Delta, now: float) -> None:
        """Somebody has sent what this node lacks, and asks for what it lacks itself."""
        membership = self._membership
        reply: dict[str, FullRecord] = {}
        wanted = list(delta.wants)
        wanted += [full.name for full in delta.records if membership.apply_record(full, delta.sender, now)]
        if not membership.announced:
            membership.announce(now)
            wanted.append(membership.name)
        for name in wanted:
            record = membership.view.get(name)
            if record is not None and name != membership.withheld:
                reply[name] = record.full(now)
        if reply:
            self._send_delta(delta.address, reply.values(), ())

    def _send_delta(self, address: str, records: Iterable[FullRecord], wants: tuple[str, ...]) -> None:
        membership = self._membership
        pieces = delta_pieces(membership.name, membership.address, records, wants, self._post.stream_room)
        for body in pieces:
            self._post.stream(address, body)

    def _try_seeds(self, now: float) -> None:
        tried, self._seeds = self._seeds[:SEEDS_AT_ONCE], self._seeds[SEEDS_AT_ONCE:]
        self._seeds += tried
        if not tried and (others := self._membership.others_present()):
            # A node that was found by its beacon has no seeds, and may yet be contested.
            record = self._membership.view.get(self._random.choice(others))
            tried = [record.address] if record is not None else []
        for seed in tried:
            self.compare(seed, now)

    def _knock(self, now: float) -> None:
        """Try one that is gone: a dead member learns that it is held for dead, a seed compares views."""
        membership = self._membership
        known = {record.address for record in membership.view if record.state.present}
        gone = [record.name for record in membership.view if record.state is State.DEAD]
        seeds = [] if self._looking else [seed for seed in self._seeds if seed not in known]
        candidates = [*gone, *seeds]
        if not candidates:
            return
        at = self._random.randrange(len(candidates))
        if at >= len(gone):
            self.compare(candidates[at], now)
            return
        record = membership.view.get(candidates[at])
        if record is not None and record.address not in known:
            self._post.send(Kind.PING, 0, record.name, record.address)

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.75 + self._random.random() / 2)
