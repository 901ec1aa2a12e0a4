"""What a seed stands for at the node level: machines, nodes' settings, clients and what they do, faults.

Drawn as `simulations.engine.scenario` does it: each run has its own few kinds of faults and its own habits,
and limits are small, so that segments, compaction, snapshots and their transfer happen in most runs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from consensus.journal import JournalLimits
from consensus.ports import DriverLimits
from consensus.transfer import TransferLimits
from mcp.node.config import REPLACE_DEAD_AFTER_S_MIN, REPLACE_ELECTIONS_MIN, NodeLimits
from simulations.faults import Fault, FaultKind, FaultPlan
from simulations.journals import journal_limits
from simulations.moves import (
    Kind,
    Move,
    Relocation,
    draw_moves,
    draw_relocations,
    fresh_nodes,
    plan_with_members,
)

SECONDS = 20.0
"""How long a run is under fire, in virtual seconds."""

QUICK_MODELS = 0.3
"""In so many of the runs models are quick enough to be run on the nodes' loops."""
QUICK_RUN_S = 0.0003
DECLARATIONS = 0.5
"""In so many of the runs rules, routes and limits are declared."""
FAILING = 0.4
"""In so many of those the second version of the model fails now and then, or always."""
FAILING_SHARES = (0.3, 1.0)

STREAMING = 0.25
"""In so many of the runs clients read streams of steps."""

REPLACEMENTS = 0.3
"""In so many of the runs dead voters are replaced, if the nodes are not too patient for that."""
REPLACED_AFTER_S_MAX = 7.0
"""Later ones would not come about within a run."""

KINDS = tuple(kind for kind in FaultKind if kind not in (FaultKind.DUPLICATE, FaultKind.REORDER))
"""All but those that no byte stream has. Loss is what TCP makes of it: lateness."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The nodes' patience, in seconds."""

    election_timeout_min_s: float
    election_timeout_max_s: float
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class Habits:
    """How the machines are on a good day; seconds, at most where it is drawn each time."""

    delay_s: float
    """Of a segment on the network, on average."""
    sync_s: float
    job_s: float
    """Until a thread has done a piece of work."""
    run_s: float
    """Of a run of a model."""
    restart_s: float
    """Until a node that failed is started again, on average."""


@dataclass(frozen=True, slots=True)
class Load:
    """What clients do. ``weights`` are of the kinds of calls, by name."""

    clients: int
    workers: int
    """Tasks of each client: they share its session."""
    pause_s: float
    """Between two calls of one worker, on average."""
    keys: int
    value_bytes: int
    timeouts_s: tuple[float, ...]
    weights: dict[str, float]
    deploy_at_s: float
    """When the second version of the model is deployed."""
    near: dict[str, str]
    """Which client sits beside which node."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a run is a function of."""

    seed: int
    nodes: tuple[str, ...]
    seconds: float
    timing: Timing
    limits: DriverLimits
    node_limits: NodeLimits
    journal: JournalLimits
    habits: Habits
    load: Load
    digest_every: int
    """Of so many log positions one has the digest of the whole state compared."""
    plan: FaultPlan = field(default_factory=FaultPlan)
    moves: tuple[Move, ...] = ()
    """Who joins, who goes, whose disk is emptied."""
    fresh: tuple[str, ...] = ()
    """The machines that join later, in their order."""
    declares: bool = False
    """Whether somebody declares rules, routes and limits meanwhile."""
    failing: float = 0.0
    """The share of the second version's runs that fail: a rollout of it has something to roll back for."""
    relocations: tuple[Relocation, ...] = ()
    """Who comes back at another address."""
    streams: bool = False
    """Whether clients read streams of steps, too."""
    replace_dead_after_s: float | None = None
    """After what time the nodes replace a dead voter; ``None``: never."""

    @property
    def patience_s(self) -> float:
        """The longest election timeout: the cluster's unit of time."""
        return self.timing.election_timeout_max_s

    @classmethod
    def draw(cls, seed: int, *, seconds: float = SECONDS) -> Scenario:
        """The scenario of ``seed``."""
        scenario = cls.draw_fixed(seed, seconds=seconds)
        # Streams of their own: what a seed draws otherwise stays what it was.
        draw = random.Random(f"{seed}/node members")
        moves = draw_moves(draw, scenario.seconds)
        if moves:
            fresh = fresh_nodes(moves, len(scenario.nodes))
            plan = _plan_with_members(draw, scenario, fresh)
            scenario = replace(scenario, moves=moves, fresh=fresh, plan=plan)
        scenario = _with_replacement(random.Random(f"{seed}/node replacement"), scenario)
        draw = random.Random(f"{seed}/node relocation")
        relocations = draw_relocations(draw, len(scenario.nodes), scenario.seconds)
        streams = random.Random(f"{seed}/node streams").random() < STREAMING
        return replace(scenario, relocations=relocations, streams=streams)

    @classmethod
    def draw_fixed(cls, seed: int, *, seconds: float = SECONDS) -> Scenario:
        """The same without members that come and go."""
        draw = random.Random(f"{seed}/node scenario")
        nodes = tuple(f"n{i}" for i in range(1, draw.choices(range(1, 6), (1, 1, 8, 1, 3))[0] + 1))
        shortest = draw.uniform(0.15, 0.5)
        timing = Timing(shortest, shortest * draw.uniform(1.5, 2.5), shortest / draw.uniform(3.1, 6.0))
        scenario = cls(
            seed,
            nodes,
            seconds,
            timing,
            _limits(draw, timing.election_timeout_max_s),
            _node_limits(draw),
            journal_limits(draw.choice((2_000, 20_000, 200_000))),
            _habits(draw, timing),
            _load(draw, nodes),
            draw.choice((5, 20)),
        )
        if random.Random(f"{seed}/node runs").random() < QUICK_MODELS:
            scenario = replace(scenario, habits=replace(scenario.habits, run_s=QUICK_RUN_S))
        declares = random.Random(f"{seed}/node declarations").random() < DECLARATIONS
        scenario = replace(scenario, declares=declares, failing=_failing(seed) if declares else 0.0)
        sure = random.Random(f"{seed}/a sure fault")
        return replace(scenario, plan=_plan(draw, scenario).made_sure(sure, nodes, seconds))


def _failing(seed: int) -> float:
    draw = random.Random(f"{seed}/a version that fails")
    return draw.choice(FAILING_SHARES) if draw.random() < FAILING else 0.0


def _with_replacement(draw: random.Random, scenario: Scenario) -> Scenario:
    """In some of the runs dead voters are replaced: a spare comes, and somebody is dead for long."""
    elections_s = REPLACE_ELECTIONS_MIN * scenario.patience_s
    if draw.random() >= REPLACEMENTS or len(scenario.nodes) < 3 or elections_s > REPLACED_AFTER_S_MAX:
        return scenario
    after_s = max(REPLACE_DEAD_AFTER_S_MIN, elections_s)
    spares = (Move(Kind.OBSERVE, at_s, 0.0) for at_s in (0.5, 1.0)[: draw.choice((1, 1, 2))])
    moves = tuple(sorted((*spares, *scenario.moves), key=lambda move: move.at_s))
    at_s = draw.uniform(0.1, 0.2) * scenario.seconds
    dead = Fault(FaultKind.KILL, at_s, after_s + draw.uniform(3.0, 7.0), (draw.choice(scenario.nodes),))
    # Whoever is emptied of its disk comes back; one that is damaged for good would be one too many.
    kept = [fault for fault in scenario.plan.faults if fault.kind is not FaultKind.BIT_FLIP]
    plan = FaultPlan(tuple(sorted((*kept, dead), key=lambda fault: (fault.at_s, fault.kind))))
    fresh = fresh_nodes(moves, len(scenario.nodes))
    return replace(scenario, replace_dead_after_s=after_s, moves=moves, fresh=fresh, plan=plan)


def _limits(draw: random.Random, patience: float) -> DriverLimits:
    return DriverLimits(
        proposals_pending_max=draw.choice((20, 200, 2000)),
        command_bytes_max=64 * 1024,
        commands_per_entry_max=draw.choice((1, 8, 512)),
        batch_bytes_max=128 * 1024,
        inbox_messages_max=draw.choice((32, 4096)),
        apply_entries_max=draw.choice((20, 1000)),
        log_entries_max=draw.choice((5, 10, 40)),
        log_bytes_max=draw.choice((20_000, 1 << 20)),
        log_entries_retained=draw.choice((0, 0, 0, 10)),
        forward_retry_s=patience * draw.uniform(0.5, 2.0),
        disk_full_retry_s=patience * draw.uniform(0.05, 0.3),
        sync_inline_s_max=draw.choice((0.0, 0.003)),
        transfer=TransferLimits(
            chunk_bytes=draw.choice((500, 4_000, 64_000)),
            window_chunks=draw.choice((1, 3, 8)),
            resend_s=patience * draw.uniform(0.5, 1.5),
        ),
    )


def _node_limits(draw: random.Random) -> NodeLimits:
    return NodeLimits(
        queue_commands_max=draw.choice((600, 16_384)),
        commands_per_slice=draw.choice((1, 8, 512)),
        assigned_runs_max=draw.choice((1, 4, 64)),
        chunk_bytes_max=draw.choice((16_384, 1024**2)),
        peer_backoff_s_max=draw.choice((0.1, 0.5)),
        node_dead_after_s=draw.uniform(0.5, 2.0),
        inference_lease_s=draw.choice((0.5, 2.0, 10.0)),
    )


def _habits(draw: random.Random, timing: Timing) -> Habits:
    return Habits(
        delay_s=min(timing.heartbeat_s / 8, draw.choice((0.0001, 0.001, 0.005))),
        sync_s=draw.choice((0.0, 0.001, 0.008)),
        job_s=draw.choice((0.0002, 0.005)),
        run_s=draw.choice((0.002, 0.05, 0.5)),
        restart_s=draw.uniform(0.1, 1.0),
    )


def _load(draw: random.Random, nodes: tuple[str, ...]) -> Load:
    clients = draw.randint(1, 4)
    workers = draw.choice((1, 2, 4))
    # So that a run has its hundreds of calls, and no more.
    per_s = draw.choice((20.0, 40.0, 60.0))
    common = {
        "put": 3.0,
        "get": 3.0,
        "get linearizable": 2.0,
        "get stale": 0.7,
        "count": 2.0,
        "delete": 0.5,
        "execute": 1.0,
        "submit": 1.0,
        "submit replicated": 0.5,
        "infer": 1.0,
    }
    weights = {kind: weight * draw.choice((0.0, 0.3, 1.0, 1.0, 4.0)) for kind, weight in common.items()}
    weights["put"] = max(weights["put"], 0.5)
    return Load(
        clients=clients,
        workers=workers,
        pause_s=clients * workers / per_s,
        keys=draw.choice((1, 3, 10)),
        value_bytes=draw.choice((0, 50, 2_000)),
        timeouts_s=draw.choice(((0.3, 1.0), (2.0, 5.0), (0.3, 3.0, 10.0))),
        weights=weights,
        deploy_at_s=draw.uniform(0.1, 0.8),
        near={f"c{i}": draw.choice(nodes) for i in range(1, clients + 1) if draw.random() < 0.5},
    )


def _plan(draw: random.Random, scenario: Scenario) -> FaultPlan:
    kinds = [kind for kind in KINDS if draw.random() < 0.35] or [FaultKind.KILL, FaultKind.PARTITION]
    spare = (len(scenario.nodes) - 1) // 2
    return FaultPlan.draw(
        draw,
        scenario.nodes,
        seconds=scenario.seconds,
        patience_s=scenario.patience_s * draw.choice((1.0, 3.0)),
        kinds=kinds,
        count=draw.choice((4, 8, 16)),
        fragile=draw.sample(scenario.nodes, spare),
    )


def _plan_with_members(draw: random.Random, scenario: Scenario, fresh: tuple[str, ...]) -> FaultPlan:
    return plan_with_members(
        draw,
        scenario.plan,
        (*scenario.nodes, *fresh),
        seconds=scenario.seconds,
        patience_s=scenario.patience_s,
        kinds=KINDS,
        counts=(0, 2, 6),
    )
