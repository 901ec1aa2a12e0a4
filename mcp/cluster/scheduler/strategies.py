"""The scheduler: one account of the nodes, and for each model the strategy that was named for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from mcp.cluster.outcome import Outcome
from mcp.cluster.scheduler.account import Account, AccountLimits
from mcp.cluster.scheduler.interface import Choice, Request
from mcp.cluster.scheduler.least_loaded import LeastLoaded, LoadWeights
from mcp.cluster.scheduler.load_report import LoadReport
from mcp.cluster.scheduler.predicted_completion import PredictedCompletion
from mcp.cluster.scheduler.priority_queue import Eligible, PriorityQueue
from mcp.cluster.scheduler.round_robin import RoundRobin
from mcp.cluster.scheduler.strategy import Strategy
from mcp.cluster.scheduler.waiting_queue import AGING_S, PATIENCE_S, WAITING_MAX
from mcp.errors import InvalidArgument, Unavailable

ROUND_ROBIN: Final = "round_robin"
LEAST_LOADED: Final = "least_loaded"
PRIORITY_QUEUE: Final = "priority_queue"
PREDICTED_COMPLETION: Final = "predicted_completion"

STRATEGIES: Final = (ROUND_ROBIN, LEAST_LOADED, PRIORITY_QUEUE, PREDICTED_COMPLETION)
"""The names that a strategy is selected by."""

MODELS_MAX: Final = 1024
"""For how many models a strategy can be named."""


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Which strategy is used for what, and how each is set.

    ``of_model`` names strategies by model; all other models have ``default``. ``draws``: how many candidates
    are drawn and compared; ``None`` compares all.
    """

    default: str = PREDICTED_COMPLETION
    of_model: Mapping[str, str] = field(default_factory=dict)
    weights: LoadWeights = LoadWeights()  # noqa: RUF009 (immutable)
    draws: int | None = None
    waiting_max: int = WAITING_MAX
    aging_s: float = AGING_S
    patience_s: float = PATIENCE_S
    account: AccountLimits = AccountLimits()  # noqa: RUF009 (immutable)


class Strategies:
    """See :class:`~mcp.cluster.scheduler.interface.Scheduler`, which this is.

    Raises :class:`~mcp.errors.InvalidArgument` for a setting that makes no sense.
    """

    def __init__(self, settings: SchedulerSettings | None = None) -> None:
        settings = settings or SchedulerSettings()
        if settings.draws is not None and settings.draws < 1:
            raise InvalidArgument(
                f"draws={settings.draws} candidates cannot be compared; give 1 or more, or None"
            )
        self._account = Account(settings.account)
        self._waiting = PriorityQueue(
            self._account,
            waiting_max=settings.waiting_max,
            aging_s=settings.aging_s,
            patience_s=settings.patience_s,
        )
        self._strategies: dict[str, Strategy] = {
            ROUND_ROBIN: RoundRobin(),
            LEAST_LOADED: LeastLoaded(self._account, settings.weights, draws=settings.draws),
            PRIORITY_QUEUE: self._waiting,
            PREDICTED_COMPLETION: PredictedCompletion(self._account, draws=settings.draws),
        }
        self._told = tuple(self._strategies.values())
        self._default = self._named(settings.default)
        self._of_model: dict[str, Strategy] = {}
        for model, name in settings.of_model.items():
            self.select(model, name)

    def _named(self, name: str) -> Strategy:
        strategy = self._strategies.get(name)
        if strategy is None:
            raise InvalidArgument(f"there is no strategy {name!r:.80}; choose one of {', '.join(STRATEGIES)}")
        return strategy

    @property
    def account(self) -> Account:
        """What is known of the nodes. To be read only."""
        return self._account

    @property
    def waiting(self) -> int:
        """How many requests wait for a free place."""
        return len(self._waiting)

    def select(self, model: str, name: str | None) -> None:
        """Use the strategy ``name`` for ``model`` from now on; ``None``: the default.

        Requests that wait go on waiting. Raises :class:`~mcp.errors.InvalidArgument` for a name that is none
        of :data:`STRATEGIES`, and past :data:`MODELS_MAX` models.
        """
        if name is None:
            self._of_model.pop(model, None)
            return
        strategy = self._named(name)
        if model not in self._of_model and len(self._of_model) >= MODELS_MAX:
            raise InvalidArgument(f"a strategy is named for {MODELS_MAX} models already; make it the default")
        self._of_model[model] = strategy

    def choose(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """See :class:`~mcp.cluster.scheduler.interface.Scheduler`."""
        if not candidates:
            raise Unavailable(
                f"no node can run {request.model!r:.80} now; see which nodes hold it, and send it again later"
            )
        return self._of_model.get(request.model, self._default).choose(candidates, request, now, generator)

    def preview(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """What :meth:`choose` would give, for at least one candidate; no later choice is another for it."""
        strategy = self._of_model.get(request.model, self._default)
        return strategy.preview(candidates, request, now, generator)

    def started(self, node: str, request: Request, now: float) -> None:
        """See :class:`~mcp.cluster.scheduler.interface.Scheduler`."""
        self._account.started(node, request, now)
        self._touch(node, request, now)

    def finished(
        self,
        node: str,
        request: Request,
        outcome: Outcome,
        took_s: float,
        now: float,
        *,
        service_s: float | None = None,
    ) -> None:
        """See :class:`~mcp.cluster.scheduler.interface.Scheduler`."""
        self._account.finished(node, request, outcome, took_s, now, service_s)
        self._touch(node, request, now)

    def observed(self, node: str, report: LoadReport, now: float) -> None:
        """See :class:`~mcp.cluster.scheduler.interface.Scheduler`."""
        self._account.observed(node, report, now)
        self._touch(node, None, now)

    def _touch(self, node: str, request: Request | None, now: float) -> None:
        for strategy in self._told:
            strategy.touched(node, request, now)

    # -- requests that wait here ------------------------------------------------------------------

    def next(self, eligible: Eligible, now: float, generator: Random) -> tuple[Request, Choice] | None:
        """See :meth:`~mcp.cluster.scheduler.priority_queue.PriorityQueue.next`."""
        return self._waiting.next(eligible, now, generator)

    def cancel(self, request: Request) -> bool:
        """Nobody wants ``request`` any more: whether it waited here."""
        return self._waiting.cancel(request)

    def expired(self, now: float) -> list[Request]:
        """The requests whose deadline passed while they waited here, which wait no longer."""
        return self._waiting.expired(now)
