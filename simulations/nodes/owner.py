"""Whoever declares rules, routes, limits, rollouts and strategies meanwhile; and what has to hold of them.

Three rules are held against it here. Nodes that hold the same declarations and models decide alike, for every
session. A share of the cluster's limit is never granted beyond what others may be using. And, where nothing
is done to clocks, what the nodes may be using of it at any moment is not more than the limit. What is to be
given instead of an answer is looked at where it comes (:mod:`simulations.nodes.workload`).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from mcp.client.client import Client
from mcp.cluster.router.features import Features
from mcp.cluster.scheduler.strategies import PRIORITY_QUEUE, STRATEGIES
from mcp.errors import ConfigInvalid, InvalidArgument, McpError, Unsupported, VersionConflict
from mcp.flow.limiter import TICKS_PER_S
from mcp.node.assembly import Assembly
from mcp.node.routing import Routing
from mcp.state.state import ReplicatedState
from simulations.faults import FaultKind, FaultPlan
from simulations.invariants import Violation
from simulations.nodes import models
from simulations.nodes.machine import Machine
from simulations.nodes.workload import CALLS_END, DEFECTS, MAX_AGE_S, NO_DEFECTS, OVERDUE_S, check_answer

if TYPE_CHECKING:
    from simulations.nodes.cluster import Cluster

DECIDE_ALIKE: Final = "nodes with the same routes decide alike"
SHARES_FIT: Final = "what nodes may use of a limit is not more than the limit"

RETURNED_S: Final = 15.0
"""Once the cluster is back, so long until every place that a scheduler gave is given back."""
PAUSE_S: Final = 0.5
"""Between two declarations, on average."""
STRATEGY_PAUSE_S: Final = 2.0
"""Between two strategies of the model, or none, on average."""
ROLLOUTS: Final = 0.3
"""With so many of the declarations a rollout is begun, or aborted;"""
BURSTS, BURST, BURST_PAUSE_S = 6, 12, 0.2
"""After which so many times so many requests come."""
ABORTED: Final = 0.2
"""that in so many of the cases."""
SESSIONS: Final = tuple(f"session-{n}" for n in range(8))
LIMIT: Final = {"amount": 2, "per_s": 0.05, "lease_s": 1.5, "skew_s": 0.5}
"""Always the same, so that what is left of it can be told at any time. It comes and goes.

A node asks for one request of a period at least: so three of them have all of it between them.
"""
FALLBACKS: Final = 0.5
"""In so many of the runs, with the limits comes what is done where they refuse, and where a run fails."""
DIFFERENT: Final = 3
"""Of the requests that come at once then, so many ask different things."""
WHEN: Final = ("node", "concurrency", "cluster_rate", "lease", "deadline", "too_late", "breaker", "failed")
CLOCKS: Final = frozenset({FaultKind.CLOCK_DRIFT, FaultKind.CLOCK_LEAP, FaultKind.WALL_JUMP})

_EXPECTED: Final = (InvalidArgument, ConfigInvalid, VersionConflict, Unsupported)
"""Refusals that say that nothing was changed."""


class Owner:
    """One client and its task, which ends after ``stopping`` is set, with nothing limited any more."""

    def __init__(self, around: Cluster, client: Client) -> None:
        self.client = client
        self.stopping = False
        self._around = around
        self._random: random.Random = around.world.stream("owner/declarations")
        self._decided: dict[tuple[object, ...], tuple[str, tuple[str, ...]]] = {}
        self.compared = 0
        """Decisions that two nodes were compared in."""
        self._actions: tuple[Callable[[float], Awaitable[object]], ...] = (
            self._apply_routes,
            self._apply_routes,
            self._remove_routes,
            self._set_rules,
            self._set_limits,
            self._change_what_is_there,
        )
        # A draw of its own: what a seed declares otherwise stays what it was.
        self._rolling: random.Random = around.world.stream("owner/rollouts")
        self._instead: random.Random = around.world.stream("owner/fallbacks")
        self._limited = False
        self._falls_back = self._instead.random() < FALLBACKS
        self._scheduling: random.Random = around.world.stream("owner/strategies")
        self._urgent = False

    async def run(self) -> None:
        """Declare, wait, declare again."""
        await asyncio.gather(self._declare(), self._choose_strategies())
        while not await self._try(self._lift_limits):  # noqa: ASYNC110 (it is tried again)
            await asyncio.sleep(PAUSE_S)

    async def _declare(self) -> None:
        while not self.stopping:
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_S))
            await self._try(self._random.choice(self._actions))
            if self._falls_back and self._limited:
                await self._try(self._ask)
            if self._rolling.random() < ROLLOUTS:
                await self._try(self._roll_out)
                for _ in range(BURSTS):
                    await self._try(self._ask)

    async def _choose_strategies(self) -> None:
        """Beside the others, so that what these do stays what it was."""
        draw = self._scheduling
        while not self.stopping:
            await asyncio.sleep(draw.expovariate(1 / STRATEGY_PAUSE_S))
            if not self.stopping and await self._try(self._set_strategy, draw):
                await self._try(self._ask, draw)

    async def _try(
        self, action: Callable[[float], Awaitable[object]], draw: random.Random | None = None
    ) -> bool:
        around, timeout_s = self._around, (draw or self._random).choice((0.5, 2.0))
        begun = around.world.now
        try:
            await action(timeout_s)
        except McpError as error:
            around.done[f"declare {error.code}"] += 1
            if type(error) is McpError or isinstance(error, DEFECTS):
                around.fail(Violation(NO_DEFECTS, f"declare: {error.code}: {error}"))
            return False
        finally:
            took_s = around.world.now - begun
            if took_s > 2 * timeout_s + OVERDUE_S:
                around.fail(Violation(CALLS_END, f"a declaration took {took_s:.3f} s"))
        around.done["declared"] += 1
        return True

    # -- declarations -------------------------------------------------------------------------------

    def _route(self) -> dict[str, Any]:
        draw = self._random
        weights = [draw.randint(0, 3), draw.randint(1, 3)]
        versions = draw.sample(["1", "2"], 2)[: draw.randint(1, 2)]
        destinations = [
            {"model": models.NAME, "version": version, "weight": weight}
            for version, weight in zip(versions, weights[2 - len(versions) :], strict=False)
        ]
        mirrors = [{"model": models.NAME, "version": "1", "percent": 50}] if draw.random() < 0.3 else []
        return {"host": models.NAME, "entries": [{"destinations": destinations, "mirrors": mirrors}]}

    async def _apply_routes(self, timeout_s: float) -> None:
        await self.client.apply_routes([self._route()], timeout_s=timeout_s)

    async def _remove_routes(self, timeout_s: float) -> None:
        await self.client.remove_routes([models.NAME], timeout_s=timeout_s)

    async def _set_rules(self, timeout_s: float) -> None:
        draw = self._random
        rules = [
            f"when batch == {n} use {models.NAME}@{draw.choice('12')}" for n in range(draw.randint(0, 3))
        ]
        await self.client.set_rules(rules, timeout_s=timeout_s)

    async def _set_limits(self, timeout_s: float) -> None:
        limits: dict[str, Any] = {"cluster": {"all": LIMIT}, "in_flight_max": self._random.choice((4, 64))}
        if self._falls_back:
            limits["models"] = {models.NAME: {"fallbacks": self._fallbacks()}}
        chosen = limits if self._random.random() < 0.7 else None
        await self.client.set_limits(chosen, timeout_s=timeout_s)
        self._limited = chosen is not None

    def _fallbacks(self) -> list[dict[str, Any]]:
        """An answer that was kept, one that is declared, or the first of both that there is."""
        cached: dict[str, Any] = {"kind": "cached", "max_age_s": MAX_AGE_S, "when": list(WHEN)}
        fixed: dict[str, Any] = {"kind": "fixed", "answer": models.fixed_answer(), "when": list(WHEN)}
        return self._instead.choice(([cached], [fixed], [cached, fixed]))

    async def _lift_limits(self, timeout_s: float) -> None:
        await self.client.set_limits(None, timeout_s=timeout_s)

    async def _set_strategy(self, timeout_s: float) -> None:
        name = self._scheduling.choice((None, *STRATEGIES))
        await self.client.set_strategy(models.NAME, name, timeout_s=timeout_s)
        self._urgent = name == PRIORITY_QUEUE
        self._around.done[f"strategy {name or 'none'}"] += 1

    async def _roll_out(self, timeout_s: float) -> None:
        """Begin a rollout of the version that is not the active one, or abort one."""
        draw = self._rolling
        if draw.random() < ABORTED:
            await self.client.abort_rollout(models.NAME, timeout_s=timeout_s)
            return
        known = {each.name: each.version for each in await self.client.models(timeout_s=timeout_s)}
        to = "1" if known.get(models.NAME) == "2" else "2"
        await self.client.remove_routes([models.NAME], timeout_s=timeout_s)
        steps = sorted({draw.randint(20, 99), draw.randint(20, 99), 100})
        await self.client.begin_rollout(
            models.NAME,
            to,
            steps=steps,
            max_error=draw.choice((0.0, 0.2, 1.0)),
            max_p99_ratio=draw.choice((0.5, 10.0)),
            interval_s=draw.choice((0.0, 1.0)),
            min_requests=draw.choice((1, 5)),
            timeout_s=timeout_s,
        )

    async def _ask(self, timeout_s: float) -> None:
        """Some requests at once: a rollout gets on, limits refuse something, some wait for a node."""
        samples = [number % DIFFERENT if self._falls_back else 0 for number in range(BURST)]
        urgencies = range(BURST) if self._urgent else [0] * BURST
        calls = [
            self.client.infer(models.NAME, models.inputs(sample), priority=urgency, timeout_s=timeout_s)
            for sample, urgency in zip(samples, urgencies, strict=True)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for sample, told in zip(samples, answers, strict=True):
            if not isinstance(told, BaseException):
                check_answer(self._around, "the owner", told, sample)
            elif not isinstance(told, McpError):
                raise told
        await asyncio.sleep(BURST_PAUSE_S)

    async def _change_what_is_there(self, timeout_s: float) -> None:
        """Read, change, and put back only if nobody else has done the same."""
        seen = await self.client.routes(timeout_s=timeout_s)
        version = seen.version + (self._random.random() < 0.2)
        await self.client.apply_routes([self._route()], expected_version=version, timeout_s=timeout_s)

    # -- what has to hold ---------------------------------------------------------------------------

    def look(self, machines: Mapping[str, Machine], plan: FaultPlan) -> None:
        """Compare what the nodes would decide, and add up what they may be using."""
        usable = 0
        for name, machine in machines.items():
            parts = machine.parts
            if parts is None or machine.process is None or not parts.membership.caught_up:
                continue
            self._compare(name, parts.state, parts.routing)
            admission = parts.admitting.admission
            share = None if admission is None else admission._shares.get("all")
            if share is not None and share._until > machine.clock.now() * TICKS_PER_S:
                usable += share.units
        if usable > LIMIT["amount"] * 1000 and not any(fault.kind in CLOCKS for fault in plan.faults):
            self._around.fail(Violation(SHARES_FIT, f"{usable / 1000:g} of {LIMIT['amount']} are in use"))

    def _compare(self, name: str, state: ReplicatedState, routing: Routing) -> None:
        traffic = state.traffic
        key = (
            (traffic.rules.version, traffic.rules.index, traffic.routes_version, traffic.routes_index),
            tuple((each.name, each.active, tuple(each.versions)) for each in state.models.all()),
        )
        decided = tuple(_decided(routing, session) for session in SESSIONS)
        who, known = self._decided.setdefault(key, (name, decided))
        self.compared += who != name
        if known != decided:
            told = f"{who} and {name} at routes version {traffic.routes_version}: {known} and {decided}"
            self._around.fail(Violation(DECIDE_ALIKE, told))


def scheduled(nodes: Iterable[Assembly | None]) -> Counter[str]:
    """What the schedulers of nodes have chosen since these started, all together."""
    totals: Counter[str] = Counter()
    for part in nodes:
        if part is not None:
            totals.update({f"scheduled {kind}": count for kind, count in part.scheduling.totals.items()})
    return totals


def unreturned(nodes: Iterable[Assembly | None]) -> str | None:
    """Say which node keeps places of requests, once there are no requests; ``None``: none."""
    held = {part.config.node_id: part.scheduling.held() for part in nodes if part is not None}
    told = [f"{name}: {count}" for name, count in sorted(held.items()) if count]
    return f"places of requests that are over were not given back: {', '.join(told)}" if told else None


def _decided(routing: Routing, session: str) -> str:
    features = Features(models.NAME, batch=int(session[-1]) % 4, session=session)
    try:
        decision = routing._current().decide(features, 0)
    except McpError as error:
        return error.code
    return f"{decision.model}@{decision.version}"
