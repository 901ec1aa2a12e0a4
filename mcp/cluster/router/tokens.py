"""The words of a rule's text.

Names and numbers are one kind of token, because model names may begin with a digit and versions often do:
what one means is for the place where it stands to say.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple

from mcp.errors import InvalidArgument

RULE_CHARS_MAX: Final = 4096
"""The longest text of one rule."""
KEYWORDS: Final = frozenset({"when", "use", "on", "and", "or", "not"})
"""Words that stand for themselves: as a name or a value they have to be quoted."""

_WORD: Final = re.compile(r"-?[A-Za-z0-9_][A-Za-z0-9_./-]*")
_OPERATOR: Final = re.compile(r"==|!=|<=|>=|<|>|[(),:@=]")
_SPACE: Final = re.compile(r"[ \t]*")
_STRING: Final = re.compile(r'"((?:[^"\\\x00-\x1f]|\\["\\])*)"')
_ESCAPE: Final = re.compile(r"\\(.)")


class Kind(enum.Enum):
    """What a token is."""

    WORD = "word"
    STRING = "string"
    OPERATOR = "operator"
    END = "end"


class Token(NamedTuple):
    """A token. ``text`` is its value: a string's is without quotes. ``position`` counts characters from 1."""

    kind: Kind
    text: str
    position: int

    def __str__(self) -> str:
        if self.kind is Kind.END:
            return "the end"
        return f'"{self.text:.40}" in quotes' if self.kind is Kind.STRING else f"{self.text:.40}"


def unexpected(position: int, expected: str, got: object) -> InvalidArgument:
    """Return the error for a text that is no rule: where, what was expected there, and what is there."""
    return InvalidArgument(
        f"at character {position}: expected {expected}, got {got}",
        details={"position": position, "expected": expected},
    )


def tokens(text: str) -> list[Token]:
    """Cut a text into tokens, the last of which is the end.

    Raises :class:`~mcp.errors.InvalidArgument` with the position of what is no token, and for a text over
    :data:`RULE_CHARS_MAX`.
    """
    if len(text) > RULE_CHARS_MAX:
        raise InvalidArgument(f"a rule of {len(text)} characters is over rule_chars_max={RULE_CHARS_MAX}")
    found: list[Token] = []
    at = _skip(text, 0)
    while at < len(text):
        token, at = _next(text, at)
        found.append(token)
        at = _skip(text, at)
    return [*found, Token(Kind.END, "", len(text) + 1)]


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _next(text: str, at: int) -> tuple[Token, int]:
    for kind, pattern in ((Kind.WORD, _WORD), (Kind.OPERATOR, _OPERATOR)):
        match = pattern.match(text, at)
        if match:
            return Token(kind, match.group(), at + 1), match.end()
    string = _STRING.match(text, at)
    if string:
        return Token(Kind.STRING, _ESCAPE.sub(r"\1", string.group(1)), at + 1), string.end()
    if text[at] == '"':
        raise unexpected(
            at + 1,
            r"a text in double quotes on one line, in which \" and \\ are the only escapes",
            text[at : at + 20],
        )
    raise unexpected(at + 1, "a word, a number, a text in double quotes or an operator", repr(text[at]))


def quoted(name: str) -> str:
    """Return a name as a rule has it: bare where that reads back as the same name, else in quotes."""
    if _WORD.fullmatch(name) and name not in KEYWORDS:
        return name
    return in_quotes(name)


def in_quotes(text: str) -> str:
    """Return a text as a string of a rule."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
