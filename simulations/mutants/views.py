"""Mistakes with views: what a node says of itself, and what is never evened out."""

from __future__ import annotations

from typing import Any

from mcp.cluster.gossip.anti_entropy import AntiEntropy
from mcp.cluster.gossip.membership import Membership
from mcp.cluster.gossip.updates import Dead, Update
from mcp.node.gossiping import Gossiping
from simulations.mutants.mutant import Group, Patch

GROUP = Group("views", level="node")


@GROUP.mutant()
def a_node_puts_up_with_its_own_death(patch: Patch) -> None:
    """Who is held for dead does not say that it is there."""
    about_own = patch.original(Membership, "_about_own")

    def silent(self: Membership, update: Update, now: float) -> None:
        if not isinstance(update, Dead):
            about_own(self, update, now)

    patch.method(Membership, "_about_own", silent)


@GROUP.mutant()
def views_are_never_compared(patch: Patch) -> None:
    """What gossip did not bring is not evened out."""

    def nothing(self: AntiEntropy, address: str, now: float) -> None:
        pass

    patch.method(AntiEntropy, "compare", nothing)


@GROUP.mutant()
def cards_are_made_once(patch: Patch) -> None:
    """What a node says of itself stays what it was when it started."""

    def nothing(self: Gossiping, core: Any, now: float) -> None:
        pass

    patch.method(Gossiping, "_look", nothing)
