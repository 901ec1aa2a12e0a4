"""Circuit breaker: who fails or drags is left alone for a while, then tried with a few calls.

*Closed*: calls are made, and the latest are counted. When there are enough of them and too large a share
failed or was slow, it *opens*: no call is made for a time, which doubles each time that it opens again, with
jitter, so that many callers do not come back together. Then it is *half open*: a few calls, the probes, are
made, and no more. When all have ended, their shares of failed and slow ones decide whether it closes or opens
again; it opens as soon as that can no longer be averted. A probe that never ends counts as failed.

A call that was begun before the breaker last changed says nothing about how things are now, and is not
counted. A slow call that fails counts as both.

Sources: Nygard, "Release It!", 2nd edition, 2018, chapter 5, "Circuit Breaker"; the thresholds are those of
resilience4j's CircuitBreaker.
"""

from __future__ import annotations

import enum
import math
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from mcp.errors import ConfigInvalid
from mcp.flow.call_window import CALLS_MAX, FAILED, SLOW, CallWindow, LastCalls, LastSeconds
from mcp.flow.limiter import Refused
from mcp.flow.outcome import Outcome

PROBES_MAX: Final = 100
"""The most calls that a half open breaker may be set to make."""
BREAKERS_MAX: Final = 4096
"""Breakers of one table, one per node and model."""
LOOKS_MAX: Final = 8
"""Of the least recently used breakers, so many are looked at for one that is closed."""
_DOUBLINGS_MAX: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """When a breaker opens, and for how long. Raises :class:`~mcp.errors.ConfigInvalid`.

    ``window``: whether the last ``window_calls`` calls count, or those of the last ``window_s`` seconds.
    ``calls_min``: with fewer calls in the window it never opens.
    ``failure_share``, ``slow_share``: it opens when so large a share of them failed, or was slow.
    ``slow_after_s``: a call that took so long, or longer, was slow.
    ``open_s``: how long it is open the first time; twice as long each time that its probes fail, and
    ``open_max_s`` at most. Up to the share ``jitter`` of that is taken off at random.
    ``probes``: calls made while it is half open. ``probe_timeout_s``: after that one counts as failed.
    """

    window: Literal["calls", "time"] = "calls"
    window_calls: int = 100
    window_s: float = 10.0
    calls_min: int = 20
    failure_share: float = 0.5
    slow_share: float = 1.0
    slow_after_s: float = 60.0
    open_s: float = 1.0
    open_max_s: float = 60.0
    jitter: float = 0.2
    probes: int = 5
    probe_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.window not in ("calls", "time"):
            raise ConfigInvalid(f"window={self.window!r}: a breaker's window is one of 'calls' and 'time'")
        if not 1 <= self.window_calls <= CALLS_MAX or not 1 <= self.probes <= PROBES_MAX:
            raise ConfigInvalid(
                f"window_calls={self.window_calls!r} and probes={self.probes!r}: the first is from 1 to "
                f"{CALLS_MAX}, the second from 1 to {PROBES_MAX}"
            )
        if self.calls_min < 1 or (self.window == "calls" and self.calls_min > self.window_calls):
            raise ConfigInvalid(
                f"calls_min={self.calls_min!r} must be 1 at least, and at most "
                f"window_calls={self.window_calls}, or the breaker could never open"
            )
        for name in ("failure_share", "slow_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigInvalid(f"{name}={getattr(self, name)!r} must be above 0 and at most 1")
        for name in ("window_s", "slow_after_s", "open_s", "probe_timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigInvalid(f"{name}={getattr(self, name)!r} must be a time above 0 in seconds")
        if not self.open_s <= self.open_max_s < math.inf or not 0 <= self.jitter < 1:
            raise ConfigInvalid(
                f"open_max_s={self.open_max_s!r} must be at least open_s={self.open_s!r}, and "
                f"jitter={self.jitter!r} from 0 up to, but not, 1"
            )


class State(enum.Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Breaker:
    """One breaker. Starts closed."""

    __slots__ = (
        "_config",
        "_epoch",
        "_now",
        "_open_until",
        "_opened",
        "_probe_failed",
        "_probe_slow",
        "_probes",
        "_probes_ended",
        "_random",
        "_serial",
        "_state",
        "_window",
        "opened",
    )

    def __init__(self, config: BreakerConfig, random_: random.Random) -> None:
        self._config = config
        self._random = random_
        self._window: CallWindow = (
            LastCalls(config.window_calls) if config.window == "calls" else LastSeconds(config.window_s)
        )
        self._now = -math.inf
        self._state = State.CLOSED
        self._serial = 0
        self._epoch = 0
        """The permit of every call that was begun since the breaker closed last."""
        self._open_until = -math.inf
        self._opened = 0
        """How often it opened since it was closed last."""
        self._probes: dict[int, float] = {}
        """The probes under way: permit to when it was begun."""
        self._probes_ended = 0
        self._probe_failed = 0
        self._probe_slow = 0
        self.opened = 0
        """How often it opened at all."""

    def state(self, now: float) -> State:
        """Where it stands now."""
        self._advance(now)
        return self._state

    def admit(self, now: float) -> int | Refused:
        """A call is about to be made: the permit that :meth:`done` wants, or when to come back."""
        if self._state is State.CLOSED:
            return self._epoch
        self._advance(now)
        if self._state is State.OPEN:
            return Refused(self._open_until - self._now)
        if self._probes_ended + len(self._probes) < self._config.probes:
            self._serial += 1
            self._probes[self._serial] = self._now
            return self._serial
        oldest = min(self._probes.values())
        return Refused(min(self._config.open_s, max(0.0, oldest + self._config.probe_timeout_s - self._now)))

    def done(self, permit: int, outcome: Outcome, latency_s: float, now: float) -> None:
        """A call that :meth:`admit` let in has ended, after ``latency_s``."""
        verdict = 0 if outcome is Outcome.SUCCEEDED or outcome is Outcome.ABANDONED else FAILED
        if latency_s >= self._config.slow_after_s:
            verdict |= SLOW
        if self._state is State.CLOSED:
            if permit == self._epoch and outcome is not Outcome.ABANDONED:
                self._count(verdict, now)
            return
        self._advance(now)
        if self._probes.pop(permit, None) is not None and outcome is not Outcome.ABANDONED:
            self._probe_ended(verdict)

    def _count(self, verdict: int, now: float) -> None:
        if now > self._now:  # noqa: PLR1730 (max costs more, and this is done for every call)
            self._now = now
        window, config = self._window, self._config
        window.add(self._now, verdict)
        if not window.failed and not window.slow:
            return
        if window.calls >= config.calls_min and (
            window.failed >= config.failure_share * window.calls
            or window.slow >= config.slow_share * window.calls
        ):
            self._open()

    def _advance(self, now: float) -> None:
        """Do what is due at ``now``: half open, or count the probes that never ended."""
        self._now = max(self._now, now)
        if self._state is State.OPEN and self._now >= self._open_until:
            self._state = State.HALF_OPEN
            self._probes_ended = self._probe_failed = self._probe_slow = 0
        if self._state is State.HALF_OPEN:
            overdue_s = self._now - self._config.probe_timeout_s
            for permit in [permit for permit, begun in self._probes.items() if begun <= overdue_s]:
                if self._probes.pop(permit, None) is not None:
                    self._probe_ended(FAILED | SLOW)

    def _probe_ended(self, verdict: int) -> None:
        config = self._config
        self._probes_ended += 1
        self._probe_failed += verdict & FAILED
        self._probe_slow += verdict >> 1
        if (
            self._probe_failed >= config.failure_share * config.probes
            or self._probe_slow >= config.slow_share * config.probes
        ):
            self._open()
        elif self._probes_ended >= config.probes:
            self._close()

    def _open(self) -> None:
        config = self._config
        longest_s = min(config.open_max_s, config.open_s * 2.0 ** min(self._opened, _DOUBLINGS_MAX))
        self._open_until = self._now + longest_s * (1.0 - config.jitter * self._random.random())
        self._state = State.OPEN
        self._opened += 1
        self.opened += 1
        self._probes.clear()
        self._window.clear()

    def _close(self) -> None:
        self._state = State.CLOSED
        self._opened = 0
        self._serial += 1
        self._epoch = self._serial


class Breakers:
    """A breaker for each node and model. ``config_of`` gives a model's configuration; ``None``: no breaker.

    With ``breakers_max`` of them the least recently used makes room, one that is closed if there is any
    among the first looked at. Names of nodes and models come from the cluster, not from its clients.
    """

    def __init__(
        self,
        config_of: Callable[[str], BreakerConfig | None],
        random_: random.Random,
        breakers_max: int = BREAKERS_MAX,
    ) -> None:
        self._config_of = config_of
        self._random = random_
        self._breakers_max = breakers_max
        self._breakers: OrderedDict[tuple[str, str], Breaker | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._breakers)

    def of(self, node: str, model: str, now: float) -> Breaker | None:
        """The breaker of ``model`` at ``node``, made now if there was none."""
        key = (node, model)
        try:
            found = self._breakers[key]
        except KeyError:
            config = self._config_of(model)
            self._make_room(now)
            found = self._breakers[key] = None if config is None else Breaker(config, self._random)
            return found
        self._breakers.move_to_end(key)
        return found

    def all(self) -> list[tuple[tuple[str, str], Breaker]]:
        """Every breaker, by node and model."""
        return [(key, breaker) for key, breaker in self._breakers.items() if breaker is not None]

    def states(self, now: float) -> dict[tuple[str, str], State]:
        """Where each breaker stands, by node and model, in that order."""
        return {
            key: breaker.state(now)
            for key, breaker in sorted(self._breakers.items(), key=lambda item: item[0])
            if breaker is not None
        }

    def forget(self, model: str) -> None:
        """Drop the breakers of ``model``: its configuration has changed."""
        for key in [key for key in self._breakers if key[1] == model]:
            del self._breakers[key]

    def _make_room(self, now: float) -> None:
        if len(self._breakers) < self._breakers_max:
            return
        looked_at = list(islice(self._breakers.items(), LOOKS_MAX))
        closed = (key for key, breaker in looked_at if not breaker or breaker.state(now) is State.CLOSED)
        del self._breakers[next(closed, looked_at[0][0])]
