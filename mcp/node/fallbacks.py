"""What a node does instead: for a request that is refused, or whose run has failed.

Where a model's owner has declared fallbacks, the first that can be done is: another model, an answer that was
kept, or one that is declared (:mod:`mcp.node.kept`). The answer says that it is one.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mcp.errors import McpError
from mcp.flow.admission import Admission, Request, Ticket
from mcp.flow.cache import CachedAnswer
from mcp.flow.config import FlowConfig
from mcp.flow.fallback import FallbackStep, decide
from mcp.flow.outcome import Outcome
from mcp.flow.refusal import Reason, Refusal
from mcp.net.exchange import Exchange
from mcp.node.kept import Answer, KeptAnswers, fits, fixed_answer, is_asked, joined, keeps, keeps_any, misfit
from mcp.node.tickets import ended, outcome_of, request_of
from mcp.state.models import ModelVersion
from mcp.state.state import ReplicatedState

Kept = Callable[[dict[str, Any], Sequence[Any]], None]
"""Takes the payload of an answer, and its segments."""


@dataclass(frozen=True, slots=True)
class Given:
    """An answer for which nothing is run. ``age_s``: of one that was kept, in seconds."""

    kind: Literal["cached", "fixed"]
    answer: Answer
    age_s: float | None = None


class Admitted(NamedTuple):
    """Who answers a request that was let in, and after how long; or (``given``) what it is answered with."""

    model: ModelVersion
    wait_s: float = 0.0
    given: Given | None = None


class Fallbacks:
    """One node's fallbacks. All calls on the loop's thread."""

    def __init__(self, node_id: str, state: ReplicatedState) -> None:
        self.kept: KeptAnswers | None = None
        """``None``: no model's answers are kept."""
        self.by_others: set[Exchange] = set()
        """The requests under way that another model answers than the one that was asked for."""
        self.instead: dict[str, int] = {}
        """How many requests had a fallback, by its kind."""
        self._admission: Admission | None = None
        self._node_id = node_id
        self._state = state

    def configure(self, config: FlowConfig | None, admission: Admission | None) -> None:
        """Go by another declaration; ``None``: nothing is declared."""
        self._admission = admission
        if config is None or not keeps_any(config):
            self.kept = None
        elif self.kept is None:
            self.kept = KeptAnswers(config, self._state)
        else:
            self.kept.configure(config)

    def mends_failures(self, model: ModelVersion) -> bool:
        """Whether the model's owner has declared what to do where a run of it fails."""
        admission = self._admission
        return admission is not None and any(
            Reason.FAILED.value in step.when for step in admission.config.model(model.name).fallbacks
        )

    def after_failure(
        self, exchange: Exchange, model: ModelVersion, timeout_s: float, error: McpError
    ) -> Admitted | None:
        """What is done instead of a run that has failed for no fault of the caller's; ``None``: nothing.

        An error for which clients ask another node is theirs to deal with: an answer is worth more.
        """
        admission = self._admission
        broken = outcome_of(error) in (Outcome.FAILED, Outcome.TIMED_OUT)
        if admission is None or error.retryable or not broken:
            return None
        now = asyncio.get_running_loop().time()
        request = request_of(exchange, model, now + timeout_s, None)
        return self.instead_of(admission, exchange, model, request, Reason.FAILED)

    def instead_of(
        self, admission: Admission, exchange: Exchange, model: ModelVersion, request: Request, reason: Reason
    ) -> Admitted | None:
        """The first of the model's fallbacks that can be done; ``None``: there is none."""
        now = asyncio.get_running_loop().time()
        message, segments = exchange.message, exchange.segments

        def asked(name: str) -> Ticket | Refusal:
            return self._ask_another(admission, exchange, request, name)

        def cached(max_age_s: float) -> CachedAnswer | None:
            kept = self.kept
            return None if kept is None else kept.find(model, message.payload, segments, max_age_s, now)

        fixed: dict[str, Answer] = {}
        steps: list[FallbackStep] = []
        for step in admission.config.model(model.name).fallbacks:
            if step.answer is not None:
                answer = _fixed(step.answer, model, message.payload, segments)
                if answer is None:
                    continue
                fixed[step.answer] = answer
            steps.append(step)
        decision = decide(tuple(steps), reason, admit=asked, cached=cached)
        step_taken = decision.step
        if step_taken is None:
            return None
        self.instead[step_taken.kind] = self.instead.get(step_taken.kind, 0) + 1
        if decision.ticket is not None:
            other = self._state.models.active(str(step_taken.model))
            assert other is not None
            ticket = decision.ticket
            exchange.on_end(functools.partial(ended, ticket, exchange, now + ticket.wait_s))
            self._by_another(exchange)
            return Admitted(other, ticket.wait_s)
        if step_taken.kind == "cached":
            return Admitted(model, 0.0, Given("cached", decision.answer, decision.age_s))
        return Admitted(model, 0.0, Given("fixed", fixed[decision.answer]))

    def stream_instead_of(
        self, admission: Admission, exchange: Exchange, request: Request, refusal: Refusal
    ) -> tuple[ModelVersion, Ticket] | None:
        """Another model that takes a stream: no other fallback has steps."""
        steps = tuple(
            step for step in admission.config.model(request.model).fallbacks if step.model is not None
        )
        decision = decide(
            steps,
            refusal.reason,
            admit=lambda name: self._ask_another(admission, exchange, request, name),
            cached=lambda _: None,
        )
        if decision.ticket is None or decision.step is None:
            return None
        other = self._state.models.active(str(decision.step.model))
        assert other is not None
        self.instead["model"] = self.instead.get("model", 0) + 1
        self._by_another(exchange)
        return other, decision.ticket

    def _ask_another(
        self, admission: Admission, exchange: Exchange, request: Request, name: str
    ) -> Ticket | Refusal:
        """Whether this node lets the request in for another model, which takes its inputs."""
        found = self._state.models.active(name)
        now = asyncio.get_running_loop().time()
        if found is None or not fits(found, exchange.message.payload, exchange.segments):
            return Refusal(Reason.BREAKER, 1.0, request.client, name, self._node_id)
        other = Request(request.client, found.name, request.priority, request.cost, request.deadline)
        return admission.admit(other, now)

    def _by_another(self, exchange: Exchange) -> None:
        self.by_others.add(exchange)
        exchange.on_end(lambda _: self.by_others.discard(exchange))

    def keeping(self, exchange: Exchange, model: ModelVersion) -> Kept | None:
        """What an answer of ``model`` has to be given to, so that it is kept; ``None``: it is not to be."""
        kept, admission = self.kept, self._admission
        if kept is None or admission is None or not keeps(admission.config, model.name):
            return None

        def keep(payload: dict[str, Any], segments: Sequence[Any]) -> None:
            own = (payload.get("model"), payload.get("version")) == (model.name, model.version)
            specs = payload.get("outputs")
            if own and "fallback" not in payload and type(specs) is list:
                now = asyncio.get_running_loop().time()
                message = exchange.message
                kept.keep(model, message.payload, exchange.segments, specs, segments, now)

        return keep


def _fixed(text: str, model: ModelVersion, payload: dict[str, Any], segments: Sequence[Any]) -> Answer | None:
    """The declared answer to a request; ``None`` where it is none of what this version gives."""
    if misfit(text, model) is not None or not is_asked(payload, segments):
        return None
    wanted, stacked = payload.get("outputs"), payload.get("stacked")
    answer = fixed_answer(text).only(wanted if type(wanted) is list else None)
    if answer is None or stacked is None:
        return answer
    return joined([answer] * len(stacked), stacked)
