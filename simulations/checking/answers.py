"""Contradictions between the answers of one or two operations on a key, found without any search.

Every version of a key is made by one write, and a key's versions never go down, through deletions too
(:mod:`simulations.checking.register`). So no order explains a key's history if

- two writes were told the same version, or two deletions removed the same;
- a version was seen with two values, or with another value than its write wrote;
- a value was seen that nobody can have written by then: its writes failed, came later, or were told
  another version;
- a version was told after a later one was acknowledged, or was made after it had been seen, or seen after
  it had been removed.

These are what goes wrong most of the time, and what they leave to the search is narrow. The search would
find them as well: here nothing is decided otherwise, only sooner, which the tests demand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simulations.checking.operations import (
    CompareAndSet,
    Conflict,
    Found,
    Operation,
    Put,
    Removed,
    Written,
    canonical,
)

Contradiction = tuple[str, tuple[Operation, ...]]
"""What is wrong, and the operations that contradict each other."""


def contradictions(operations: Sequence[Operation]) -> Iterator[Contradiction]:
    """Yield the contradictions between answers to operations on one key."""
    yield from _versions_made_twice(operations)
    yield from values_at_odds(operations)
    yield from _versions_going_back(operations)


def told(operation: Operation) -> int:
    """Return the version that an answer tells; 0: none."""
    result = operation.result
    return result.version if isinstance(result, Written | Found | Conflict | Removed) else 0


def saw(operation: Operation) -> bytes | None:
    """Return the value that an answer tells, as bytes; ``None``: it tells of none."""
    result = operation.result
    seen = isinstance(result, Found | Conflict) and result.version > 0
    return canonical(result.value) if seen else None  # type: ignore[union-attr]


def wrote(operation: Operation) -> bytes | None:
    """Return the value that an operation writes if it takes effect; ``None``: it can write none."""
    if not isinstance(operation.call, Put | CompareAndSet) or operation.failed:
        return None
    return None if isinstance(operation.result, Conflict) else canonical(operation.call.value)


def _versions_made_twice(operations: Sequence[Operation]) -> Iterator[Contradiction]:
    for kind, what in ((Written, "made by two writes"), (Removed, "removed by two deletions")):
        first: dict[int, Operation] = {}
        for operation in operations:
            version = told(operation)
            if not isinstance(operation.result, kind) or version == 0:
                continue
            other = first.setdefault(version, operation)
            if other is not operation:
                yield f"version {version} was {what}", (other, operation)


def values_at_odds(operations: Sequence[Operation]) -> Iterator[Contradiction]:
    """Yield what was seen of a key and cannot have been written so, one at most for each answer."""
    made = {told(o): o for o in operations if isinstance(o.result, Written)}
    writers: dict[bytes, list[Operation]] = {}
    for operation in operations:
        value = wrote(operation)
        if value is not None:
            writers.setdefault(value, []).append(operation)
    seen: dict[int, Operation] = {}
    for operation in operations:
        value, version = saw(operation), told(operation)
        if value is None:
            continue
        maker, other = made.get(version), seen.setdefault(version, operation)
        if maker is not None and wrote(maker) != value:
            yield f"version {version} was seen with another value than was written", (maker, operation)
        elif saw(other) != value:
            yield f"version {version} was seen with two values", (other, operation)
        elif not any(_explains(writer, operation, version) for writer in writers.get(value, ())):
            yield "a value was seen that nobody can have written by then", (operation,)


def _explains(writer: Operation, reader: Operation, version: int) -> bool:
    if reader.completed is not None and writer.invoked > reader.completed:
        return False
    if isinstance(writer.result, Written):
        return writer.result.version == version
    expected = writer.call.expected_version if isinstance(writer.call, CompareAndSet) else 0
    return expected in {0, version - 1}


def _versions_going_back(operations: Sequence[Operation]) -> Iterator[Contradiction]:
    """Go through the events; a position is ``2 * version``, one more when that version is removed."""
    events = [(o.invoked, o, False) for o in operations if told(o)]
    events += [(o.completed, o, True) for o in operations if told(o) and o.completed is not None]
    highest = -1
    source: Operation | None = None
    floors: dict[int, tuple[int, Operation | None]] = {}
    for _, operation, completed in sorted(events, key=lambda event: event[0]):
        position = 2 * told(operation) + isinstance(operation.result, Removed)
        if not completed:
            floors[operation.id] = highest, source
            continue
        floor, earlier = floors.pop(operation.id)
        new = isinstance(operation.result, Written | Removed)
        if earlier is not None and (position < floor or (new and position == floor)):
            yield "an older version was told after a newer one was acknowledged", (earlier, operation)
        if position > highest:
            highest, source = position, operation
