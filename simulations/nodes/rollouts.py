"""What has to hold of rollouts: one state at each log position, the same on every node, and every one ends.

Every change of a rollout that any replica applies is written down with its place. One that changes twice at
one place, under a number that another change has, or otherwise than on another replica, breaks the rule.
Once everything is healed, a rollout that is going on waits for requests, of which there are none any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from mcp.cluster.rollout.deciding import Action
from mcp.node.assembly import Assembly
from mcp.state.state import ReplicatedState
from simulations.invariants import Violation

ONE_STATE: Final = "a rollout has one state at a log position"
ENDED_S: Final = 15.0
"""Once the cluster is back, so long until every rollout has ended or waits for requests."""

Place = tuple[int, int]


class RolloutLedger:
    """Compares the changes of rollouts on all replicas. ``fail`` takes what is wrong."""

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self.ended: dict[str, int] = {}
        """How many came to which state."""
        self._fail = fail
        self._known: dict[int, tuple[Place, str, str]] = {}
        self._places: dict[Place, int] = {}

    @property
    def changes(self) -> int:
        """How many changes there were."""
        return len(self._known)

    def applied(self, name: str, place: Place, before: int, state: ReplicatedState) -> None:
        """The replica ``name`` has applied the command at ``place``; it had ``before`` changes until then."""
        number = state.rollouts.changes
        if number == before:
            return
        (changed,) = [each for each in state.rollouts.all() if each.version == number]
        told = f"{changed.to_wire()} {state.traffic.routes}"
        known = self._known.get(number)
        if known is None:
            other = self._places.setdefault(place, number)
            if number != before + 1 or other != number:
                self._fail(Violation(ONE_STATE, f"{name} at {place}: changes {before} to {number}"))
            self._known[number] = place, told, name
            self.ended[changed.state] = self.ended.get(changed.state, 0) + 1
        elif known[:2] != (place, told):
            self._fail(Violation(ONE_STATE, f"{known[2]} at {known[0]} and {name} at {place}: {told:.300}"))


def unended(nodes: Iterable[Assembly | None]) -> str | None:
    """Say which rollout neither has ended nor waits for requests; ``None``: none."""
    parts = [node for node in nodes if node is not None]
    going = {(each.model, each.version) for part in parts for each in part.state.rollouts.all() if each.going}
    for model, version in sorted(going):
        looks = [look for part in parts if (look := part.rollouts.looks.get(model)) is not None]
        waits = [
            look.verdict.action is Action.WAIT and look.verdict.for_requests
            for look in looks
            if look.rollout.version == version
        ]
        if not any(waits):
            reasons = [look.verdict.reason for look in looks]
            return f"the rollout of {model} goes on, and does not wait for requests: {reasons}"
    return None
