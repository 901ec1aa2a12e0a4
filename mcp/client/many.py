"""Many inferences as one stream: inputs in, results out, a window of them under way.

The window is what bounds memory and what keeps the nodes busy: the next input is taken only when there is
room, and a result that nobody has taken yet still holds its place. So a slow consumer slows the source
down, and a source of any length is never held whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, Generic, Literal, NamedTuple, TypeVar, cast

from mcp.client.results import Inference
from mcp.errors import InvalidArgument, McpError

IN_FLIGHT: Final = 64
"""How many inferences of a stream are under way at once, if nothing else is said."""
IN_FLIGHT_MAX: Final = 4096
"""The largest window of one stream."""

Order = Literal["inputs", "completion"]
"""Results as the inputs came, or as soon as each is there."""
Errors = Literal["raise", "return"]
"""An inference that fails ends the stream, or is given in its place."""

In = TypeVar("In")
Out_co = TypeVar("Out_co", covariant=True)


class Answered(NamedTuple, Generic[Out_co]):
    """What became of one input: ``number`` counts the inputs from 0."""

    number: int
    result: Out_co
    """An :class:`~mcp.client.results.Inference`; or, where errors are returned, an McpError."""


Result = Inference | McpError


class Window(NamedTuple):
    """How a stream is run. Made by :func:`window`."""

    in_flight: int
    order: Order
    errors: Errors


def window(in_flight: int, order: str, errors: str) -> Window:
    """Check what a caller asks for. Raises :class:`~mcp.errors.InvalidArgument`."""
    if type(in_flight) is not int or not 1 <= in_flight <= IN_FLIGHT_MAX:
        raise InvalidArgument(f"in_flight is a number from 1 to {IN_FLIGHT_MAX}, not {in_flight!r:.80}")
    if order not in ("inputs", "completion"):
        raise InvalidArgument(f"order is 'inputs' or 'completion', not {order!r:.80}")
    if errors not in ("raise", "return"):
        raise InvalidArgument(f"errors is 'raise' or 'return', not {errors!r:.80}")
    return Window(in_flight, cast(Order, order), cast(Errors, errors))


async def answered(
    ask: Callable[[In], Awaitable[Inference]], inputs: Iterable[In] | AsyncIterable[In], how: Window
) -> AsyncGenerator[Answered[Result], None]:
    """Ask for each of ``inputs``, and give the results in the order that ``how`` says.

    What is under way when the consumer leaves, or when an error ends it, is cancelled. Raises what the
    source raises, after the results of all that it gave before.
    """
    stream = _Stream(ask, how)
    feeding = asyncio.ensure_future(stream.feed(inputs))
    try:
        while (task := await stream.ready.get()) is not None:
            found = await task
            stream.room.release()
            yield found
        await feeding
    finally:
        feeding.cancel()
        for task in stream.under_way:
            task.cancel()
        await asyncio.gather(feeding, *stream.under_way, return_exceptions=True)


class _Stream(Generic[In]):
    def __init__(self, ask: Callable[[In], Awaitable[Inference]], how: Window) -> None:
        self._ask = ask
        self._how = how
        self.room = asyncio.Semaphore(how.in_flight)
        self.ready: asyncio.Queue[asyncio.Task[Answered[Result]] | None] = asyncio.Queue()
        """In the order of the results; ``None`` is the end."""
        self.under_way: set[asyncio.Task[Answered[Result]]] = set()

    async def feed(self, inputs: Iterable[In] | AsyncIterable[In]) -> None:
        try:
            number = 0
            async for each in _each(inputs):
                await self.room.acquire()
                self._begin(number, each)
                number += 1
        finally:
            if self.under_way:
                await asyncio.wait(self.under_way)
            self.ready.put_nowait(None)

    def _begin(self, number: int, each: In) -> None:
        task = asyncio.ensure_future(self._one(number, each))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        if self._how.order == "inputs":
            self.ready.put_nowait(task)
        else:
            task.add_done_callback(self.ready.put_nowait)

    async def _one(self, number: int, each: In) -> Answered[Result]:
        try:
            return Answered(number, await self._ask(each))
        except McpError as error:
            if self._how.errors == "raise":
                raise
            return Answered(number, error)


async def _each(inputs: Iterable[In] | AsyncIterable[In]) -> AsyncIterator[In]:
    if isinstance(inputs, AsyncIterable):
        async for each in inputs:
            yield each
    else:
        for each in inputs:
            yield each
