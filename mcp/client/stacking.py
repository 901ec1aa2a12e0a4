"""Inferences that begin in one turn of the event loop, stacked into one request.

A client of many callers has most of its costs in messages: one for each inference, and one for each answer.
A node says in its answers which models treat their rows independently, and how many rows it runs at once
(``rows_max``). While inferences of such a model are under way, those that begin in the same turn and fit each
other go as one request whose inputs are joined along the first axis; of the outputs each caller gets a view
of its own rows. A lone inference waits for nobody and goes by itself.

What is stacked is an inference's first attempt alone. Whatever does not come of it is the business of each
inference by itself, as after any first attempt that failed. One that fails for what is in it must not take
others down again and again, so a model's inferences go apart for a while after that.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from mcp.client import answers
from mcp.client.exchange import Answer, Exchange, Request, Sent
from mcp.client.kinds import CallKind
from mcp.client.results import Array, Inference, ModelInputs
from mcp.client.retry import retryable
from mcp.client.tensors import ONLY_INPUT, unpacked
from mcp.errors import McpError, ProtocolError
from mcp.wire.tensors import DTYPES, pack_all

STACKED_BYTES_MAX: Final = 64 * 1024
"""An inference with larger inputs goes by itself: copying them would cost more than a message."""
STACK_BYTES_MAX: Final = 4 * 1024 * 1024
"""All inputs of one request that was stacked."""
STACK_ROWS_MAX: Final = 256
"""Rows of one request that was stacked, whatever a node says that it runs at once."""
INPUTS_MAX: Final = 8
"""An inference with more inputs goes by itself."""
APART_S: Final = 1.0
"""For so long a model's inferences go by themselves after a stack failed for what was in it."""
MODELS_MAX: Final = 1024
"""Of so many names of models it is remembered whether they are stacked."""

Over: TypeAlias = "asyncio.Future[Inference | None]"

_WHAT: Final = "the answer to an inference"
_SENT: Final = frozenset(DTYPES.values())
"""Element types that are copied as they are. Strings are not, nor is what is not little endian."""


class Known:
    """What is known of a model under one name. ``under_way`` counts this client's inferences of it."""

    __slots__ = ("apart_until", "rows_max", "under_way")

    def __init__(self) -> None:
        self.rows_max = 0
        self.apart_until = -math.inf
        self.under_way = 0


class Stack:
    """The inferences of one request, in the order of their rows.

    A caller awaits its ``over``, which gives its result; or ``None``: then it goes on by itself, after the
    ``error`` of the attempt at ``address`` if that is each one's own, or may be repeated. If it goes away
    before that, it calls :meth:`one_less`. The first of them began at ``began``.
    """

    __slots__ = (
        "address",
        "arrays",
        "began",
        "bytes",
        "error",
        "known",
        "model",
        "names",
        "outputs",
        "overs",
        "rows",
        "rows_of",
        "sent",
        "timeout_s",
    )

    def __init__(
        self,
        known: Known,
        model: str,
        names: tuple[str, ...],
        outputs: tuple[str, ...] | None,
        timeout_s: float,
        began: float,
    ) -> None:
        self.known = known
        self.model = model
        self.names = names
        self.outputs = outputs
        self.timeout_s = timeout_s
        self.began = began
        self.overs: list[Over] = []
        self.arrays: list[tuple[Array, ...]] = []
        self.rows_of: list[int] = []
        self.rows = 0
        self.bytes = 0
        self.sent: Sent | None = None
        self.error: McpError | None = None
        self.address = ""

    def add(self, arrays: tuple[Array, ...], rows: int, size_bytes: int, over: Over) -> None:
        """Append one."""
        self.overs.append(over)
        self.arrays.append(arrays)
        self.rows_of.append(rows)
        self.rows += rows
        self.bytes += size_bytes

    def one_less(self) -> None:
        """One of the callers has gone away. With the last of them the request is cancelled."""
        if self.sent is not None and all(over.done() for over in self.overs):
            self.sent.cancel()

    def drop_those_that_are_gone(self) -> None:
        """Leave out those whose callers went away before it was sent."""
        kept = [place for place, over in enumerate(self.overs) if not over.done()]
        self.overs = [self.overs[place] for place in kept]
        self.arrays = [self.arrays[place] for place in kept]
        self.rows_of = [self.rows_of[place] for place in kept]
        self.rows = sum(self.rows_of)

    def end(self) -> None:
        """Whoever has no result goes on by itself."""
        for over in self.overs:
            if not over.done():
                over.set_result(None)


class Stacking:
    """The inferences of one client that begin in this turn, by what they have in common."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._known: dict[str, Known] = {}
        self._gathered: dict[object, Stack] = {}

    # -- what nodes say of models -------------------------------------------------------------------

    def known(self, model: str) -> Known | None:
        """What is known of a model, if a node ever said that it runs several rows at once."""
        return self._known.get(model) if type(model) is str else None

    def learn(self, model: str, payload: Mapping[str, Any]) -> None:
        """Take in what a node's answer says of a model."""
        rows_max = payload.get("rows_max", 0)
        if type(rows_max) is not int or rows_max < 2:
            rows_max = 0
        known = self._known.get(model)
        if known is None:
            if not rows_max:
                return
            if len(self._known) >= MODELS_MAX:
                self._known.clear()
            known = self._known[model] = Known()
        known.rows_max = min(rows_max, STACK_ROWS_MAX)

    # -- gathering ----------------------------------------------------------------------------------

    def begin(
        self,
        known: Known,
        model: str,
        inputs: ModelInputs,
        outputs: tuple[str, ...] | None,
        timeout_s: float,
    ) -> tuple[Stack, Over] | None:
        """Send an inference now if it is alone, or with others at the end of this turn.

        ``None``: it cannot be stacked.
        """
        now = self._exchange.clock.monotonic()
        if known.rows_max < 2 or known.apart_until > now or self._exchange.hedging is not None:
            return None
        read = _read(inputs)
        if read is None:
            return None
        names, arrays, kind, rows, size_bytes = read
        if rows > known.rows_max or size_bytes > STACKED_BYTES_MAX:
            return None
        loop = asyncio.get_running_loop()
        over: Over = loop.create_future()
        if not known.under_way:
            stack = Stack(known, model, names, outputs, timeout_s, now)
            stack.add(arrays, rows, size_bytes, over)
            self._go(stack)
            return stack, over
        if not self._gathered:
            loop.call_soon(self._turn_over)
        place = (model, kind, outputs, timeout_s)
        gathered = self._gathered.get(place)
        if gathered is None:
            stack = self._gathered[place] = Stack(known, model, names, outputs, timeout_s, now)
        elif gathered.rows + rows > known.rows_max or gathered.bytes + size_bytes > STACK_BYTES_MAX:
            self._go(gathered)
            stack = self._gathered[place] = Stack(known, model, names, outputs, timeout_s, now)
        else:
            stack = gathered
        stack.add(arrays, rows, size_bytes, over)
        return stack, over

    def _turn_over(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for stack in gathered.values():
            self._go(stack)

    def _go(self, stack: Stack) -> None:
        if any(over.done() for over in stack.overs):
            stack.drop_those_that_are_gone()
            if not stack.overs:
                return
        chosen = self._exchange.infers_at(stack.timeout_s, self._exchange.clock.monotonic())
        if chosen is not None:
            address, timeout_s = chosen
            stack.address = address
            request = _request(stack, timeout_s)
            over = functools.partial(self._over, stack)
            stack.sent = self._exchange.send_now(request, address, timeout_s, len(stack.overs), over)
        if stack.sent is None:
            stack.address = ""
            stack.end()

    # -- what came of it ----------------------------------------------------------------------------

    def _over(self, stack: Stack, answer: Answer | McpError) -> None:
        """The attempt has ended, in whatever way."""
        try:
            if isinstance(answer, McpError):
                raise answer
            self.learn(stack.model, answer.payload)
            _part(answer, stack)
        except McpError as error:
            if len(stack.overs) == 1 or retryable(error):
                stack.error = error
            else:
                # It may be one of them, or that they are stacked: each finds out by itself.
                stack.address = ""
                stack.known.apart_until = self._exchange.clock.monotonic() + APART_S
        finally:
            stack.sent = None  # it has the stack, to call this; they would keep each other, and the inputs
            stack.end()


def _read(
    inputs: ModelInputs,
) -> tuple[tuple[str, ...], tuple[Array, ...], object, int, int] | None:
    """Names, arrays, what makes them fit others, rows and bytes; ``None``: not to be stacked."""
    if type(inputs) is np.ndarray:
        shape = inputs.shape
        if not shape or not shape[0] or inputs.dtype not in _SENT:
            return None
        return (ONLY_INPUT,), (inputs,), (inputs.dtype.num, shape[1:]), shape[0], inputs.nbytes
    if type(inputs) is not dict or not 1 <= len(inputs) <= INPUTS_MAX:
        return None
    rows, size_bytes = 0, 0
    kind: list[object] = []
    for name, array in inputs.items():
        if type(name) is not str or not name or type(array) is not np.ndarray or array.dtype not in _SENT:
            return None
        shape = array.shape
        if not shape or not shape[0] or (rows and shape[0] != rows):
            return None
        rows = shape[0]
        size_bytes += array.nbytes
        kind += (name, array.dtype.num, shape[1:])
    return tuple(inputs), tuple(inputs.values()), tuple(kind), rows, size_bytes


def _request(stack: Stack, timeout_s: float) -> Request:
    if len(stack.arrays) == 1:
        joined = dict(zip(stack.names, stack.arrays[0], strict=True))
    else:
        columns = zip(*stack.arrays, strict=True)
        joined = {name: np.concatenate(column) for name, column in zip(stack.names, columns, strict=True)}
    specs, segments = pack_all(joined)
    payload: dict[str, Any] = {
        "model_hint": stack.model,
        "inputs": specs,
        "timeout_ms": max(1, int(timeout_s * 1000)),
    }
    if len(stack.arrays) > 1:
        payload["stacked"] = stack.rows_of
    if stack.outputs is not None:
        payload["outputs"] = list(stack.outputs)
    return Request(CallKind.INFER, "INFER_REQUEST", payload, segments, plain=True)


def _part(answer: Answer, stack: Stack) -> None:
    """Give each its rows of the outputs. Raises :class:`~mcp.errors.ProtocolError`."""
    outputs = unpacked(answer.payload.get("outputs"), answer.segments)
    whole = answers.inference(answer.payload, outputs, _WHAT)
    if len(stack.overs) == 1:  # a model may well give other rows than it got
        if not stack.overs[0].done():
            stack.overs[0].set_result(whole)
        return
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != stack.rows:
            raise ProtocolError(
                f"{_WHAT} to {stack.rows} rows: output {name!r:.80} has the shape {array.shape}"
            )
    told = whole.model, whole.version, whole.node, whole.fallback, whole.age_s
    start = 0
    for rows, over in zip(stack.rows_of, stack.overs, strict=True):
        stop = start + rows
        if not over.done():
            own = {name: array[start:stop] for name, array in outputs.items()}
            over.set_result(Inference(own, *told))
        start = stop
