"""A model called step by step on one node, and its results as they come.

Until the first step's results are here the call is repeated like any other inference. After that it is not:
what the node kept between the steps is lost with it, and only the caller knows how to begin anew.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from mcp.client import answers, arguments
from mcp.client.exchange import Answer
from mcp.client.results import ModelInputs, Step
from mcp.client.tensors import packed, unpacked
from mcp.errors import Cancelled, InvalidArgument, McpError, OutcomeUnknown, Unavailable
from mcp.net.parts import Part
from mcp.wire.messages import CREDIT_MAX

AHEAD: Final = 16
"""How many steps a node may be ahead of the loop that takes them, if nothing else is said."""

_WHAT: Final = "a step of a stream"


def stream_fields(
    model: str,
    inputs: ModelInputs,
    carry: Mapping[str, str],
    steps: int,
    outputs: Sequence[str] | None,
    until: str | None,
) -> tuple[dict[str, Any], Sequence[Any]]:
    """The fields of an ``INFER_STREAM`` and its segments. Raises ``InvalidArgument`` and ``TooLarge``."""
    fields, segments = packed(inputs)
    fields["model_hint"] = arguments.text("a model", model)
    if not isinstance(carry, Mapping):
        raise InvalidArgument(f"carry is a dict from outputs to inputs, not {type(carry).__name__}")
    fields["carry"] = {
        arguments.text("an output", source): arguments.text("an input", target)
        for source, target in carry.items()
    }
    if type(steps) is not int or steps < 1:
        raise InvalidArgument(f"steps is a number from 1 on, not {steps!r:.80}")
    fields["steps"] = steps
    if outputs is not None:
        fields["outputs"] = arguments.texts("outputs", outputs)
    if until is not None:
        fields["until"] = arguments.text("the output 'until'", until)
    return fields, segments


def allowed_ahead(ahead: object) -> int:
    """Check how far a node may be ahead. Raises :class:`~mcp.errors.InvalidArgument`."""
    if type(ahead) is not int or not 1 <= ahead <= CREDIT_MAX:
        raise InvalidArgument(f"ahead is a number from 1 to {CREDIT_MAX}, not {ahead!r:.80}")
    return ahead


async def steps_of(opened: Callable[[], Awaitable[Answer]]) -> AsyncGenerator[Step, None]:
    """The steps of the stream that ``opened`` opens. The node is told to stop when the consumer leaves."""
    answer = await opened()
    stream = answer.rest
    assert stream is not None
    taken = 0
    try:
        origin = answer.payload
        step: Part | None = Part(answer.payload, tuple(answer.segments))
        while step is not None:
            yield _step(step, origin)
            taken += 1
            step = await stream.next()
    except (OutcomeUnknown, Unavailable, Cancelled) as error:
        raise _broken(error, taken) from error
    finally:
        stream.close()


def _step(part: Part, origin: Mapping[str, Any]) -> Step:
    number = answers.required(part.payload, "step", int, _WHAT)
    outputs = unpacked(part.payload.get("outputs"), part.segments)
    return Step(number, outputs, *answers.origin(origin, _WHAT), answers.fallback_of(origin))


def _broken(error: McpError, taken: int) -> Unavailable:
    return Unavailable(
        f"the stream broke after {taken} steps, and what its node kept of it is lost: begin a new one, from "
        f"a state that you have ({error.code}: {error.message})",
        details={"steps": taken},
    )
