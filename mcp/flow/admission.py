"""Whether a request is let in: deadline, breaker, limits and load, asked in one call, all or nothing.

What is asked first costs least and says most: a deadline that cannot be met, then whether the model's breaker
at the node is open, whether there is room, and last the rates, of the client, the model and the cluster. A
request that is refused has taken nothing, for whatever had let it in before is undone.

Whoever is let in gets a :class:`Ticket`, and owes its :meth:`Ticket.done`, exactly one and whatever happens:
a ticket that is kept for ever holds its place for ever.
"""

from __future__ import annotations

import random
from collections.abc import Container
from dataclasses import dataclass
from itertools import islice
from typing import Final

from mcp.errors import InvalidArgument, NotFound
from mcp.flow.breaker import Breaker, Breakers, State
from mcp.flow.concurrency import PRIORITIES, AdaptiveLimit
from mcp.flow.config import FlowConfig, LimitConfig, ModelConfig
from mcp.flow.keyed import Keyed
from mcp.flow.leases import Grant
from mcp.flow.limiter import Limiter, Refused
from mcp.flow.outcome import Outcome
from mcp.flow.refusal import Reason, Refusal
from mcp.flow.shares import Ask, LeasedShare

MODELS_MAX: Final = 1024
"""Models that have limits of their own at a node. More share one place, until one of these is idle."""
LOOKS_MAX: Final = 8
"""So many models, those that were learned or looked at longest ago, are looked at for one that is idle."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a request before anything is done for it.

    ``client`` is who it proved to be; ``model`` a name that exists; ``node`` who is to do the work, if
    it is not this node. ``priority``: 0, the highest, to 3. ``cost`` is what rates count, 1 at least.
    ``deadline`` is on the clock of ``now``; ``expected_s`` how long it takes, if somebody knows better.
    """

    client: str
    model: str
    priority: int = 0
    cost: int = 1
    deadline: float | None = None
    node: str | None = None
    expected_s: float | None = None


class _Model:
    """What a node keeps for one model."""

    __slots__ = ("breaker", "cluster", "concurrency", "config", "limiter")

    def __init__(
        self, config: ModelConfig, cluster: tuple[tuple[str, LeasedShare], ...], breaker: Breaker | None
    ) -> None:
        self.config = config
        self.breaker = breaker
        """That of this node itself."""
        self.cluster = cluster
        self.limiter: Limiter | None = config.limit.limiter() if config.limit else None
        self.concurrency = AdaptiveLimit(config.concurrency) if config.concurrency else None

    def configure(self, config: ModelConfig, cluster: tuple[tuple[str, LeasedShare], ...]) -> None:
        if config.limit != self.config.limit:
            self.limiter = config.limit.limiter() if config.limit else None
        if config.concurrency is None:
            self.concurrency = None
        elif self.concurrency is None:
            self.concurrency = AdaptiveLimit(config.concurrency)
        else:
            self.concurrency.configure(config.concurrency)
        self.config, self.cluster = config, cluster

    def idle(self, now: float) -> bool:
        busy = self.concurrency is not None and self.concurrency.in_flight
        broken = self.breaker is not None and self.breaker.state(now) is not State.CLOSED
        return not busy and not broken and (self.limiter is None or self.limiter.idle(now))


class Ticket:
    """A request that was let in. ``wait_s``: how long it has to wait before it begins."""

    __slots__ = ("_admission", "_ahead", "_breaker", "_concurrency", "_permit", "wait_s")

    def __init__(
        self,
        admission: Admission,
        breaker: Breaker | None,
        permit: int,
        concurrency: AdaptiveLimit | None,
        ahead: int,
        wait_s: float,
    ) -> None:
        self._admission: Admission | None = admission
        self._breaker = breaker
        self._permit = permit
        self._concurrency = concurrency
        self._ahead = ahead
        self.wait_s = wait_s

    def done(self, outcome: Outcome, latency_s: float, now: float, waited_s: float | None = None) -> None:
        """It has ended, ``latency_s`` after it began, and had waited ``waited_s`` before it was worked on.

        The time of :attr:`wait_s` belongs to neither. ``None``: how long it waited is not known. What comes
        after the first call is ignored.
        """
        admission = self._admission
        if admission is None:
            return
        self._admission = None
        admission.in_flight -= 1
        if self._concurrency is not None:
            self._concurrency.done(self._ahead, outcome, latency_s, now, waited_s)
        if self._breaker is not None:
            self._breaker.done(self._permit, outcome, latency_s, now)


class Admission:
    """What one node lets in. Not for use by several threads."""

    def __init__(self, config: FlowConfig, random_: random.Random, *, node: str) -> None:
        self._config = config
        self._node = node
        self.in_flight = 0
        """Requests under way, of all models."""
        self.refused: dict[Reason, int] = dict.fromkeys(Reason, 0)
        """How many were refused, by reason."""
        self.admitted = 0
        """How many were let in."""
        self._random = random_
        self._models: dict[str, _Model] = {}
        self._breakers = Breakers(lambda model: self._config.model(model).breaker, random_)
        self._named: dict[str, Limiter] = {}
        self._clients: Keyed[str] | None = None
        self._shares: dict[str, LeasedShare] = {}
        self._build_clients(None)
        self._build_shares(None)
        self._others = self._new_model(None)

    # -- configuration ----------------------------------------------------------------------------

    @property
    def config(self) -> FlowConfig:
        """What holds now."""
        return self._config

    def configure(self, config: FlowConfig) -> None:
        """Have another configuration from now on. Limits that are changed start anew, others go on."""
        before, self._config = self._config, config
        self._build_clients(before)
        self._build_shares(before)
        for name, model in self._models.items():
            if config.model(name).breaker != before.model(name).breaker:
                self._breakers.forget(name)
                model.breaker = self._new_breaker(config.model(name))
            model.configure(config.model(name), self._cluster_of(name))
        self._others.configure(config.default_model, self._cluster_of(None))

    def _build_clients(self, before: FlowConfig | None) -> None:
        clients = self._config.clients
        if before is None or before.clients != clients:
            kept = before.clients.by_name if before else {}
            self._named = {
                name: self._named[name] if kept.get(name) == limit else limit.limiter()
                for name, limit in clients.by_name.items()
            }
            old: tuple[LimitConfig | None, int] | None = (
                (before.clients.default, before.clients.keys_max) if before else None
            )
            if old != (clients.default, clients.keys_max):
                default = clients.default
                self._clients = Keyed(default.limiter(), clients.keys_max) if default else None

    def _build_shares(self, before: FlowConfig | None) -> None:
        kept = before.cluster if before else {}
        self._shares = {
            name: self._shares[name]
            if name in kept and kept[name].shared() == limit.shared()
            else LeasedShare(limit.shared())
            for name, limit in sorted(self._config.cluster.items())
        }

    def _cluster_of(self, model: str | None) -> tuple[tuple[str, LeasedShare], ...]:
        return tuple((name, self._shares[name]) for name in self._config.cluster_limits(model))

    def _new_model(self, name: str | None) -> _Model:
        config = self._config.default_model if name is None else self._config.model(name)
        return _Model(config, self._cluster_of(name), self._new_breaker(config))

    def _new_breaker(self, config: ModelConfig) -> Breaker | None:
        return None if config.breaker is None else Breaker(config.breaker, self._random)

    def _learn(self, name: str, now: float) -> _Model:
        """Make a place for a model that was not asked for before; without room it shares one."""
        if len(self._models) >= MODELS_MAX:
            for key, model in list(islice(self._models.items(), LOOKS_MAX)):
                del self._models[key]
                if model.idle(now):
                    break
                self._models[key] = model
            else:
                return self._others
        made = self._models[name] = self._new_model(name)
        return made

    # -- letting in -------------------------------------------------------------------------------

    def admit(self, request: Request, now: float) -> Ticket | Refusal:
        """Let ``request`` in, or say why not.

        Raises :class:`~mcp.errors.InvalidArgument` for a priority or a cost that is none.
        """
        if not 0 <= request.priority < PRIORITIES or request.cost < 1:
            raise InvalidArgument(
                f"priority={request.priority!r} must be from 0 to {PRIORITIES - 1}, and "
                f"cost={request.cost!r} 1 at least"
            )
        model = self._models.get(request.model) or self._learn(request.model, now)
        if request.deadline is not None:
            late = self._late(request, model, now)
            if late is not None:
                return late
        if request.node is None:
            breaker = model.breaker
        else:
            breaker = self._breakers.of(request.node, request.model, now)
        permit: int | Refused = 0 if breaker is None else breaker.admit(now)
        if isinstance(permit, Refused):
            return self._refusal(request, Reason.BREAKER, permit.retry_after_s)
        concurrency = model.concurrency
        ahead = 0
        wait: float | Refusal
        if self.in_flight >= self._config.in_flight_max:
            wait = self._refusal(request, Reason.NODE, concurrency.retry_after_s() if concurrency else 1.0)
        elif concurrency is not None and (ahead := concurrency.admit(now, request.priority)) < 0:
            wait = self._refusal(request, Reason.CONCURRENCY, concurrency.retry_after_s())
        else:
            wait = self._pay(request, model, now)
            if isinstance(wait, Refusal) and concurrency is not None:
                concurrency.undo()
        if isinstance(wait, Refusal):
            if breaker is not None:
                breaker.done(permit, Outcome.ABANDONED, 0.0, now)
            return wait
        self.in_flight += 1
        self.admitted += 1
        return Ticket(self, breaker, permit, concurrency, ahead, wait)

    def pay(self, request: Request, now: float) -> float | Refusal:
        """Ask the rates alone, for work that is not done here and now: how long it has to wait, or why not.

        Nothing is under way then, so nothing has to be given back.
        """
        model = self._models.get(request.model) or self._learn(request.model, now)
        wait_s = self._pay(request, model, now)
        if not isinstance(wait_s, Refusal):
            self.admitted += 1
        return wait_s

    def _late(self, request: Request, model: _Model, now: float) -> Refusal | None:
        """Whether it cannot be answered before its deadline, as far as anybody knows."""
        assert request.deadline is not None
        left_s = request.deadline - now
        if left_s <= 0:
            return self._refusal(request, Reason.TOO_LATE, 0.0)
        if request.expected_s is not None:
            expected: tuple[float, float] | None = (0.0, request.expected_s)
        else:
            expected = model.concurrency.expected_s(now) if model.concurrency else None
        if expected is None:
            return None
        work_s, wait_s = expected
        if work_s > left_s:
            return self._refusal(request, Reason.TOO_LATE, 0.0)
        if work_s + wait_s > left_s:
            return self._refusal(request, Reason.DEADLINE, work_s + wait_s - left_s)
        return None

    def _pay(self, request: Request, model: _Model, now: float) -> float | Refusal:
        """Take the request's cost from every rate, or from none. Gives how long it has to wait."""
        cost, wait_s = request.cost, 0.0
        client = self._named.get(request.client)
        if client is None and self._clients is not None:
            client = self._clients.of(request.client, now)
        if client is not None:
            verdict = client.admit(now, cost)
            if isinstance(verdict, Refused):
                return self._refusal(request, Reason.CLIENT_RATE, verdict.retry_after_s)
            wait_s = verdict.wait_s
        limiter = model.limiter
        if limiter is not None:
            verdict = limiter.admit(now, cost)
            if isinstance(verdict, Refused):
                if client is not None:
                    client.undo(cost)
                return self._refusal(request, Reason.MODEL_RATE, verdict.retry_after_s)
            wait_s = max(wait_s, verdict.wait_s)
        for place, (name, share) in enumerate(model.cluster):
            verdict = share.admit(now, cost)
            if isinstance(verdict, Refused):
                for _, paid in model.cluster[:place]:
                    paid.undo(cost)
                for taken in (limiter, client):
                    if taken is not None:
                        taken.undo(cost)
                reason = Reason.LEASE if share.lost(now) else Reason.CLUSTER_RATE
                return self._refusal(request, reason, verdict.retry_after_s, name)
        return wait_s

    def _refusal(self, request: Request, reason: Reason, retry_after_s: float, limit: str = "") -> Refusal:
        self.refused[reason] += 1
        node = request.node or self._node
        return Refusal(reason, retry_after_s, request.client, request.model, node, limit)

    # -- the cluster's limits ---------------------------------------------------------------------

    def asks(self, now: float, under_way: Container[str] = ()) -> list[tuple[str, Ask]]:
        """What to ask the ledger now, by the limit's name. To be called every hundredth of a lease or so.

        Nothing is asked for the limits of which an answer is ``under_way``: whoever has one outstanding at a
        time neither floods a log that is slow to answer, nor makes void what it answers late.
        """
        asks = ((name, share.due(now)) for name, share in self._shares.items() if name not in under_way)
        return [(name, ask) for name, ask in asks if ask is not None]

    def granted(self, limit: str, grant: Grant, now: float) -> None:
        """The ledger's answer for ``limit``. For one that is not there any more it is ignored."""
        share = self._shares.get(limit)
        if share is not None:
            share.answered(grant, now)

    def give_back(self, now: float) -> list[tuple[str, Ask]]:
        """This node stops: what to return to the ledger, by the limit's name."""
        return [(name, share.give_back(now)) for name, share in self._shares.items()]

    # -- what is seen from outside ----------------------------------------------------------------

    def breakers(self, now: float) -> dict[tuple[str, str], State]:
        """Where each breaker stands, by node and model."""
        own = {
            (self._node, name): model.breaker.state(now)
            for name, model in sorted(self._models.items())
            if model.breaker is not None
        }
        return {**self._breakers.states(now), **own}

    def openings(self, now: float) -> dict[tuple[str, str], tuple[State, int]]:
        """Where each breaker stands and how often it has opened, by node and model."""
        own = [((self._node, name), model.breaker) for name, model in self._models.items() if model.breaker]
        return {key: (each.state(now), each.opened) for key, each in (*self._breakers.all(), *own)}

    def limit_of(self, model: str) -> tuple[int, int]:
        """Requests for ``model`` that are under way, and how many may be.

        Raises :class:`~mcp.errors.NotFound` for a model that was not asked for, or has no such limit.
        """
        found = self._models.get(model)
        if found is None or found.concurrency is None:
            raise NotFound(f"model {model!r:.80} has no limit of requests under way at this node")
        return found.concurrency.in_flight, found.concurrency.limit
