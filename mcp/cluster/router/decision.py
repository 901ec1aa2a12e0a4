"""What the router decided."""

from __future__ import annotations

from typing import Any, NamedTuple

from mcp.cluster.router.nodes import NodeRecord
from mcp.cluster.router.reasons import Reason
from mcp.cluster.router.routes import Retries


class Mirrored(NamedTuple):
    """Where a copy of the request goes, to be thrown away when answered."""

    model: str
    version: str
    nodes: tuple[NodeRecord, ...]


class Decision(NamedTuple):
    """Which version answers, and where.

    * ``nodes``: whom to ask, the best first; the others are for retries. ``eligible``: all who could be.
    * ``mirrored``: copies. ``timeout_s`` (seconds, for all tries) and ``retries``: what the route says, if
      anything.
    * ``rules_version`` and ``routes_version``: under which rules and routes this was decided.
    * ``reasons``: the steps, in the order in which they were taken.
    """

    model: str
    version: str
    nodes: tuple[NodeRecord, ...]
    eligible: tuple[NodeRecord, ...]
    mirrored: tuple[Mirrored, ...]
    timeout_s: float | None
    retries: Retries | None
    rules_version: int
    routes_version: int
    reasons: tuple[Reason, ...]

    def within_s(self, timeout_s: float) -> float:
        """How long the request may take that is given ``timeout_s`` seconds: the route may say less."""
        return timeout_s if self.timeout_s is None else min(timeout_s, self.timeout_s)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for a command line or a wire; nodes are told by their ids."""
        retries = self.retries
        return {
            "model": self.model,
            "version": self.version,
            "nodes": [node.node for node in self.nodes],
            "eligible": [node.node for node in self.eligible],
            "mirrored": [
                {"model": each.model, "version": each.version, "nodes": [node.node for node in each.nodes]}
                for each in self.mirrored
            ],
            "timeout_s": self.timeout_s,
            "retries": None if retries is None else retries.to_plain(),
            "rules_version": self.rules_version,
            "routes_version": self.routes_version,
            "reasons": [reason.to_plain() for reason in self.reasons],
        }
