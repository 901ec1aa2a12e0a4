"""Direct inference, of which the log knows nothing: one, many, and step by step."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, Literal, overload

from mcp.client import answers, arguments
from mcp.client.calls import Calls
from mcp.client.connections import again
from mcp.client.exchange import Answer, Request
from mcp.client.kinds import CallKind
from mcp.client.many import IN_FLIGHT, Answered, Errors, Order, answered, window
from mcp.client.results import Inference, ModelInputs, Step
from mcp.client.retry import Attempts
from mcp.client.stacking import Stack, Stacking
from mcp.client.streaming import AHEAD, allowed_ahead, steps_of, stream_fields
from mcp.client.tensors import packed, unpacked
from mcp.errors import InvalidArgument, McpError


class DirectCalls(Calls):
    """The calls of a :class:`~mcp.client.client.Client` that one node answers by itself."""

    _stacking: Stacking

    async def infer(
        self,
        model: str,
        inputs: ModelInputs,
        *,
        outputs: Sequence[str] | None = None,
        session: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Inference:
        """Run ``model`` once, on one node, outside the log: the fast way.

        ``model`` is a name, an alias, ``name@version``, a family, a task or tags with commas between
        (``docs/routing.md``). ``inputs`` are arrays by name, or one array
        or text for a model with one input; each has the shape and element type that the model declares,
        the batch dimension included. ``outputs`` names those that are wanted; all by default. Where a route
        has several versions, all requests of one ``session`` get the same; routes and rules may look at
        ``headers``. What has a larger ``priority`` is more urgent, where requests wait for a node, or are
        refused.

        Repeated on another node when one is lost, busy or not ready. Raises ``ModelNotFound``,
        ``InputInvalid``, ``InferenceFailed``, ``TooLarge``, ``Busy``, ``ModelNotReady``.
        """
        bound_s = self._timeout_s if timeout_s is None else arguments.timeout(timeout_s, self._timeout_s)
        wanted = None if outputs is None else tuple(arguments.texts("outputs", outputs))
        if session is not None or headers is not None or priority:
            request = _request(model, inputs, wanted, _routed_by(session, headers, priority))
            return await self._infer(request, self._exchange.attempts(CallKind.INFER, bound_s))
        known = self._stacking.known(model)
        if known is None:
            return await self._infer_alone(model, inputs, wanted, bound_s)
        begun = self._stacking.begin(known, model, inputs, wanted, bound_s)
        known.under_way += 1
        try:
            if begun is None:
                return await self._infer_alone(model, inputs, wanted, bound_s)
            stack, over = begun
            try:
                result = await over
            except BaseException:
                stack.one_less()
                raise
            return result or await self._infer_after(stack, model, inputs, wanted, bound_s)
        finally:
            known.under_way -= 1

    async def _infer_alone(
        self, model: str, inputs: ModelInputs, outputs: tuple[str, ...] | None, timeout_s: float
    ) -> Inference:
        """One inference in a request of its own."""
        request = _request(model, inputs, outputs)
        return await self._infer(request, self._exchange.attempts(CallKind.INFER, timeout_s))

    async def _infer_after(
        self,
        stack: Stack,
        model: str,
        inputs: ModelInputs,
        outputs: tuple[str, ...] | None,
        timeout_s: float,
    ) -> Inference:
        """One that was on its way, maybe with others, to no result."""
        attempts = self._exchange.attempts(CallKind.INFER, timeout_s, stack.began + timeout_s)
        if stack.error is not None:
            await self._exchange.pause("INFER_REQUEST", attempts, again(stack.error), {stack.address})
        return await self._infer(_request(model, inputs, outputs), attempts, avoid=stack.address)

    async def _infer(self, request: Request, attempts: Attempts, avoid: str = "") -> Inference:
        answer = await self._exchange.call(request, attempts, avoid=avoid)
        payload = answer.payload
        self._stacking.learn(request.hedged_as, payload)
        outputs = unpacked(payload.get("outputs"), answer.segments)
        return answers.inference(payload, outputs, "the answer to an inference")

    @overload
    def infer_many(
        self,
        model: str,
        inputs: Iterable[ModelInputs] | AsyncIterable[ModelInputs],
        *,
        outputs: Sequence[str] | None = None,
        in_flight: int = IN_FLIGHT,
        order: Order = "inputs",
        errors: Literal["raise"] = "raise",
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Answered[Inference], None]: ...

    @overload
    def infer_many(
        self,
        model: str,
        inputs: Iterable[ModelInputs] | AsyncIterable[ModelInputs],
        *,
        outputs: Sequence[str] | None = None,
        in_flight: int = IN_FLIGHT,
        order: Order = "inputs",
        errors: Errors,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Answered[Inference | McpError], None]: ...

    def infer_many(
        self,
        model: str,
        inputs: Iterable[ModelInputs] | AsyncIterable[ModelInputs],
        *,
        outputs: Sequence[str] | None = None,
        in_flight: int = IN_FLIGHT,
        order: Order = "inputs",
        errors: Errors = "raise",
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Answered[Any], None]:
        """Run ``model`` once for each of ``inputs``, many at a time; gives ``(number, result)`` of each.

        ::

            async for number, answer in client.infer_many("digits", scans):
                print(number, answer.outputs["label"])

        ``inputs`` gives what :meth:`infer` takes; the next one is asked for when fewer than ``in_flight``
        results are under way or not taken yet, so it may be of any length. ``order``: as the ``inputs`` came,
        or by ``completion``. With ``errors="return"`` an error is given in the place of its result; otherwise
        it is raised there and the rest is cancelled, as when you leave the loop (by ``contextlib.aclosing``
        at once). ``timeout_s`` is for each. Raises :class:`~mcp.errors.InvalidArgument`.
        """
        how = window(in_flight, order, errors)
        arguments.text("a model", model)
        if isinstance(inputs, str | Mapping) or not isinstance(inputs, Iterable | AsyncIterable):
            raise InvalidArgument(
                f"inputs is an iterable of what infer takes, not one {type(inputs).__name__}"
            )
        return answered(
            lambda each: self.infer(model, each, outputs=outputs, timeout_s=timeout_s), inputs, how
        )

    def stream(
        self,
        model: str,
        inputs: ModelInputs,
        *,
        carry: Mapping[str, str],
        steps: int,
        until: str | None = None,
        outputs: Sequence[str] | None = None,
        ahead: int = AHEAD,
        session: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Step, None]:
        """Call ``model`` step by step on one node, its state kept there; gives each step's results.

        ::

            async for step in client.stream("decoder", start, carry={"state": "state"}, steps=100):
                print(step.number, step.outputs["token"])

        ``carry`` says which output each next step takes as which input; other inputs stay as they are. It
        ends after ``steps`` steps, or after the first in which no element of the output ``until`` is zero.
        ``outputs`` are those that are sent, by default all that are not carried. The node is at most
        ``ahead`` steps ahead of your loop, and stops within a step when you leave it (by
        ``contextlib.aclosing`` at once) or ``timeout_s``, which is for all of it, is over. What routes and
        rules may look at is the same as of :meth:`infer`.

        Raises as :meth:`infer`, and ``Unavailable`` when the node is lost on the way: begin anew.
        """
        credit = allowed_ahead(ahead)
        fields, segments = stream_fields(model, inputs, carry, steps, outputs, until)
        fields |= _routed_by(session, headers, priority)
        bound_s = arguments.timeout(timeout_s, self._timeout_s)

        async def opened() -> Answer:
            attempts = self._exchange.attempts(CallKind.INFER, bound_s)
            deadline = attempts.deadline
            request = Request(
                CallKind.INFER, "INFER_STREAM", fields, segments, credit=credit, deadline=deadline
            )
            return await self._exchange.call(request, attempts)

        return steps_of(opened)


def _routed_by(session: str | None, headers: Mapping[str, str] | None, priority: int) -> dict[str, Any]:
    """What routes, rules and queues look at, as a request has it."""
    found: dict[str, Any] = {}
    if session is not None:
        found["session"] = arguments.text("a session", session)
    if headers is not None:
        found["headers"] = arguments.mapping("the set of headers", headers)
    if priority:
        found["priority"] = arguments.plain(priority)
    return found


def _request(
    model: str,
    inputs: ModelInputs,
    outputs: tuple[str, ...] | None,
    routed_by: Mapping[str, Any] | None = None,
) -> Request:
    fields, segments = packed(inputs)
    if routed_by:
        fields |= routed_by
    fields["model_hint"] = arguments.text("a model", model)
    if outputs is not None:
        fields["outputs"] = list(outputs)
    return Request(
        CallKind.INFER,
        "INFER_REQUEST",
        lambda left_s: {**fields, "timeout_ms": max(1, int(left_s * 1000))},
        segments,
        plain=True,
        hedged_as=model,
    )
