"""One direction between two places: what is wrong with it now, and what that does to bytes. No sockets.

TCP delivers every byte once and in order, or breaks. So a fault on a path may hold bytes back, let them
wait, let few of them pass, break the connection, or change them; it can never repeat, drop or reorder
them within a connection, and kinds of faults that would have to are refused by name.

Loss is what TCP makes of it: a lost piece is sent again after a timeout that doubles, behind it
everything waits, and one that is lost :data:`LOSSES_TO_RESET` times in a row breaks the connection,
whereby messages do get lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from simulations.faults import FaultKind
from simulations.soak.kinds import Kind, LiveKind

RETRANSMISSION_S: Final = 0.2
"""After which a lost piece is sent again; twice as long each further time (Linux's least timeout)."""
LOSSES_TO_RESET: Final = 3
"""So many losses of one piece in a row break its connection."""
BUFFER_BYTES_MAX: Final = 4 * 1024 * 1024
"""How many bytes wait on one direction of one connection before its sender has to."""
BURST_S: Final = 0.02
"""A throttled path carries at once what it may carry in this time, unless an effect says otherwise."""

BLOCKING: Final = frozenset({FaultKind.PARTITION, FaultKind.ONE_WAY, FaultKind.PARTIAL})
"""Nothing passes."""
PATH_KINDS: Final = BLOCKING | {FaultKind.DELAY, FaultKind.LOSS, FaultKind.THROTTLE, LiveKind.CORRUPT}
"""What a path does to bytes. Resets and half-open connections happen to connections: see the relay."""
IMPOSSIBLE: Final[dict[Kind, str]] = {
    FaultKind.DUPLICATE: "TCP never delivers a byte twice",
    FaultKind.REORDER: "TCP never delivers bytes out of order",
}


class Broken(Exception):
    """The connection is no more, for whichever reason."""


@dataclass(slots=True, eq=False)
class Effect:
    """One fault on one or more paths. ``amount`` is as at the kind; ``hits`` counts what it did.

    ``jitter_s``: a delay varies by as much, up and down. ``correlation``: how much each draw takes after
    the last, 0 to 1 (the kernel's netem does it so). ``burst_bytes``: what a throttled path carries at once.
    ``buffer_bytes``: what may wait there. Raises ``ValueError`` for what no TCP connection can suffer.
    """

    kind: Kind
    amount: float = 0.0
    jitter_s: float = 0.0
    correlation: float = 0.0
    burst_bytes: int = 0
    buffer_bytes: int = BUFFER_BYTES_MAX
    hits: int = 0
    _last: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in PATH_KINDS:
            why = IMPOSSIBLE.get(self.kind, "it does not happen to bytes on their way")
            raise ValueError(f"{self.kind}: not on a connection between real processes: {why}")
        if self.amount < 0 or (self.kind in {FaultKind.LOSS, LiveKind.CORRUPT} and self.amount > 1):
            raise ValueError(f"{self.kind}: amount={self.amount} is out of range")
        if self.kind is FaultKind.THROTTLE and self.amount <= 0:
            raise ValueError("throttle: bytes per second are above 0; to let nothing pass, use a partition")

    def draw(self, generator: random.Random) -> float:
        """A number from 0 to 1 that takes after the last one as far as it is correlated."""
        self._last = generator.random() * (1 - self.correlation) + self._last * self.correlation
        return self._last


@dataclass(slots=True)
class Path:
    """From ``source`` to ``target``. ``now`` is the loop's clock; the generator decides every draw."""

    source: str
    target: str
    generator: random.Random
    now: Callable[[], float]
    effects: list[Effect] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _busy_until: float = 0.0

    @property
    def clear(self) -> bool:
        """Whether nothing at all is wrong."""
        return not self.effects

    @property
    def blocked(self) -> bool:
        """Whether nothing passes."""
        return any(effect.kind in BLOCKING for effect in self.effects)

    @property
    def buffer_bytes(self) -> int:
        """How many bytes may wait on one connection."""
        return min((effect.buffer_bytes for effect in self.effects), default=BUFFER_BYTES_MAX)

    def add(self, effect: Effect) -> None:
        """Something goes wrong from now on."""
        self.effects.append(effect)
        self._announce()

    def remove(self, effect: Effect) -> None:
        """It is well again, as far as that effect goes. Nothing happens if it was already."""
        if effect in self.effects:
            self.effects.remove(effect)
            self._announce()

    def clear_all(self) -> None:
        """Everything is well again."""
        self.effects.clear()
        self._announce()

    async def wait_changed(self, timeout_s: float | None = None) -> None:
        """Wait until an effect comes or goes, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    async def wait_open(self) -> None:
        """Wait until something may pass."""
        while self.blocked:
            await self.wait_changed()

    def _announce(self) -> None:
        self._busy_until = 0.0
        self._changed.set()
        self._changed = asyncio.Event()

    # -- what happens to a piece ----------------------------------------------------------------------

    def note_blocked(self) -> None:
        """Something could not pass."""
        for effect in self.effects:
            if effect.kind in BLOCKING:
                effect.hits += 1

    def lateness(self) -> float:
        """How many seconds from now the next piece arrives. Raises :class:`Broken` when it never does."""
        late_s = 0.0
        for effect in self.effects:
            if effect.kind is FaultKind.DELAY:
                effect.hits += 1
                varied = effect.jitter_s * (2 * effect.draw(self.generator) - 1) if effect.jitter_s else 0.0
                late_s += max(0.0, effect.amount + varied)
            elif effect.kind is FaultKind.LOSS:
                late_s += self._retransmissions(effect)
        return late_s

    def _retransmissions(self, effect: Effect) -> float:
        losses = 0
        while effect.draw(self.generator) < effect.amount:
            losses += 1
            effect.hits += 1
            if losses == LOSSES_TO_RESET:
                raise Broken(f"{self.source} to {self.target}: lost {losses} times in a row")
        return RETRANSMISSION_S * float(2**losses - 1)

    def altered(self, piece: bytes) -> bytes:
        """The piece as it arrives: with a flipped bit, perhaps."""
        for effect in self.effects:
            if effect.kind is LiveKind.CORRUPT and effect.draw(self.generator) < effect.amount:
                effect.hits += 1
                place = self.generator.randrange(len(piece))
                flipped = piece[place] ^ (1 << self.generator.randrange(8))
                piece = piece[:place] + bytes((flipped,)) + piece[place + 1 :]
        return piece

    def allowance(self, wanted: int) -> tuple[int, float]:
        """How many of ``wanted`` bytes go next, and after how many seconds. All of them, if not throttled."""
        throttles = [effect for effect in self.effects if effect.kind is FaultKind.THROTTLE]
        if not throttles:
            return wanted, 0.0
        tightest = min(throttles, key=lambda effect: effect.amount)
        burst = tightest.burst_bytes or max(1, int(tightest.amount * BURST_S))
        count = min(wanted, burst)
        now = self.now()
        begin = max(self._busy_until, now - burst / tightest.amount)
        self._busy_until = begin + count / tightest.amount
        wait_s = max(0.0, self._busy_until - now)
        if wait_s:
            tightest.hits += 1
        return count, wait_s
