"""What a node lets in, by the limits that the cluster has declared.

Without any declared nothing is asked, and a request pays one comparison. With them each direct inference is
asked about before anything is done for it (:mod:`mcp.flow.admission`), and its place is given back when it
is answered, cancelled or lost, whichever way that comes about. A stream is asked about once and holds its
place to its end. What is submitted to the log is asked about before it is proposed, by the rates alone, for
others run it, and later. Limits of the whole cluster are spent from this node's share; a share is asked for
in the log, every few seconds at most and not by request.

Where a model's owner has declared fallbacks, one of them is done for a request that is refused, or whose run
has failed: another model, an answer that was kept, or one that is declared (:mod:`mcp.node.kept`). Its answer
says that it is one.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from mcp.errors import (
    Busy,
    Cancelled,
    ConfigInvalid,
    DeadlineExceeded,
    InputInvalid,
    InvalidArgument,
    McpError,
    MessageExpired,
    NotFound,
    TooLarge,
    Unsupported,
)
from mcp.flow.admission import Admission, Request, Ticket
from mcp.flow.cache import CachedAnswer
from mcp.flow.config import FlowConfig, from_plain
from mcp.flow.fallback import FallbackStep, decide
from mcp.flow.leases import Grant
from mcp.flow.outcome import Outcome
from mcp.flow.refusal import Reason, Refusal, is_refusal
from mcp.flow.shares import Ask
from mcp.net.exchange import Exchange
from mcp.node.kept import Answer, KeptAnswers, fits, fixed_answer, is_asked, joined, keeps, keeps_any, misfit
from mcp.state.commands import encode_command
from mcp.state.models import Models, ModelVersion
from mcp.state.state import ReplicatedState

ASK_S_MIN: Final = 0.01
"""So long at least between two looks at whether a share is to be asked for."""
LOOKS_PER_LEASE: Final = 100
PRIORITY_LOWEST: Final = 3
"""Of the four that are told apart: a request's own priority, larger is more urgent, is mapped to them."""

CALLERS: Final = (
    *(InvalidArgument, InputInvalid, TooLarge, NotFound, Unsupported),
    *(Busy, Cancelled, MessageExpired),
)
"""They say nothing about the model: the caller's own, or refused later on."""

Kept = Callable[[dict[str, Any], Sequence[Any]], None]
"""Takes the payload of an answer, and its segments."""

_log = logging.getLogger("mcp.node")


def check(config: FlowConfig, models: Models) -> None:
    """Refuse what nodes could not do. Raises :class:`~mcp.errors.ConfigInvalid` with the field's path."""
    declared = [(f"models.{name:.80}", name, model) for name, model in config.models.items()]
    for where, name, model in [("default_model", "", config.default_model), *declared]:
        version = models.get(name) if name else None
        for number, step in enumerate(model.fallbacks):
            if step.answer is None:
                continue
            path = f"{where}.fallbacks[{number}].answer"
            try:
                fixed_answer(step.answer)
            except ConfigInvalid as error:
                raise ConfigInvalid(f"{path}: {error.message}") from None
            problem = None if version is None else misfit(step.answer, version)
            if version is not None and problem is not None:
                raise ConfigInvalid(f"{path} is no answer of {name} {version.version}: {problem}")


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


class Admitting:
    """One node's admission. All calls on the loop's thread."""

    def __init__(
        self,
        node_id: str,
        incarnation: Callable[[], int],
        state: ReplicatedState,
        generator: random.Random,
        execute: Callable[..., Awaitable[tuple[int, Any]]],
        *,
        caught_up: Callable[[], bool],
    ) -> None:
        """``execute`` has an encoded command executed (:meth:`mcp.node.order.Order.execute`)."""
        self.admission: Admission | None = None
        """``None``: nothing is limited."""
        self.kept: KeptAnswers | None = None
        """``None``: no model's answers are kept."""
        self.by_others: set[Exchange] = set()
        """The requests under way that another model answers than the one that was asked for."""
        self.instead: dict[str, int] = {}
        """How many requests had a fallback, by its kind."""
        self._node_id = node_id
        self._incarnation = incarnation
        self._state = state
        self._random = generator
        self._execute = execute
        self._caught_up = caught_up
        self._index = 0
        self._holders: dict[str, str] = {}
        self._leasing: asyncio.Task[None] | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}
        """By the limit: one question at a time, however slow the log is to answer."""

    async def close(self) -> None:
        """Ask for nothing more."""
        tasks = [*self._asking.values(), *([self._leasing] if self._leasing is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- requests -----------------------------------------------------------------------------------

    def admit(
        self, exchange: Exchange, model: ModelVersion, timeout_s: float, node: str | None = None
    ) -> Admitted:
        """Let a request in; says who is to answer it, and how long to wait before that begins.

        ``node`` is who is to answer, if it is not this one. Where it is refused, its model's owner may have
        declared what is done instead. Raises the refusal (:mod:`mcp.flow.refusal`), with
        ``details["retry_after_s"]``.
        """
        admission = self._now_in_force()
        if admission is None:
            return Admitted(model)
        now = asyncio.get_running_loop().time()
        request = _request(exchange, model, now + timeout_s, node)
        verdict = admission.admit(request, now)
        if isinstance(verdict, Refusal):
            other = self._fallback(admission, exchange, model, request, verdict.reason)
            if other is None:
                raise verdict.error
            return other
        exchange.on_end(functools.partial(self._ended, verdict, now + verdict.wait_s))
        return Admitted(model, verdict.wait_s)

    def admit_stream(
        self, exchange: Exchange, model: ModelVersion, timeout_s: float
    ) -> tuple[Admitted, Callable[[], None]]:
        """Let a stream in, as :meth:`admit`; the second is to be called when its first step is there.

        That step is what is learned from: how long all of them take says more about who reads them.
        """
        admission = self._now_in_force()
        if admission is None:
            return Admitted(model), _nothing
        now = asyncio.get_running_loop().time()
        request = _request(exchange, model, now + timeout_s, None)
        verdict = admission.admit(request, now)
        admitted = model
        if isinstance(verdict, Refusal):
            found = self._asked_instead(admission, exchange, request, verdict)
            if found is None:
                raise verdict.error
            admitted, verdict = found
            self._by_another(exchange)
        place = _StreamPlace(verdict, now + verdict.wait_s)
        exchange.on_end(place.ended)
        return Admitted(admitted, verdict.wait_s), place.stepped

    def submit(self, client: str, args: Mapping[str, Any]) -> float:
        """Let a submission to the log in, before it is proposed; gives how long to wait before that.

        What the log has already is let in: it was acknowledged, or will be. Raises the refusal.
        """
        admission = self._now_in_force()
        inference, hint = args.get("id"), args.get("model_hint")
        if admission is None or type(inference) is not str or type(hint) is not str:
            return 0.0
        models = self._state.models
        model = models.active(hint) or models.pinned(hint)
        if model is None or self._state.inferences.get(inference) is not None:
            return 0.0
        verdict = admission.pay(Request(client, model.name), asyncio.get_running_loop().time())
        if isinstance(verdict, Refusal):
            raise verdict.error
        return verdict

    def _now_in_force(self) -> Admission | None:
        if self._state.traffic.limits.index != self._index:
            self.look()
        return self.admission

    def _ended(self, ticket: Ticket, began_s: float, error: McpError | None) -> None:
        now = asyncio.get_running_loop().time()
        ticket.done(outcome_of(error), max(0.0, now - began_s), now)

    # -- what is done instead -----------------------------------------------------------------------

    def mends_failures(self, model: ModelVersion) -> bool:
        """Whether the model's owner has declared what to do where a run of it fails."""
        admission = self.admission
        return admission is not None and any(
            Reason.FAILED.value in step.when for step in admission.config.model(model.name).fallbacks
        )

    def after_failure(
        self, exchange: Exchange, model: ModelVersion, timeout_s: float, error: McpError
    ) -> Admitted | None:
        """What is done instead of a run that has failed for no fault of the caller's; ``None``: nothing.

        An error for which clients ask another node is theirs to deal with: an answer is worth more.
        """
        admission = self.admission
        broken = outcome_of(error) in (Outcome.FAILED, Outcome.TIMED_OUT)
        if admission is None or error.retryable or not broken:
            return None
        now = asyncio.get_running_loop().time()
        request = _request(exchange, model, now + timeout_s, None)
        return self._fallback(admission, exchange, model, request, Reason.FAILED)

    def _fallback(
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
            exchange.on_end(functools.partial(self._ended, ticket, now + ticket.wait_s))
            self._by_another(exchange)
            return Admitted(other, ticket.wait_s)
        if step_taken.kind == "cached":
            return Admitted(model, 0.0, Given("cached", decision.answer, decision.age_s))
        return Admitted(model, 0.0, Given("fixed", fixed[decision.answer]))

    def _asked_instead(
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
        kept, admission = self.kept, self.admission
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

    # -- the declared limits ------------------------------------------------------------------------

    def look(self) -> None:
        """See whether the limits have changed, and go by them from now on. Called now and then, too."""
        declared = self._state.traffic.limits
        if self.kept is not None:
            self.kept.look()
        if declared.index == self._index:
            return
        self._index = declared.index
        try:
            config = None if declared.value is None else from_plain(declared.value)
        except McpError as error:
            _log.error(
                "limits: this node cannot read those that the cluster has, and keeps its own: %s", error
            )
            return
        self._name_holders(config, declared.version)
        if config is None or not keeps_any(config):
            self.kept = None
        elif self.kept is None:
            self.kept = KeptAnswers(config, self._state)
        else:
            self.kept.configure(config)
        if config is None:
            self.admission = None
        elif self.admission is None:
            self.admission = Admission(config, self._random, node=self._node_id)
        else:
            self.admission.configure(config)
        if config is not None and config.cluster and self._leasing is None:
            self._leasing = asyncio.ensure_future(self._lease())

    def _name_holders(self, config: FlowConfig | None, version: int) -> None:
        """A share that begins anew is another one's: the ledger knows what the one before may be using."""
        before = None if self.admission is None else self.admission.config
        named: dict[str, str] = {}
        for name, limit in ({} if config is None else config.cluster).items():
            old = None if before is None else before.cluster.get(name)
            kept = self._holders.get(name) if old is not None and old.shared() == limit.shared() else None
            named[name] = kept or f"{self._node_id}/{self._incarnation()}/{version}"
        self._holders = named

    # -- shares of the cluster's limits -------------------------------------------------------------

    async def _lease(self) -> None:
        """Ask for shares for as long as there are limits to share."""
        loop = asyncio.get_running_loop()
        try:
            while self.admission is not None and self.admission.config.cluster:
                cluster = self.admission.config.cluster
                # A node that lags would not see the answer.
                asks = self.admission.asks(loop.time(), self._asking) if self._caught_up() else ()
                for limit, ask in asks:
                    asking = self._ask(limit, self._holders[limit], ask, cluster[limit].lease_s)
                    self._asking[limit] = asyncio.ensure_future(asking)
                lease_s = min(each.lease_s for each in cluster.values())
                await asyncio.sleep(max(ASK_S_MIN, lease_s / LOOKS_PER_LEASE))
        finally:
            self._leasing = None

    async def _ask(self, limit: str, holder: str, ask: Ask, lease_s: float) -> None:
        args = {"limit": limit, "node": holder, "seq": ask.seq, "held": ask.held, "want": ask.want}
        try:
            _, granted = await self._execute(encode_command("share.grant", args), timeout_s=lease_s)
        except McpError:
            return  # it is asked again, under the next number
        finally:
            del self._asking[limit]
        if granted is not None and self.admission is not None and self._holders.get(limit) == holder:
            self.admission.granted(limit, Grant(**granted), asyncio.get_running_loop().time())

    # -- what is seen from outside ------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """How many were let in and refused, by reason, and had a fallback; empty while nothing is limited."""
        admission = self.admission
        if admission is None:
            return {}
        refused = {reason.value: count for reason, count in admission.refused.items() if count}
        told = {"admitted": admission.admitted, "refused": refused, "in_flight": admission.in_flight}
        return {**told, "fallbacks": dict(self.instead), "kept": 0 if self.kept is None else len(self.kept)}


class _StreamPlace:
    """What a stream holds from where it was let in to its end."""

    __slots__ = ("_began_s", "_first_s", "_ticket")

    def __init__(self, ticket: Ticket, began_s: float) -> None:
        self._ticket = ticket
        self._began_s = began_s
        self._first_s: float | None = None

    def stepped(self) -> None:
        """A step is there; of the first it is noted how long it took."""
        if self._first_s is None:
            self._first_s = max(0.0, asyncio.get_running_loop().time() - self._began_s)

    def ended(self, error: McpError | None) -> None:
        """The stream has ended, in whatever way."""
        now = asyncio.get_running_loop().time()
        first_s = self._first_s
        if first_s is None:
            first_s = max(0.0, now - self._began_s)
        elif isinstance(error, DeadlineExceeded):
            error = Cancelled("the stream's time was over, which is no fault of a step")
        self._ticket.done(outcome_of(error), first_s, now)


def _nothing() -> None:
    """What a stream calls where nothing is limited."""


def _fixed(text: str, model: ModelVersion, payload: dict[str, Any], segments: Sequence[Any]) -> Answer | None:
    """The declared answer to a request; ``None`` where it is none of what this version gives."""
    if misfit(text, model) is not None or not is_asked(payload, segments):
        return None
    wanted, stacked = payload.get("outputs"), payload.get("stacked")
    answer = fixed_answer(text).only(wanted if type(wanted) is list else None)
    if answer is None or stacked is None:
        return answer
    return joined([answer] * len(stacked), stacked)


def _request(exchange: Exchange, model: ModelVersion, deadline_s: float, node: str | None) -> Request:
    payload = exchange.message.payload
    stacked = payload.get("stacked")
    return Request(
        exchange.connection.peer.node_id,
        model.name,
        _priority(payload.get("priority")),
        len(stacked) if type(stacked) is list and stacked else 1,
        deadline=deadline_s,
        node=node,
    )


def _priority(value: object) -> int:
    """The class of a request's own priority: 0 is the most urgent."""
    own = value if type(value) is int else 0
    return max(0, min(PRIORITY_LOWEST, 1 - own))


def outcome_of(error: McpError | None) -> Outcome:
    """What an answer says about the model that was asked."""
    if error is None:
        return Outcome.SUCCEEDED
    if isinstance(error, CALLERS) or is_refusal(error):
        return Outcome.ABANDONED
    return Outcome.TIMED_OUT if isinstance(error, DeadlineExceeded) else Outcome.FAILED
