r"""Regular expressions for headers that take linear time, whatever is written and whatever is sent.

A pattern has to match the whole value. It is read into a position automaton (Glushkov, "The Abstract Theory
of Automata", 1961; Berry and Sethi, "From Regular Expressions to Deterministic Automata", 1986): one state
for each character of the pattern, all that are reached kept as the bits of one integer. Matching looks at
each character of the value once, so there is no backtracking that could grow.

Supported: characters, ``.`` (not a line's end), classes ``[a-z]`` and ``[^a-z]``, ``\d \w \s \D \W \S``
(ASCII), ``\`` before any other character that is no letter or digit, groups ``(...)`` and ``(?:...)``,
``|``, ``* + ?`` and ``{m} {m,} {m,n}``, also with a ``?`` behind (which changes nothing where all has to
match), ``^`` at the beginning and ``$`` at the end (which change nothing either). Everything else is refused
with its place: back-references, look-around, named groups, flags, ``\b``, ``\p`` and possessive quantifiers.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from mcp.cluster.router.pattern_syntax import CharacterSet, Node, Repeat, parse_pattern
from mcp.errors import InvalidArgument

POSITIONS_MAX: Final = 128
"""The most characters of a pattern, counting each repetition: the work for one character of a value."""

PATTERNS_MAX: Final = 256
"""So many compiled patterns are remembered: routes repeat theirs, and change seldom."""

_ASCII: Final = 128
_CHUNK_BITS: Final = 8


def _positions(node: Node) -> int:
    """How many positions a part will have, its repetitions counted."""
    if isinstance(node, CharacterSet):
        return 1
    if isinstance(node, Repeat):
        return _positions(node.part) * (max(1, node.least) if node.most is None else node.most)
    return sum(map(_positions, node.parts))


@functools.lru_cache(PATTERNS_MAX)
def pattern(written: str) -> Pattern:
    """Return the pattern of a text, and the same one for the same text. Raises what :class:`Pattern` does."""
    return Pattern(written)


class _Part(NamedTuple):
    """What a part of a pattern can begin and end with, as bits of positions, and whether it may be empty."""

    empty: bool
    first: int
    last: int


class Pattern:
    """A compiled pattern. Raises :class:`~mcp.errors.InvalidArgument` for what cannot be one."""

    __slots__ = ("_empty", "_first", "_follow", "_last", "_masks", "_sets", "_steps")

    def __init__(self, written: str) -> None:
        self._sets: list[CharacterSet] = []
        self._follow: list[int] = []
        node = parse_pattern(written)
        if _positions(node) > POSITIONS_MAX:
            raise InvalidArgument(
                f"a pattern with more than positions_max={POSITIONS_MAX} characters, counting repetitions: "
                "write a shorter one, or use a prefix"
            )
        whole = self._build(node)
        self._empty, self._first, self._last = whole
        self._masks = [self._mask(chr(code)) for code in range(_ASCII)]
        self._steps = self._tables()

    def matches(self, value: str) -> bool:
        """Say whether all of ``value`` is what the pattern describes."""
        if not value:
            return self._empty
        masks, steps = self._masks, self._steps
        reachable, states = self._first, 0
        for character in value:
            code = ord(character)
            states = reachable & (masks[code] if code < _ASCII else self._mask(character))
            if not states:
                return False
            reachable, rest = 0, states
            for table in steps:
                reachable |= table[rest & 0xFF]
                rest >>= _CHUNK_BITS
                if not rest:
                    break
        return bool(states & self._last)

    def _mask(self, character: str) -> int:
        return sum(1 << place for place, each in enumerate(self._sets) if each.contains(character))

    def _tables(self) -> list[list[int]]:
        """For each eight positions, where every combination of them leads."""
        tables = []
        for base in range(0, len(self._follow), _CHUNK_BITS):
            follow = self._follow[base : base + _CHUNK_BITS]
            table = [0] * (1 << _CHUNK_BITS)
            for bits in range(1, 1 << len(follow)):
                lowest = (bits & -bits).bit_length() - 1
                table[bits] = table[bits & (bits - 1)] | follow[lowest]
            tables.append(table)
        return tables

    # -- Glushkov's construction --------------------------------------------------------------------

    def _build(self, node: Node) -> _Part:
        if isinstance(node, CharacterSet):
            return self._position(node)
        if isinstance(node, Repeat):
            return self._repeated(node)
        if node.alternatives:
            parts = [self._build(child) for child in node.parts]
            first = last = 0
            for part in parts:
                first, last = first | part.first, last | part.last
            return _Part(any(part.empty for part in parts), first, last)
        whole = _Part(True, 0, 0)
        for child in node.parts:
            whole = self._joined(whole, self._build(child))
        return whole

    def _position(self, characters: CharacterSet) -> _Part:
        bit = 1 << len(self._sets)
        self._sets.append(characters)
        self._follow.append(0)
        return _Part(False, bit, bit)

    def _link(self, last: int, first: int) -> None:
        while last:
            lowest = last & -last
            self._follow[lowest.bit_length() - 1] |= first
            last ^= lowest

    def _joined(self, left: _Part, right: _Part) -> _Part:
        self._link(left.last, right.first)
        return _Part(
            left.empty and right.empty,
            left.first | (right.first if left.empty else 0),
            right.last | (left.last if right.empty else 0),
        )

    def _repeated(self, node: Repeat) -> _Part:
        """``least`` copies that have to be there, and one that repeats or ``most - least`` that may be."""
        whole = _Part(True, 0, 0)
        if not _positions(node.part):
            return whole  # Nothing, however often: without this, ((){100}){100} would be built for ever.
        for _ in range(node.least - 1 if node.most is None and node.least else node.least):
            whole = self._joined(whole, self._build(node.part))
        if node.most is None:
            part = self._build(node.part)
            self._link(part.last, part.first)
            return self._joined(whole, part._replace(empty=part.empty or not node.least))
        # From the right, so that leaving one out leaves out those after it: (a(a(a)?)?)?
        optional = _Part(True, 0, 0)
        for _ in range(node.most - node.least):
            optional = self._joined(self._build(node.part), optional)._replace(empty=True)
        return self._joined(whole, optional)
