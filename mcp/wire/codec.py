"""Messages and errors as msgpack, the form they have in frames.

Why decoding hostile bytes is bounded: msgpack's parser sets memory aside for the elements that an array
*claims* to have, so 4 KiB of nested headers can claim gigabytes. A body is therefore walked once without
building anything; that pass fails unless every claimed element is there, and an element takes a byte at
least. What is built afterwards is within a constant factor of the body.

Most bodies need no walk: a small one in which few bytes *could* begin a container is nested no deeper than
they are many, and none of those bytes can claim more than 15 elements.

That no map has a key twice is seen by encoding what was decoded: equal bytes have as many keys. What another
encoder wrote in another way, and what may have keys of bytes, is decoded once more, map by map.

Source of the format: the MessagePack specification (github.com/msgpack/msgpack, spec.md). Extension
types, timestamps included, are refused, and so are maps with two equal keys.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from itertools import chain, compress
from typing import Any, Final, NoReturn

import msgpack

from mcp.causality.vector import VersionVector
from mcp.errors import InvalidArgument, McpError, ProtocolError, from_wire
from mcp.wire.frame import Buffer
from mcp.wire.messages import DEFAULT_TTL, EMPTY_VECTOR, Message, Ttl
from mcp.wire.recurring import note, recurred

DEPTH_MAX: Final = 72
"""How deep maps and lists may be nested: 64 levels of a user's value, and what a reply wraps around it."""
ERROR_MESSAGE_CHARS_MAX: Final = 800
"""How much of an error's text travels where the whole error does not fit."""
ERROR_BYTES_LEAST: Final = 4 * ERROR_MESSAGE_CHARS_MAX + 200
"""Room that an error is always given."""

_CONTAINERS: Final = frozenset({dict, list, tuple})
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_KNOWN: Final = _CONTAINERS | _SCALARS
_MANY_CONTAINERS: Final = 16  # of a level; from so many on it is quicker to look at all of them at once
_SMALL_BYTES: Final = 4096
_LARGE_CLAIM: Final = 0xDC  # array 16, array 32, map 16 and map 32; below it maps and arrays of up to 15
_BINARY: Final = 0xC4  # bytes: the lengths of 1, 2 and 4
_HEADS: Final = {*range(0x80, 0xA0), *range(_BINARY, 0xC7), *range(_LARGE_CLAIM, 0xE0)}
_NO_HEAD: Final = bytes(byte for byte in range(256) if byte not in _HEADS)
_TEXT: Final = frozenset({str})
_WRITTEN_AGAIN_MAX: Final = 64 << 10
"""A larger body, which may be mostly one value, is not encoded a second time."""


def encode_map(values: dict[str, Any]) -> bytes:
    """Encode a map of plain values. Raises :class:`~mcp.errors.InvalidArgument` naming what is not plain."""
    return _pack(_check_plain(values))


def _pack(values: dict[str, Any]) -> bytes:
    try:
        encoded: bytes = msgpack.packb(values, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise _not_plain(values, error) from None
    return encoded


def decode_map(body: Buffer) -> dict[str, Any]:
    """Decode a map of plain values. Raises :class:`~mcp.errors.ProtocolError` for anything else."""
    body = bytes(body)
    highest = _highest_head(body)
    try:
        if highest >= _LARGE_CLAIM:
            _walk(body)
        value = _unpack(body) if highest < _BINARY or len(body) <= _WRITTEN_AGAIN_MAX else None
        if value is None or msgpack.packb(value) != body:
            value = _unpack(body, object_pairs_hook=_unique_keys)
    except (ValueError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise ProtocolError(f"a body is not valid msgpack of this protocol: {reason}") from None
    if type(value) is not dict:
        raise ProtocolError(f"a body must be a msgpack map, not {type(value).__name__}")
    if highest >= _BINARY:
        try:
            _check_plain(value)
        except InvalidArgument as error:
            raise ProtocolError(error.message) from None
    return value


def encode_message(message: Message, *, ttl_ms: int | None = None, plain: bool = False) -> bytes:
    """Encode a message; ``ttl_ms`` replaces its remaining milliseconds. What has its default is left out.

    With ``plain`` the payload's maps are known to have strings as keys, and not to be nested deeply: that
    is not looked at again. Raises :class:`~mcp.errors.InvalidArgument` for what is no plain value.
    """
    payload = message.payload if plain else _check_plain(message.payload, DEPTH_MAX - 1)
    # The ids first, and then what other messages may have too: see mcp.wire.recurring.
    fields: dict[str, Any] = {"id": message.id}
    if message.trace_id:
        fields["trace_id"] = message.trace_id
    fields["type"] = message.type
    fields["payload"] = payload
    if message.vector:
        fields["vector"] = message.vector.to_mapping()
    ttl = message.ttl
    if ttl_ms is not None or ttl is not DEFAULT_TTL:
        fields["ttl"] = {"hops": ttl.hops, "ms": ttl.ms if ttl_ms is None else ttl_ms}
    if message.credit:
        fields["credit"] = message.credit
    return _pack(fields)


def decode_message(body: Buffer) -> Message:
    """Decode a message. Unknown fields are ignored; ``trace_id``, ``vector`` and ``ttl`` may be absent.

    Raises :class:`~mcp.errors.ProtocolError` that names the field.
    """
    body = bytes(body)
    message = recurred(body)
    if message is None:
        try:
            message = message_from_fields(decode_map(body))
        except InvalidArgument as error:
            raise ProtocolError(error.message) from None
        note(body, message)
    return message


def message_from_fields(fields: Mapping[str, Any]) -> Message:
    """Make a message of decoded fields. Raises :class:`~mcp.errors.InvalidArgument` naming the field."""
    try:
        type_, payload, id_ = fields["type"], fields["payload"], fields["id"]
    except KeyError as error:
        name = error.args[0]
        raise InvalidArgument(
            f'a message lacks the field "{name}"; type, id and payload are required'
        ) from None
    get = fields.get
    vector = _vector(fields["vector"]) if "vector" in fields else EMPTY_VECTOR
    ttl = _ttl(fields["ttl"]) if "ttl" in fields else DEFAULT_TTL
    return Message(type_, payload, id_, get("trace_id", ""), vector, ttl, get("credit", 0))


def encode_error(error: McpError, *, bytes_max: int = ERROR_BYTES_LEAST) -> bytes:
    """Encode an error in at most ``bytes_max`` bytes, which may not be below :data:`ERROR_BYTES_LEAST`.

    Never raises: details that are no plain values or do not fit are left out, and a long text is cut.
    """
    with contextlib.suppress(InvalidArgument):
        encoded = encode_map(error.to_wire())
        if len(encoded) <= bytes_max:
            return encoded
    text = error.message[:ERROR_MESSAGE_CHARS_MAX].encode(errors="replace").decode()
    return encode_map({"code": error.code, "message": text})


def decode_error(body: Buffer) -> McpError:
    """The error that a peer sent. Raises :class:`~mcp.errors.ProtocolError` when the body is no map."""
    return from_wire(decode_map(body))


def _vector(value: object) -> VersionVector:
    try:
        return EMPTY_VECTOR if value == {} else VersionVector.from_mapping(value)
    except InvalidArgument as error:
        raise InvalidArgument(f'the message field "vector" is wrong: {error.message}') from None


def _ttl(value: object) -> Ttl:
    if not isinstance(value, dict):
        raise InvalidArgument(f'the message field "ttl" must be a map of "hops" and "ms", not {value!r:.80}')
    return Ttl(value.get("hops", DEFAULT_TTL.hops), value.get("ms", DEFAULT_TTL.ms))


def _no_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code} with {len(data)} bytes; this protocol uses none")


_unpack: Final = functools.partial(
    msgpack.unpackb,
    raw=False,
    strict_map_key=True,
    max_ext_len=0,
    ext_hook=_no_extension,  # for those of no length
)


def _highest_head(body: bytes) -> int:
    """The highest byte that could begin a container or bytes, whatever the others mean.

    Below :data:`_LARGE_CLAIM` nothing can claim much or be nested too deep; at it, anything may be.
    """
    if len(body) > _SMALL_BYTES:
        return _LARGE_CLAIM
    heads = body.translate(None, _NO_HEAD)
    return max(heads, default=0) if len(heads) <= DEPTH_MAX else _LARGE_CLAIM


def _walk(body: Buffer) -> None:
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(body), 1))
    unpacker.feed(body)
    try:
        unpacker.skip()
    except msgpack.OutOfData:
        raise ValueError(f"it ends after {len(body)} bytes, before its last value does") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError(f"a map has {len(pairs) - len(unique)} keys twice")
    if not _TEXT.issuperset(map(type, unique)):
        raise ValueError("a key of a map is not a string, as all must be")
    return unique


def _check_plain(values: dict[str, Any], depth_max: int = DEPTH_MAX) -> dict[str, Any]:
    """Check nesting and keys level by level, so that depth costs no stack; returns ``values``."""
    level: list[Any] = [values]
    for _ in range(depth_max):
        level = _below_few(level) if len(level) < _MANY_CONTAINERS else _below_many(level)
        if not level:
            return values
    raise InvalidArgument(f"a message is nested deeper than depth_max={DEPTH_MAX} levels; flatten it")


def _below_few(level: list[Any]) -> list[Any]:
    """The containers in these containers; the keys of the maps among them are checked."""
    below: list[Any] = []
    for node in level:
        children = node
        if isinstance(node, dict):
            if not _TEXT.issuperset(map(type, node)):
                _check_keys(node)
            children = dict.values(node)
        below += [
            child
            for child in children
            if (kind := type(child)) not in _SCALARS and (kind in _CONTAINERS or _is_container(child))
        ]
    return below


def _below_many(level: list[Any]) -> list[Any]:
    """The same, in fewer steps for each and more for all: a message of commands has hundreds."""
    kinds = set(map(type, level))
    if len(kinds) == 1 and kinds <= _CONTAINERS:  # as most levels are
        maps, lists = (level, []) if dict in kinds else ([], level)
    else:
        maps = [node for node in level if isinstance(node, dict)]
        lists = [node for node in level if not isinstance(node, dict)]
    if not _TEXT.issuperset(map(type, chain.from_iterable(maps))):
        for node in maps:
            _check_keys(node)
    children = [*chain.from_iterable(lists), *chain.from_iterable(map(dict.values, maps))]
    if _KNOWN.issuperset(map(type, children)):
        return list(compress(children, map(_CONTAINERS.__contains__, map(type, children))))
    return [child for child in children if _is_container(child)]


def _is_container(value: object) -> bool:
    """Whether msgpack writes it as a map or an array, as it does with subclasses of Python's."""
    if isinstance(value, msgpack.ExtType | msgpack.Timestamp):
        raise InvalidArgument(f"{value!r:.80} is no plain value: this protocol uses no extension types")
    return isinstance(value, dict | list | tuple)


def _check_keys(node: dict[Any, Any]) -> None:
    for key in node:
        if not isinstance(key, str):
            raise InvalidArgument(f"the key {key!r:.80} of a map is not a string, as all must be")
    # A subclass may compare as it likes, and is written as the string that it is.
    if len(set(map(str.__str__, node))) < len(node):
        raise InvalidArgument("a map has the same key twice; its keys are strings of a subclass")


def _not_plain(values: dict[str, Any], cause: Exception) -> InvalidArgument:
    path, value = _first_not_plain("", values)
    return InvalidArgument(
        f'the field "{path}" cannot be sent: {value!r:.80} is no plain value ({cause}); use None, bool, '
        "integers of 64 bits, float, str, bytes, lists and maps, and tensors as segments"
    )


def _first_not_plain(path: str, value: object) -> tuple[str, object]:
    """Find what msgpack refused. Only called after it did, on values whose depth was checked."""
    children: list[tuple[str, object]] = []
    if isinstance(value, dict):
        children = [(f"{path}.{key}".lstrip("."), child) for key, child in value.items()]
    elif isinstance(value, list | tuple):
        children = [(f"{path}[{index}]", child) for index, child in enumerate(value)]
    for child_path, child in children:
        try:
            msgpack.packb(child)
        except (TypeError, ValueError, OverflowError):
            return _first_not_plain(child_path, child)
    return path, value
