"""What a seed stands for: the cluster, its patience and limits, the load, and the faults.

Drawn as swarm testing does it (Groce et al., "Swarm Testing", ISSTA 2012): each run has its own few kinds
of faults and its own habits, because a run with a little of everything reaches less than many runs that
each have much of something. Limits are small, so that segments, compaction and snapshots happen often.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from consensus.journal import JournalLimits
from consensus.ports import DriverLimits
from consensus.raft.config import RaftConfig
from consensus.transfer import TransferLimits
from simulations.faults import FaultKind, FaultPlan
from simulations.journals import journal_limits
from simulations.moves import Move, draw_moves, fresh_nodes, plan_with_members

SECONDS = 60.0
"""How long a run is under fire, in virtual seconds."""

HEARTBEATS_PER_RUN = (600, 1400)
"""From and to: their number bounds what a run costs, so larger clusters are more patient."""

BURSTS_PER_S_MAX = 5.0
"""With one peer or two; a larger cluster has as many messages for fewer bursts."""


@dataclass(frozen=True, slots=True)
class Load:
    """Commands come in bursts: ``bursts_per_s`` on average, each of up to ``burst_max`` commands."""

    bursts_per_s: float
    burst_max: int
    command_bytes_max: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Habits:
    """How the machines are on a good day."""

    delay_s: float
    """Of a message, on average."""
    redial_s: float
    """Until a broken connection is made again, on average."""
    sync_s: float
    """Of a sync, at most."""
    store_s: float
    """Until a snapshot is written, at most."""
    lag_s: float
    """Until a committed entry is executed, at most."""
    restart_s: float
    """Until a node that failed is started again, on average."""
    snapshot_bytes: int
    queue_commands_max: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a run is a function of."""

    seed: int
    nodes: tuple[str, ...]
    seconds: float
    raft: RaftConfig
    limits: DriverLimits
    journal: JournalLimits
    load: Load
    habits: Habits
    plan: FaultPlan = field(default_factory=FaultPlan)
    moves: tuple[Move, ...] = ()
    fresh: tuple[str, ...] = ()
    """Nodes that may join; ``nodes`` are those that the cluster is started with."""

    @property
    def patience_s(self) -> float:
        """The longest election timeout: the cluster's unit of time."""
        return self.raft.election_timeout_max_s

    @classmethod
    def draw(cls, seed: int, *, seconds: float = SECONDS) -> Scenario:
        """The scenario of ``seed``. A shorter one has the same cluster, and the faults that fit."""
        draw = random.Random(f"{seed}/scenario")
        nodes = tuple(f"n{i}" for i in range(1, _size(draw) + 1))
        raft = _raft(draw, len(nodes))
        patience = raft.election_timeout_max_s
        scenario = cls(
            seed,
            nodes,
            seconds,
            raft,
            _limits(draw, patience),
            journal_limits(draw.choice((2_000, 10_000, 60_000))),
            _load(draw, patience, len(nodes)),
            _habits(draw, raft),
        )
        # A stream of its own: what a seed draws otherwise stays what it was.
        members = random.Random(f"{seed}/members")
        moves = draw_moves(members, SECONDS)
        sure = random.Random(f"{seed}/a sure fault")
        plan = _plan(draw, scenario).made_sure(sure, nodes, SECONDS)
        scenario = replace(scenario, plan=plan)
        if not moves:
            return scenario
        fresh = fresh_nodes(moves, len(nodes))
        plan = _plan_with_members(members, scenario, fresh)
        raft = replace(raft, promotion_lag_entries_max=members.choice((2, 16, 256)))
        return replace(scenario, raft=raft, moves=moves, fresh=fresh, plan=plan)


def _size(draw: random.Random) -> int:
    return draw.choices((1, 2, 3, 4, 5, 6, 7), (1, 1, 8, 2, 6, 1, 2))[0]


def _raft(draw: random.Random, size: int) -> RaftConfig:
    heartbeat_s = max(0.05, SECONDS * max(size - 1, 1) / draw.uniform(*HEARTBEATS_PER_RUN))
    shortest = heartbeat_s * draw.uniform(3.1, 6.0)
    entry_bytes_max = draw.choice((8_000, 64_000))
    # One entry at a time and one after the other would be slower than the load.
    entries_max = draw.choice((1, 8, 64, 4096))
    flights = (8, 64) if entries_max == 1 else (1, 2, 8, 64)
    return RaftConfig(
        election_timeout_min_s=shortest,
        election_timeout_max_s=shortest * draw.uniform(1.5, 2.5),
        heartbeat_s=heartbeat_s,
        leader_fallback_s=shortest * draw.uniform(1.0, 2.0),
        entry_bytes_max=entry_bytes_max,
        append_bytes_max=entry_bytes_max + draw.choice((200, 4_000, 60_000)),
        append_entries_max=entries_max,
        appends_in_flight_max=draw.choice(flights),
        append_bytes_in_flight_max=draw.choice((20_000, 1_000_000) if entries_max == 1 else (1, 1_000_000)),
    )


def _limits(draw: random.Random, patience: float) -> DriverLimits:
    return DriverLimits(
        proposals_pending_max=draw.choice((20, 200, 2000)),
        command_bytes_max=3_000,
        commands_per_entry_max=draw.choice((1, 8, 512)),
        batch_bytes_max=4_000,
        inbox_messages_max=draw.choice((16, 200, 4096)),
        apply_entries_max=draw.choice((20, 1000)),
        log_entries_max=draw.choice((5, 30, 100, 400)),
        log_bytes_max=draw.choice((3_000, 40_000, 1 << 20)),
        log_entries_retained=draw.choice((0, 2, 20, 100)),
        forward_retry_s=patience * draw.uniform(0.3, 1.0),
        forward_backoff_s=patience * draw.uniform(0.02, 0.1),
        disk_full_retry_s=patience * draw.uniform(0.05, 0.3),
        transfer=TransferLimits(
            chunk_bytes=draw.choice((50, 500, 5_000)),
            window_chunks=draw.choice((1, 3, 8)),
            resend_s=patience * draw.uniform(0.2, 0.6),
        ),
    )


def _load(draw: random.Random, patience: float, size: int) -> Load:
    per_s = draw.choice((8.0, 14.0, 25.0))
    burst_max = draw.choice((1, 4, 30, 80))
    return Load(
        bursts_per_s=min(2 * per_s / (1 + burst_max), BURSTS_PER_S_MAX * 2 / max(size - 1, 2)),
        burst_max=burst_max,
        command_bytes_max=draw.choice((20, 200, 2_500)),
        timeout_s=patience * draw.choice((0.3, 1.0, 4.0)),
    )


def _habits(draw: random.Random, raft: RaftConfig) -> Habits:
    heartbeat = raft.heartbeat_s
    return Habits(
        delay_s=min(heartbeat / 10, draw.choice((0.0001, 0.001, 0.004))),
        redial_s=heartbeat * draw.uniform(0.1, 1.0),
        sync_s=draw.choice((0.0, 0.001, 0.01)),
        store_s=heartbeat * draw.choice((0.0, 0.1, 1.0)),
        lag_s=draw.choice((0.0, 0.0, heartbeat / 4)),
        restart_s=raft.election_timeout_max_s * draw.uniform(0.1, 2.0),
        snapshot_bytes=draw.choice((0, 300, 3_000)),
        queue_commands_max=draw.choice((600, 2_000)),
    )


def _plan_with_members(draw: random.Random, scenario: Scenario, fresh: tuple[str, ...]) -> FaultPlan:
    return plan_with_members(
        draw,
        scenario.plan,
        (*scenario.nodes, *fresh),
        seconds=scenario.seconds,
        patience_s=scenario.patience_s,
        kinds=tuple(FaultKind),
        counts=(0, 4, 12),
    )


def _plan(draw: random.Random, scenario: Scenario) -> FaultPlan:
    kinds = [kind for kind in FaultKind if draw.random() < 0.4] or [FaultKind.KILL, FaultKind.LOSS]
    spare = (len(scenario.nodes) - 1) // 2
    return FaultPlan.draw(
        draw,
        scenario.nodes,
        seconds=scenario.seconds,
        patience_s=scenario.patience_s,
        kinds=kinds,
        count=draw.choice((6, 12, 25, 40)),
        fragile=draw.sample(scenario.nodes, spare),
    )
