"""Messages of our own protocol as HTTP carries them: JSON in, JSON and events out.

A tensor is ``{"name", "dtype", "shape", "data"}``; ``data`` is a list as in the Open Inference Protocol, or
``{"$bytes": base64}`` of its raw bytes as in every message in JSON (:mod:`mcp.wire.json_codec`). Pure.

Source of the events: WHATWG HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp.client.results import Inference, InferenceRecord, ModelInputs, Step
from mcp.cluster.router.requests import (
    HEADER_CHARS_MAX,
    HEADER_NAME_CHARS_MAX,
    HEADERS_MAX,
    PRIORITY_MAX,
    SESSION_CHARS_MAX,
)
from mcp.errors import InputInvalid, InvalidArgument, VersionMismatch
from mcp.gateway.context import NOTHING, Context
from mcp.gateway.failures import Failure
from mcp.gateway.limits import INPUTS_MAX, JSON_ELEMENTS_MAX, TIMEOUT_S_MAX
from mcp.gateway.requests import checked_json
from mcp.gateway.responses import answer_parameters
from mcp.gateway.tensors import Array, Objects, datatype_of, from_raw, json_pieces, read_name, to_raw
from mcp.wire.frame import Buffer
from mcp.wire.json_codec import message_from_json
from mcp.wire.json_tensors import from_json, read_datatype, read_shape
from mcp.wire.messages import Message
from mcp.wire.tensors import BYTES_DTYPE
from mcp.wire.version import PROTOCOL_VERSION

ENCODINGS: Final = ("list", "base64")
INFER: Final = "INFER_REQUEST"
STREAM: Final = "INFER_STREAM"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a message asks of a model. ``outputs`` is ``None`` for all; ``timeout_s`` bounds all of it."""

    hint: str
    inputs: ModelInputs
    outputs: list[str] | None
    encoding: str
    timeout_s: float
    context: Context = NOTHING


@dataclass(frozen=True, slots=True)
class StreamAsk:
    """What a stream is asked beside: see :meth:`mcp.client.client.Client.stream`."""

    carry: dict[str, str]
    steps: int
    until: str | None


def read_message(body: Buffer, *, new_id: str) -> Message:
    """The message in a body; ``new_id`` becomes its id where it has none.

    Raises :class:`~mcp.errors.InvalidArgument`, also for another major version of the protocol,
    :class:`~mcp.errors.TooLarge`, and :class:`~mcp.errors.MessageExpired` for one that may not travel on: to
    hand it to a node is a hop.
    """
    try:
        message = message_from_json(checked_json(body), new_id=new_id)
    except VersionMismatch as error:
        raise InvalidArgument(f'the field "mcp_version" is wrong: {error.message}') from None
    message.ttl.hop()
    return message


def read_ask(message: Message) -> Ask:
    """What an inference or a stream asks. Raises ``InvalidArgument``, ``InputInvalid``, ``TooLarge``."""
    payload = message.payload
    if ("data_chunk" in payload) == ("inputs" in payload):
        raise InvalidArgument('"payload" carries either a text in "data_chunk", or tensors in "inputs"')
    chunk = payload.get("data_chunk", "")
    if not isinstance(chunk, str):
        raise InvalidArgument(f'"data_chunk" must be a text, got {chunk!r:.80}')
    return Ask(
        _text(payload, "model_hint"),
        _read_inputs(payload["inputs"]) if "inputs" in payload else chunk,
        _names(payload, "outputs"),
        read_encoding(payload.get("encoding", ENCODINGS[0])),
        _timeout_s(message),
        _context(payload),
    )


def read_stream(message: Message) -> StreamAsk:
    """How a model is to be called step by step. Raises ``InvalidArgument``."""
    payload = message.payload
    carry, steps = payload.get("carry", {}), payload.get("steps")
    if not isinstance(carry, dict) or not all(isinstance(target, str) for target in carry.values()):
        raise InvalidArgument(f'"carry" must be an object from outputs to inputs, got {carry!r:.80}')
    if type(steps) is not int or steps < 1:
        raise InvalidArgument(f'"steps" must be a number from 1 on, got {steps!r:.80}')
    if "until" not in payload:
        return StreamAsk(carry, steps, None)
    until = payload["until"]
    if not isinstance(until, str):
        raise InvalidArgument(f'"until" must be the name of an output, got {until!r:.80}')
    return StreamAsk(carry, steps, until)


def read_mode(message: Message) -> str:
    """Whether a submitted inference is durable or replicated; which of them there are the client knows."""
    mode = message.payload.get("mode", "durable")
    if not isinstance(mode, str):
        raise InvalidArgument(f'"mode" must be "durable" or "replicated", got {mode!r:.80}')
    return mode


def read_encoding(value: object) -> str:
    """How tensors are to be written. Raises ``InvalidArgument``."""
    if value not in ENCODINGS:
        raise InvalidArgument(f'"encoding" must be one of {", ".join(ENCODINGS)}, got {value!r:.80}')
    return str(value)


def answer_pieces(message: Message, answer: Inference, encoding: str) -> Iterator[str]:
    """The answer to a message, in pieces that take little time each; joined they are JSON.

    Raises ``InvalidArgument`` for what the encoding has no form for.
    """
    head = {
        "mcp_version": PROTOCOL_VERSION,
        "id": message.id,
        "type": "INFER_RESPONSE",
        "trace_id": message.trace_id,
    }
    origin = {"model": answer.model, "version": answer.version, "node": answer.node}
    payload = {**origin, **answer_parameters(answer)}
    yield f'{_dumped(head)[:-1]},"payload":{_dumped(payload)[:-1]},"outputs":'
    yield from tensor_pieces(answer.outputs, encoding)
    yield "}}"


def record_pieces(record: InferenceRecord, encoding: str) -> Iterator[str]:
    """A submitted inference's record, as :func:`answer_pieces`."""
    head = {
        "id": record.id,
        "status": record.status,
        "mode": record.mode,
        "model": record.model,
        "version": record.version,
        "node": record.node,
        "token": record.token,
        "attempts": record.attempts,
        "error": None if record.error is None else record.error.to_wire(),
        "replicas": {
            node: {"equal": found.equal, "max_abs_diff": _finite(found.max_abs_diff)}
            for node, found in record.replicas.items()
        },
    }
    yield f'{_dumped(head)[:-1]},"outputs":'
    if record.outputs is None:
        yield "null"
    else:
        yield from tensor_pieces(record.outputs, encoding)
    yield "}"


def step_event(step: Step, encoding: str) -> Iterator[str]:
    """The event of a stream's step, in pieces."""
    head = {"step": step.number, "model": step.model, "version": step.version, "node": step.node}
    if step.fallback is not None:
        head["fallback"] = step.fallback
    yield f'event: step\nid: {step.number}\ndata: {_dumped(head)[:-1]},"outputs":'
    yield from tensor_pieces(step.outputs, encoding)
    yield "}\n\n"


def end_event(steps: int) -> str:
    """The event after the last step."""
    return f"event: end\ndata: {_dumped({'steps': steps})}\n\n"


def error_event(told: Failure) -> str:
    """The event with which a stream breaks off."""
    return f"event: error\ndata: {_dumped({'code': told.code, 'error': told.message})}\n\n"


def tensor_pieces(outputs: Mapping[str, Array], encoding: str) -> Iterator[str]:
    """A JSON list of tensors, in pieces. Raises ``InvalidArgument``."""
    elements = sum(array.size for array in outputs.values())
    if encoding == ENCODINGS[0] and elements > JSON_ELEMENTS_MAX:
        raise InvalidArgument(
            f"the outputs have {elements} elements, over json_elements_max={JSON_ELEMENTS_MAX} for lists;"
            ' ask for "encoding": "base64"'
        )
    yield "["
    for index, (name, array) in enumerate(outputs.items()):
        spec = {"name": name, "dtype": datatype_of(array), "shape": list(array.shape)}
        yield f'{"," if index else ""}{_dumped(spec)[:-1]},"data":'
        yield from _data(name, array, encoding)
        yield "}"
    yield "]"


def _data(name: str, array: Array, encoding: str) -> Iterator[str]:
    if encoding != ENCODINGS[0]:
        yield f'{{"$bytes":"{base64.b64encode(to_raw(name, array)).decode("ascii")}"}}'
        return
    try:
        yield from json_pieces(name, array)
    except InvalidArgument:
        raise InvalidArgument(
            f'output "{name}" holds NaN, infinity or bytes that are no UTF-8, for which a JSON list has no'
            ' form; ask for "encoding": "base64"'
        ) from None


def _read_inputs(value: object) -> ModelInputs:
    if not isinstance(value, list) or not 1 <= len(value) <= INPUTS_MAX:
        raise InputInvalid(f'"inputs" must be a list of 1 to {INPUTS_MAX} tensors, got {value!r:.80}')
    inputs: dict[str, Array] = {}
    objects = Objects()
    for index, tensor in enumerate(value):
        where = f"inputs[{index}]"
        if not isinstance(tensor, dict):
            raise InputInvalid(f"{where} must be an object, got {tensor!r:.80}")
        array = _read_tensor(where, tensor, objects)
        if tensor.get("name", "") == "" and len(value) == 1:
            return array
        name = read_name(where, tensor.get("name"))
        if name in inputs:
            raise InputInvalid(f'{where} "{name:.80}": the name is there twice; names must differ')
        inputs[name] = array
    return inputs


def _read_tensor(where: str, tensor: Mapping[str, Any], objects: Objects) -> Array:
    dtype = read_datatype(where, tensor.get("dtype"), field="dtype")
    shape, data = read_shape(where, tensor.get("shape")), tensor.get("data")
    if not isinstance(data, bytes):
        return from_json(where, dtype, shape, data)
    if dtype == BYTES_DTYPE:
        objects.take(where, shape)
    return from_raw(where, "", dtype, shape, data)


def _timeout_s(message: Message) -> float:
    told = message.payload.get("timeout_ms", message.ttl.ms)
    if type(told) is not int or told < 1:
        raise InvalidArgument(f'"timeout_ms" must be a number of milliseconds from 1 on, got {told!r:.80}')
    return min(told, message.ttl.ms, TIMEOUT_S_MAX * 1000) / 1000


def _context(payload: Mapping[str, Any]) -> Context:
    session = _text(payload, "session") if "session" in payload else None
    if session is not None and len(session) > SESSION_CHARS_MAX:
        raise InvalidArgument(f'"session" must be a text of at most {SESSION_CHARS_MAX} characters')
    headers, priority = payload.get("headers", {}), payload.get("priority", 0)
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise InvalidArgument(f'"headers" must be an object of texts, got {headers!r:.80}')
    if len(headers) > HEADERS_MAX or any(
        len(name) > HEADER_NAME_CHARS_MAX or len(value) > HEADER_CHARS_MAX for name, value in headers.items()
    ):
        raise InvalidArgument(
            f'"headers" must be at most {HEADERS_MAX} texts of at most {HEADER_CHARS_MAX} characters, '
            f"under names of at most {HEADER_NAME_CHARS_MAX}"
        )
    if type(priority) is not int or abs(priority) > PRIORITY_MAX:
        raise InvalidArgument(f'"priority" must be an integer of 32 bits, got {priority!r:.80}')
    return Context(session, headers, priority)


def _names(payload: Mapping[str, Any], field: str) -> list[str] | None:
    if field not in payload:
        return None
    value = payload[field]
    if not isinstance(value, list) or len(value) > INPUTS_MAX or not all(isinstance(n, str) for n in value):
        raise InvalidArgument(f'"{field}" must be a list of at most {INPUTS_MAX} names, got {value!r:.80}')
    return value


def _text(payload: Mapping[str, Any], field: str) -> str:
    value = payload.get(field)
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f'"{field}" must be a text that is not empty, got {value!r:.80}')
    return value


def _finite(value: float | None) -> float | None:
    return value if value is not None and value - value == 0 else None


def _dumped(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
