"""``mcpctl status``: the cluster as its nodes tell it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mcp.cli.connection import client_command
from mcp.cli.models import STATED, model_json, models_table
from mcp.cli.options import json_option
from mcp.cli.output import duration, fitting, narrower, plain, print_json, print_parts
from mcp.cli.replaced import replaced_parts
from mcp.cli.rollout import looked, looks_in
from mcp.client.client import Client
from mcp.client.results import ClusterStatus, NodeStatus
from mcp.errors import AuthenticationFailed, McpError, NoLeader, Unavailable, VersionMismatch

_ROLE_STYLE: Final = {"leader": "bold green", "follower": "green", "candidate": "yellow"}
_REFUSED: Final = (AuthenticationFailed, VersionMismatch)
COLUMNS: Final = ("node", "role", "term#", "applied#", "committed#", "last#", "storage", "up", "address")
DISPENSABLE: Final = ("committed#", "last#", "up", "term#", "applied#")
"""Left out, in this order, where the terminal is too narrow for all."""


@click.command(
    epilog="""\b
Examples:
  mcpctl status --connect 10.0.0.1:7400
  mcpctl status --json | jq .leader"""
)
@json_option
@client_command
async def status(client: Client, as_json: bool) -> None:
    """Show every node with its role, term and log position, and the models.

    Each node is asked itself; one that does not answer is listed with the reason. The exit status is 3
    unless there is a leader, and with it a majority of nodes that are sound: reachable, with their storage
    well, and up to date; it is 4 when every node refuses this client.
    """
    cluster = await client.status()
    trouble = trouble_of(cluster)
    if as_json:
        print_json(cluster_json(cluster, trouble))
    else:
        print_parts(*cluster_parts(cluster))
    if trouble is not None:
        raise trouble


def trouble_of(cluster: ClusterStatus) -> McpError | None:
    """Return why no command would get through, or ``None`` where one would."""
    if cluster.serves:
        return None
    errors = [node.error for node in cluster.nodes if node.error is not None]
    if errors and all(isinstance(error, _REFUSED) for error in errors) and not cluster.reachable:
        return type(errors[0])(errors[0].message, details=errors[0].details)
    total = len(cluster.voters) or len(cluster.nodes)
    told = f"{len(cluster.reachable)} of {total} nodes answered"
    reasons = "".join(f"; {reason}" for reason in reasons_of(cluster))
    missing = missing_voters(cluster)
    if cluster.term == 0 and missing:
        advice = (
            "and none has ever known a leader: a new cluster begins once all its voters run at the same time"
        )
        start = f"start {', '.join(missing)}, or check --connect and the cluster key"
        return NoLeader(f"{told}, {advice}; {start}{reasons}")
    if not cluster.has_quorum:
        advice = "no majority: start the others, or check --connect and the cluster key"
        return Unavailable(f"{told}, {advice}{reasons}")
    if not any(node.node == cluster.leader for node in cluster.sound):
        advice = "and none of them leads: an election is under way, or they do not reach one another"
        return NoLeader(f"{told}, {advice}{reasons}")
    return Unavailable(f"{told}, and only {len(cluster.sound)} can take part, no majority{reasons}")


def missing_voters(cluster: ClusterStatus) -> list[str]:
    """Return the voters that neither answered nor have a link to a node that did.

    Before there is a leader only the addresses that were given are known, and the nodes know more.
    """
    seen = {node.node for node in cluster.reachable}
    for node in cluster.reachable:
        seen |= {peer for peer, link in node.peers.items() if link.connected}
    return [voter for voter in cluster.voters if voter not in seen]


def reasons_of(cluster: ClusterStatus) -> Iterator[str]:
    """Give what is wrong with each node: of those that did not answer, the first one's reason at length."""
    at_length = True
    for node in cluster.nodes:
        if node.error is not None and not at_length:
            yield f"{name(node)}: {node.error.code}"
        elif node.problem is not None:
            yield f"{name(node)}: {node.problem}"
            at_length = at_length and node.error is None


def name(node: NodeStatus) -> str:
    """Return what to call a node: its id, or its address while that is all that is known."""
    return node.node or node.address


def cluster_json(cluster: ClusterStatus, trouble: McpError | None) -> dict[str, Any]:
    """Return the cluster for programs; ``error`` says what keeps it from serving."""
    return {
        "leader": cluster.leader,
        "term": cluster.term,
        "voters": cluster.voters,
        "serves": cluster.serves,
        "nodes": [node_json(node) for node in cluster.nodes],
        "rollouts": [look for _, look in sorted(looks_in(cluster).items()) if not look.get("ended")],
        "models": [model_json(model, cluster.nodes, STATED) for model in cluster.models],
        "error": trouble,
    }


def node_json(node: NodeStatus) -> dict[str, Any]:
    """Return what a node said; of one that did not answer, only who it is and why."""
    if node.error is not None:
        return {"node": node.node, "address": node.address, "reachable": False, "error": node.error}
    said: dict[str, Any] = plain(node)
    for repeated in ("details", "models", "error"):
        del said[repeated]
    said["protocol_version"] = said.pop("version")
    return {**said, "reachable": True, "problem": node.problem}


def cluster_parts(cluster: ClusterStatus) -> list[RenderableType]:
    """Return what is printed for people: the nodes, what is wrong with some of them, and the models."""
    parts: list[RenderableType] = [nodes_table(cluster)]
    parts += [Text(told, style="red") for told in problems_told(cluster.nodes)]
    parts += replaced_parts(cluster)
    parts += [Text(told) for told in rollouts_told(cluster)]
    # Where nobody answered, nothing is known of the models: "none is deployed" would be a guess.
    if cluster.reachable:
        parts += [Text(), models_table(cluster.models, cluster.nodes)]
    return parts


def rollouts_told(cluster: ClusterStatus) -> Iterator[str]:
    """Give what the leader saw last of each rollout that goes on."""
    for model, look in sorted(looks_in(cluster).items()):
        if not look.get("ended"):
            share = f"{look.get('percent') or 0:g} % of the requests"
            yield f"rollout of {model}: version {look.get('from')} to {look.get('to')}, {share}{looked(look)}"


def problems_told(nodes: Sequence[NodeStatus]) -> Iterator[str]:
    """Give what is wrong with the nodes; what is the same for several is said once."""
    alike: dict[str, list[NodeStatus]] = {}
    for node in nodes:
        if node.problem is not None:
            alike.setdefault(node.problem.replace(node.address, "its address"), []).append(node)
    for told, those in alike.items():
        names = ", ".join(name(node) for node in those)
        yield f"{names}: {told if len(those) > 1 else those[0].problem}"


def nodes_table(cluster: ClusterStatus) -> Table:
    """Return the nodes, one a row."""
    return fitting(narrower(COLUMNS, [node_row(node) for node in cluster.nodes], DISPENSABLE))


def node_row(node: NodeStatus) -> dict[str, str | Text]:
    """Return one node's cells by column; for one that did not answer, why."""
    known: dict[str, str | Text] = {"node": node.node or "?", "address": node.address}
    if node.error is not None:
        return known | {"role": Text(f"no answer ({node.error.code})", style="red")}
    standings = {"outsider": "none", "observer": "observer"}
    role = standings.get(node.standing or "", node.role or "?")
    # The first word: "failed" goes on for a whole sentence, which stands below the table.
    storage = node.storage.partition(":")[0]
    return known | {
        "role": Text(role, style=_ROLE_STYLE.get(role, "")),
        "term": str(node.term),
        "applied": str(node.applied_index),
        "committed": str(node.commit_index),
        "last": str(node.last_index),
        "storage": Text(storage) if storage == "ok" else Text(storage.upper(), style="bold red"),
        "up": duration(node.uptime_s),
    }
