"""Inputs from what a caller has at hand, outputs from what a node sent.

Mistakes that no node would accept are found here, before anything is sent. Names, types and shapes are
the model's business: the node that holds it compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from mcp.client.results import Array, ModelInputs
from mcp.errors import InputInvalid, InvalidArgument, ProtocolError, TooLarge
from mcp.wire.codec import decode_map
from mcp.wire.frame import FRAME_BYTES_MAX
from mcp.wire.tensors import pack_all, pack_inline, unpack_all

ONLY_INPUT: Final = ""
"""The name of an input that was given without one: the node takes the model's only input for it."""

INPUT_BYTES_MAX: Final = FRAME_BYTES_MAX - 64 * 1024
"""All inputs of one direct inference; the rest of a frame is for their description."""

INLINE_BYTES_MAX: Final = 64 * 1024
"""All inputs of a submitted inference, which travel in the log."""

INPUTS_MAX: Final = 256
"""Tensors of one inference."""


def normalised(inputs: ModelInputs) -> dict[str, Array]:
    """Inputs as arrays by name. A bare array or text gets the name :data:`ONLY_INPUT`.

    Raises :class:`~mcp.errors.InvalidArgument` for what is neither, and for no inputs at all.
    """
    if isinstance(inputs, str):
        return {ONLY_INPUT: np.array([inputs], dtype=object)}
    if isinstance(inputs, np.ndarray | np.generic):
        return {ONLY_INPUT: np.asarray(inputs)}
    if not isinstance(inputs, Mapping):
        raise InvalidArgument(
            f"inputs are a dict of arrays by name, or one array or text, not {type(inputs).__name__};"
            " wrap other values with numpy.asarray"
        )
    if not 1 <= len(inputs) <= INPUTS_MAX:
        raise InvalidArgument(f"an inference takes 1 to inputs_max={INPUTS_MAX} inputs, not {len(inputs)}")
    return {_name(name): _array(name, value) for name, value in inputs.items()}


def packed(inputs: ModelInputs) -> tuple[dict[str, Any], list[memoryview]]:
    """The fields of an ``INFER_REQUEST`` that carry the inputs, and its segments (views, no copies)."""
    if isinstance(inputs, str):
        return {"data_chunk": _text(inputs)}, []
    specs, segments = pack_all(normalised(inputs))
    size = sum(segment.nbytes for segment in segments)
    if size > INPUT_BYTES_MAX:
        raise TooLarge(
            f"the inputs have {size} bytes, over input_bytes_max={INPUT_BYTES_MAX}; send smaller batches"
        )
    return {"inputs": specs}, segments


def packed_inline(inputs: ModelInputs) -> list[dict[str, Any]]:
    """The specs of inputs that travel in the log. Raises ``TooLarge`` over :data:`INLINE_BYTES_MAX`."""
    specs = [pack_inline(name, array) for name, array in normalised(inputs).items()]
    size = sum(len(spec["data"]) for spec in specs)
    if size > INLINE_BYTES_MAX:
        raise TooLarge(
            f"the inputs of a submitted inference travel in the log and have {size} bytes, over"
            f" inline_bytes_max={INLINE_BYTES_MAX}; submit smaller batches, or use infer, which has room"
            f" for {INPUT_BYTES_MAX} bytes",
            details={"size": size, "inline_bytes_max": INLINE_BYTES_MAX},
        )
    return specs


def unpacked(specs: object, segments: Sequence[Any] = ()) -> dict[str, Array]:
    """Outputs by name from a node's answer. Strings are ``str``, or ``bytes`` where they are no UTF-8."""
    try:
        try:
            return unpack_all(specs, segments, text=True)
        except InputInvalid:
            return unpack_all(specs, segments)
    except InputInvalid as error:
        raise ProtocolError(f"a node sent outputs that cannot be read: {error.message}") from error


def unpacked_blob(content: bytes) -> dict[str, Array]:
    """Outputs by name from an artefact: a msgpack map with ``outputs``, a list of inline specs."""
    return unpacked(decode_map(content).get("outputs"))


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f"an input's name is a text that is not empty, not {name!r:.80}")
    return name


def _array(name: str, value: object) -> Array:
    if isinstance(value, str | bytes):
        return np.array([_text(value) if isinstance(value, str) else value], dtype=object)
    if value is None or isinstance(value, Mapping):
        raise InvalidArgument(f"the input {name!r} is an array, not {type(value).__name__}")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgument(f"the input {name!r} does not make an array: {error}") from error


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("the text is not valid Unicode: it cannot be sent as UTF-8") from None
    return value
