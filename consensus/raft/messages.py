"""What peers say to each other: a strict codec for messages that are never trusted.

A message is a msgpack array: its type, the sender's term, and the fields in the order in which they
are declared below; an append's entries are arrays ``[index, term, kind, data]``. A new shape gets a
new type number, so that nodes of two versions understand or drop each other's messages, and never
misread them.

:meth:`Codec.decode` raises :class:`Malformed` and nothing else, whatever the bytes are. It bounds
what decoding may allocate before it allocates it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack

from consensus.configuration import Configuration
from consensus.interface import Entry, EntryKind
from consensus.raft.config import RaftConfig

INTEGER_MAX = 2**63 - 1
"""Terms, indexes and numbers fit into a signed 64-bit integer, here and on every disk."""

_ARRAY_OF_7 = b"\x97"
_STRING_BYTES_MAX = 0
_FIELDS_MAX = 8


class Malformed(Exception):
    """A message that makes no sense. ``reason`` is a stable name to count it by."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RequestVote(NamedTuple):
    """A candidate asks for a vote in ``term`` (Ongaro and Ousterhout 2014, figure 2)."""

    term: int
    last_index: int
    last_term: int


class Vote(NamedTuple):
    """The sender votes for the receiver in ``term``. Refusals are silent.

    ``incarnation`` is that of the sender's journal: a vote counts for the server that the configuration
    names.
    """

    term: int
    incarnation: int = 0


class Append(NamedTuple):
    """The leader of ``term`` has ``entries`` behind ``prev_index``; none of them is a heartbeat.

    ``number`` grows with every message of this leader and comes back in the acknowledgement; 0 asks
    for no acknowledgement, only for a rejection if there is something to reject.
    """

    term: int
    number: int
    commit_index: int
    prev_index: int
    prev_term: int
    entries: Sequence[Entry]


class Ack(NamedTuple):
    """The answer to the message with ``number``, in the sender's ``term``.

    ``success``: everything below ``next_index`` is durable and as in the leader's log.
    ``reset``: it did not fit; try again from ``next_index``. ``incarnation``: of the sender's journal.
    """

    term: int
    number: int
    next_index: int
    success: bool
    reset: bool
    incarnation: int = 0


class SnapshotPending(NamedTuple):
    """The leader's heartbeat to a peer that needs a snapshot. It says nothing about any entry."""

    term: int
    number: int


class PreVote(NamedTuple):
    """Asks whether the receiver would vote in ``term``, which has not begun (Ongaro 2014, section 9.6).

    ``round`` is the sender's own number for its asking, for the answer to name.
    """

    term: int
    round: int
    last_index: int
    last_term: int


class PreVoteAnswer(NamedTuple):
    """What the sender, which is in ``term``, answers to the asking with ``round``. It promises nothing."""

    term: int
    round: int
    granted: bool


class TransferVote(NamedTuple):
    """As :class:`RequestVote`, by a candidate whom the leader has asked to take over (section 3.10)."""

    term: int
    last_index: int
    last_term: int


class NewerTerm(NamedTuple):
    """To the leader of an older term: the sender is in ``term`` and cannot follow it."""

    term: int


class TimeoutNow(NamedTuple):
    """The leader of ``term`` asks the receiver to call an election at once (Ongaro 2014, section 3.10)."""

    term: int


class NotMember(NamedTuple):
    """The sender, which is in ``term``, to whoever is not in the configuration at ``position``.

    It is committed, so that the receiver can be needed for nothing before it learns of a later one.
    """

    term: int
    position: int


Message = (
    RequestVote
    | Vote
    | Append
    | Ack
    | SnapshotPending
    | PreVote
    | PreVoteAnswer
    | TransferVote
    | NewerTerm
    | TimeoutNow
    | NotMember
)

_APPEND = 3
_TYPES: dict[type[Message], int] = {
    RequestVote: 1,
    Vote: 11,
    Append: _APPEND,
    Ack: 12,
    SnapshotPending: 5,
    PreVote: 6,
    PreVoteAnswer: 7,
    TransferVote: 8,
    NewerTerm: 9,
    TimeoutNow: 10,
    NotMember: 13,
}
"""2 and 4 were a vote and an answer without the sender's incarnation."""

_INTEGER = frozenset({int})
_KINDS = {int(kind): kind for kind in EntryKind}
_CONFIG = int(EntryKind.CONFIG)


class Codec:
    """Encodes and decodes within one configuration's limits. Not to be shared between threads."""

    def __init__(self, config: RaftConfig) -> None:
        self._bytes_max = config.append_bytes_max
        self._entries_max = config.append_entries_max
        self._pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True).pack
        self._shapes: dict[int, Callable[[list[Any]], Message]] = {
            1: _decode_request_vote,
            3: self._decode_append,
            5: _decode_snapshot_pending,
            6: _decode_pre_vote,
            7: _decode_pre_vote_answer,
            8: _decode_transfer_vote,
            9: _decode_newer_term,
            10: _decode_timeout_now,
            11: _decode_vote,
            12: _decode_ack,
            13: _decode_not_member,
        }

    def encode(self, message: Message) -> bytes:
        """The bytes of a message other than :class:`Append`."""
        return self._pack((_TYPES[type(message)], *message))

    def encode_entries(self, entries: Sequence[tuple[bytes, int, int, Entry]]) -> bytes:
        """The last field of an append: encode it once, send it to many peers."""
        return self._pack([(index, term, int(entry.kind), data) for data, index, term, entry in entries])

    def encode_append(self, head: Append | tuple[int, int, int, int, int], entries: bytes) -> bytes:
        """An append: the fields of ``head`` up to ``prev_term``, and ``entries`` from :meth:`encode_entries`.

        A msgpack array is a header followed by its elements, so the encoded entries can stand as
        they are behind the other six fields.
        """
        fields = self._pack((_APPEND, *head[:5]))
        return _ARRAY_OF_7 + fields[1:] + entries

    def decode(self, message: bytes) -> Message:
        """The message that ``message`` encodes. Raises :class:`Malformed`."""
        if len(message) > self._bytes_max:
            raise Malformed("oversize")
        try:
            fields = msgpack.unpackb(
                message,
                max_array_len=max(self._entries_max, _FIELDS_MAX),
                max_map_len=0,
                max_ext_len=0,
                max_str_len=_STRING_BYTES_MAX,
                max_bin_len=self._bytes_max,
            )
        except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
            raise Malformed("not_msgpack") from None
        if type(fields) is not list or not fields or type(fields[0]) is not int:
            raise Malformed("not_a_message")
        shape = self._shapes.get(fields[0])
        if shape is None:
            raise Malformed("unknown_type")
        return shape(fields)

    def _decode_append(self, fields: list[Any]) -> Append:
        _check(fields, 7, 6)
        _, term, number, commit_index, prev_index, prev_term, entries = fields
        if type(entries) is not list or len(entries) > self._entries_max:
            raise Malformed("wrong_entries")
        if prev_term > term:
            raise Malformed("wrong_order")
        decoded = _decode_entries(entries, prev_index, prev_term, term) if entries else ()
        return Append(term, number, commit_index, prev_index, prev_term, decoded)


def _check(fields: list[Any], length: int, integers: int) -> None:
    if len(fields) != length:
        raise Malformed("wrong_length")
    numbers = fields[:integers]
    if not _INTEGER.issuperset(map(type, numbers)) or min(numbers) < 0 or max(numbers) > INTEGER_MAX:
        raise Malformed("wrong_field")


def _decode_entries(items: list[Any], index: int, last_term: int, term_max: int) -> list[Entry]:
    entries = []
    for item in items:
        if type(item) is not list or len(item) != 4:
            raise Malformed("wrong_entries")
        entry_index, term, kind, data = item
        index += 1
        if type(entry_index) is not int or type(term) is not int or type(kind) is not int:
            raise Malformed("wrong_field")
        if type(data) is not bytes or kind not in _KINDS:
            raise Malformed("wrong_field")
        if entry_index != index or not last_term <= term <= term_max:
            raise Malformed("wrong_order")
        if kind == _CONFIG:
            _check_configuration(data)
        last_term = term
        entries.append(Entry(index, term, _KINDS[kind], data))
    if index > INTEGER_MAX:
        raise Malformed("wrong_field")
    return entries


def _check_configuration(data: bytes) -> None:
    try:
        Configuration.decode(data)
    except ValueError:
        raise Malformed("wrong_configuration") from None


def _decode_request_vote(fields: list[Any]) -> RequestVote:
    _check(fields, 4, 4)
    return RequestVote(*fields[1:])


def _decode_vote(fields: list[Any]) -> Vote:
    _check(fields, 3, 3)
    return Vote(*fields[1:])


def _decode_ack(fields: list[Any]) -> Ack:
    _check(fields, 7, 4)
    if type(fields[4]) is not bool or type(fields[5]) is not bool or fields[3] < 1:
        raise Malformed("wrong_field")
    if type(fields[6]) is not int or not 0 <= fields[6] <= INTEGER_MAX:
        raise Malformed("wrong_field")
    return Ack(*fields[1:])


def _decode_snapshot_pending(fields: list[Any]) -> SnapshotPending:
    _check(fields, 3, 3)
    return SnapshotPending(*fields[1:])


def _decode_pre_vote(fields: list[Any]) -> PreVote:
    _check(fields, 5, 5)
    return PreVote(*fields[1:])


def _decode_pre_vote_answer(fields: list[Any]) -> PreVoteAnswer:
    _check(fields, 4, 3)
    if type(fields[3]) is not bool:
        raise Malformed("wrong_field")
    return PreVoteAnswer(*fields[1:])


def _decode_transfer_vote(fields: list[Any]) -> TransferVote:
    _check(fields, 4, 4)
    return TransferVote(*fields[1:])


def _decode_newer_term(fields: list[Any]) -> NewerTerm:
    _check(fields, 2, 2)
    return NewerTerm(fields[1])


def _decode_timeout_now(fields: list[Any]) -> TimeoutNow:
    _check(fields, 2, 2)
    return TimeoutNow(fields[1])


def _decode_not_member(fields: list[Any]) -> NotMember:
    _check(fields, 3, 3)
    return NotMember(*fields[1:])
