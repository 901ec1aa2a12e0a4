"""Direct inference: not in the log, one hop, on whatever node is asked.

The version is what the hint means at this node's position in the log, by its rules and routes
(:mod:`mcp.node.routing`). A model that is known to be
quick is run at once, on the loop: handing it to a thread would cost more than the run. Requests that come
while others are served are run together with them where the model allows it; they wait as callbacks, not as
tasks. Each answer says whether that is so (``rows_max``): then a client may join the rows of several
inferences itself, and say in ``stacked`` how many are whose.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from executor.inspection import ModelInfo, TensorInfo
from executor.interface import Ticket
from mcp.cluster.router.decision import Decision
from mcp.errors import Cancelled, InputInvalid, InvalidArgument, McpError, Unsupported
from mcp.net.exchange import Exchange
from mcp.node.admitting import Admitting
from mcp.node.fallbacks import Admitted, Given
from mcp.node.order import Order
from mcp.node.payload import integer, names
from mcp.node.rollouts import Counting
from mcp.node.routed import LEFT_S_MIN, Routed
from mcp.node.routing import Routing
from mcp.node.scheduling import Place, Scheduling
from mcp.node.shelf import Shelf
from mcp.node.translation import translated
from mcp.state.models import ModelVersion
from mcp.wire.handshake import Role
from mcp.wire.messages import Message
from mcp.wire.tensors import pack_all, unpack_all

Arrays = dict[str, NDArray[Any]]

_DIGEST_SHOWN_CHARS: Final = 16
"""What a message shows of a digest at least: the runtime shortens it."""
_ONE: Final = (1,)
BY_ROUTER: Final = "by router"
"""What is noted at a request whose version its hint alone does not say."""


class DirectInference:
    """Answers ``INFER_REQUEST``."""

    def __init__(
        self,
        node_id: str,
        order: Order,
        shelf: Shelf,
        routing: Routing,
        routed: Routed,
        admitting: Admitting,
        counting: Counting,
        scheduling: Scheduling,
    ) -> None:
        self._node_id = node_id
        self._order = order
        self._shelf = shelf
        self._routing = routing
        self._routed = routed
        self._admitting = admitting
        self._fallbacks = admitting.fallbacks
        self._counting = counting
        self._scheduling = scheduling
        self.waiting = 0
        """Inferences that were taken and are not answered yet."""
        self.spawn: Callable[[Exchange, Coroutine[Any, Any, None]], None] | None = None
        """Has work done that answers an exchange (:class:`mcp.node.dispatch.Dispatch`)."""

    def answer(self, exchange: Exchange, timeout_s: float) -> Coroutine[Any, Any, None] | None:
        """Answer at once, or give the work that will."""
        seen = exchange.message.vector.get("log")
        if seen > self._order.applied_index:
            return self._answer_when_there(exchange, seen, timeout_s)
        return self._answer(exchange, timeout_s)

    async def _answer_when_there(self, exchange: Exchange, index: int, timeout_s: float) -> None:
        await self._order.wait_applied(index, timeout_s)
        later = self._answer(exchange, timeout_s)
        if later is not None:
            await later

    def _answer(self, exchange: Exchange, timeout_s: float) -> Coroutine[Any, Any, None] | None:
        payload = exchange.message.payload
        model = self._routing.named(payload.get("model_hint"))
        wanted = names(payload, "outputs")
        if "timeout_ms" in payload:
            timeout_s = min(timeout_s, integer(payload, "timeout_ms") / 1000)
        if model is None:
            exchange.note = BY_ROUTER
            return self._answer_routed(exchange, wanted, timeout_s)
        return self._answer_admitted(exchange, model, wanted, timeout_s)

    def _answer_routed(
        self, exchange: Exchange, wanted: list[str] | None, timeout_s: float
    ) -> Coroutine[Any, Any, None] | None:
        """Answer with what the router decides, here or by another node."""
        asked = self._routing.answers_for(exchange)
        if asked is not None:
            return self._answer_with(exchange, asked, wanted, timeout_s)
        if "stacked" in exchange.message.payload:
            # Each of them may be for another version, and their rows together are nobody's batch.
            raise Unsupported(
                "rules, routes or a strategy decide about this model's requests: send one inference"
            )
        features = self._routing.features(exchange)
        decision = self._routing.decide(features)
        timeout_s = decision.within_s(timeout_s)
        if self._scheduling.strategy(exchange, decision.model) is not None:
            place = self._scheduling.place(exchange, decision, features, timeout_s)
            # Whatever becomes of the request from here on, its place is given back.
            exchange.on_end(place.end)
            return self._answer_placed(exchange, decision, place, wanted, timeout_s)
        version, node = self._routing.version(decision), decision.nodes[0].node
        here = node == self._node_id
        admitted = self._admit(exchange, version, wanted, timeout_s, None if here else node)
        if admitted.model is version and admitted.given is None:
            self._counting.watch(exchange, version, admitted.wait_s)
            if not here:
                ask = functools.partial(
                    self._routed.ask, exchange, keep=self._fallbacks.keeping(exchange, version)
                )
                return self._routed.forward(exchange, decision, ask, timeout_s, admitted.wait_s)
        later = self._answer_waiting(exchange, admitted, wanted, timeout_s)
        if here:
            self._routed.copy(exchange, decision, received_inputs, timeout_s)
        return later

    def _answer_placed(
        self,
        exchange: Exchange,
        decision: Decision,
        place: Place,
        wanted: list[str] | None,
        timeout_s: float,
    ) -> Coroutine[Any, Any, None] | None:
        """Answer where the scheduler has chosen, or has it wait for a node."""
        version, node = self._routing.version(decision), place.node
        elsewhere = None if node == self._node_id else node
        admitted = self._admit(exchange, version, wanted, timeout_s, elsewhere)
        if admitted.model is not version or admitted.given is not None:
            # Something else answers: it waits for no node, and none is measured by it.
            place.end(Cancelled("the request was not let in"))
            return self._answer_waiting(exchange, admitted, wanted, timeout_s)
        self._counting.watch(exchange, version, admitted.wait_s)
        # At once, so that the choice for the next request knows of it.
        if node is not None:
            place.begin(admitted.wait_s)
        if node == self._node_id:
            later = self._answer_waiting(exchange, admitted, wanted, timeout_s)
        else:
            later = self._answer_elsewhere(exchange, decision, place, wanted, admitted.wait_s)
        self._routed.copy(exchange, decision, received_inputs, timeout_s)
        return later

    def _answer_elsewhere(
        self,
        exchange: Exchange,
        decision: Decision,
        place: Place,
        wanted: list[str] | None,
        wait_s: float,
    ) -> Coroutine[Any, Any, None]:
        """Have the node of the place answer once it has one, or the next that the scheduler chooses."""
        version = self._routing.version(decision)
        keep = self._fallbacks.keeping(exchange, version)

        async def ask(asked: Message, node: str, timeout_s: float) -> None:
            self._scheduling.told(node, await self._routed.ask(exchange, asked, node, timeout_s, keep))

        def here(left_s: float) -> Coroutine[Any, Any, None] | None:
            return self._answer_with(exchange, version, wanted, left_s)

        return self._routed.forward_placed(exchange, decision, place, ask, here, wait_s)

    def _answer_admitted(
        self, exchange: Exchange, model: ModelVersion, wanted: list[str] | None, timeout_s: float
    ) -> Coroutine[Any, Any, None] | None:
        """Answer if the request is let in, maybe with something else."""
        admitted = self._admit(exchange, model, wanted, timeout_s)
        return self._answer_waiting(exchange, admitted, wanted, timeout_s)

    def _admit(
        self,
        exchange: Exchange,
        model: ModelVersion,
        wanted: list[str] | None,
        timeout_s: float,
        node: str | None = None,
    ) -> Admitted:
        admitted = self._admitting.admit(exchange, model, timeout_s, node)
        if admitted.given is None and admitted.model is model and self._fallbacks.mends_failures(model):
            deadline_s = asyncio.get_running_loop().time() + timeout_s
            exchange.on_failure(functools.partial(self._mend, exchange, model, wanted, deadline_s))
        return admitted

    def _mend(
        self,
        exchange: Exchange,
        model: ModelVersion,
        wanted: list[str] | None,
        deadline_s: float,
        error: McpError,
    ) -> bool:
        """Whether something else is done instead of a run that has failed."""
        loop = asyncio.get_running_loop()
        left_s = deadline_s - loop.time()
        admitted = self._fallbacks.after_failure(exchange, model, left_s, error)
        if admitted is None:
            return False
        # What failed may be in the middle of telling so.
        loop.call_soon(self._begin_anew, exchange, admitted, wanted, left_s)
        return True

    def _begin_anew(
        self, exchange: Exchange, admitted: Admitted, wanted: list[str] | None, timeout_s: float
    ) -> None:
        if exchange.answered:
            return
        try:
            later = self._answer_waiting(exchange, admitted, wanted, timeout_s)
            if later is not None:
                assert self.spawn is not None
                self.spawn(exchange, later)
        except Exception as error:  # every request is answered, whatever went wrong
            exchange.fail(translated(error))

    def _answer_waiting(
        self,
        exchange: Exchange,
        admitted: Admitted,
        wanted: list[str] | None,
        timeout_s: float,
    ) -> Coroutine[Any, Any, None] | None:
        model, wait_s, given = admitted
        if given is not None:
            self._give(exchange, model, given)
            return None
        if wait_s:
            return self._answer_after(exchange, model, wanted, timeout_s, wait_s)
        return self._answer_with(exchange, model, wanted, timeout_s)

    async def _answer_after(
        self,
        exchange: Exchange,
        model: ModelVersion,
        wanted: list[str] | None,
        timeout_s: float,
        wait_s: float,
    ) -> None:
        await asyncio.sleep(wait_s)
        later = self._answer_with(exchange, model, wanted, max(LEFT_S_MIN, timeout_s - wait_s))
        if later is not None:
            await later

    def _answer_with(
        self, exchange: Exchange, model: ModelVersion, wanted: list[str] | None, timeout_s: float
    ) -> Coroutine[Any, Any, None] | None:
        info = self._shelf.info(model.digest)
        if info is None:
            return self._answer_later(exchange, model, wanted, timeout_s)
        return self._begin(exchange, model, info, wanted, timeout_s)

    async def _answer_later(
        self, exchange: Exchange, model: ModelVersion, wanted: list[str] | None, timeout_s: float
    ) -> None:
        info = await self._shelf.ensure_within(model, timeout_s)
        later = self._begin(exchange, model, info, wanted, timeout_s)
        if later is not None:
            await later

    def _begin(
        self,
        exchange: Exchange,
        model: ModelVersion,
        info: ModelInfo,
        wanted: list[str] | None,
        timeout_s: float,
    ) -> Coroutine[Any, Any, None] | None:
        """Run a model that is ready, or give the work that will."""
        inputs = received_inputs(exchange, info)
        if "stacked" in exchange.message.payload:
            self._check_stacked(exchange.message.payload["stacked"], model, inputs)
        if self._shelf.batches:
            self._submit(exchange, model, inputs, wanted, timeout_s)
            return None
        return self._run_later(exchange, model, inputs, wanted, timeout_s)

    def _submit(
        self,
        exchange: Exchange,
        model: ModelVersion,
        inputs: Arrays,
        wanted: list[str] | None,
        timeout_s: float,
    ) -> None:
        taken: Arrays | Ticket | None = None

        def done(outputs: Arrays | None, error: BaseException | None) -> None:
            if taken is not None and not isinstance(taken, dict):
                exchange.waited_s = taken.waited_s
            self._done(exchange, model, outputs, error)

        client = exchange.connection.peer.node_id
        calls = len(exchange.message.payload.get("stacked", _ONE))
        try:
            taken = self._shelf.submit(model, inputs, wanted, timeout_s, client, done, calls)
        except McpError as error:
            raise naming(model, error) from error
        if isinstance(taken, dict):
            exchange.waited_s = 0.0
            self._reply(exchange, model, taken)
        else:
            self.waiting += 1
            exchange.on_cancel(functools.partial(self._cancel, taken))

    def _check_stacked(self, stacked: object, model: ModelVersion, inputs: Arrays) -> None:
        """Whether the rows of several inferences may be joined, and are what they are said to be."""
        rows_max = self._shelf.rows_max(model)
        if not rows_max:
            raise Unsupported(
                f"the rows of {model.name} {model.version} may not be joined: send one inference"
            )
        if type(stacked) is list and len(stacked) > rows_max:  # each has a row at least: not worth a walk
            raise InvalidArgument(
                f'"stacked" has {len(stacked)} entries, at most rows_max={rows_max} are taken'
            )
        if type(stacked) is not list or not all(type(rows) is int and rows > 0 for rows in stacked):
            raise InvalidArgument(
                f'"stacked" is a list of numbers of rows from 1 on, not {str(stacked)[:80]}'
            )
        total = sum(stacked)
        if not 0 < total <= rows_max:
            raise InvalidArgument(f'"stacked" has {total} rows, and 1 to rows_max={rows_max} are run at once')
        for name, array in inputs.items():
            if array.ndim == 0 or len(array) != total:
                raise InputInvalid(
                    f'"stacked" has {total} rows, the input {name!r:.80} the shape {list(array.shape)}'
                )

    def _cancel(self, taken: Ticket) -> None:
        self.waiting -= 1
        self._shelf.cancel(taken)

    def _done(
        self, exchange: Exchange, model: ModelVersion, outputs: Arrays | None, error: BaseException | None
    ) -> None:
        self.waiting -= 1
        if outputs is not None:
            try:
                self._reply(exchange, model, outputs)
            except McpError as refused:
                exchange.fail(refused)
        elif error is not None:
            exchange.fail(naming(model, translated(error)))

    async def _run_later(
        self,
        exchange: Exchange,
        model: ModelVersion,
        inputs: Arrays,
        wanted: list[str] | None,
        timeout_s: float,
    ) -> None:
        try:
            outputs = await self._shelf.run(model, inputs, wanted, timeout_s)
        except McpError as error:
            raise naming(model, error) from error
        self._reply(exchange, model, outputs)

    def _reply(self, exchange: Exchange, model: ModelVersion, outputs: Mapping[str, NDArray[Any]]) -> None:
        stacked = exchange.message.payload.get("stacked")
        if stacked is not None:
            self._check_rows(sum(stacked), model, outputs)
        specs, segments = pack_all(outputs)
        payload = self._payload(exchange, model, specs)
        if self._fallbacks.by_others and exchange in self._fallbacks.by_others:
            payload["fallback"] = "model"
        exchange.reply(exchange.message.reply("INFER_RESPONSE", payload), segments, plain=True)
        if self._fallbacks.kept is not None:
            keep = self._fallbacks.keeping(exchange, model)
            if keep is not None:
                keep(payload, segments)

    def _give(self, exchange: Exchange, model: ModelVersion, given: Given) -> None:
        """Answer with what nothing is run for, and say so."""
        payload = {**self._payload(exchange, model, given.answer.specs), "fallback": given.kind}
        if given.age_s is not None:
            payload["age_s"] = given.age_s
        reply = exchange.message.reply("INFER_RESPONSE", payload)
        exchange.reply(reply, given.answer.segments, plain=True)

    def _payload(
        self, exchange: Exchange, model: ModelVersion, specs: list[dict[str, Any]]
    ) -> dict[str, Any]:
        payload = {
            "model": model.name,
            "version": model.version,
            "node": self._node_id,
            "outputs": specs,
            "queue": self.waiting,
            "rows_max": self._rows_max(exchange, model),
        }
        if exchange.waited_s is not None and exchange.connection.peer.role is Role.NODE:
            payload["waited_s"] = exchange.waited_s
        return payload

    def _rows_max(self, exchange: Exchange, model: ModelVersion) -> int:
        """How many rows a client may join; 0 where the router decides, for it decides on one inference."""
        return 0 if exchange.note is BY_ROUTER else self._shelf.rows_worth_joining(model)

    def _check_rows(self, rows: int, model: ModelVersion, outputs: Mapping[str, NDArray[Any]]) -> None:
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != rows:
                self._shelf.changes_rows(model, f"of {rows} rows, {name!r:.80} has the shape {array.shape}")
                raise Unsupported(
                    f"{model.name} {model.version} does not give a row for each row: send one inference"
                )


def naming(model: ModelVersion, error: McpError) -> McpError:
    """The error of a run with the model's name and version where the runtime knows only the digest."""
    digest = rf"'?{model.digest[:_DIGEST_SHOWN_CHARS]}[0-9a-f]*(\.\.\.)?'?"
    message = re.sub(digest, lambda _: f"{model.name} version {model.version}", error.message)
    return type(error)(message, details=error.details)


def received_inputs(exchange: Exchange, info: ModelInfo) -> Arrays:
    """The tensors of a request by name, or its text, as the model's inputs."""
    payload = exchange.message.payload
    chunk = payload.get("data_chunk")
    if chunk is None:
        return bound_inputs(unpack_all(payload.get("inputs", []), exchange.segments, text=True), info.inputs)
    if not isinstance(chunk, str) or payload.get("inputs"):
        raise InvalidArgument("a request carries either a text in 'data_chunk', or tensors in 'inputs'")
    return text_input(chunk, info)


def bound_inputs(inputs: Arrays, declared: Sequence[TensorInfo]) -> Arrays:
    """Give an input without a name to the model's only one."""
    if "" not in inputs:
        return inputs
    if len(declared) != 1 or len(inputs) != 1:
        told = ", ".join(f"{i.name} ({i.dtype})" for i in declared)
        raise InputInvalid(f"an input without a name fits a model with one input; this one declares: {told}")
    (only,) = declared
    return {only.name: inputs[""]}


def text_input(chunk: str, info: ModelInfo) -> Arrays:
    """A text as the only input of a model that takes strings, of the rank that it declares."""
    if len(info.inputs) != 1 or info.inputs[0].dtype != "BYTES":
        declared = ", ".join(f"{i.name} ({i.dtype})" for i in info.inputs)
        raise InputInvalid(
            f"a text fits a model with one input of strings (BYTES); this one declares: {declared}"
        )
    (only,) = info.inputs
    rank = 1 if only.shape is None else len(only.shape)
    return {only.name: np.array([chunk], dtype=object).reshape((1,) * rank)}
