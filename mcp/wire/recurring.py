"""Messages that are the same again and again, but for their ids.

Whoever asks one model time and again sends the same map with another ``id`` and ``trace_id``, and is answered
so. Such a message is read once. It is kept under its bytes behind the two ids, which
:func:`mcp.wire.codec.encode_message` writes first; from then on equal bytes are the same message, checked
already. Nobody changes a payload that came (:class:`~mcp.wire.messages.Message`), so that all of them may
have the same.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mcp.causality.vector import VersionVector
from mcp.wire.messages import Message, Ttl
from mcp.wire.tensors import forget_plans, plan

TYPES: Final = frozenset({"INFER_REQUEST", "INFER_RESPONSE"})
"""What recurs. Others are not kept, for hardly two of them are the same."""
KNOWN_MAX: Final = 256
"""So many messages are kept in a process; with one more all are forgotten."""
BYTES_MAX: Final = 1024
"""A longer one is not kept."""

_ID_BYTES: Final = 32
_BEFORE_ID: Final = b"\xa2id\xd9\x20"  # the key, and a string of 32 bytes
_BEFORE_TRACE: Final = b"\xa8trace_id\xd9\x20"
_ID: Final = slice(1 + len(_BEFORE_ID), 1 + len(_BEFORE_ID) + _ID_BYTES)
_TRACE: Final = slice(_ID.stop + len(_BEFORE_TRACE), _ID.stop + len(_BEFORE_TRACE) + _ID_BYTES)
_REST: Final = slice(_TRACE.stop, None)
_KEYS: Final = slice(1, _ID.start), slice(_ID.stop, _TRACE.start)


class _Known(NamedTuple):
    head: int  # how many fields there are
    type: str
    payload: dict[str, object]
    vector: VersionVector
    ttl: Ttl
    credit: int


_known: dict[bytes, _Known] = {}


def recurred(body: bytes) -> Message | None:
    """The message that these bytes are, if one like it was read before."""
    rest = _rest(body)
    found = None if rest is None else _known.get(rest)
    if found is None or found.head != body[0]:
        return None
    try:
        id_, trace_id = str(body[_ID], "utf-8"), str(body[_TRACE], "utf-8")
    except UnicodeDecodeError:
        return None
    _, type_, payload, vector, ttl, credit = found
    return Message(type_, payload, id_, trace_id, vector, ttl, credit)


def note(body: bytes, message: Message) -> None:
    """Keep what was read of these bytes, if it may recur."""
    rest = _rest(body) if message.type in TYPES else None
    if rest is None:
        return
    if len(_known) >= KNOWN_MAX:
        _known.clear()
        forget_plans()
    payload = message.payload
    _known[rest] = _Known(body[0], message.type, payload, message.vector, message.ttl, message.credit)
    for field in ("inputs", "outputs"):
        plan(payload.get(field))


def _rest(body: bytes) -> bytes | None:
    """What is behind the two ids; ``None``: it does not begin with them, or is not kept."""
    if len(body) > BYTES_MAX:
        return None  # before anything of it is copied
    if body[_KEYS[0]] != _BEFORE_ID or body[_KEYS[1]] != _BEFORE_TRACE:
        return None
    return body[_REST]
