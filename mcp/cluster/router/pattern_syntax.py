"""Reading a pattern: see :mod:`mcp.cluster.router.patterns` for what is supported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mcp.errors import InvalidArgument

PATTERN_CHARS_MAX: Final = 256
"""The longest pattern."""
GROUPS_DEPTH_MAX: Final = 16
"""How deep its groups are nested."""
REPEATS_MAX: Final = 100
"""The largest number in braces."""

_DIGITS: Final = (("0", "9"),)
_WORDS: Final = (("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z"))
_SPACES: Final = (("\t", "\n"), ("\f", "\r"), (" ", " "))
_CLASSES: Final = {"d": _DIGITS, "w": _WORDS, "s": _SPACES}
_SPECIAL: Final = frozenset(".[](){}*+?|^$\\")
_QUANTIFIERS: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}

Ranges = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """One character of these ranges or, if ``negated``, of none of them."""

    ranges: Ranges
    negated: bool = False

    def contains(self, character: str) -> bool:
        """Say whether the character is one of them."""
        return any(low <= character <= high for low, high in self.ranges) is not self.negated


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part ``least`` to ``most`` times; ``None``: as often as you like."""

    part: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts one after the other or, as ``alternatives``, one of them."""

    parts: tuple[Node, ...]
    alternatives: bool = False


Node = CharacterSet | Repeat | Parts


def parse_pattern(written: str) -> Node:
    """Read a pattern. Raises :class:`~mcp.errors.InvalidArgument` with the place of what is not supported."""
    if len(written) > PATTERN_CHARS_MAX:
        raise InvalidArgument(
            f"a pattern of {len(written)} characters is over pattern_chars_max={PATTERN_CHARS_MAX}"
        )
    return _Reader(written).pattern()


class _Reader:
    def __init__(self, written: str) -> None:
        self._written = written
        self._at = 0
        self._depth = 0

    def _wrong(self, why: str, at: int | None = None) -> InvalidArgument:
        place = (self._at if at is None else at) + 1
        return InvalidArgument(
            f"the pattern {self._written!r:.80}, at character {place}: {why}", details={"position": place}
        )

    @property
    def _next(self) -> str:
        return self._written[self._at : self._at + 1]

    def _took(self, text: str) -> bool:
        found = self._written.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def pattern(self) -> Node:
        self._took("^")
        node = self._alternatives()
        self._took("$")
        if self._next:
            raise self._wrong("a ) without its (" if self._next == ")" else "$ stands at the end only")
        return node

    def _alternatives(self) -> Node:
        parts = [self._sequence()]
        while self._took("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Parts(tuple(parts), alternatives=True)

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._next and self._next not in "|)$":
            parts.append(self._quantified(self._atom()))
        return Parts(tuple(parts))

    def _quantified(self, part: Node) -> Node:
        found = self._quantifier()
        if found is None:
            return part
        self._took("?")
        if self._next in ("*", "+", "?", "{"):
            raise self._wrong("a quantifier behind a quantifier is not supported; put the part into a group")
        return Repeat(part, *found)

    def _quantifier(self) -> tuple[int, int | None] | None:
        for sign, bounds in _QUANTIFIERS.items():
            if self._took(sign):
                return bounds
        if not self._took("{"):
            return None
        least = self._count()
        most: int | None = least
        if self._took(","):
            most = None if self._next == "}" else self._count()
        if not self._took("}") or (most is not None and most < least):
            raise self._wrong("braces hold {m}, {m,} or {m,n} with m at most n; write \\{ for the character")
        return least, most

    def _count(self) -> int:
        begin = self._at
        while self._next in tuple("0123456789"):
            self._at += 1
        digits = self._written[begin : self._at]
        if not 0 < len(digits) <= 3 or int(digits) > REPEATS_MAX:
            raise self._wrong(f"a number up to repeats_max={REPEATS_MAX} is expected", begin)
        return int(digits)

    def _atom(self) -> Node:
        if self._took("("):
            return self._group()
        if self._took("["):
            return self._class()
        if self._took("."):
            return CharacterSet((("\n", "\n"),), negated=True)
        if self._took("\\"):
            return self._escape()
        character = self._next
        if character in _SPECIAL:
            raise self._wrong(f"{character} has nothing to belong to; write \\{character} for the character")
        self._at += 1
        return CharacterSet(((character, character),))

    def _group(self) -> Node:
        begin = self._at - 1
        if self._took("?") and not self._took(":"):
            raise self._wrong("of the groups with (? only (?: is supported", begin)
        self._depth += 1
        if self._depth > GROUPS_DEPTH_MAX:
            raise self._wrong(f"groups are nested deeper than groups_depth_max={GROUPS_DEPTH_MAX}", begin)
        node = self._alternatives()
        if not self._took(")"):
            raise self._wrong("a ( without its )" if self._next != "$" else "$ stands at the end only", begin)
        self._depth -= 1
        return node

    def _escape(self) -> CharacterSet:
        character = self._next
        self._at += 1
        if character.lower() in _CLASSES:
            return CharacterSet(_CLASSES[character.lower()], negated=character.isupper())
        if not character or (character.isascii() and character.isalnum()):
            raise self._wrong(f"\\{character} is not supported", self._at - 2)
        return CharacterSet(((character, character),))

    def _class(self) -> CharacterSet:
        begin = self._at - 1
        negated = self._took("^")
        ranges: list[tuple[str, str]] = []
        while not self._took("]"):
            if not self._next or self._next == "[":
                raise self._wrong("a [ without its ], or a [ inside it: write \\[ for the character", begin)
            ranges += self._range()
        if not ranges:
            raise self._wrong("a class without characters; write \\] for the character", begin)
        return CharacterSet(tuple(ranges), negated)

    def _range(self) -> Ranges:
        begin = self._at
        low = self._member()
        if not (self._next == "-" and self._written[self._at + 1 : self._at + 2] not in ("", "]")):
            return low.ranges
        self._at += 1
        high = self._member()
        single = len(low.ranges) == len(high.ranges) == 1
        (first, low_end), (high_begin, last) = low.ranges[0], high.ranges[0]
        if not single or first != low_end or high_begin != last or first > last:
            raise self._wrong("a range goes from one character to one that does not come before it", begin)
        return ((first, last),)

    def _member(self) -> CharacterSet:
        if not self._took("\\"):
            self._at += 1
            return CharacterSet(((self._written[self._at - 1],) * 2,))
        found = self._escape()
        if found.negated:
            raise self._wrong("\\D, \\W and \\S inside a class are not supported", self._at - 2)
        return found
