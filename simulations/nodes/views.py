"""What the nodes' views of each other come to once all is well: one rule."""

from __future__ import annotations

from collections.abc import Iterable

from mcp.cluster.gossip.updates import State
from simulations.nodes.machine import Machine

SAME_VIEWS = "every living node sees the same living nodes"


def differing(machines: Iterable[Machine]) -> str | None:
    """Whose view is not that the nodes that run are alive and no others, each with the card that is true now.

    Also a node that was removed from the cluster runs, and is seen. ``None``: all views are as they have
    to be.
    """
    running = {machine.name: parts for machine in machines if (parts := machine.parts) is not None}
    for name, parts in sorted(running.items()):
        members = parts.gossiping.members()
        seen = {member.name for member in members if member.state.present}
        if seen != set(running):
            return f"{name} sees {sorted(seen)}, and {sorted(running)} run"
        suspected = sorted(member.name for member in members if member.state is State.SUSPECT)
        if suspected:
            return f"{name} suspects {suspected}"
        old = [m.name for m in members if m.state.present and m.card != running[m.name].gossiping.card()]
        if old:
            return f"{name} has an old card of {old}"
    return None
