"""What is said of dead voters that the nodes replace by themselves, below the tables of nodes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.text import Text

from mcp.client.results import ClusterStatus


def replaced_parts(cluster: ClusterStatus) -> list[Text]:
    """Return what :func:`replacing_told` gives, as it is printed."""
    return [Text(told, style="yellow") for told in replacing_told(cluster)]


def replacing_told(cluster: ClusterStatus) -> Iterator[str]:
    """Give whom nobody replaces yet, as the leader says, and whom the nodes have replaced since they started.

    Each node tells of what it has done itself while it led, so a leader of before is listened to as well.
    """
    for node in cluster.reachable:
        waits_for = node.replacing.get("waits_for")
        if waits_for and node.node == cluster.leader:
            yield f"not replaced: {waits_for}"
        for step in node.replacing.get("steps") or []:
            said = {name: step.get(name) for name in ("dead", "action", "node")}
            yield (
                "{dead} was dead: {action} {node}".format(**said)
                + f" by {node.node}, {_moment(step.get('at_s'))}"
            )


def _moment(at_s: object) -> str:
    """Return a time since the epoch as the clock on the wall here shows it."""
    known = isinstance(at_s, int | float)
    return datetime.fromtimestamp(at_s).isoformat(" ", "seconds") if known else "?"  # type: ignore[arg-type]
