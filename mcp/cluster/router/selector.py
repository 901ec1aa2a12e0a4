"""Which nodes a rule is about: what is said after its ``on``."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mcp.cluster.router.tokens import quoted


class About(enum.Enum):
    """What one requirement looks at."""

    LABEL = "label"
    PROVIDER = "provider"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Requirement:
    """``label:gpu`` (the node has it), ``label:zone=eu`` (with that value), ``provider:cuda`` or ``node:n1``.

    ``value`` is for labels only.
    """

    about: About
    name: str
    value: str | None = None

    def __str__(self) -> str:
        value = "" if self.value is None else f"={quoted(self.value)}"
        return f"{self.about.value}:{quoted(self.name)}{value}"


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that all have to hold."""

    requirements: tuple[Requirement, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.requirements))

    def selects(self, node: str, labels: Mapping[str, str], providers: Collection[str]) -> bool:
        """Say whether a node with this id, these labels and these execution providers is meant."""
        for requirement in self.requirements:
            if requirement.about is About.NODE:
                holds = requirement.name == node
            elif requirement.about is About.PROVIDER:
                holds = requirement.name in providers
            else:
                value = labels.get(requirement.name)
                holds = value is not None and requirement.value in (None, value)
            if not holds:
                return False
        return True
