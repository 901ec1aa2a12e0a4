"""One node's part in the gossip: what comes in, when what is due, and what goes out. Pure.

Whoever drives it calls :meth:`Gossip.receive` for a datagram, :meth:`Gossip.receive_stream` for a message
that came over a connection, :meth:`Gossip.tick` when :meth:`Gossip.next_deadline` has come, and after
each of them sends what :meth:`Gossip.take_output` gives. Nothing has to be stored.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mcp.cluster.gossip.anti_entropy import AntiEntropy
from mcp.cluster.gossip.codec import (
    Carried,
    Datagram,
    Delta,
    Kind,
    Summary,
    decode_datagram,
    decode_stream,
)
from mcp.cluster.gossip.detector import Detector
from mcp.cluster.gossip.events import Output
from mcp.cluster.gossip.limits import (
    DATAGRAM_BYTES_MAX,
    DEFAULT_LIMITS,
    STREAM_BYTES_MAX,
    GossipLimits,
)
from mcp.cluster.gossip.membership import Membership
from mcp.cluster.gossip.post import Outbox, Post
from mcp.cluster.gossip.seal import DATAGRAM_LABEL, STREAM_LABEL, Seal
from mcp.cluster.gossip.view import Member
from mcp.errors import McpError


class Gossip:
    """See the head of this module. Not for use by several threads. Times are seconds that never go back.

    ``name``: the node's id. ``address``: where it can be reached, by datagram and by stream.
    ``seeds``: addresses of others; this node's own among them is left out. ``random_`` decides whom to probe.
    Raises :class:`~mcp.errors.ConfigInvalid`.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        cluster_id: str,
        cluster_key: bytes,
        random_: random.Random,
        now: float,
        seeds: Iterable[str] = (),
        limits: GossipLimits = DEFAULT_LIMITS,
    ) -> None:
        self._limits = limits
        self._random = random_
        self._outbox = Outbox()
        self._datagrams = Seal(cluster_key, cluster_id, DATAGRAM_LABEL, DATAGRAM_BYTES_MAX)
        self._streams = Seal(cluster_key, cluster_id, STREAM_LABEL, STREAM_BYTES_MAX)
        self._membership = Membership(name, address, limits, self._outbox.event, now)
        self._post = Post(self._membership, self._outbox, self._datagrams, self._streams)
        self._detector = Detector(self._membership, self._post, random_, now)
        self._entropy = AntiEntropy(self._membership, self._post, random_, seeds, now)
        self._gossip_at = now
        self._called_at = now
        self.refused: Counter[str] = Counter()
        """What came and was not taken, by the code of the error; ``MISDIRECTED``: it was meant for others."""

    # -- what is known ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """This node's name."""
        return self._membership.name

    @property
    def address(self) -> str:
        """Where this node can be reached."""
        return self._membership.address

    @property
    def contested(self) -> bool:
        """Whether another address holds this node's name, so that nobody is told of this one.

        Such a node only looks on: it neither probes nor gossips, and learns of the others by comparing views.
        """
        return self._membership.rival is not None

    @property
    def leaving(self) -> bool:
        """Whether :meth:`leave` was called."""
        return self._membership.leaving

    @property
    def health(self) -> int:
        """How bad this node thinks its own state is; 0: well (Lifeguard, section IV-A)."""
        return self._membership.health.score

    @property
    def digest(self) -> int:
        """64 bits over all members that are present; equal digests are equal views."""
        return self._membership.view.digest

    @property
    def dropped(self) -> Mapping[str, int]:
        """What was not sent or told because too much was waiting, by kind."""
        return self._outbox.dropped

    @property
    def has_left(self) -> bool:
        """Whether :meth:`leave` was called and has been told often enough, so that the node can stop."""
        membership = self._membership
        return membership.leaving and (not membership.news or not membership.others_present())

    def members(self, now: float) -> tuple[Member, ...]:
        """All members that are known, in the order of their names; dead and left ones for a while."""
        self._membership.view.expire(now)
        return self._membership.view.members()

    # -- what the node says -------------------------------------------------------------------------

    def set_card(self, card: Mapping[str, Any], now: float) -> None:
        """What this node can do, as a map of plain values; told to everybody where it differs from the last.

        Raises :class:`~mcp.errors.TooLarge` and :class:`~mcp.errors.InvalidArgument`; the old one stays then.
        """
        self._membership.set_card(card, now)

    def set_load(self, load: Mapping[str, Any]) -> None:
        """What this node has to do, as a small map of plain values; it goes out with probes and answers.

        Raises :class:`~mcp.errors.TooLarge` and :class:`~mcp.errors.InvalidArgument`; the old one stays then.
        """
        self._membership.set_load(load)

    def set_seeds(self, seeds: Iterable[str]) -> None:
        """Take these seeds instead, as when a name resolves to other addresses than before.

        Raises :class:`~mcp.errors.ConfigInvalid`.
        """
        self._entropy.set_seeds(seeds)

    def meet(self, name: str, address: str, now: float) -> None:
        """A connection with that member has just come about: compare views, unless it is known to be there.

        So those who took each other for dead are together again as soon as they reach each other.
        """
        if not self._membership.leaving and name != self.name:
            self._entropy.meet(name, address, now)

    def leave(self, now: float) -> None:
        """Say farewell. Go on driving the node until :attr:`has_left`, or for as long as there is time."""
        self._membership.leave(now)

    def beacon(self) -> bytes:
        """A datagram for everybody on a network, by broadcast or multicast.

        Whoever of the cluster hears it answers, and both compare their views, so that no seed is needed.
        """
        return self._post.beacon()

    # -- what comes in ------------------------------------------------------------------------------

    def receive(self, datagram: bytes, sender: str, now: float) -> None:
        """A datagram came from the address ``sender``. Never raises: what is refused is counted."""
        self._awake(now)
        try:
            message = decode_datagram(self._datagrams.open(datagram))
        except McpError as error:
            self.refused[error.code] += 1
            return
        self._on_datagram(message, sender, now, by_stream=False)

    def receive_stream(self, message: bytes, now: float) -> None:
        """A message came over a connection. Never raises: what is refused is counted."""
        self._awake(now)
        try:
            decoded = decode_stream(self._streams.open(message))
            carried = decode_datagram(decoded.body) if isinstance(decoded, Carried) else None
        except McpError as error:
            self.refused[error.code] += 1
            return
        if self._membership.leaving:
            return
        if carried is not None:
            self._on_datagram(carried, decoded.address, now, by_stream=True)
        elif isinstance(decoded, Summary):
            self._entropy.on_summary(decoded, now)
        elif isinstance(decoded, Delta):
            self._entropy.on_delta(decoded, now)

    def _on_datagram(self, message: Datagram, address: str, now: float, *, by_stream: bool) -> None:
        membership = self._membership
        if message.sender == membership.name or message.to not in ("", membership.name):
            self.refused["MISDIRECTED"] += 1
            return
        if membership.rival is not None:
            return
        for update in message.updates:
            membership.apply(update, now)
        for load in (message.load, *message.loads):
            if load is not None:
                membership.apply_load(load)
        record = membership.view.get(message.sender)
        if record is not None:
            address = record.address
        self._dispatch(message, address, now, by_stream=by_stream)
        if not membership.leaving:
            self._entropy.on_digest(message.sender, address, message.digest, now)

    def _dispatch(self, message: Datagram, address: str, now: float, *, by_stream: bool) -> None:
        match message.kind:
            case Kind.PING:
                answer = self._post.carry if by_stream else self._post.send
                answer(Kind.ACK, message.seq, message.sender, address)
            case Kind.ACK:
                self._detector.on_ack(message)
            case Kind.NACK:
                self._detector.on_nack(message)
            case Kind.PING_REQUEST:
                self._detector.on_ping_request(message, now)
            case Kind.GOSSIP:
                pass

    # -- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._awake(now)
        if not self._membership.leaving:
            self._entropy.tick(now)
            if self.contested:
                # Answers would go to the rival, so that everybody would seem to have failed.
                self._detector.rest(now)
                return
            self._detector.tick(now)
        if self._gossip_at <= now and self._membership.news:
            self._gossip_at = now + self._limits.gossip_interval_s
            self._spread()

    def next_deadline(self) -> float:
        """When to call :meth:`tick` next, at once if that is over; infinite for a node that has left."""
        membership = self._membership
        gossip_at = self._gossip_at if membership.news and membership.others_present() else float("inf")
        if membership.leaving:
            return gossip_at
        if self.contested:
            return self._entropy.next_deadline()
        return min(gossip_at, self._detector.next_deadline(), self._entropy.next_deadline())

    def take_output(self) -> Output:
        """Everything to send and to tell since the last time. Take it after every other call."""
        return self._outbox.take()

    def _spread(self) -> None:
        membership = self._membership
        others = membership.others_present()
        for name in self._random.sample(others, min(self._limits.gossip_fanout, len(others))):
            record = membership.view.get(name)
            if record is not None:
                self._post.send(Kind.GOSSIP, 0, name, record.address)

    def _awake(self, now: float) -> None:
        """Where this node stood still, what it waited for may lie unread: give it the time to be read."""
        called_at, self._called_at = self._called_at, now
        if now - called_at <= self._limits.stall_s:
            return
        late_s = now - max(called_at, self.next_deadline())
        if late_s > self._limits.stall_s and not self._membership.leaving:
            self._membership.health.worse()
            self._detector.postpone(late_s + self._limits.probe_timeout_s)
