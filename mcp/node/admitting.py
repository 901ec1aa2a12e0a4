"""What a node lets in, by the limits that the cluster has declared.

Without any declared nothing is asked, and a request pays one comparison. With them each direct inference is
asked about before anything is done for it (:mod:`mcp.flow.admission`), and its place is given back when it
is answered, cancelled or lost, whichever way that comes about. A stream is asked about once and holds its
place to its end. What is submitted to the log is asked about before it is proposed, by the rates alone, for
others run it, and later. Limits of the whole cluster are spent from this node's share; a share is asked for
in the log, every few seconds at most and not by request.

What is done instead for a request that is refused is in :mod:`mcp.node.fallbacks`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mcp.errors import ConfigInvalid, McpError
from mcp.flow.admission import Admission, Request
from mcp.flow.config import FlowConfig, from_plain
from mcp.flow.leases import Grant
from mcp.flow.refusal import Refusal
from mcp.flow.shares import Ask
from mcp.net.exchange import Exchange
from mcp.node.fallbacks import Admitted, Fallbacks
from mcp.node.kept import fixed_answer, misfit
from mcp.node.tickets import StreamPlace, ended, request_of
from mcp.state.commands import encode_command
from mcp.state.models import Models, ModelVersion
from mcp.state.state import ReplicatedState

ASK_S_MIN: Final = 0.01
"""So long at least between two looks at whether a share is to be asked for."""
LOOKS_PER_LEASE: Final = 100
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
        self.fallbacks = Fallbacks(node_id, state)
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
        request = request_of(exchange, model, now + timeout_s, node)
        verdict = admission.admit(request, now)
        if isinstance(verdict, Refusal):
            other = self.fallbacks.instead_of(admission, exchange, model, request, verdict.reason)
            if other is None:
                raise verdict.error
            return other
        exchange.on_end(functools.partial(ended, verdict, exchange, now + verdict.wait_s))
        return Admitted(model, verdict.wait_s)

    def admit_stream(
        self, exchange: Exchange, model: ModelVersion, timeout_s: float, node: str | None = None
    ) -> tuple[Admitted, Callable[[], None]]:
        """Let a stream in, as :meth:`admit`; the second is to be called when its first step is there.

        That step is what is learned from: how long all of them take says more about who reads them.
        """
        admission = self._now_in_force()
        if admission is None:
            return Admitted(model), _nothing
        now = asyncio.get_running_loop().time()
        request = request_of(exchange, model, now + timeout_s, node)
        verdict = admission.admit(request, now)
        admitted = model
        if isinstance(verdict, Refusal):
            found = self.fallbacks.stream_instead_of(admission, exchange, request, verdict)
            if found is None:
                raise verdict.error
            admitted, verdict = found
        place = StreamPlace(verdict, exchange, now + verdict.wait_s)
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

    # -- the declared limits ------------------------------------------------------------------------

    def look(self) -> None:
        """See whether the limits have changed, and go by them from now on. Called now and then, too."""
        declared = self._state.traffic.limits
        kept = self.fallbacks.kept
        if kept is not None:
            kept.look()
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
        self.fallbacks.configure(config, self.admission)
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
        kept = 0 if self.fallbacks.kept is None else len(self.fallbacks.kept)
        told = {"admitted": admission.admitted, "refused": refused, "in_flight": admission.in_flight}
        return {**told, "fallbacks": dict(self.fallbacks.instead), "kept": kept}


def _nothing() -> None:
    """What a stream calls where nothing is limited."""
