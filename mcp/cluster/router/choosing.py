"""Which of the eligible nodes: a scheduler's decision, and what is done without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from mcp.cluster.router.features import Features
from mcp.cluster.router.hashing import mix
from mcp.cluster.router.nodes import NodeRecord

Choose = Callable[[Sequence[NodeRecord], Features, int], Sequence[NodeRecord]]
"""``choose(nodes, features, seed)``: some of at least one eligible nodes, at least one, the best first.

It is a function of its arguments: the same ones give the same nodes.
"""

_SALT: Final = 0x632BE59BD9B4E019


def least_queue(nodes: Sequence[NodeRecord], features: Features, seed: int) -> Sequence[NodeRecord]:
    """Return two nodes that the seed draws, the one with the shorter queue first.

    That is within a constant of the shortest queue of all, and does not send everybody who has the same old
    view to the same node (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
    """
    count = len(nodes)
    if count == 1:
        return nodes
    bits = mix(seed ^ _SALT)
    first = bits % count
    one, other = nodes[first], nodes[(first + 1 + (bits >> 32) % (count - 1)) % count]
    return (one, other) if one.queue <= other.queue else (other, one)
