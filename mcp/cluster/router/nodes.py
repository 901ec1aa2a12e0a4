"""The nodes as somebody sees them, and which of them may answer for a version.

A view is immutable and cheap to make: which nodes are ready for a version is worked out when it is first
asked for and remembered, so that a decision mostly finds it. A node is eligible for a request if

* the view has it as alive (suspected ones only where no other is eligible),
* it has that version ready at a log position that is not before the version's deployment, nor before what the
  request's session has seen,
* the rule's selector means it,
* it has one of the execution providers that the version can do with, and
* its free memory, where it is known, holds the request's inputs and what a run takes beside them.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from mcp.cluster.router.models import Candidate
from mcp.cluster.router.reasons import Reason, Step
from mcp.cluster.router.selector import Selector
from mcp.errors import InvalidArgument, TooLarge

NODES_MAX: Final = 4096
"""The most nodes in one view."""
POOLS_MAX: Final = 16_384
"""So many sets of nodes, by version and selector, one view remembers; then it forgets all and begins anew."""


class NodeState(enum.Enum):
    """What the view thinks of a node. Those that are dead, or left, are in no view for routing."""

    ALIVE = "alive"
    SUSPECT = "suspect"


_SENTENCES: Final = {
    NodeState.ALIVE: "{0} of {1} nodes may answer for {2}{3}",
    NodeState.SUSPECT: "{0} of {1} nodes may answer for {2}{3}, and they are suspected to be gone",
}


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node.

    * ``ready``: ``name@version`` to the log position at which the node has it ready.
    * ``providers``: execution providers by short name. ``labels``: names to values, which may be empty.
    * ``memory_free_bytes``: headroom; ``None`` where the node does not say.
    * ``queue``: requests that were taken and are not answered. ``load``: whatever else is measured, by name,
      for a scheduler.
    """

    node: str
    address: str
    state: NodeState = NodeState.ALIVE
    ready: Mapping[str, int] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    memory_free_bytes: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    queue: int = 0
    load: Mapping[str, float] = field(default_factory=dict)


class Eligible(NamedTuple):
    """Nodes that may answer, in the order of their ids, with the reason. Without any, there is no reason."""

    nodes: tuple[NodeRecord, ...]
    reason: Reason | None


class _Pool:
    """Nodes that are ready for a version, before a request's own needs are looked at."""

    __slots__ = ("_all", "_facts", "_memory_min", "_position_min", "_positions", "_sentence")

    def __init__(self, nodes: list[NodeRecord], key: str, sentence: str, facts: tuple[Any, ...]) -> None:
        self._sentence, self._facts = sentence, facts
        self._positions = [node.ready[key] for node in nodes]
        self._position_min = min(self._positions, default=0)
        self._memory_min = min(map(_memory, nodes), default=math.inf)
        self._all = self._eligible(tuple(nodes))

    def _eligible(self, nodes: tuple[NodeRecord, ...]) -> Eligible:
        return Eligible(
            nodes, Reason(Step.NODES, self._sentence, (len(nodes), *self._facts)) if nodes else None
        )

    def eligible(self, position: int, need_bytes: int) -> Eligible:
        if position <= self._position_min and need_bytes <= self._memory_min:
            return self._all
        return self._eligible(
            tuple(
                node
                for node, at in zip(self._all.nodes, self._positions, strict=True)
                if at >= position and need_bytes <= _memory(node)
            )
        )


class _Found(NamedTuple):
    # Kept with what was found for them, so that no others can come to have their identities.
    candidate: Candidate
    selector: Selector | None
    alive: _Pool
    suspect: _Pool


def _memory(node: NodeRecord) -> float:
    return math.inf if node.memory_free_bytes is None else node.memory_free_bytes


class View:
    """An immutable view.

    Raises :class:`~mcp.errors.InvalidArgument` for a node that is there twice, and
    :class:`~mcp.errors.TooLarge` over :data:`NODES_MAX`.
    """

    __slots__ = ("_found", "nodes")

    def __init__(self, nodes: Iterable[NodeRecord]) -> None:
        self.nodes = tuple(sorted(nodes, key=lambda each: each.node))
        """Every node, in the order of their ids."""
        if len(self.nodes) > NODES_MAX:
            raise TooLarge(f"a view of {len(self.nodes)} nodes is over nodes_max={NODES_MAX}")
        if len({each.node for each in self.nodes}) < len(self.nodes):
            raise InvalidArgument("a node is in the view twice; take one record for each id")
        # By the objects, not by what they say: that is quicker, and after a deployment they are others.
        self._found: dict[tuple[int, int], _Found] = {}

    def eligible(
        self, candidate: Candidate, selector: Selector | None, position: int, need_bytes: int
    ) -> Eligible:
        """Return the nodes that may answer: ``position`` is a log position, ``need_bytes`` memory."""
        found = self._found.get((id(candidate), id(selector))) or self._find(candidate, selector)
        eligible = found.alive.eligible(position, need_bytes)
        return eligible if eligible.nodes else found.suspect.eligible(position, need_bytes)

    def _find(self, candidate: Candidate, selector: Selector | None) -> _Found:
        by_state: dict[NodeState, list[NodeRecord]] = {state: [] for state in NodeState}
        for node in self.nodes:
            if _obstacle(node, candidate, selector) is None:
                by_state[node.state].append(node)
        if len(self._found) >= POOLS_MAX:
            self._found.clear()
        facts = (len(self.nodes), candidate.key, "" if selector is None else f" on {selector}")
        alive, suspect = (
            _Pool(by_state[state], candidate.key, _SENTENCES[state], facts) for state in NodeState
        )
        found = _Found(candidate, selector, alive, suspect)
        self._found[id(candidate), id(selector)] = found
        return found

    def obstacles(
        self, candidate: Candidate, selector: Selector | None, position: int, need_bytes: int
    ) -> dict[str, int]:
        """Return how many nodes stand back for which reason: for a refusal, so slow and in words."""
        counted: Counter[str] = Counter()
        for node in self.nodes:
            obstacle = _obstacle(node, candidate, selector)
            if obstacle is None and node.ready[candidate.key] < position:
                obstacle = f"not at log position {position}"
            if obstacle is None and need_bytes > _memory(node):
                obstacle = f"without {need_bytes} bytes of free memory"
            if obstacle is not None:
                counted[obstacle] += 1
        return dict(counted)


def _obstacle(node: NodeRecord, candidate: Candidate, selector: Selector | None) -> str | None:
    """What keeps a node from answering, whatever the request; ``None`` if nothing does."""
    ready_at = node.ready.get(candidate.key)
    if ready_at is None or ready_at < candidate.record.index:
        return "not ready"
    if selector is not None and not selector.selects(node.node, node.labels, node.providers):
        return f"not on {selector}"
    wanted = candidate.record.providers
    if wanted and not any(provider in node.providers for provider in wanted):
        return f"without provider {' or '.join(wanted)}"
    return None
