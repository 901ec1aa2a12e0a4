"""The named limits and times of gossip, and what each of them trades.

The protocol period is what everything else follows from. A node sends one probe in a period and answers
one on average, so that at rest it sends two datagrams in a period however large the cluster is: a shorter
period costs bytes. A crash is found by whoever probes the member next, at most two periods later; it is
suspected one period after that, and declared dead after one suspicion timeout more: a longer period costs
time. With 0.4 s both bars are met with room, as ``python -m simulations.gossip`` shows for 50 nodes: about
1 kB/s for each at rest, of 1.5, and a crash known everywhere in 1.6 s, and in 2.1 s at its worst, of 3.

The short suspicion timeout has a price. A member whose process stands still for more than about 1.2 s (a
suspended machine, say) may be declared dead, and comes back by itself with a new incarnation when it goes
on. That is harmless here, for the view decides where requests go and never who votes. Where machines stand
still often, raise ``suspicion_periods``: each unit adds 0.8 s to both times. What is lost on the network does
not matter as much: at 10 % loss nobody is declared dead who lives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

from mcp.errors import ConfigInvalid

DATAGRAM_BYTES_MAX: Final = 1400
"""The largest datagram: what the links of the field carry in one packet (1,500 less headers and tunnels)."""

STREAM_BYTES_MAX: Final = 64 * 1024
"""The largest stream message; a larger view travels in several."""

NAME_BYTES_MAX: Final = 128
"""The longest name of a member."""

ADDRESS_BYTES_MAX: Final = 128
"""The longest address of a member."""

CARD_BYTES_MAX: Final = 8 * 1024
"""The largest card, encoded."""

CARD_INLINE_BYTES_MAX: Final = 512
"""The largest card that travels in datagrams. A larger one is only named there, and fetched by stream."""

LOAD_BYTES_MAX: Final = 96
"""The largest load record, encoded: it rides on every probe."""

SUMMARY_ENTRIES_MAX: Final = 256
"""The members that one summary lists, and the names that one delta asks for."""

UPDATES_MAX: Final = 255
"""The updates, and the loads, that one datagram may claim to carry; more would not fit."""

COUNT_MAX: Final = 2**53
"""The largest incarnation, version or sequence number that is taken from a peer."""

PROBES_MAX: Final = 64
"""The probes of a node that wait for an answer at one time."""

RELAYS_MAX: Final = 256
"""The probes that a node makes for others at one time; more are not made."""

SUMMARIES_PER_S_MAX: Final = 128
"""The summaries that a node answers in a second: repeated ones cannot make it send its view for ever."""

OUTPUT_MAX: Final = 4096
"""The datagrams, the stream messages and the events that wait to be taken, of each kind.

What is over is dropped and counted: datagrams and stream messages may be lost anyway.
"""

CONFLICTS_MAX: Final = 256
"""The conflicts that are remembered, so that each is reported once in a while and not with every message."""


@dataclass(frozen=True, slots=True)
class GossipLimits:
    """How often a node does what, and for how long it waits. Raises :class:`~mcp.errors.ConfigInvalid`.

    ``probe_interval_s``: the protocol period; a probe has so long to be answered in any way.
    ``probe_timeout_s``: after this, others are asked to probe as well. Above the usual round trip.
    ``indirect_probes``: how many others are asked (*k* in SWIM, section 3.1).
    ``gossip_interval_s``: while there is news, it is sent this often to ``gossip_fanout`` members.
    ``retransmit_mult``: an update is sent ``retransmit_mult * ln(n + 1)`` times by each node (lambda).
    ``suspicion_periods``: the least suspicion timeout is this times ``max(2, log10(n))`` periods (alpha).
    ``suspicion_max_mult``: the timeout without any confirmation, in least timeouts (beta).
    ``confirmations``: so many independent suspicions bring the timeout down to its least (K).
    ``invited_probes``: of those who hear of a suspicion, so many on average probe the suspect at once.
    ``health_max``: how many times slower than usual a node in bad health may probe, less one (S).
    ``join_retry_s``: between two attempts to reach a seed.
    ``reconnect_interval_s``: between two attempts to reach a dead member or an absent seed; longer by
    a tenth with every member, so that the whole cluster does not knock more often than a small one.
    ``sync_interval_s``: between two comparisons of the whole view that nothing called for.
    ``sync_interval_min_s``: between any two comparisons that a node begins.
    ``settle_s``: a view that changed within this is not compared: its news is still on the way.
    ``dead_remembered_s``: for how long dead and left members are kept, so that stale news of them is known
    for what it is.
    ``stall_s``: a tick that is later than this shows that this node stood still, not the others.
    ``conflict_repeat_s``: between two reports of the same conflict.
    ``members_max``: members in the view, dead ones included; more are not taken in.
    ``seeds_max``: seed addresses.
    ``relayed_loads_bytes``: of a probe or its answer, so much is for loads of other members.
    """

    probe_interval_s: float = 0.4
    probe_timeout_s: float = 0.15
    indirect_probes: int = 3
    gossip_interval_s: float = 0.1
    gossip_fanout: int = 3
    retransmit_mult: float = 4.0
    suspicion_periods: float = 1.0
    suspicion_max_mult: float = 2.0
    confirmations: int = 3
    invited_probes: int = 6
    health_max: int = 8
    join_retry_s: float = 0.5
    reconnect_interval_s: float = 5.0
    sync_interval_s: float = 60.0
    sync_interval_min_s: float = 0.5
    settle_s: float = 0.5
    dead_remembered_s: float = 3600.0
    stall_s: float = 0.25
    conflict_repeat_s: float = 60.0
    members_max: int = 1024
    seeds_max: int = 64
    relayed_loads_bytes: int = 96

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not 0 < value < math.inf:
                raise ConfigInvalid(f"{limit.name} must be above 0 and finite, not {value!r:.80}")
        if self.probe_timeout_s >= self.probe_interval_s:
            raise ConfigInvalid(
                f"probe_timeout_s={self.probe_timeout_s} must be below probe_interval_s="
                f"{self.probe_interval_s}, or no indirect probe could be answered in time"
            )
        if self.suspicion_max_mult < 1.0:
            raise ConfigInvalid(f"suspicion_max_mult must be at least 1, not {self.suspicion_max_mult!r}")

    def transmissions(self, members: int) -> int:
        """How often each node sends one update in a cluster of so many (SWIM, section 4.1)."""
        return math.ceil(self.retransmit_mult * math.log(members + 1))

    def suspicion_min_s(self, members: int) -> float:
        """The suspicion timeout with every confirmation (Lifeguard, section IV-B)."""
        return self.suspicion_periods * max(2.0, math.log10(max(members, 1))) * self.probe_interval_s

    def reconnect_s(self, members: int) -> float:
        """The mean time between two attempts to reach who is gone."""
        return self.reconnect_interval_s * max(1.0, members / 10)


DEFAULT_LIMITS: Final = GossipLimits()
"""The limits where none are given."""
