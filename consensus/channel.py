"""The messages that drivers exchange over one peer link, beside the engine's own.

First byte: what it is. Then msgpack, except for the engine's messages, which are passed through.
Everything is checked here, so that no peer's bytes reach the driver unchecked: what is not well
formed is :class:`Malformed`, and the driver drops and counts it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from consensus.batch import REQUEST_ID_BYTES
from consensus.configuration import Change, Configuration, change_from_plain, change_to_plain
from consensus.interface import SnapshotMeta


class Malformed(ValueError):
    """A peer's message does not have the form that its first byte announces."""


class Kind(enum.IntEnum):
    """The first byte of a message between drivers."""

    ENGINE = 1
    FORWARD = 2
    REFUSED = 3
    CHUNK = 4
    CHUNK_ACK = 5
    AWAITED = 6
    READ_ASK = 7
    READ_ANSWER = 8
    CHANGE_ASK = 9
    CHANGE_ANSWER = 10


ENGINE = bytes((Kind.ENGINE,))
"""How an engine's message begins."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Please append these commands: I am not the leader, and I think that you are.

    ``attempt`` is the sender's own number for this message, for :class:`Refused` to name.
    """

    attempt: int
    request_ids: Sequence[bytes]
    commands: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing of these was appended on that attempt. ``code`` is ``NOT_LEADER`` or ``BUSY``."""

    code: str
    attempt: int
    request_ids: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the leader's latest snapshot; ``offset`` in bytes from its start."""

    term: int
    meta: SnapshotMeta
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ChunkAck:
    """``received`` bytes of the snapshot of ``index`` are here; ``done``: installed and durable."""

    term: int
    index: int
    received: int
    done: bool


@dataclass(frozen=True, slots=True)
class Awaited:
    """Somebody at the sender waits for the entry at ``index``: tell of its commit at once."""

    index: int


@dataclass(frozen=True, slots=True)
class ReadAsk:
    """Asks which position a read has to see that begins now. ``number`` is the sender's own."""

    number: int


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """Everything that was acknowledged before ``number`` was asked lies at ``index`` or before it."""

    number: int
    index: int


@dataclass(frozen=True, slots=True)
class ChangeAsk:
    """Asks the leader of ``term``, and nobody else, to change the members. ``number`` is the sender's own."""

    term: int
    number: int
    change: Change


@dataclass(frozen=True, slots=True)
class ChangeAnswer:
    """What became of ``number``: committed at ``index``; or, with an error's ``code``, not begun at all."""

    number: int
    index: int
    code: str = ""
    problem: str = ""


Message = Forward | Refused | Chunk | ChunkAck | Awaited | ReadAsk | ReadAnswer | ChangeAsk | ChangeAnswer


def engine_message(body: bytes) -> bytes:
    """An engine's message, marked as such."""
    return ENGINE + body


def encode(message: Message) -> bytes:
    """The bytes of a driver's message."""
    match message:
        case Forward():
            kind, fields = Kind.FORWARD, [message.attempt, list(message.request_ids), list(message.commands)]
        case Refused():
            kind, fields = Kind.REFUSED, [message.code, message.attempt, list(message.request_ids)]
        case Chunk():
            m = message.meta
            meta = [m.index, m.term, m.previous_term, m.size, m.sha256, m.configuration]
            kind, fields = Kind.CHUNK, [message.term, meta, message.offset, message.data]
        case ChunkAck():
            fields = [message.term, message.index, message.received, message.done]
            kind = Kind.CHUNK_ACK
        case Awaited():
            kind, fields = Kind.AWAITED, [message.index]
        case ReadAsk():
            kind, fields = Kind.READ_ASK, [message.number]
        case ReadAnswer():
            kind, fields = Kind.READ_ANSWER, [message.number, message.index]
        case ChangeAsk():
            kind, fields = Kind.CHANGE_ASK, [message.term, message.number, change_to_plain(message.change)]
        case ChangeAnswer():
            fields = [message.number, message.index, message.code, message.problem]
            kind = Kind.CHANGE_ANSWER
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return bytes((kind,)) + packed


def decode(data: bytes) -> bytes | Message:
    """The engine's message (as bytes) or the driver's message in ``data``.

    Raises :class:`Malformed` for anything else.
    """
    if not data:
        raise Malformed("an empty message")
    if data[0] == Kind.ENGINE:
        return data[1:]
    try:
        kind = Kind(data[0])
        fields = msgpack.unpackb(data[1:], raw=False, use_list=True)
        return _message(kind, fields)
    except Malformed:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Malformed(str(error)) from error


def _message(kind: Kind, fields: Any) -> Message:
    match kind, fields:
        case Kind.FORWARD, [int(n), list(ids), list(commands)] if len(ids) == len(commands):
            return Forward(n, _request_ids(ids), _all_bytes(commands))
        case Kind.REFUSED, [str(code), int(n), list(ids)]:
            return Refused(code, n, _request_ids(ids))
        case Kind.CHUNK, [int(term), list(fields), int(offset), bytes(data)]:
            meta = _meta(fields)
            if min(term, offset) < 0 or offset + len(data) > meta.size:
                raise Malformed("a snapshot chunk outside its snapshot")
            return Chunk(term, meta, offset, data)
        case Kind.CHUNK_ACK, [int(term), int(index), int(received), bool(done)]:
            return ChunkAck(term, index, received, done)
        case Kind.AWAITED, [int(index)] if index > 0:
            return Awaited(index)
        case Kind.READ_ASK, [int(number)]:
            return ReadAsk(number)
        case Kind.READ_ANSWER, [int(number), int(index)] if index > 0:
            return ReadAnswer(number, index)
        case Kind.CHANGE_ASK, [int(term), int(number), plain] if term >= 0:
            return ChangeAsk(term, number, change_from_plain(plain))
        case Kind.CHANGE_ANSWER, [int(number), int(index), str(code), str(problem)] if index >= 0:
            return ChangeAnswer(number, index, code, problem)
    raise Malformed(f"fields of a {kind.name} message are wrong")


def _meta(fields: list[Any]) -> SnapshotMeta:
    match fields:
        case [int(index), int(term), int(previous), int(size), str(digest), bytes(configuration)]:
            if min(index, term, previous, size) < 0 or len(digest) != 64:
                raise Malformed("a snapshot that cannot be")
            if configuration:
                Configuration.decode(configuration)
            return SnapshotMeta(index, term, previous, size, digest, configuration)
    raise Malformed("the fields of a snapshot are wrong")


def _request_ids(values: list[Any]) -> list[bytes]:
    if all(isinstance(v, bytes) and len(v) == REQUEST_ID_BYTES for v in values):
        return values
    raise Malformed(f"request ids must be {REQUEST_ID_BYTES} bytes each")


def _all_bytes(values: list[Any]) -> list[bytes]:
    if all(isinstance(v, bytes) for v in values):
        return values
    raise Malformed("commands must be bytes")
