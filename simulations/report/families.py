"""Which kinds of faults are akin, and what each of them is, in words for a reader of one page."""

from __future__ import annotations

from typing import Final

FAMILIES: Final = {
    "process": ("kill", "pause", "cpu_stress"),
    "machine": ("power_loss", "blackout", "torn_write"),
    "network": (
        "partition",
        "partial",
        "one_way",
        "half_open",
        "reset",
        "loss",
        "delay",
        "duplicate",
        "reorder",
        "throttle",
        "corrupt",
    ),
    "disk": ("slow_sync", "slow_disk", "disk_full", "io_error", "bit_flip", "disk_loss"),
    "clock": ("clock_drift", "clock_leap", "wall_jump"),
}
"""Kinds of faults by what they happen to; the order is that of the page."""

MEANINGS: Final = {
    "kill": "the process dies",
    "pause": "the process stands still",
    "disk_loss": "the disk is empty after a crash, and another server takes the place",
    "cpu_stress": "the process gets little of the processor",
    "power_loss": "the machine dies, and what was not synced is lost",
    "blackout": "all nodes die at once",
    "torn_write": "the machine dies between two writes",
    "partition": "two sides do not hear each other",
    "partial": "two nodes do not hear each other, all others hear both",
    "one_way": "one direction is dead",
    "half_open": "one end believes in a connection that is gone",
    "reset": "connections break",
    "loss": "some of what is sent is lost",
    "delay": "everything takes longer",
    "duplicate": "messages come twice",
    "reorder": "messages overtake each other",
    "throttle": "little gets through at a time",
    "corrupt": "bits flip on the way",
    "slow_sync": "syncs take long",
    "slow_disk": "the disk is slow",
    "disk_full": "there is no room",
    "io_error": "the disk fails",
    "bit_flip": "a stored bit flips",
    "clock_drift": "the clock runs fast or slow",
    "clock_leap": "the clock leaps ahead",
    "wall_jump": "the wall clock jumps",
}

_FAMILY_OF: Final = {kind: family for family, kinds in FAMILIES.items() for kind in kinds}
_ORDER: Final = {kind: place for place, kind in enumerate(_FAMILY_OF)}


def family_of(kind: str) -> str:
    """What the kind happens to."""
    return _FAMILY_OF.get(kind, "process")


def ordered(kinds: set[str]) -> list[str]:
    """Kinds of one family together."""
    return sorted(kinds, key=lambda kind: (_ORDER.get(kind, len(_ORDER)), kind))
