"""Messages as JSON, the form they have at the edges: HTTP, queues, files.

Bytes, which JSON lacks, are written as a map with the one key ``"$bytes"`` and base64 (RFC 4648, section 4)
as its value; therefore no plain map may have ``"$bytes"`` as its only key. Refused are: text that is not
UTF-8, NaN and infinity (RFC 8259, section 6, has none), maps with two equal keys, integers over 64 bits and
lone surrogates, because none of these would arrive as it was written.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, Final, NoReturn

from mcp.errors import InvalidArgument, ProtocolError
from mcp.wire.codec import DEPTH_MAX, message_from_fields
from mcp.wire.messages import Message
from mcp.wire.version import PROTOCOL_VERSION, negotiate_version

JSON_BYTES_MAX: Final = 16 * 1024 * 1024
"""The longest JSON text that is read."""

_BYTES_KEY: Final = "$bytes"
_DECODER_ERRORS: Final = (ValueError, RecursionError)


def message_to_json(message: Message) -> str:
    """Write a message as JSON with ``mcp_version``.

    Raises :class:`~mcp.errors.InvalidArgument` for a payload that JSON cannot carry.
    """
    fields = {
        "mcp_version": PROTOCOL_VERSION,
        "id": message.id,
        "type": message.type,
        "trace_id": message.trace_id,
        "payload": _to_plain(message.payload, 2),
        "vector": message.vector.to_mapping(),
        "ttl": {"hops": message.ttl.hops, "ms": message.ttl.ms},
    }
    return json.dumps(fields, ensure_ascii=False, allow_nan=False)


def message_from_json(text: str | bytes, *, new_id: str) -> Message:
    """Read a message from JSON; ``new_id`` becomes its id where it has none.

    ``mcp_version``, ``type`` and ``payload`` are required; unknown fields are ignored. Raises
    :class:`~mcp.errors.InvalidArgument` that names what is wrong, and
    :class:`~mcp.errors.VersionMismatch` for another major version.
    """
    fields = _parse(text)
    if "mcp_version" not in fields:
        raise InvalidArgument(f'the field "mcp_version" is missing; add "mcp_version": "{PROTOCOL_VERSION}"')
    try:
        negotiate_version(fields["mcp_version"])
    except ProtocolError as error:
        if error.code != ProtocolError.code:
            raise
        raise InvalidArgument(f'the field "mcp_version" is wrong: {error.message}') from None
    return message_from_fields({"id": new_id, **_from_plain(fields, 1)})


def _parse(text: str | bytes) -> dict[str, Any]:
    if len(text) > JSON_BYTES_MAX:
        raise InvalidArgument(f"a JSON text of {len(text)} bytes is over json_bytes_max={JSON_BYTES_MAX}")
    try:
        value = plain_json(text)
    except _DECODER_ERRORS as error:
        raise InvalidArgument(f"this is no JSON message: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"a JSON message must be an object, not {type(value).__name__}")
    return value


def plain_json(text: str | bytes) -> Any:
    """The value that a JSON text stands for, where it stands for one only.

    Raises ``ValueError`` (or ``RecursionError``) for what is no JSON, for a key that is there twice, and for
    what JSON has no number for: NaN, infinity, and what is too large for a float of 64 bits.
    """
    decoded = text.decode("utf-8") if isinstance(text, bytes) else text
    return json.loads(
        decoded, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {key!r:.80} is there twice in one object")
        unique[key] = value
    return unique


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"{literal:.40} is too large for a float of 64 bits")
    return number


def _from_plain(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        _check_depth(depth)
        if value.keys() == {_BYTES_KEY}:
            return _decode_bytes(value[_BYTES_KEY])
        return {_text(key): _from_plain(child, depth + 1) for key, child in value.items()}
    if isinstance(value, list):
        _check_depth(depth)
        return [_from_plain(child, depth + 1) for child in value]
    return _scalar(value)


def _to_plain(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        _check_depth(depth)
        if value.keys() == {_BYTES_KEY}:
            raise InvalidArgument(
                f'a map whose only key is "{_BYTES_KEY}" stands for bytes in JSON; rename it'
            )
        return {_text(key): _to_plain(child, depth + 1) for key, child in value.items()}
    if isinstance(value, list | tuple):
        _check_depth(depth)
        return [_to_plain(child, depth + 1) for child in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return {_BYTES_KEY: base64.b64encode(value).decode("ascii")}
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InvalidArgument(
        f"{value!r:.80} is no value of a JSON message; use null, booleans, integers of 64 bits, finite "
        "numbers, strings, arrays and objects"
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"the key {value!r:.80} of a map is not a string; only strings are keys")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgument(f"{value!r:.80} has half a surrogate pair, which is no character") from None
    return value


def _decode_bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InvalidArgument(f'the value of "{_BYTES_KEY}" is not base64: {error}') from None


def _check_depth(depth: int) -> None:
    if depth > DEPTH_MAX:
        raise InvalidArgument(f"a message is nested deeper than depth_max={DEPTH_MAX} levels; flatten it")
