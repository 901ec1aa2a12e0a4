"""What to do instead of a request that was refused or has failed: what its model's owner declared.

The steps are tried in the order in which they are declared: another model, an answer that was kept, a fixed
answer. The first that can be done is done. Another model's own fallbacks are not followed, so no circle can
come about. A client that asks too much gets no fallback unless a step says so: it would be a way around its
limit.

Source: Nygard, "Release It!", 2nd edition, 2018, chapter 5 (what a caller does while a breaker is open).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from mcp.errors import ConfigInvalid
from mcp.flow.cache import CachedAnswer
from mcp.flow.refusal import Reason, Refusal

STEPS_MAX: Final = 8
"""Fallbacks of one model."""

ReasonName = Literal[
    "client_rate",
    "model_rate",
    "cluster_rate",
    "concurrency",
    "node",
    "deadline",
    "too_late",
    "breaker",
    "lease",
    "failed",
]
_WHEN: Final[tuple[ReasonName, ...]] = (
    "model_rate",
    "concurrency",
    "deadline",
    "too_late",
    "breaker",
    "failed",
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackStep:
    """One thing to do instead. Raises :class:`~mcp.errors.ConfigInvalid`.

    ``kind``: "model" asks ``model``, "cached" gives an answer that is no older than ``max_age_s``, "fixed"
    gives ``answer``, a text that means nothing here. ``when``: for which reasons.
    """

    kind: Literal["model", "cached", "fixed"]
    model: str | None = None
    max_age_s: float | None = None
    answer: str | None = None
    when: tuple[ReasonName, ...] = _WHEN

    def __post_init__(self) -> None:
        needs = {"model": "model", "cached": "max_age_s", "fixed": "answer"}
        if self.kind not in needs:
            raise ConfigInvalid(f"kind={self.kind!r}: a fallback is one of {', '.join(needs)}")
        given = {name for name in needs.values() if getattr(self, name) is not None}
        if given != {needs[self.kind]}:
            raise ConfigInvalid(
                f"a fallback of kind {self.kind!r} has {needs[self.kind]} and not "
                f"{', '.join(sorted(given - {needs[self.kind]})) or 'nothing'}"
            )
        if self.max_age_s is not None and not 0 < self.max_age_s < math.inf:
            raise ConfigInvalid(f"max_age_s={self.max_age_s!r} must be a time above 0 in seconds")
        if not self.when:
            raise ConfigInvalid("a fallback without a reason in 'when' is never used")


@dataclass(frozen=True, slots=True)
class Decision(Generic[T]):
    """What is done instead: ``step``, or nothing (``None``), and then the caller gets the refusal's error."""

    step: FallbackStep | None
    reasons: tuple[str, ...]
    """For people: what was looked at, and why it was taken or not."""
    ticket: T | None = None
    """Of another model that is asked: it was let in."""
    answer: Any = None
    age_s: float = 0.0
    """Of an answer that was kept, in seconds."""


def decide(
    steps: tuple[FallbackStep, ...],
    reason: Reason,
    *,
    admit: Callable[[str], T | Refusal],
    cached: Callable[[float], CachedAnswer | None],
) -> Decision[T]:
    """The first of ``steps`` that can be done for ``reason``.

    ``admit`` asks whether another model lets the request in now. ``cached`` gives the answer that was kept,
    if it is no older than so many seconds.
    """
    story: list[str] = []
    for number, step in enumerate(steps, 1):
        name = f"{number}. {step.kind}"
        if reason.value not in step.when:
            story.append(f"{name}: not for {reason.value}")
            continue
        if step.model is not None:
            ticket = admit(step.model)
            if not isinstance(ticket, Refusal):
                return Decision(step, (*story, f"{name}: {step.model} takes it"), ticket)
            story.append(f"{name}: {step.model} refuses it too ({ticket.reason.value})")
        elif step.max_age_s is not None:
            found = cached(step.max_age_s)
            if found is not None:
                said = f"{name}: an answer of {found.age_s:.3g} s ago"
                return Decision(step, (*story, said), None, found.answer, found.age_s)
            story.append(f"{name}: none that is younger than {step.max_age_s:g} s")
        else:
            return Decision(step, (*story, f"{name}: as declared"), None, step.answer)
    return Decision(None, tuple(story) or ("no fallback is declared",))
