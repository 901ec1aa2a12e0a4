"""An inference request of the Open Inference Protocol: JSON, with raw tensors behind it.

Whatever bytes come, the outcome is a request or an error that names the field. Time and memory are linear in
the body. Pure. Source: Open Inference Protocol, "Inference Request JSON Object"; Triton's "Binary Tensor Data
Extension".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from mcp.errors import InputInvalid, InvalidArgument, TooLarge
from mcp.gateway.json_pieces import loads_in_pieces
from mcp.gateway.limits import CONTAINERS_MAX, INPUTS_MAX, JSON_BYTES_MAX, NAME_CHARS_MAX
from mcp.gateway.parameters import (
    Wishes,
    flag,
    read_parameters,
    read_wishes,
    refuse_tensor_parameters,
    unsigned,
)
from mcp.gateway.tensors import Array, Objects, from_raw, read_name
from mcp.wire.frame import Buffer
from mcp.wire.json_tensors import from_json, read_datatype, read_shape
from mcp.wire.tensors import BYTES_DTYPE

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
"""The header of a request or an answer that says how many of the body's bytes are JSON."""

_REQUEST: Final = "the request"
_LENGTH_DIGITS_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a client asks: ``inputs`` by name, and which ``outputs``, each as binary data or not.

    ``outputs`` is ``None`` for all of them. ``id`` is sent back, where there is one.
    """

    inputs: dict[str, Array]
    outputs: dict[str, bool] | None
    wishes: Wishes
    id: str | None = None

    @property
    def names(self) -> list[str] | None:
        """The names of the outputs that are wanted; ``None``: all."""
        return None if self.outputs is None else list(self.outputs)

    def is_binary(self, output: str) -> bool:
        """Whether an output goes out as binary data."""
        return (self.outputs or {}).get(output, self.wishes.binary)


def read_header_length(text: str | None, body_bytes: int) -> int:
    """How many bytes of the body are JSON: what the header says, or all. Raises ``InvalidArgument``."""
    if text is None:
        return body_bytes
    plain = text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS_MAX
    if not plain or int(text) > body_bytes:
        raise InvalidArgument(
            f"{HEADER_LENGTH} must be a number of bytes from 0 to the body's {body_bytes}, got {text!r:.40}"
        )
    return int(text)


def checked_json(data: Buffer) -> str:
    """The text of a body that is JSON, perhaps, and no more of it than is read.

    Raises :class:`~mcp.errors.InvalidArgument` and :class:`~mcp.errors.TooLarge`.
    """
    if len(data) > JSON_BYTES_MAX:
        raise TooLarge(
            f"{len(data)} bytes of JSON are over json_bytes_max={JSON_BYTES_MAX}; send tensors as binary data"
        )
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the body is no UTF-8 text: {error}") from None
    if text.count("[") + text.count("{") > CONTAINERS_MAX:
        raise TooLarge(
            f"the JSON has more lists and objects than containers_max={CONTAINERS_MAX}; send flat data, or"
            " binary data"
        )
    return text


def read_json(data: Buffer) -> dict[str, Any]:
    """The JSON object in a body; an empty body is an empty object.

    Raises :class:`~mcp.errors.InvalidArgument`, and :class:`~mcp.errors.TooLarge` for more than is read.
    """
    text = checked_json(data)
    if not text.strip():
        return {}
    try:
        value = loads_in_pieces(text, _no_constant)
    except RecursionError:
        raise InvalidArgument("the body's JSON is nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"the body must be a JSON object, got {value!r:.80}")
    return value


def read_request(body: Buffer, header_length: str | None = None) -> InferenceRequest:
    """Read a body, of which ``header_length`` (the header's text, if it came) bytes are JSON.

    Raises :class:`~mcp.errors.InvalidArgument`, :class:`~mcp.errors.InputInvalid` or
    :class:`~mcp.errors.TooLarge`; each names the field.
    """
    view = memoryview(body).toreadonly()
    end = read_header_length(header_length, len(view))
    fields = read_json(view[:end])
    wishes = read_wishes(_REQUEST, read_parameters(_REQUEST, fields.get("parameters")))
    return InferenceRequest(
        _read_inputs(fields.get("inputs"), view[end:]),
        _read_outputs(fields.get("outputs"), wishes.binary),
        wishes,
        read_id(fields.get("id")),
    )


def read_id(value: object) -> str | None:
    """Check the ``id`` of a request, which may be missing. Raises ``InvalidArgument``."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > NAME_CHARS_MAX or not _is_unicode(value):
        raise InvalidArgument(
            f'"id" must be a text of at most {NAME_CHARS_MAX} characters, got {value!r:.80}'
        )
    return value


def _read_inputs(value: object, raw: memoryview) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    taken, objects = 0, Objects()
    for index, tensor in enumerate(_list_of_objects("inputs", value, at_least=1)):
        where = f"inputs[{index}]"
        name = read_name(where, tensor.get("name"))
        where = f'{where} "{name:.80}"'
        if name in inputs:
            raise InputInvalid(f"{where}: the name is there twice; names must differ")
        parameters = read_parameters(where, tensor.get("parameters"))
        refuse_tensor_parameters(where, parameters)
        datatype = read_datatype(where, tensor.get("datatype"))
        shape = read_shape(where, tensor.get("shape"))
        if "binary_data_size" not in parameters:
            inputs[name] = from_json(where, datatype, shape, tensor.get("data"))
            continue
        size = unsigned(where, parameters, "binary_data_size")
        if "data" in tensor:
            raise InputInvalid(f'{where}: has both "data" and "binary_data_size"; give one')
        if size > len(raw) - taken:
            raise InputInvalid(
                f'{where}: "binary_data_size" is {size}, and {len(raw) - taken} bytes are left behind the'
                f" JSON; the header {HEADER_LENGTH} says where that ends"
            )
        if datatype == BYTES_DTYPE:
            objects.take(where, shape)
        inputs[name] = from_raw(where, name, datatype, shape, raw[taken : taken + size])
        taken += size
    if taken != len(raw):
        raise InvalidArgument(
            f'the body has {len(raw)} bytes behind the JSON, and "binary_data_size" of all "inputs" says'
            f" {taken}"
        )
    return inputs


def _read_outputs(value: object, binary: bool) -> dict[str, bool] | None:
    if value is None:
        return None
    outputs: dict[str, bool] = {}
    for index, tensor in enumerate(_list_of_objects("outputs", value)):
        where = f"outputs[{index}]"
        name = read_name(where, tensor.get("name"))
        if name in outputs:
            raise InvalidArgument(f'{where}: the name "{name:.80}" is there twice; names must differ')
        parameters = read_parameters(where, tensor.get("parameters"))
        refuse_tensor_parameters(where, parameters)
        outputs[name] = flag(where, parameters, "binary_data", binary)
    return outputs or None


def _list_of_objects(field: str, value: object, at_least: int = 0) -> list[Mapping[str, Any]]:
    if type(value) is not list or not at_least <= len(value) <= INPUTS_MAX:
        shown = f"one of {len(value)}" if type(value) is list else f"{value!r:.80}"
        raise InputInvalid(f'"{field}" must be a list of {at_least} to {INPUTS_MAX} tensors, got {shown}')
    for index, each in enumerate(value):
        if type(each) is not dict:
            raise InputInvalid(f"{field}[{index}] must be an object, got {each!r:.80}")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is none of its numbers; send it as binary data")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
