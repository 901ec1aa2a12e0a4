"""What was executed by the user's own executor: each command once, in an order that clients cannot refute.

An executor writes its commands down in order and answers with a command's place. So of every answer it can
be said whether it is right; that what was acknowledged stands there once, what failed does not, the rest at
most once; and that what was answered before another was asked stands before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from simulations.checking.verdict import Verdict, Violation, verdict

EXECUTED = "executors execute once, in one order"


@dataclass(slots=True)
class Asked:
    """One command; ``begun`` and ``ended`` are positions among all events here."""

    mark: str
    begun: int
    ended: int | None = None
    place: int | None = None
    unknown: bool = True


class Executed:
    """What clients asked and were told."""

    def __init__(self) -> None:
        self._asked: list[Asked] = []
        self._marks: set[str] = set()
        self._events = 0

    def __contains__(self, mark: object) -> bool:
        return mark in self._marks

    def __len__(self) -> int:
        return len(self._asked)

    def begin(self, mark: str) -> Asked:
        """A command is sent."""
        self._events += 1
        asked = Asked(mark, self._events)
        self._asked.append(asked)
        self._marks.add(mark)
        return asked

    def end(self, asked: Asked, place: int | None, *, unknown: bool = False) -> None:
        """It was answered with its place, or refused, or nobody knows."""
        self._events += 1
        asked.ended, asked.place, asked.unknown = self._events, place, unknown

    def check(self, marks: Sequence[str]) -> Verdict:
        """Compare with what the executor has written down."""
        counted, violations = Counter(marks), list[Violation]()
        known = {asked.mark for asked in self._asked}
        violations += [
            Violation(f"{mark} was executed, and nobody asked for it")
            for mark in counted
            if mark not in known
        ]
        for asked in self._asked:
            times = counted[asked.mark]
            if asked.place is not None:
                if times != 1 or marks[asked.place] != asked.mark:
                    violations.append(
                        Violation(f"{asked.mark} was told place {asked.place}, executed {times} times")
                    )
            elif times > asked.unknown:
                violations.append(
                    Violation(f"{asked.mark} was executed {times} times, unknown: {asked.unknown}")
                )
        violations += self._out_of_order(marks)
        return verdict(EXECUTED, len(self._asked), violations)

    def _out_of_order(self, marks: Sequence[str]) -> list[Violation]:
        """What was answered before another was asked stands before it."""
        places = {mark: place for place, mark in enumerate(marks)}
        events: list[tuple[int, bool, Asked]] = []
        for asked in self._asked:
            if asked.mark in places:
                events.append((asked.begun, False, asked))
                if asked.ended is not None and asked.place is not None:
                    events.append((asked.ended, True, asked))
        violations, highest, floors = [], -1, dict[str, int]()
        for _, ended, asked in sorted(events, key=lambda event: event[0]):
            if ended:
                highest = max(highest, places[asked.mark])
            else:
                floors[asked.mark] = highest
        for mark, floor in floors.items():
            if places[mark] < floor:
                violations.append(Violation(f"{mark} stands in place {places[mark]}, before {marks[floor]}"))
        return violations
