"""Declarative rules: ``when length > 2048 use glm-large on label:gpu``.

A set of them is replicated as texts and changes as a whole, with a version that counts up: so every node
has the same rules at the same position of the log, and a decision can say under which it was made. The first
rule that holds decides. :mod:`mcp.cluster.router.grammar` has the language.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from mcp.cluster.router.conditions import Condition
from mcp.cluster.router.fields import Fields, items, text, whole
from mcp.cluster.router.grammar import parse
from mcp.cluster.router.selector import Selector
from mcp.cluster.router.tokens import RULE_CHARS_MAX, quoted
from mcp.errors import InvalidArgument, TooLarge

RULES_MAX: Final = 256
"""The most rules of one set."""
RULES_CHARS_MAX: Final = 64 << 10
"""All rules of one set together, as texts."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``version`` is ``None`` where the routes, or the active version, are to decide."""

    condition: Condition
    model: str
    version: str | None = None
    selector: Selector | None = None

    def __str__(self) -> str:
        on = "" if self.selector is None else f" on {self.selector}"
        return f"when {self.condition} use {self.target_text()}{on}"

    def target_text(self) -> str:
        """Return what follows ``use``, as the rule has it."""
        return quoted(self.model) + ("" if self.version is None else f"@{quoted(self.version)}")

    @property
    def target(self) -> str:
        """What to resolve: a name, an alias or ``name@version``."""
        return self.model if self.version is None else f"{self.model}@{self.version}"

    @classmethod
    def parse(cls, written: str) -> Rule:
        """Read a rule. Raises :class:`~mcp.errors.InvalidArgument` with the position of what is wrong."""
        return cls(*parse(written))


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order in which they are tried. ``version`` counts the changes of the set."""

    version: int = 0
    rules: tuple[Rule, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Return plain values: ``{"version", "rules": [text, ...]}``; equal for equal sets."""
        return {"version": self.version, "rules": [str(rule) for rule in self.rules]}

    @classmethod
    def from_plain(cls, plain: object) -> RuleSet:
        """Read what :meth:`to_plain` wrote, or anybody else.

        Raises :class:`~mcp.errors.InvalidArgument` with the path of the field and the position in the text,
        and :class:`~mcp.errors.TooLarge` over :data:`RULES_MAX` or :data:`RULES_CHARS_MAX`.
        """
        fields = Fields(plain, "")
        version = fields.take("version", whole(0))
        written = fields.take(
            "rules", lambda value: [text(each, RULE_CHARS_MAX) for each in items(value, RULES_MAX)]
        )
        fields.done()
        return cls(version, _parsed(((f"rules[{place}]", each) for place, each in enumerate(written))))

    @classmethod
    def read(cls, written: str, version: int = 0) -> RuleSet:
        """Read a file of rules: one a line; empty lines, and those that begin with ``#``, are passed over."""
        lines = ((f"line {number}", line.strip()) for number, line in enumerate(written.splitlines(), 1))
        return cls(version, _parsed((place, line) for place, line in lines if line and line[0] != "#"))


def _parsed(written: Iterable[tuple[str, str]]) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    chars = 0
    for place, each in written:
        chars += len(each)
        if len(rules) >= RULES_MAX or chars > RULES_CHARS_MAX:
            limits = f"rules_max={RULES_MAX} or rules_chars_max={RULES_CHARS_MAX}"
            raise TooLarge(f"{place}: more rules, or longer ones, than {limits} allow")
        try:
            rules.append(Rule.parse(each))
        except InvalidArgument as error:
            raise InvalidArgument(f"{place}: {error.message}", details=error.details) from None
    return tuple(rules)
