"""The message: what every request and every reply carries besides its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from mcp.causality.vector import VersionVector
from mcp.errors import InvalidArgument, MessageExpired

NAME_CHARS_MAX: Final = 128
"""The most characters in a message's ``type``, ``id`` and ``trace_id``."""
HOPS_MAX: Final = 255
"""The highest hop limit."""
TTL_MS_MAX: Final = 2**32 - 1
"""The longest expiry: 49 days."""
CREDIT_MAX: Final = 65_535
"""The most parts of an answer that a requester may allow at a time."""


def _wrong(field: str, expected: str, got: object) -> InvalidArgument:
    return InvalidArgument(f'the message field "{field}" must be {expected}, not {got!r:.80}')


def _check_name(field: str, value: object, *, empty: bool) -> None:
    if not isinstance(value, str) or len(value) > NAME_CHARS_MAX or not (value or empty):
        raise _wrong(field, f"a string of {0 if empty else 1} to {NAME_CHARS_MAX} characters", value)


def _check_count(field: str, value: object, limit: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise _wrong(field, f"an integer in 0..{limit}", value)


class _TtlFields(NamedTuple):
    hops: int
    ms: int


class Ttl(_TtlFields):
    """How far and how long a message may travel.

    ``hops``: how often it may still be forwarded, 0..255. ``ms``: milliseconds that remain until it
    expires; relative, because clocks differ between machines. Raises
    :class:`~mcp.errors.InvalidArgument` naming the field.
    """

    __slots__ = ()

    def __new__(cls, hops: int = 8, ms: int = 60_000) -> Self:
        """Check both."""
        if (
            type(hops) is not int
            or type(ms) is not int
            or not (0 <= hops <= HOPS_MAX and 0 <= ms <= TTL_MS_MAX)
        ):
            _check_count("ttl.hops", hops, HOPS_MAX)
            _check_count("ttl.ms", ms, TTL_MS_MAX)
        return super().__new__(cls, hops, ms)

    @property
    def expired(self) -> bool:
        """Whether no time is left, so that the message must be dropped."""
        return self.ms == 0

    def hop(self) -> Ttl:
        """What the message carries when it is forwarded once.

        Raises :class:`~mcp.errors.MessageExpired` when it may not be.
        """
        if self.ms == 0:
            raise MessageExpired(
                "the message expired before it could be forwarded; send it with a longer ttl.ms"
            )
        if self.hops == 0:
            raise MessageExpired(
                "the message reached its hop limit before it found its destination; "
                "send it to a node that is nearer, or with a higher ttl.hops"
            )
        return Ttl(self.hops - 1, self.ms)

    def spent(self, ms: int) -> Ttl:
        """What is left after ``ms`` milliseconds; never below 0."""
        return Ttl(self.hops, max(0, self.ms - ms))


DEFAULT_TTL: Final = Ttl()
"""What a message without a ``ttl`` gets: 8 hops, one minute."""
EMPTY_VECTOR: Final = VersionVector()
"""What a message without a ``vector`` has seen: nothing."""


@dataclass(slots=True)
class Message:
    """One request or reply. Whoever has one leaves it as it is: nothing is copied on its way.

    ``type`` names the operation. ``payload`` is a map of plain values (None, bool, integers of 64 bits,
    float, str, bytes, lists and maps with string keys). ``id`` is unique among the sender's messages; a
    reply carries its request's. ``trace_id`` groups what one user action caused. ``vector``: what the
    sender's session has seen. ``credit``: how many parts of its answer a request's sender takes before it
    allows more; 0: it wants the answer whole. Raises :class:`~mcp.errors.InvalidArgument` naming the field.
    """

    type: str
    payload: dict[str, Any]
    id: str
    trace_id: str = ""
    vector: VersionVector = EMPTY_VECTOR
    ttl: Ttl = DEFAULT_TTL
    credit: int = 0

    def __post_init__(self) -> None:
        if not (
            type(self.type) is type(self.id) is type(self.trace_id) is str
            and 0 < len(self.type) <= NAME_CHARS_MAX
            and 0 < len(self.id) <= NAME_CHARS_MAX
            and len(self.trace_id) <= NAME_CHARS_MAX
            and type(self.payload) is dict
            and type(self.vector) is VersionVector
            and type(self.ttl) is Ttl
            and type(self.credit) is int
            and 0 <= self.credit <= CREDIT_MAX
        ):
            self._find_fault()

    def _find_fault(self) -> None:
        _check_name("type", self.type, empty=False)
        _check_name("id", self.id, empty=False)
        _check_name("trace_id", self.trace_id, empty=True)
        if not isinstance(self.payload, dict):
            raise _wrong("payload", "a map", self.payload)
        if not isinstance(self.vector, VersionVector):
            raise _wrong("vector", "a version vector", self.vector)
        if not isinstance(self.ttl, Ttl):
            raise _wrong("ttl", 'a map of "hops" and "ms"', self.ttl)
        _check_count("credit", self.credit, CREDIT_MAX)

    def with_ttl_ms(self, ms: int) -> Message:
        """The same with so many milliseconds left."""
        if ms == self.ttl.ms:
            return self
        ttl = Ttl(self.ttl.hops, ms)
        return Message(self.type, self.payload, self.id, self.trace_id, self.vector, ttl, self.credit)

    def reply(self, type_: str, payload: dict[str, Any], vector: VersionVector = EMPTY_VECTOR) -> Message:
        """An answer to this message: same ``id``, same ``trace_id``."""
        return Message(type_, payload, self.id, self.trace_id, vector)
