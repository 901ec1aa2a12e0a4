"""Draws that depend on nothing but what they are made of: the same on every node, whatever came before.

A weighted choice for an id is rendezvous hashing: each destination draws an exponential variable with its
weight as the rate, from the id and its own name, and the earliest wins, which is destination *i* with
probability ``w_i / sum(w)``. Each draw depends on its own weight only. So when one weight grows, ids
move to that destination and no others move; when it shrinks, ids leave it and no others move; multiplying
all weights by one number moves nobody.

Sources: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998 (rendezvous);
Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005, section 3 (the logarithmic
method). The mixing is SplitMix64's (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
Generators", OOPSLA 2014, with Stafford's constants).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

_MASK: Final = 2**64 - 1
_GAMMA: Final = 0x9E3779B97F4A7C15
_UNIT: Final = 2.0**-52


def mix(value: int) -> int:
    """Return 64 bits, each of which depends on each of the 64 lowest of ``value``."""
    value = (value + _GAMMA) & _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def digest(text: str) -> int:
    """Return 64 bits of a text: equal texts have equal ones in every process, unlike with ``hash``."""
    # Whatever half a surrogate pair is worth, it is no reason to fail here.
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def unit(bits: int) -> float:
    """Return a number strictly between 0 and 1 from 64 bits."""
    return ((bits >> 12) + 0.5) * _UNIT


class WeightedChoice:
    """Destinations by name with their weights, one at least above 0. A choice is one draw for each."""

    __slots__ = ("_draws",)

    def __init__(self, weights: Iterable[tuple[str, float]]) -> None:
        self._draws = tuple(
            (place, digest(name), 1.0 / weight) for place, (name, weight) in enumerate(weights) if weight > 0
        )

    def place(self, key: int) -> int:
        """Return the place of the destination that 64 bits belong to. One of weight 0 is never it."""
        draws = self._draws
        if len(draws) == 1:
            return draws[0][0]
        found, earliest = draws[0][0], math.inf
        for place, salt, scale in draws:
            # unit(mix(key ^ salt)), written out: this is the dearest part of a decision.
            value = ((key ^ salt) + _GAMMA) & _MASK
            value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
            value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
            time = -math.log((((value ^ (value >> 31)) >> 12) + 0.5) * _UNIT) * scale
            if time < earliest:
                found, earliest = place, time
        return found
