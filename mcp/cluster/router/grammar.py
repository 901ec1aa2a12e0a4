"""From a rule's text to its parts: a recursive descent whose depth is bounded.

::

    rule        = "when" condition "use" target [ "on" selector ]
    condition   = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" condition ")" | feature operator value
    feature     = "length" | "batch" | "bytes" | "priority" | "dtype" | "model" | "family" | "task"
                | "hint" | "client" | "header." NAME
    operator    = "==" | "!=" | "<" | "<=" | ">" | ">="      (texts: the first two)
    target      = name [ "@" name ]
    selector    = requirement { "," requirement }
    requirement = "label" ":" name [ "=" name ] | "provider" ":" name | "node" ":" name

A name, and a value that is a text, is a word or stands in double quotes. Numbers are integers; of bytes also
with a unit: kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (of 1024), and then with decimals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from mcp.cluster.router.conditions import (
    DTYPE,
    HEADER,
    NUMBERS,
    TEXTS,
    And,
    Comparison,
    Condition,
    Not,
    Operator,
    Or,
)
from mcp.cluster.router.selector import About, Requirement, Selector
from mcp.cluster.router.tokens import KEYWORDS, Kind, Token, tokens, unexpected
from mcp.plain import meant
from mcp.wire.tensors import BYTES_DTYPE, DTYPES

DEPTH_MAX: Final = 32
"""How deep parentheses and ``not`` are nested in a rule."""
REQUIREMENTS_MAX: Final = 16
"""The most requirements of one selector."""

_NUMBER_MAX: Final = 2**63 - 1
_UNITS: Final = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}")
_AMOUNT: Final = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,12}))?([A-Za-z]*)")
_HEADER_NAME: Final = re.compile(r"[a-z0-9_./-]{1,128}")
_OPERATORS: Final = {each.value: each for each in Operator}
_OF_TEXTS: Final = (Operator.EQUAL, Operator.UNEQUAL)
_DTYPES: Final = (*DTYPES, BYTES_DTYPE)
_FEATURES: Final = (*NUMBERS, DTYPE, *TEXTS)
_FEATURES_SAID: Final = ", ".join((*_FEATURES, f"{HEADER}NAME"))


class Parts(NamedTuple):
    """What a rule says: when, which model (and version), and on which nodes, if that is said."""

    condition: Condition
    model: str
    version: str | None
    selector: Selector | None


def parse(text: str) -> Parts:
    """Read a rule.

    Raises :class:`~mcp.errors.InvalidArgument` with ``details["position"]`` (characters, from 1) and
    ``details["expected"]`` for what is none, or is over :data:`DEPTH_MAX`.
    """
    return _Parser(tokens(text)).rule()


class _Parser:
    def __init__(self, found: list[Token]) -> None:
        self._tokens = found
        self._at = 0
        self._depth = 0

    # -- tokens -----------------------------------------------------------------------------------

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._tokens[self._at]
        self._at += token.kind is not Kind.END
        return token

    def _is(self, text: str) -> bool:
        return self._token.text == text and self._token.kind in (Kind.WORD, Kind.OPERATOR)

    def _took(self, text: str) -> bool:
        found = self._is(text)
        self._at += found
        return found

    def _expect(self, text: str, what: str | None = None, known: Iterable[str] = ()) -> None:
        if not self._took(text):
            raise self._unexpected(what or f'"{text}"', known=known or [text])

    def _unexpected(self, expected: str, token: Token | None = None, known: Iterable[str] = ()) -> Exception:
        """The error for a token; with the one of the ``known`` words that it may be meant for."""
        token = token or self._token
        told = meant(token.text, known) if token.kind is Kind.WORD else ""
        return unexpected(token.position, expected, f"{token}{told}")

    # -- the grammar ------------------------------------------------------------------------------

    def rule(self) -> Parts:
        self._expect("when")
        condition = self._condition()
        self._expect("use", '"and", "or" or "use"', ("and", "or", "use"))
        model = self._name("the name or alias of a model")
        version = self._name("a version") if self._took("@") else None
        selector = self._selector() if self._took("on") else None
        if self._token.kind is not Kind.END:
            expected = '"," or the end' if selector else '"@", "on" or the end'
            raise self._unexpected(expected, known=() if selector else ["on"])
        return Parts(condition, model, version, selector)

    def _condition(self) -> Condition:
        parts = [self._conjunction()]
        while self._took("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self) -> Condition:
        parts = [self._negation()]
        while self._took("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Condition:
        opening = self._token
        if not (self._is("not") or self._is("(")):
            return self._comparison()
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._unexpected(f"at most depth_max={DEPTH_MAX} levels of parentheses and not", opening)
        self._take()
        if opening.text == "not":
            condition: Condition = Not(self._negation())
        else:
            condition = self._condition()
            self._expect(")", '"and", "or" or ")"')
        self._depth -= 1
        return condition

    def _comparison(self) -> Comparison:
        feature = self._feature()
        token = self._take()
        found = _OPERATORS.get(token.text) if token.kind is Kind.OPERATOR else None
        numeric = feature in NUMBERS
        if found is None or not (numeric or found in _OF_TEXTS):
            of = "a number" if numeric else "a text"
            choices = _OPERATORS.values() if numeric else _OF_TEXTS
            allowed = ", ".join(each.value for each in choices)
            raise self._unexpected(f"a comparison of {feature}, which is {of}: one of {allowed}", token)
        if numeric:
            return Comparison(feature, found, self._number(feature))
        return Comparison(feature, found, self._text(feature))

    def _feature(self) -> str:
        token = self._take()
        if token.kind is Kind.WORD:
            if token.text in NUMBERS or token.text in TEXTS or token.text == DTYPE:
                return token.text
            header, name = token.text[: len(HEADER)], token.text[len(HEADER) :].lower()
            if header == HEADER and _HEADER_NAME.fullmatch(name):
                return HEADER + name
        known = (*_FEATURES, "not", f"{HEADER}{token.text.partition('.')[2]}")
        raise self._unexpected(f'"not", "(" or a feature, one of {_FEATURES_SAID}', token, known)

    def _number(self, feature: str) -> int:
        token = self._take()
        amount = feature == "bytes"
        text = token.text if token.kind is Kind.WORD else ""
        value = _bytes(text) if amount else int(text) if _INTEGER.fullmatch(text) else None
        if value is None or abs(value) > _NUMBER_MAX:
            units = "a whole number of bytes, such as 2048, 64kB or 1.5MiB"
            raise self._unexpected(units if amount else "an integer, such as 2048", token)
        return value

    def _text(self, feature: str) -> str:
        token = self._take()
        value = token.text
        if token.kind is not Kind.STRING and (token.kind is not Kind.WORD or _means_something(value)):
            raise self._unexpected(f"a text to compare {feature} with, as a word or in double quotes", token)
        if feature == DTYPE and value not in _DTYPES:
            raise self._unexpected(f"a type, one of {', '.join(_DTYPES)}", token, _DTYPES)
        return value

    def _name(self, what: str) -> str:
        token = self._take()
        if token.kind is Kind.STRING and token.text:
            return token.text
        if token.kind is not Kind.WORD or token.text in KEYWORDS:
            raise self._unexpected(f"{what}, as a word or in double quotes", token)
        return token.text

    def _selector(self) -> Selector:
        requirements = [self._requirement()]
        while self._is(","):
            if len(requirements) >= REQUIREMENTS_MAX:
                raise self._unexpected(f"at most requirements_max={REQUIREMENTS_MAX} requirements")
            self._take()
            requirements.append(self._requirement())
        return Selector(tuple(requirements))

    def _requirement(self) -> Requirement:
        kinds = {about.value: about for about in About}
        token = self._take()
        about = kinds.get(token.text) if token.kind is Kind.WORD else None
        if about is None:
            raise self._unexpected(f"one of {', '.join(kinds)}, and a colon", token, kinds)
        self._expect(":")
        name = self._name(f"the name of a {about.value}")
        value = self._name("the label's value") if about is About.LABEL and self._took("=") else None
        return Requirement(about, name, value)


def _means_something(word: str) -> bool:
    """Whether a word stands for something else than itself, so that as a value it has to be quoted."""
    return word in KEYWORDS or word in NUMBERS or word in TEXTS or word == DTYPE


def _bytes(text: str) -> int | None:
    """The bytes that an amount is, ``None`` if it is none, or no whole number of them."""
    found = _AMOUNT.fullmatch(text)
    if found is None or found.group(3) not in _UNITS:
        return None
    whole, decimals = found.group(1), found.group(2) or ""
    tenths = 10 ** len(decimals)
    value, rest = divmod(int(whole + decimals) * _UNITS[found.group(3)], tenths)
    return None if rest else value
