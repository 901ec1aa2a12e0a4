"""The failure detector: probes, direct and by way of others, and what follows when nothing comes back.

A probe of this node's own goes through these steps (SWIM, sections 3.1 and 4; Lifeguard, section IV)::

    0                   ping
    probe_timeout       ping again, ping requests to k others, and a ping over a stream
    probe_interval      nothing came back: the member is suspected; both times are longer in bad health
    + suspicion         nobody heard it refute: it is dead

The stream tells a member that is gone from a path that loses datagrams. A relay that gets no answer says
so with a nack; one that does not even do that is a sign that it is this node that is cut off.

Whoever hears of a suspicion is invited to form an opinion of its own: with a probability of
``invited_probes`` in *n* it probes the suspect at once instead of when its turn comes. So a member that
is gone is confirmed gone within a period, and one that is not hears of the suspicion from several sides.
"""

from __future__ import annotations

import random

from mcp.cluster.gossip.codec import SEQ_MAX, Datagram, Kind
from mcp.cluster.gossip.limits import PROBES_MAX, RELAYS_MAX
from mcp.cluster.gossip.membership import Membership
from mcp.cluster.gossip.post import Post
from mcp.cluster.gossip.probing import Probe, ProbeOrder, Relay
from mcp.cluster.gossip.updates import Suspect

_NACK_SHARE = 0.8
"""Of the probe timeout: a relay says after so much that it has no answer, to be in time with that."""


class Detector:
    """See the head of this module."""

    def __init__(self, membership: Membership, post: Post, random_: random.Random, now: float) -> None:
        self._membership = membership
        self._limits = membership.limits
        self._post = post
        self._random = random_
        self._order = ProbeOrder(membership.name, membership.view, random_)
        self._seq = random_.randrange(SEQ_MAX)
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}
        # Nodes that start together do not probe together.
        self._next_at = now + self._limits.probe_interval_s * random_.random()
        membership.joined = self._order.add
        membership.suspected = self._invited

    def next_deadline(self) -> float:
        """When :meth:`tick` is to be called next."""
        waiting = [probe.due_at for probe in self._probes.values()]
        waiting += [relay.due_at for relay in self._relays.values()]
        return min(self._next_at, self._membership.suspicion_due_at(), *waiting)

    def postpone(self, seconds: float) -> None:
        """This node stood still: its probes and the suspicions it heard of get that time back."""
        for probe in self._probes.values():
            probe.postpone(seconds)
        self._membership.postpone_suspicions(seconds)

    def rest(self, now: float) -> None:
        """Probe nobody for now, and drop what is under way."""
        self._probes.clear()
        self._relays.clear()
        self._next_at = now + self._limits.probe_interval_s

    def tick(self, now: float) -> None:
        """Begin, widen and end probes, and declare deaths."""
        for probe in [probe for probe in self._probes.values() if probe.due_at <= now]:
            if probe.ends_at <= now:
                self._failed(probe, now)
            else:
                self._widen(probe)
        for seq, relay in [item for item in self._relays.items() if item[1].due_at <= now]:
            self._relay_waits_no_longer(seq, relay, now)
        for record in self._membership.declare_dead(now):
            # So that it need not wait until somebody knocks, if it is there after all.
            self._post.send(Kind.GOSSIP, 0, record.name, record.address)
        if self._next_at <= now:
            self._next_at = now + self._limits.probe_interval_s * self._membership.health.multiplier
            name = self._order.next()
            if name is not None:
                self._probe(name, now)

    # -- probes of one's own ------------------------------------------------------------------------

    def _probe(self, name: str, now: float) -> None:
        record = self._membership.view.get(name)
        if record is None or len(self._probes) >= PROBES_MAX:
            return
        if any(probe.name == name for probe in self._probes.values()):
            return
        slower, limits = self._membership.health.multiplier, self._limits
        probe = Probe(
            self._next_seq(),
            name,
            now + limits.probe_timeout_s * slower,
            now + limits.probe_interval_s * slower,
        )
        self._probes[probe.seq] = probe
        self._post.send(Kind.PING, probe.seq, name, record.address)

    def _invited(self, name: str, now: float) -> None:
        others = self._membership.view.present - 2
        if others > 0 and self._random.random() < self._limits.invited_probes / others:
            self._probe(name, now)

    def _widen(self, probe: Probe) -> None:
        probe.widened = True
        view = self._membership.view
        record = view.get(probe.name)
        if record is None:
            return
        others = [name for name in self._membership.others_present() if name != probe.name]
        for name in self._random.sample(others, min(self._limits.indirect_probes, len(others))):
            relay = view.get(name)
            if relay is not None:
                probe.asked += 1
                self._post.send(Kind.PING_REQUEST, probe.seq, name, relay.address, subject=probe.name)
        self._post.send(Kind.PING, probe.seq, probe.name, record.address)
        self._post.carry(Kind.PING, probe.seq, probe.name, record.address)

    def _failed(self, probe: Probe, now: float) -> None:
        del self._probes[probe.seq]
        membership = self._membership
        membership.health.worse(max(0, probe.asked - probe.nacks) if probe.asked else 1)
        record = membership.view.get(probe.name)
        if record is not None and record.state.present:
            membership.apply(Suspect(record.name, record.incarnation, membership.name), now)
            # Told at once, and not only when somebody probes it again.
            self._post.send(Kind.PING, 0, record.name, record.address)

    def on_ack(self, message: Datagram) -> None:
        """An answer: to a probe of this node, by itself or by a relay, or to one for somebody else."""
        relay = self._relays.get(message.seq)
        if relay is not None and message.sender == relay.name:
            del self._relays[message.seq]
            self._pass_on(Kind.ACK, relay)
            return
        probe = self._probes.get(message.seq)
        if probe is not None and probe.name in (message.sender, message.subject):
            del self._probes[message.seq]
            self._membership.health.better()

    def on_nack(self, message: Datagram) -> None:
        """A relay has tried, and has no answer yet."""
        probe = self._probes.get(message.seq)
        if probe is not None and probe.name == message.subject:
            probe.nacks += 1

    # -- probes for others --------------------------------------------------------------------------

    def on_ping_request(self, message: Datagram, now: float) -> None:
        """Somebody wants to know whether the subject answers this node."""
        record = self._membership.view.get(message.subject)
        if record is None or not record.state.present or len(self._relays) >= RELAYS_MAX:
            return
        seq, limits = self._next_seq(), self._limits
        self._relays[seq] = Relay(
            message.sender,
            message.seq,
            record.name,
            now + limits.probe_timeout_s * _NACK_SHARE,
            now + limits.probe_interval_s,
        )
        self._post.send(Kind.PING, seq, record.name, record.address)

    def _relay_waits_no_longer(self, seq: int, relay: Relay, now: float) -> None:
        if relay.ends_at <= now:
            del self._relays[seq]
        else:
            relay.nacked = True
            self._pass_on(Kind.NACK, relay)

    def _pass_on(self, kind: Kind, relay: Relay) -> None:
        origin = self._membership.view.get(relay.origin)
        if origin is not None:
            self._post.send(kind, relay.origin_seq, relay.origin, origin.address, subject=relay.name)

    def _next_seq(self) -> int:
        self._seq = (self._seq + 1) & SEQ_MAX
        return self._seq
