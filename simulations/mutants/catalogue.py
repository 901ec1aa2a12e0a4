"""All mutants by name, and those that the tests of every change hunt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from simulations.mutants import (
    elections,
    members,
    proposals,
    reads,
    replication,
    snapshots,
    state,
    storage,
    views,
)
from simulations.mutants.mutant import Mutant

_GROUPS = (storage, replication, elections, members, reads, proposals, snapshots, state, views)

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for part in _GROUPS for mutant in part.GROUP.mutants}
"""In the order of the groups."""

NEAR_MAX = 2
"""So many names are offered instead of a wrong one."""


class NoSuchMutant(ValueError):
    """There is no mutant of that name."""


def select(names: Iterable[str]) -> list[Mutant]:
    """The mutants of these names, or all where there are none. Raises :class:`NoSuchMutant`."""
    wanted = list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in MUTANTS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], MUTANTS, NEAR_MAX)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise NoSuchMutant(f"there is no mutant {unknown[0]:.80}; {meant}--list names all of them")
    return [MUTANTS[name] for name in wanted] or list(MUTANTS.values())
