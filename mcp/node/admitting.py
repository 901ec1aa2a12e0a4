"""What a node lets in, by the limits that the cluster has declared.

Without any declared nothing is asked, and a request pays one comparison. With them each direct inference is
asked about before anything is done for it (:mod:`mcp.flow.admission`), and its place is given back when it
is answered, cancelled or lost, whichever way that comes about. Limits of the whole cluster are spent from
this node's share; a share is asked for in the log, every few seconds at most and not by request.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mcp.errors import (
    Busy,
    Cancelled,
    ConfigInvalid,
    DeadlineExceeded,
    InputInvalid,
    InvalidArgument,
    McpError,
    NotFound,
    TooLarge,
)
from mcp.flow.admission import Admission, Request, Ticket
from mcp.flow.config import FlowConfig, from_plain
from mcp.flow.fallback import decide
from mcp.flow.leases import Grant
from mcp.flow.outcome import Outcome
from mcp.flow.refusal import Refusal
from mcp.flow.shares import Ask
from mcp.net.exchange import Exchange
from mcp.state.commands import encode_command
from mcp.state.models import ModelVersion
from mcp.state.state import ReplicatedState

ASK_S_MIN: Final = 0.01
"""So long at least between two looks at whether a share is to be asked for."""
LOOKS_PER_LEASE: Final = 100
PRIORITY_LOWEST: Final = 3
"""Of the four that are told apart: a request's own priority, larger is more urgent, is mapped to them."""

CALLERS: Final = (InvalidArgument, InputInvalid, TooLarge, NotFound, Busy, Cancelled)
"""They say nothing about the model: the caller's own, or refused later on."""

_log = logging.getLogger("mcp.node")


def check(config: FlowConfig) -> None:
    """Refuse what nodes do not do. Raises :class:`~mcp.errors.ConfigInvalid`."""
    for name, model in {"default_model": config.default_model, **config.models}.items():
        for step in model.fallbacks:
            if step.kind != "model":
                raise ConfigInvalid(
                    f"flow.{name:.80}: fallbacks of kind {step.kind!r} are not done by nodes: declare "
                    "another model, or none"
                )


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
    ) -> tuple[ModelVersion, float]:
        """Let a request in; gives the version that is to answer, and how long to wait before it begins.

        ``node`` is who is to answer, if it is not this one. The version is another one where this was refused
        and its model's owner declared another model for that. Raises the refusal
        (:mod:`mcp.flow.refusal`), with ``details["retry_after_s"]``.
        """
        if self._state.traffic.limits.index != self._index:
            self.look()
        admission = self.admission
        if admission is None:
            return model, 0.0
        now = asyncio.get_running_loop().time()
        payload = exchange.message.payload
        stacked = payload.get("stacked")
        request = Request(
            exchange.connection.peer.node_id,
            model.name,
            _priority(payload.get("priority")),
            len(stacked) if type(stacked) is list and stacked else 1,
            deadline=now + timeout_s,
            node=node,
        )
        verdict = admission.admit(request, now)
        if isinstance(verdict, Refusal):
            model, verdict = self._instead(admission, request, verdict, now)
        exchange.on_end(functools.partial(self._ended, verdict, now + verdict.wait_s))
        return model, verdict.wait_s

    def _instead(
        self, admission: Admission, request: Request, refusal: Refusal, now: float
    ) -> tuple[ModelVersion, Ticket]:
        """Another model that takes the request; raises the refusal where there is none."""

        def asked(name: str) -> Ticket | Refusal:
            found = self._state.models.active(name)
            if found is None:
                return refusal
            other = Request(
                request.client, found.name, request.priority, request.cost, request.deadline, request.node
            )
            return admission.admit(other, now)

        steps = admission.config.model(request.model).fallbacks
        decision = decide(steps, refusal.reason, admit=asked, cached=lambda _: None)
        if decision.ticket is None or decision.step is None:
            raise refusal.error
        found = self._state.models.active(str(decision.step.model))
        assert found is not None
        return found, decision.ticket

    def _ended(self, ticket: Ticket, began_s: float, error: McpError | None) -> None:
        now = asyncio.get_running_loop().time()
        ticket.done(_outcome(error), max(0.0, now - began_s), now)

    # -- the declared limits ------------------------------------------------------------------------

    def look(self) -> None:
        """See whether the limits have changed, and go by them from now on. Called now and then, too."""
        declared = self._state.traffic.limits
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
        """How many were let in and refused, by reason; empty while nothing is limited."""
        admission = self.admission
        if admission is None:
            return {}
        refused = {reason.value: count for reason, count in admission.refused.items() if count}
        return {"admitted": admission.admitted, "refused": refused, "in_flight": admission.in_flight}


def _priority(value: object) -> int:
    """The class of a request's own priority: 0 is the most urgent."""
    own = value if type(value) is int else 0
    return max(0, min(PRIORITY_LOWEST, 1 - own))


def _outcome(error: McpError | None) -> Outcome:
    if error is None:
        return Outcome.SUCCEEDED
    if isinstance(error, DeadlineExceeded):
        return Outcome.TIMED_OUT
    return Outcome.ABANDONED if isinstance(error, CALLERS) else Outcome.FAILED
