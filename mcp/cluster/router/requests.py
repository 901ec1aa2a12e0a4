"""From a message to the features of its request: what a caller wrote is checked here, and nowhere behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from mcp.cluster.router.features import TAGS_MAX, Features, Hint, Tensor, measured
from mcp.cluster.router.fields import Fields, items, text, whole
from mcp.errors import InvalidArgument
from mcp.wire.messages import Message
from mcp.wire.tensors import BYTES_DTYPE, DTYPES, NAME_CHARS_MAX, RANK_MAX, TENSORS_MAX

SESSION_CHARS_MAX: Final = 128
"""The longest name of a session by which a request sticks to a version."""
HEADERS_MAX: Final = 64
"""The most headers of one request."""
HEADER_NAME_CHARS_MAX: Final = 128
HEADER_CHARS_MAX: Final = 1024
"""The longest value of a header: matching one takes time in proportion."""
PRIORITY_MAX: Final = 2**31 - 1

_SIZE_MAX: Final = 2**40
_SIZES: Final = {name: dtype.itemsize for name, dtype in DTYPES.items()}
_HINT_PARTS: Final = ("name", "version", "alias", "family", "task")


def features_of(
    message: Message,
    *,
    client: str = "",
    session: str = "",
    headers: Mapping[str, str] | None = None,
    segment_bytes: Mapping[int, int] | None = None,
) -> Features:
    """Return the features of an inference request.

    Its payload has ``model_hint`` (a text, or a map of the parts of a
    :class:`~mcp.cluster.router.features.Hint`), and may have ``data_chunk`` (a text) or ``inputs`` (specs of
    tensors), ``timeout_ms``, ``priority``, ``headers`` and ``parameters``; whatever else it has is not the
    router's. ``client``, ``session`` and ``headers`` are what the connection knows; its headers win.
    ``segment_bytes``: the length of each segment, by number, for inputs of BYTES, whose size no shape tells.

    Raises :class:`~mcp.errors.InvalidArgument` with the path of the field that is wrong.
    """
    payload = message.payload
    fields = Fields({name: payload.get(name) for name in _READ}, "")
    chunk = fields.take("data_chunk", _any_text, None)
    tensors = _tensors(fields, segment_bytes or {})
    if chunk is not None and tensors is not None:
        raise fields.refuse("inputs", "data_chunk is there already: a request has one or the other")
    length: int | None = None
    batch: int | None = None
    size: int | None = None
    if chunk is not None:
        length, batch, size = len(chunk), 1, len(chunk.encode("utf-8", "surrogatepass"))
        tensors = (Tensor("", BYTES_DTYPE, None, size),)
    elif tensors is not None:
        length, batch, size = measured(tensors)
    timeout_ms = fields.take("timeout_ms", whole(0), None)
    return Features(
        hint=fields.take("model_hint", lambda value: _hint(value, fields.at("model_hint"))),
        tensors=tensors,
        length=length,
        batch=batch,
        size=size,
        priority=fields.take("priority", whole(-PRIORITY_MAX, PRIORITY_MAX), 0),
        deadline_s=None if timeout_ms is None else timeout_ms / 1000,
        client=client,
        session=session,
        trace_id=message.trace_id,
        headers={**_headers(_map(fields, "headers")), **_headers(headers or {})},
        parameters=_map(fields, "parameters"),
        position=message.vector.get("log"),
    )


_READ: Final = ("model_hint", "data_chunk", "inputs", "timeout_ms", "priority", "headers", "parameters")


def _any_text(value: object) -> str:
    return value if value == "" and isinstance(value, str) else text(value, 2**31)


def _map(fields: Fields, name: str) -> dict[str, Any]:
    return {} if fields.missing(name) else fields.fields(name).rest()


def _hint(value: object, path: str) -> str | Hint:
    if isinstance(value, str):
        return value
    parts = Fields(value, path)
    named = {part: parts.take(part, text, "") for part in _HINT_PARTS}
    tags = parts.take("tags", lambda found: tuple(text(tag) for tag in items(found, TAGS_MAX)), ())
    parts.done()
    return Hint(**named, tags=tags)


def _tensors(fields: Fields, segment_bytes: Mapping[int, int]) -> tuple[Tensor, ...] | None:
    if fields.missing("inputs"):
        return None
    return fields.each("inputs", TENSORS_MAX, lambda spec: _tensor(spec, segment_bytes))


def _tensor(spec: Fields, segment_bytes: Mapping[int, int]) -> Tensor:
    name = spec.take("name", lambda value: "" if value == "" else text(value, NAME_CHARS_MAX), "")
    dtype = spec.take("dtype", text)
    shape = spec.take("shape", lambda value: tuple(map(whole(0, _SIZE_MAX), items(value, RANK_MAX))))
    data = spec.take("data", _bytes_or_list, None)
    segment = spec.take("segment", whole(0), None)
    if dtype in _SIZES:
        return Tensor(name, dtype, shape, _SIZES[dtype] * math.prod(shape))
    if dtype != BYTES_DTYPE:
        raise spec.refuse("dtype", f"one of {', '.join((*DTYPES, BYTES_DTYPE))} is expected, not {dtype:.40}")
    known = len(data) if isinstance(data, bytes) else segment_bytes.get(-1 if segment is None else segment, 0)
    return Tensor(name, dtype, shape, known)


def _bytes_or_list(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None


def _headers(headers: Mapping[str, Any]) -> dict[str, str]:
    if len(headers) > HEADERS_MAX:
        raise InvalidArgument(f"{len(headers)} headers are over headers_max={HEADERS_MAX}; send fewer")
    found: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(value, str) or len(value) > HEADER_CHARS_MAX or len(name) > HEADER_NAME_CHARS_MAX:
            raise InvalidArgument(
                f"headers.{name:.60}: a text of at most {HEADER_CHARS_MAX} characters is expected, under a "
                f"name of at most {HEADER_NAME_CHARS_MAX}"
            )
        found[name.lower()] = value
    return found
