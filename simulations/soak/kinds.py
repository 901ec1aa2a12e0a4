"""Kinds of faults that only real processes know, beside those of :mod:`simulations.faults`."""

from __future__ import annotations

import enum

from simulations.faults import FaultKind


class LiveKind(enum.StrEnum):
    """What ``amount`` means stands beside each."""

    CORRUPT = "corrupt"
    """A bit of what a connection carries flips; the probability for each piece."""
    CPU_STRESS = "cpu_stress"
    """The process gets the processor for only a part of the time; the part that it loses, 0 to 1."""
    SLOW_DISK = "slow_disk"
    """Operations of the disk take longer; seconds each."""
    DISK_LOSS = "disk_loss"
    """The process is killed and its data directory emptied; the node comes back as another server."""


Kind = FaultKind | LiveKind
"""Any fault that a plan for real processes can name."""


def kind_named(name: str) -> Kind:
    """The kind of that name. Raises ``ValueError`` with all names."""
    for family in (FaultKind, LiveKind):
        if name in set(family):
            return family(name)
    known = ", ".join(sorted([*FaultKind, *LiveKind]))
    raise ValueError(f"there is no fault {name!r}; there are {known}")
