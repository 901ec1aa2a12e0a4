"""The bodies of datagrams and stream messages, as msgpack arrays. Source: the MessagePack specification.

A datagram, of nine elements::

    [kind, seq, sender, to, subject, digest, load, updates, loads]

``kind``: 0 ping, 1 ack, 2 ping request, 3 nack, 4 gossip. ``to``: who it is meant for, "" for whoever is
there. ``subject``: the member that a ping request wants probed, and whose answer an ack or a nack of the
relay passes on; otherwise "". ``digest``: 64 bits over the sender's view. ``load``: the sender's own as
``[incarnation, sequence, bytes]``, or nil. ``updates``::

    [name, incarnation, 0, address, card version, card bytes or nil]       alive
    [name, incarnation, 1, accuser]                                        suspect
    [name, incarnation, 2, accuser]                                        dead
    [name, incarnation, 3]                                                 left

``loads``: other members', as ``[name, incarnation, sequence, bytes]``.

A stream message::

    [0, sender, address, after, upto, [[name, state, mark], ...]]          summary
    [1, sender, address, [record, ...], [name, ...]]                       delta: records, and names asked for
    [2, sender, address, body of a datagram]                               a probe by stream, or its answer
    record: [name, incarnation, state, address, card version, card bytes, age in ms, load]

A summary speaks of the names above ``after`` and up to ``upto`` ("": to the end), so that each of several
is complete in itself. A card and a load are maps of plain values, encoded, and are passed on byte for
byte.

A body is taken only if encoding what was read gives the same bytes: there is one way to write everything.
Before that it is walked once without building anything, so that no element is claimed that is not there.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeGuard

import msgpack

from mcp.cluster.gossip.limits import (
    ADDRESS_BYTES_MAX,
    CARD_BYTES_MAX,
    CARD_INLINE_BYTES_MAX,
    COUNT_MAX,
    DATAGRAM_BYTES_MAX,
    LOAD_BYTES_MAX,
    NAME_BYTES_MAX,
    SUMMARY_ENTRIES_MAX,
    UPDATES_MAX,
)
from mcp.cluster.gossip.updates import Alive, Dead, FullRecord, Left, LoadUpdate, State, Suspect, Update
from mcp.errors import ProtocolError
from mcp.wire.codec import decode_map

DIGEST_MAX: Final = 2**64 - 1
SEQ_MAX: Final = 2**32 - 1
AGE_MS_MAX: Final = 2**42
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{NAME_BYTES_MAX - 1}}}")
_ADDRESS: Final = re.compile(rf"[!-~]{{1,{ADDRESS_BYTES_MAX}}}")


class Kind(enum.IntEnum):
    """What a datagram is."""

    PING = 0
    ACK = 1
    PING_REQUEST = 2
    NACK = 3
    GOSSIP = 4


class StreamKind(enum.IntEnum):
    """What a stream message is."""

    SUMMARY = 0
    DELTA = 1
    CARRIED = 2


@dataclass(frozen=True, slots=True)
class Datagram:
    """See the head of this module."""

    kind: Kind
    seq: int
    sender: str
    to: str
    subject: str
    digest: int
    load: LoadUpdate | None = None
    updates: tuple[Update, ...] = ()
    loads: tuple[LoadUpdate, ...] = ()


@dataclass(frozen=True, slots=True)
class SummaryEntry:
    """One member in a summary; equal marks and states are equal records."""

    name: str
    state: State
    mark: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What the sender's view holds of the names above ``after`` and up to ``upto``."""

    sender: str
    address: str
    after: str
    upto: str
    entries: tuple[SummaryEntry, ...]

    def covers(self, name: str) -> bool:
        """Whether it would list the name if the sender had it."""
        return self.after < name and (not self.upto or name <= self.upto)


@dataclass(frozen=True, slots=True)
class Delta:
    """Records that the sender has, and names whose records it wants."""

    sender: str
    address: str
    records: tuple[FullRecord, ...]
    wants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Carried:
    """The body of a datagram, over a stream."""

    sender: str
    address: str
    body: bytes


StreamMessage: TypeAlias = Summary | Delta | Carried
"""Any of them."""


def is_name(value: object) -> TypeGuard[str]:
    """Whether it can be the name of a member: as node ids, 1 to 128 letters, digits and ``. _ : -``."""
    return type(value) is str and _NAME.fullmatch(value) is not None


def is_address(value: object) -> TypeGuard[str]:
    """Whether it can be an address: 1 to 128 visible ASCII characters. The carrier knows what they mean."""
    return type(value) is str and _ADDRESS.fullmatch(value) is not None


# -- encoding -------------------------------------------------------------------------------------------


def encode_update(update: Update) -> bytes:
    """One update, to be put into a datagram."""
    match update:
        case Alive():
            fields: list[Any] = [update.name, update.incarnation, 0, update.address]
            fields += [update.card_version, update.card]
        case Suspect():
            fields = [update.name, update.incarnation, 1, update.accuser]
        case Dead():
            fields = [update.name, update.incarnation, 2, update.accuser]
        case Left():
            fields = [update.name, update.incarnation, 3]
    return _pack(fields)


def encode_load(load: LoadUpdate) -> bytes:
    """One load of another member, to be put into a datagram."""
    return _pack([load.name, load.incarnation, load.sequence, load.load])


def datagram_head(
    kind: Kind, seq: int, sender: str, to: str, subject: str, digest: int, load: LoadUpdate | None
) -> bytes:
    """What comes before the updates."""
    own = None if load is None else [load.incarnation, load.sequence, load.load]
    # Seven elements are encoded, and the two that follow are announced.
    return b"\x99" + _pack([int(kind), seq, sender, to, subject, digest, own])[1:]


def join_datagram(head: bytes, updates: Sequence[bytes], loads: Sequence[bytes]) -> bytes:
    """A body, of parts that are encoded already."""
    return b"".join((head, _array_head(len(updates)), *updates, _array_head(len(loads)), *loads))


LIST_HEADS_BYTES: Final = 6
"""What the two lists of a datagram take at most, beside what is in them."""


def encode_datagram(message: Datagram) -> bytes:
    """The body of a datagram."""
    head = datagram_head(
        message.kind,
        message.seq,
        message.sender,
        message.to,
        message.subject,
        message.digest,
        message.load,
    )
    return join_datagram(
        head, list(map(encode_update, message.updates)), list(map(encode_load, message.loads))
    )


def encode_record(record: FullRecord) -> bytes:
    """One record, to be put into a delta."""
    return _pack(_record_fields(record))


def delta_body(sender: str, address: str, records: Sequence[bytes], wants: Sequence[str]) -> bytes:
    """A delta, of records that are encoded already."""
    head = b"\x95" + _pack([int(StreamKind.DELTA), sender, address])[1:]
    return b"".join((head, _array_head(len(records)), *records, _pack(list(wants))))


def encode_stream(message: StreamMessage) -> bytes:
    """The body of a stream message."""
    match message:
        case Summary():
            entries = [[entry.name, int(entry.state), entry.mark] for entry in message.entries]
            ends = [message.after, message.upto]
            return _pack([int(StreamKind.SUMMARY), message.sender, message.address, *ends, entries])
        case Delta():
            records = list(map(encode_record, message.records))
            return delta_body(message.sender, message.address, records, message.wants)
        case Carried():
            return _pack([int(StreamKind.CARRIED), message.sender, message.address, message.body])


def _record_fields(record: FullRecord) -> list[Any]:
    load = record.load
    own = None if load is None else [load.incarnation, load.sequence, load.load]
    fields: list[Any] = [record.name, record.incarnation, int(record.state), record.address]
    return [*fields, record.card_version, record.card, record.age_ms, own]


def _pack(value: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _array_head(count: int) -> bytes:
    return bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")


# -- decoding -------------------------------------------------------------------------------------------


def decode_datagram(body: bytes) -> Datagram:
    """Read a body. Raises :class:`~mcp.errors.ProtocolError` for anything that is not exactly one."""
    kind, seq, sender, to, subject, digest, load, updates, loads = _array(_unpack(body), "a datagram", 9)
    message = Datagram(
        Kind(_count(kind, "the kind", len(Kind) - 1)),
        _count(seq, "the number", SEQ_MAX),
        _name(sender),
        _name_or_none(to),
        _name_or_none(subject),
        _count(digest, "the digest", DIGEST_MAX),
        _own_load(sender, load),
        tuple(map(_update, _list(updates, "the updates", UPDATES_MAX))),
        tuple(map(_load, _list(loads, "the loads", UPDATES_MAX))),
    )
    _check_canonical(encode_datagram(message), body)
    return message


def decode_stream(body: bytes) -> StreamMessage:
    """Read a body. Raises :class:`~mcp.errors.ProtocolError` for anything that is not exactly one."""
    fields = _unpack(body)
    if type(fields) is not list or not fields:
        raise ProtocolError("a stream message of gossip is an array that begins with its kind")
    kind = StreamKind(_count(fields[0], "the kind", len(StreamKind) - 1))
    message = _STREAM_READERS[kind](fields)
    _check_canonical(encode_stream(message), body)
    return message


def _summary(fields: list[Any]) -> Summary:
    _, sender, address, after, upto, entries = _array(fields, "a summary", 6)
    read = tuple(map(_entry, _list(entries, "the entries", SUMMARY_ENTRIES_MAX)))
    return Summary(_name(sender), _address(address), _name_or_none(after), _name_or_none(upto), read)


def _entry(fields: object) -> SummaryEntry:
    name, state, mark = _array(fields, "an entry", 3)
    return SummaryEntry(_name(name), _state(state), _count(mark, "a mark", DIGEST_MAX))


def _delta(fields: list[Any]) -> Delta:
    _, sender, address, records, wants = _array(fields, "a delta", 5)
    read = tuple(map(_record, _list(records, "the records", SUMMARY_ENTRIES_MAX)))
    wanted = tuple(map(_name, _list(wants, "the names asked for", SUMMARY_ENTRIES_MAX)))
    return Delta(_name(sender), _address(address), read, wanted)


def _carried(fields: list[Any]) -> Carried:
    _, sender, address, body = _array(fields, "a carried datagram", 4)
    return Carried(_name(sender), _address(address), _bytes(body, "the datagram", DATAGRAM_BYTES_MAX))


_STREAM_READERS: Final[dict[StreamKind, Callable[[list[Any]], StreamMessage]]] = {
    StreamKind.SUMMARY: _summary,
    StreamKind.DELTA: _delta,
    StreamKind.CARRIED: _carried,
}


def _record(fields: object) -> FullRecord:
    name, incarnation, state, address, version, card, age_ms, load = _array(fields, "a record", 8)
    return FullRecord(
        _name(name),
        _count(incarnation, "an incarnation", COUNT_MAX),
        _state(state),
        _address(address),
        _count(version, "a card version", COUNT_MAX),
        _card(card, CARD_BYTES_MAX),
        _count(age_ms, "an age", AGE_MS_MAX),
        _own_load(name, load),
    )


def _update(fields: object) -> Update:
    if type(fields) is not list or not 3 <= len(fields) <= 6:
        raise ProtocolError(f"an update is an array of 3 to 6, not {fields!r:.80}")
    name, incarnation = _name(fields[0]), _count(fields[1], "an incarnation", COUNT_MAX)
    state = _state(fields[2])
    if state is State.ALIVE:
        *_, address, version, card = _array(fields, "an alive update", 6)
        read = None if card is None else _card(card, CARD_INLINE_BYTES_MAX)
        return Alive(name, incarnation, _address(address), _count(version, "a card version", COUNT_MAX), read)
    if state is State.LEFT:
        _array(fields, "a left update", 3)
        return Left(name, incarnation)
    accuser = _name(_array(fields, "a suspect or dead update", 4)[3])
    return (Suspect if state is State.SUSPECT else Dead)(name, incarnation, accuser)


def _own_load(name: str, fields: object) -> LoadUpdate | None:
    if fields is None:
        return None
    return _load([name, *_array(fields, "the own load", 3)])


def _load(fields: object) -> LoadUpdate:
    name, incarnation, sequence, load = _array(fields, "a load", 4)
    body = _bytes(load, "a load", LOAD_BYTES_MAX)
    decode_map(body)
    return LoadUpdate(
        _name(name),
        _count(incarnation, "an incarnation", COUNT_MAX),
        _count(sequence, "a sequence number", COUNT_MAX),
        body,
    )


def _card(value: object, bytes_max: int) -> bytes:
    card = _bytes(value, "a card", bytes_max)
    if card:  # a member that was only heard of has none yet
        decode_map(card)
    return card


def _unpack(body: bytes) -> Any:
    try:
        walker = msgpack.Unpacker(max_buffer_size=max(len(body), 1))
        walker.feed(body)
        walker.skip()
        if walker.tell() != len(body):
            raise ProtocolError(f"a gossip message ends at byte {walker.tell()} of {len(body)}")
        return msgpack.unpackb(body, raw=False, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise ProtocolError(f"a gossip message is not valid msgpack: {reason:.200}") from None


def _check_canonical(encoded: bytes, body: bytes) -> None:
    if encoded != body:
        raise ProtocolError("a gossip message is not written in the one way that it can be; do not edit it")


def _array(value: object, what: str, length: int) -> list[Any]:
    if type(value) is not list or len(value) != length:
        raise ProtocolError(f"{what} is an array of {length}, not {value!r:.80}")
    return value


def _list(value: object, what: str, length_max: int) -> list[Any]:
    if type(value) is not list or len(value) > length_max:
        raise ProtocolError(f"{what} are an array of at most {length_max}, not {value!r:.80}")
    return value


def _count(value: object, what: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ProtocolError(f"{what} is an integer from 0 to {most}, not {value!r:.80}")
    return value


def _state(value: object) -> State:
    return State(_count(value, "a state", len(State) - 1))


def _bytes(value: object, what: str, bytes_max: int) -> bytes:
    if type(value) is not bytes or len(value) > bytes_max:
        raise ProtocolError(f"{what} is at most {bytes_max} bytes, not {value!r:.80}")
    return value


def _name(value: object) -> str:
    if not is_name(value):
        raise ProtocolError(f"{value!r:.80} is no name of a member")
    return value


def _name_or_none(value: object) -> str:
    return "" if value == "" else _name(value)


def _address(value: object) -> str:
    if not is_address(value):
        raise ProtocolError(f"{value!r:.80} is no address of a member")
    return value
