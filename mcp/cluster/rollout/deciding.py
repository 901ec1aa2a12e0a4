"""The decision: wait, advance, finish or roll back, and why.

A new version is rolled back when it is *certain* that it misbehaves: when so many failures, or so many
requests that are slower than the old version's 99th percentile times what is allowed, would come about by
chance with a probability of at most :data:`CHANCE_MAX`. That probability is bounded by Chernoff's bound in
the form with the relative entropy, ``exp(-n KL(k/n, p))`` (Chernoff 1952; Hoeffding, "Probability
Inequalities for Sums of Bounded Random Variables", 1963, theorem 1), which is never too small. One failure of
three proves nothing; three of fifteen are enough where one of a hundred is allowed.

It advances when nothing speaks against it: enough requests, no more failures or slow ones among them than
are allowed, and the interval over. In between it waits: what is too much and not yet certain is one or the
other after some more requests.

How slow is too slow is read off the old version's requests since the rollout began, because at the last step
there are no new ones. With fewer than :data:`COMPARED_MIN` of them latencies are not compared.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from mcp.cluster.rollout.figures import Figures

CHANCE_MAX: Final = 0.005
"""What chance explains with this probability at most is taken for certain."""
QUANTILE: Final = 0.99
COMPARED_MIN: Final = 100
"""Requests that the old version's 99th percentile is read off at least."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was ordered. ``steps`` are percents of the requests, growing, the last 100.

    ``max_error`` is the share of requests that may fail, ``max_p99_ratio`` how many times as long as the old
    version's 99th percentile the new one's may be, ``interval_s`` how long a step takes at least, and
    ``min_requests`` how many requests of the new version a step sees at least.
    """

    steps: tuple[int, ...]
    max_error: float
    max_p99_ratio: float
    interval_s: float
    min_requests: int


class Action(enum.Enum):
    """What is to be done."""

    WAIT = "wait"
    ADVANCE = "advance"
    FINISH = "finish"
    ROLL_BACK = "roll_back"


class Verdict(NamedTuple):
    """What is to be done and why, in words. ``for_requests``: only more requests can end the waiting."""

    action: Action
    reason: str
    for_requests: bool = False


def decide(plan: Plan, step: int, since_s: float, now: float, new: Figures, old: Figures) -> Verdict:
    """Decide about the step ``step``: 0 is the trial, with half of the first share, then one for each share.

    ``new`` are the new version's figures since the step began, at ``since_s`` (seconds, by the same clock as
    ``now``); ``old`` those of the old version since the rollout began. The trial has no interval: it is over
    once enough requests went well.
    """
    limit_s = _limit_s(plan, old)
    slow = 0 if limit_s is None else new.latencies.above(limit_s)
    answered = new.latencies.count
    told_slow = f"{slow} of {answered} took longer than {_ms(limit_s or 0.0)}, which 1 of 100 may"
    told_failed = f"{new.failures} of {new.requests} requests failed, and {plan.max_error * 100:.3g} % may"
    if is_certain(new.failures, new.requests, plan.max_error):
        return Verdict(Action.ROLL_BACK, told_failed)
    if answered >= plan.min_requests and is_certain(slow, answered, 1 - QUANTILE):
        return Verdict(Action.ROLL_BACK, f"{told_slow}: {plan.max_p99_ratio:g} times the old version's p99")
    if new.requests == 0:
        return Verdict(Action.WAIT, "no requests yet: it waits for traffic", True)
    if new.requests < plan.min_requests:
        return Verdict(Action.WAIT, f"{new.requests} of min_requests={plan.min_requests} requests", True)
    if new.failures > plan.max_error * new.requests:
        return Verdict(Action.WAIT, f"{told_failed}; that may be chance, so it waits for more requests", True)
    if slow > (1 - QUANTILE) * answered:
        return Verdict(Action.WAIT, f"{told_slow}; that may be chance, so it waits for more requests", True)
    left_s = since_s + plan.interval_s - now
    if step and left_s > 0:
        return Verdict(Action.WAIT, f"all is well; the step takes {math.ceil(left_s)} s more")
    told = f"{new.failures} of {new.requests} requests failed"
    return Verdict(Action.FINISH if step >= len(plan.steps) else Action.ADVANCE, told)


def is_certain(events: int, of: int, share: float) -> bool:
    """Whether so many are more than chance explains, if each happens with the probability ``share``."""
    if events <= share * of:
        return False
    if share <= 0:
        return True
    return of * relative_entropy(events / of, share) >= -math.log(CHANCE_MAX)


def relative_entropy(seen: float, expected: float) -> float:
    """Return the Kullback-Leibler divergence of two coins, in nats: ``seen`` in 0..1, ``expected`` within."""
    first = seen * math.log(seen / expected) if seen > 0 else 0.0
    second = (1 - seen) * math.log((1 - seen) / (1 - expected)) if seen < 1 else 0.0
    return first + second


def _limit_s(plan: Plan, old: Figures) -> float | None:
    """What the new version's 99th percentile has to stay below; ``None``: that is not known."""
    if old.latencies.count < COMPARED_MIN:
        return None
    return plan.max_p99_ratio * old.latencies.quantile_s(QUANTILE)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
