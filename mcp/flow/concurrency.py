"""How many requests may be under way at once, learned from how long they wait.

Too few leave workers idle; more than enough only makes everybody wait. So the limit grows by a little while
it is used and requests hardly wait, and shrinks in proportion when they wait longer than the target. That is
by default half as long as they are worked on, and longer with few workers: 1/2 + 2/c times, with c workers.
It holds about 1.5 c + 2 under way, however many are sent (additive increase, multiplicative decrease: Chiu
and Jain, "Analysis of the Increase and Decrease Algorithms", Computer Networks and ISDN Systems 17, 1989; on
the queueing delay, and in proportion to the excess: Cho et al., "Overload Control for microsecond-scale RPCs
with Breakwater", OSDI 2020, section 4). Until it has been too many for the first time it grows in proportion.

Who calls can say how long a request waited before it was worked on. Where that is not known it is the latency
less that of requests that found nothing under way; if none did for long, the limit goes down to one for a few
requests to find out (as the minimum round-trip time in Envoy's adaptive concurrency filter). That is rough
where requests differ much in their work, and costs a little, so whoever can should tell the waits.

*Priorities*: each has a share of the limit, at first all of it. When a request is refused, the shares of all
lower priorities are cut; they recover by and by with every request that comes. So a lower priority gets what
the higher ones leave, and is refused first (as in DAGOR, Zhou et al., "Overload Control for Scaling WeChat
Microservices", SoCC 2018, by feedback instead of a histogram).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from mcp.errors import ConfigInvalid
from mcp.flow.outcome import Outcome

PRIORITIES: Final = 4
"""Priorities are 0, the highest, to 3."""
IN_FLIGHT_MAX: Final = 100_000
"""The most that a limit may be set to."""
BELIEVED_S: Final = 5.0
"""How long the times of the latest requests are believed."""
_CUT: Final = 0.8
"""A share is cut to this when a higher priority is refused,"""
_RECOVERY: Final = 0.0003
"""and grows by so much with every request."""
_FEW_WORKERS: Final = 2.0
"""So many times the work may be waited for in addition, divided by how many are worked on at once.

The fewer workers there are, the longer requests wait for chance alone, long before there are too many.
"""
_DECREASE: Final = 0.3
"""How strongly the limit follows an excess of waiting; never below half at once."""
_START: Final = 0.25
"""Until requests wait too long for the first time the limit grows by this part of itself."""
_BASE_CALLS: Final = 50
"""The latency without waiting is the mean of about so many."""
_PROBING_SHARE: Final = 0.1
"""Requests go one by one for no longer than this part of ``baseline_s``: one of them may take for ever."""
_SMOOTHING: Final = 0.2
"""What the latest window counts in the smoothed times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyConfig:
    """The limit of requests under way. Raises :class:`~mcp.errors.ConfigInvalid`.

    ``initial``, ``least``, ``most``: where the limit begins, and between what it stays.
    ``wait_share``: requests may wait so many times the time that they are worked on, on average, and longer
    where there are few workers; ``wait_min_s``: and so long in any case. ``window_s``, ``window_calls``: the
    limit is looked at after so long, and so many calls. ``baseline_s``: so long a latency without waiting is
    believed. ``baseline_calls``: and so many calls are made one by one to measure it anew.
    """

    initial: int = 16
    least: int = 1
    most: int = 1024
    wait_share: float = 0.5
    wait_min_s: float = 0.001
    window_s: float = 0.1
    window_calls: int = 20
    baseline_s: float = 30.0
    baseline_calls: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.initial <= self.most <= IN_FLIGHT_MAX:
            raise ConfigInvalid(
                f"least={self.least!r}, initial={self.initial!r}, most={self.most!r}: these must be in "
                f"order, from 1 to {IN_FLIGHT_MAX}"
            )
        for name in ("wait_share", "wait_min_s", "window_s", "baseline_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigInvalid(f"{name}={getattr(self, name)!r} must be above 0, and finite")
        if self.window_calls < 1 or self.baseline_calls < 1:
            raise ConfigInvalid(
                f"window_calls={self.window_calls!r} and baseline_calls={self.baseline_calls!r} must be 1 "
                "at least"
            )


class AdaptiveLimit:
    """One limit of requests under way, for one model at one node."""

    def __init__(self, config: ConcurrencyConfig) -> None:
        self._config = config
        self._limit = float(config.initial)
        self.in_flight = 0
        """Requests under way."""
        self._starting = True
        """Nobody has waited too long yet."""
        self._shares = [1.0] * PRIORITIES
        self._squeezed = False
        self._work_s: float | None = None
        self._wait_s = 0.0
        self._learned_at = -math.inf
        self._ahead = 0.0
        """How many were under way when the requests came that waited so long, on average."""
        self._base_s = 0.0
        self._base_calls = 0
        self._base_at = -math.inf
        self._probing = 0
        """Calls that are still to be made one by one."""
        self._probing_until = -math.inf
        self._peak = 0
        """The most that were under way in this window."""
        self._begin(-math.inf)

    @property
    def limit(self) -> int:
        """How many may be under way now: a part of a place lets one in."""
        return 1 if self._probing else math.ceil(self._limit)

    @property
    def work_s(self) -> float | None:
        """How long a request is worked on, smoothed, in seconds; ``None``: not known yet."""
        return self._work_s

    def configure(self, config: ConcurrencyConfig) -> None:
        """Have another configuration from now on; what was learned is kept within its bounds."""
        self._config = config
        self._limit = min(max(self._limit, config.least), config.most)

    # -- letting in -------------------------------------------------------------------------------

    def admit(self, now: float, priority: int = 0) -> int:
        """Let one in: how many are under way before it, which :meth:`done` wants; -1: it is refused."""
        ahead, limit = self.in_flight, self._limit
        if self._probing:
            if now < self._probing_until:
                limit = 1.0
            else:
                self._probing = 0
        if self._squeezed:
            self._recover()
            limit *= self._shares[priority]
        if ahead < limit or not ahead:
            self.in_flight = ahead + 1
            if ahead >= self._peak:
                self._peak = ahead + 1
            return ahead
        self._squeeze(priority)
        return -1

    def undo(self) -> None:
        """Take back an :meth:`admit`: the request was refused by somebody else, and never made."""
        self.in_flight -= 1

    def retry_after_s(self) -> float:
        """When a place is likely to be free: about the time of one request."""
        return max(0.001, (self._work_s or 0.0) + self._wait_s)

    def expected_s(self, now: float) -> tuple[float, float] | None:
        """How long a request that came now would be worked on, and wait before; ``None``: not known.

        The wait is that of the latest, or less if less are under way now. It errs on the short side when a
        burst meets an idle server, so that nobody is refused for a wait that nobody has measured. What was
        learned longer than :data:`BELIEVED_S` ago is not known any more: or an estimate for which everybody
        is refused would never be put right.
        """
        if self._work_s is None or now - self._learned_at > BELIEVED_S:
            return None
        return self._work_s, self._wait_s * min(1.0, self.in_flight / max(self._ahead, 1.0))

    def _squeeze(self, priority: int) -> None:
        for lower in range(priority + 1, PRIORITIES):
            self._shares[lower] *= _CUT
            self._squeezed = True

    def _recover(self) -> None:
        self._shares = [min(1.0, share + _RECOVERY) for share in self._shares]
        self._squeezed = min(self._shares) < 1.0

    # -- learning ---------------------------------------------------------------------------------

    def done(
        self, ahead: int, outcome: Outcome, latency_s: float, now: float, waited_s: float | None = None
    ) -> None:
        """A request ended, after ``latency_s``, of which it waited ``waited_s`` before it was worked on.

        ``ahead`` is what :meth:`admit` gave. ``None``: how long it waited is not known.
        """
        self.in_flight -= 1
        if outcome is Outcome.ABANDONED or outcome is Outcome.FAILED:
            return
        if waited_s is None:
            waited_s = self._waited(ahead, latency_s, now)
        else:
            self._base_calls = self._probing = 0
        self._calls += 1
        self._waited_sum += waited_s
        self._worked_sum += latency_s - waited_s
        self._ahead_sum += ahead
        config = self._config
        if self._calls >= config.window_calls and now - self._begun_at >= config.window_s:
            self._look(now)
            self._begin(now)

    def _waited(self, ahead: int, latency_s: float, now: float) -> float:
        """How long it must have waited, judged by how long requests take that find nothing under way."""
        if not ahead:
            self._base_calls = min(self._base_calls + 1, _BASE_CALLS)
            self._base_s += (latency_s - self._base_s) / self._base_calls
            self._base_at = now
            self._probing = max(0, self._probing - 1)
            return 0.0
        if now - self._base_at > self._config.baseline_s and not self._probing:
            self._probe(self._config.baseline_calls, now)
        # May be below 0: requests differ in their work, and only their mean says how long they waited.
        return latency_s - self._base_s if self._base_calls else 0.0

    def _probe(self, calls: int, now: float) -> None:
        self._base_at = now
        self._probing = calls
        self._probing_until = now + self._config.baseline_s * _PROBING_SHARE

    def _begin(self, now: float) -> None:
        self._begun_at = now
        self._calls = self._ahead_sum = 0
        self._waited_sum = self._worked_sum = 0.0
        self._peak = self.in_flight

    def _look(self, now: float) -> None:
        """Judge the window that ends: whether it was used, and how long its requests waited."""
        config = self._config
        wait_s, work_s = max(0.0, self._waited_sum / self._calls), self._worked_sum / self._calls
        known = self._work_s
        self._work_s = work_s if known is None else known + _SMOOTHING * (work_s - known)
        self._wait_s, self._ahead = wait_s, self._ahead_sum / self._calls
        self._learned_at = now
        if self._probing:
            return
        busy = max(1.0, self._worked_sum / max(now - self._begun_at, 1e-9))
        target_s = max(config.wait_min_s, self._work_s * (config.wait_share + _FEW_WORKERS / busy))
        if wait_s > target_s and 0 < self._base_calls < config.baseline_calls:
            # Judged by too few latencies without waiting: those that lack are measured first.
            self._probe(config.baseline_calls - self._base_calls, now)
        elif wait_s > target_s:
            self._starting = False
            self._limit *= max(0.5, 1.0 - _DECREASE * (wait_s - target_s) / target_s)
        elif self._peak >= self._limit - 1:
            self._limit += max(1.0, self._limit * _START if self._starting else math.sqrt(self._limit) / 2)
        self._limit = min(max(self._limit, config.least), config.most)
