"""Streamed inference: a model called step by step on this node, each step's results sent as they are there.

The next step is begun when there is room for what it gives: the client allows so many steps ahead of what its
user has taken. Between two steps the loop has a turn, so that a cancellation that has come is seen before the
next one. A step is a request like any other to the pool: those of several streams share runs where the model
allows it, and take turns with single inferences. The version is that at the beginning, to the end. So is the
place that it has by the declared limits (:mod:`mcp.node.admitting`).

Which node runs it is decided as for a direct inference: a strategy chooses among all that may, and a rule may
leave only others. Then this node passes the steps on (:mod:`mcp.node.relaying`). What comes from another
node, by the version that it has decided for, is run here and nowhere else.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from executor.inspection import ModelInfo
from executor.interface import Ticket
from mcp.cluster.router.decision import Decision
from mcp.errors import Busy, Cancelled, DeadlineExceeded, InvalidArgument, McpError, Unavailable
from mcp.net.exchange import Exchange
from mcp.node.admitting import Admitting
from mcp.node.inference import Arrays, naming, received_inputs
from mcp.node.order import Order
from mcp.node.payload import integer
from mcp.node.relaying import Relaying
from mcp.node.rollouts import Counting
from mcp.node.routed import Routed
from mcp.node.routing import Routing
from mcp.node.scheduling import Place, Scheduling
from mcp.node.shelf import Shelf
from mcp.node.stepwise import Steps, read_recurrence
from mcp.node.translation import translated
from mcp.state.models import ModelVersion
from mcp.wire.handshake import Role
from mcp.wire.messages import Message
from mcp.wire.tensors import pack_all


def _nothing() -> None:
    """What a stream calls with each step where nobody counts them."""


class StreamedInference:
    """Answers ``INFER_STREAM``; at most ``streams_max`` at a time, which keep ``state_bytes_max`` bytes."""

    def __init__(
        self,
        node_id: str,
        order: Order,
        shelf: Shelf,
        routing: Routing,
        routed: Routed,
        relaying: Relaying,
        admitting: Admitting,
        counting: Counting,
        scheduling: Scheduling,
        *,
        streams_max: int,
        state_bytes_max: int,
    ) -> None:
        self.node_id = node_id
        self.shelf = shelf
        self.streams: set[_Stream] = set()
        """Those under way."""
        self.steps_total = 0
        """Steps that were run, of all streams."""
        self.state_bytes = 0
        """What all streams keep between their steps."""
        self._order = order
        self._routing = routing
        self._routed = routed
        self._relaying = relaying
        self._admitting = admitting
        self._counting = counting
        self._scheduling = scheduling
        self._streams_max = streams_max
        self._state_bytes_max = state_bytes_max

    def answer(self, exchange: Exchange, timeout_s: float) -> Coroutine[Any, Any, None] | None:
        """Begin to answer, or give the work that will."""
        if not exchange.in_parts:
            raise InvalidArgument("an INFER_STREAM is answered in parts: allow some with the field 'credit'")
        seen = exchange.message.vector.get("log")
        if seen > self._order.applied_index:
            return self._begin_when_there(exchange, seen, timeout_s)
        return self._let_in(exchange, timeout_s)

    async def _begin_when_there(self, exchange: Exchange, index: int, timeout_s: float) -> None:
        began_s = asyncio.get_running_loop().time()
        await self._order.wait_applied(index, timeout_s)
        later = self._let_in(exchange, timeout_s - (asyncio.get_running_loop().time() - began_s))
        if later is not None:
            await later

    def _let_in(self, exchange: Exchange, timeout_s: float) -> Coroutine[Any, Any, None] | None:
        """Begin a stream that is let in, or give the work that will."""
        payload = exchange.message.payload
        if "timeout_ms" in payload:
            timeout_s = min(timeout_s, integer(payload, "timeout_ms") / 1000)
        asked = self._routing.answers_for(exchange)
        if asked is not None:
            # Whoever has decided has let it in, and counts it.
            return self._begin_here(exchange, asked, timeout_s)
        named = self._routing.named(payload.get("model_hint"))
        if named is None:
            return self._let_in_routed(exchange, timeout_s)
        admitted, stepped = self._admitting.admit_stream(exchange, named, timeout_s)
        return self._begin_here(exchange, admitted.model, timeout_s, admitted.wait_s, stepped)

    def _let_in_routed(self, exchange: Exchange, timeout_s: float) -> Coroutine[Any, Any, None] | None:
        """Begin what the router decides, here or on another node."""
        features = self._routing.features(exchange)
        decision = self._routing.decide(features)
        timeout_s = decision.within_s(timeout_s)
        version = self._routing.version(decision)
        node: str | None = decision.nodes[0].node
        place: Place | None = None
        if self._scheduling.strategy(exchange, decision.model) is not None:
            place = self._scheduling.place(exchange, decision, features, timeout_s)
            # Whatever becomes of the stream from here on, its place is given back.
            exchange.on_end(place.end)
            node = place.node
        here = node == self.node_id
        if not here:
            self._check_elsewhere(exchange, decision)
            self._relaying.take(exchange)
        elsewhere = None if here else node
        admitted, stepped = self._admitting.admit_stream(exchange, version, timeout_s, elsewhere)
        wait_s = admitted.wait_s
        if admitted.model is not version:
            # Something else answers: it waits for no node, and none is measured by it.
            if place is not None:
                place.end(Cancelled("the stream was not let in"))
            self._relaying.streams.discard(exchange)
            return self._begin_here(exchange, admitted.model, timeout_s, wait_s, stepped)
        counted = self._counting.watch_stream(exchange, version, wait_s)
        if counted is not None:
            stepped = functools.partial(_both, stepped, counted)
        if place is not None:
            stepped = functools.partial(_both, stepped, place.stepped)
            # At once, so that the choice for the next request knows of it.
            if node is not None:
                place.begin(wait_s)
        if here:
            return self._begin_here(exchange, version, timeout_s, wait_s, stepped)
        return self._begin_elsewhere(exchange, decision, version, place, timeout_s, wait_s, stepped)

    def _check_elsewhere(self, exchange: Exchange, decision: Decision) -> None:
        """One hop, and no second one: another node's stream that is not for this one goes back."""
        if exchange.connection.peer.role is Role.NODE:
            node = decision.nodes[0].node
            raise Unavailable(
                f"{decision.model}@{decision.version} is for node {node} to answer; ask that one"
            )

    def _begin_elsewhere(
        self,
        exchange: Exchange,
        decision: Decision,
        version: ModelVersion,
        place: Place | None,
        timeout_s: float,
        wait_s: float,
        stepped: Callable[[], None],
    ) -> Coroutine[Any, Any, None]:
        """Have another node run it, and pass its steps on; the next one where it does not begin."""
        deadline = asyncio.get_running_loop().time() + timeout_s

        async def ask(asked: Message, node: str, first_s: float) -> None:
            await self._relaying.ask(exchange, asked, node, first_s, deadline, stepped)

        def here(left_s: float) -> Coroutine[Any, Any, None] | None:
            self._relaying.streams.discard(exchange)
            return self._begin_here(exchange, version, left_s, 0.0, stepped)

        if place is None:
            return self._routed.forward(exchange, decision, ask, timeout_s, wait_s)
        return self._routed.forward_placed(exchange, decision, place, ask, here, wait_s)

    def _begin_here(
        self,
        exchange: Exchange,
        model: ModelVersion,
        timeout_s: float,
        wait_s: float = 0.0,
        stepped: Callable[[], None] = _nothing,
    ) -> Coroutine[Any, Any, None] | None:
        info = self.shelf.info(model.digest)
        if info is None or wait_s:
            return self._begin_later(exchange, model, timeout_s, wait_s, stepped)
        self._begin(exchange, model, info, timeout_s, stepped)
        return None

    async def _begin_later(
        self,
        exchange: Exchange,
        model: ModelVersion,
        timeout_s: float,
        wait_s: float,
        stepped: Callable[[], None],
    ) -> None:
        began_s = asyncio.get_running_loop().time()
        await asyncio.sleep(wait_s)
        info = await self.shelf.ensure_within(model, timeout_s - wait_s)
        left_s = timeout_s - (asyncio.get_running_loop().time() - began_s)
        self._begin(exchange, model, info, left_s, stepped)

    def _begin(
        self,
        exchange: Exchange,
        model: ModelVersion,
        info: ModelInfo,
        timeout_s: float,
        stepped: Callable[[], None],
    ) -> None:
        recurrence = read_recurrence(exchange.message.payload, info)
        steps = Steps(recurrence, received_inputs(exchange, info))
        if len(self.streams) >= self._streams_max:
            raise Busy(f"streams_max={self._streams_max} streams are under way on this node; ask another one")
        stream = _Stream(self, exchange, model, steps, recurrence.wanted, timeout_s, stepped)
        self.keep(steps.state_bytes)
        self.streams.add(stream)
        exchange.on_cancel(stream.end)
        stream.go_on()

    def is_anothers(self, exchange: Exchange) -> bool:
        """Whether another model answers than the one that was asked for."""
        return exchange in self._admitting.fallbacks.by_others

    def keep(self, more_bytes: int) -> None:
        """Count what a stream keeps. Raises :class:`~mcp.errors.Busy` when all keep too much."""
        if more_bytes > 0 and self.state_bytes + more_bytes > self._state_bytes_max:
            raise Busy(
                f"the streams on this node keep {self.state_bytes} bytes between their steps, and "
                f"stream_state_bytes_max is {self._state_bytes_max}; ask another node"
            )
        self.state_bytes += more_bytes


def _both(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()


class _Stream:
    """One stream under way. Whatever happens comes as a callback, and there is no task."""

    def __init__(
        self,
        all_: StreamedInference,
        exchange: Exchange,
        model: ModelVersion,
        steps: Steps,
        wanted: list[str],
        timeout_s: float,
        stepped: Callable[[], None],
    ) -> None:
        self._all = all_
        self._exchange = exchange
        self._on_step = stepped
        self._model = model
        self._steps = steps
        self._wanted = wanted
        self._stop: Callable[[], object] | None = None  # what ends the step that is being run
        self._kept_bytes = steps.state_bytes
        self._loop = asyncio.get_running_loop()
        self._deadline_s = self._loop.time() + timeout_s
        # It may wait for its client at the end of its credit, and a client may forget it.
        self._timer = self._loop.call_at(self._deadline_s, self._overdue)

    def go_on(self) -> None:
        """Begin the next step as soon as there is room for what it gives."""
        if self._exchange.has_room:
            self._run()
        else:
            self._exchange.on_room(self._run)

    def end(self) -> None:
        """Stop: it is over, or nobody wants it any more."""
        if self in self._all.streams:
            self._all.streams.remove(self)
            self._all.keep(-self._kept_bytes)
            self._timer.cancel()
            if self._stop is not None:
                self._stop()

    def _run(self) -> None:
        if self._exchange.answered:
            return
        left_s = self._deadline_s - self._loop.time()
        if left_s <= 0:
            self._overdue()
            return
        shelf, client = self._all.shelf, self._exchange.connection.peer.node_id
        if not shelf.batches:
            task = asyncio.ensure_future(
                shelf.run(self._model, self._steps.inputs, self._wanted, left_s),
            )
            self._stop = task.cancel
            task.add_done_callback(self._done_by_task)
            return
        taken: Arrays | Ticket | None = None

        def done(outputs: Arrays | None, error: BaseException | None) -> None:
            if not self._steps.number and taken is not None and not isinstance(taken, dict):
                self._exchange.waited_s = taken.waited_s
            self._done(outputs, error)

        try:
            taken = shelf.submit(self._model, self._steps.inputs, self._wanted, left_s, client, done)
        except McpError as error:
            self._fail(error)
            return
        if isinstance(taken, dict):
            self._exchange.waited_s = self._exchange.waited_s or 0.0
            self._stepped(taken)
        else:
            self._stop = functools.partial(shelf.cancel, taken)

    def _done_by_task(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            error = task.exception()
            self._done(None if error else task.result(), error)

    def _done(self, outputs: Arrays | None, error: BaseException | None) -> None:
        self._stop = None
        if self._exchange.answered:
            return
        if outputs is not None:
            self._stepped(outputs)
        elif error is not None:
            self._fail(translated(error))

    def _stepped(self, outputs: Arrays) -> None:
        steps, exchange = self._steps, self._exchange
        told = steps.took(outputs)
        self._all.steps_total += 1
        self._on_step()
        try:
            self._all.keep(steps.state_bytes - self._kept_bytes)
            self._kept_bytes = steps.state_bytes
            specs, segments = pack_all(told)
        except McpError as error:
            self._fail(error)
            return
        payload: dict[str, Any] = {"step": steps.number, "outputs": specs}
        if steps.number == 1:
            payload |= self._origin()
        exchange.part(payload, segments)
        if exchange.answered:  # it could not be sent
            self.end()
        elif steps.reason is None:
            self._loop.call_soon(self._next)
        else:
            end = {**self._origin(), "steps": steps.number, "reason": steps.reason}
            exchange.reply(exchange.message.reply("INFER_STREAM_END", end))
            self.end()

    def _next(self) -> None:
        if not self._exchange.answered:
            self.go_on()

    def _origin(self) -> dict[str, Any]:
        told = {"model": self._model.name, "version": self._model.version, "node": self._all.node_id}
        return {**told, "fallback": "model"} if self._all.is_anothers(self._exchange) else told

    def _fail(self, error: McpError) -> None:
        told = naming(self._model, error)
        details = {**told.details, "steps": self._steps.number}
        self._exchange.fail(type(told)(told.message, details=details))
        self.end()

    def _overdue(self) -> None:
        self._fail(
            DeadlineExceeded(f"the stream's time was over after {self._steps.number} steps; allow it more")
        )
