"""What a node's status has for those who watch it: breakers, rollouts, gossip, versions that are not active.

Everything is bounded, for it becomes metrics, whose labels have to be.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from mcp.flow.breaker import State

if TYPE_CHECKING:
    from mcp.node.assembly import Assembly
    from mcp.state.models import Model, ModelVersion

OTHER_VERSIONS_TOLD_MAX: Final = 4
"""Versions of one model beside the active one that a status tells of: that of a rollout that goes on, then
the latest."""
BREAKERS_TOLD_MAX: Final = 256
"""Breakers that a status tells of: those that are not closed, then those that have opened, then others."""
ROLLOUTS_TOLD_MAX: Final = 64
"""Rollouts that the metrics of a status tell of: those that go on, then those that ended last."""


def others_told(parts: Assembly, model: Model) -> list[ModelVersion]:
    """The versions beside the active one that are told of."""
    rollout = parts.state.rollouts.get(model.name)
    going = rollout.to if rollout is not None and rollout.going else None
    others = [each for each in model.versions.values() if each.version != model.active]
    others.sort(key=lambda each: (each.version == going, each.index), reverse=True)
    return others[:OTHER_VERSIONS_TOLD_MAX]


def watched(parts: Assembly) -> dict[str, Any]:
    """Plain values, for ``metrics`` of a node's status."""
    artefacts, artefact_bytes = parts.shelf.loaded
    return {
        "artefacts": {"loaded": artefacts, "bytes": artefact_bytes},
        "rollouts": _rollouts(parts),
        "gossip": parts.gossiping.figures(),
        **_breakers(parts),
    }


def _rollouts(parts: Assembly) -> list[dict[str, Any]]:
    latest = sorted(parts.state.rollouts.all(), key=lambda each: (each.going, each.index), reverse=True)
    return [
        {
            "model": each.model,
            "from": each.from_,
            "to": each.to,
            "state": each.state,
            "step": each.step,
            "weight": each.weight,
            "seen": parts.counting.seen(each),
        }
        for each in latest[:ROLLOUTS_TOLD_MAX]
    ]


def _breakers(parts: Assembly) -> dict[str, Any]:
    admission = parts.admitting.admission
    found = {} if admission is None else admission.openings(asyncio.get_running_loop().time())
    worst = sorted(found.items(), key=lambda item: (item[1][0] is State.CLOSED, -item[1][1], item[0]))
    told = [
        {"node": node, "model": model, "state": state.value, "opened_total": opened}
        for (node, model), (state, opened) in worst[:BREAKERS_TOLD_MAX]
    ]
    return {"breakers": told, "breakers_left_out": len(found) - len(told)}
