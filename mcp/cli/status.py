"""``mcpctl status``: the cluster as its nodes tell it."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from mcp.cli.connection import client_command
from mcp.cli.models import models_table
from mcp.cli.options import json_option
from mcp.cli.output import duration, print_json, print_parts, table
from mcp.client.client import Client
from mcp.client.results import ClusterStatus, NodeStatus
from mcp.errors import Unavailable

_ROLE_STYLE = {"leader": "bold green", "follower": "green", "candidate": "yellow"}


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

    Each node is asked itself; one that does not answer is listed as such. The exit status is 3 when no
    node answers or no majority does.
    """
    cluster = await client.status()
    if as_json:
        print_json(cluster)
    else:
        # Where nobody answered, nothing is known of the models: "none is deployed" would be a guess.
        models = [Text(), models_table(cluster.models)] if cluster.reachable else []
        print_parts(nodes_table(cluster), *models)
    if not cluster.has_quorum:
        answered = len(cluster.reachable)
        silent = next((node.error.message for node in cluster.nodes if node.error is not None), "")
        raise Unavailable(
            f"{answered} of {len(cluster.voters) or len(cluster.nodes)} nodes answered, no majority: "
            f"start the others, or check --connect and the cluster key{'; ' if silent else ''}{silent}"
        )


def nodes_table(cluster: ClusterStatus) -> Table:
    """Return the nodes, one a row."""
    rows = table("node", "role", "term#", "applied#", "committed#", "last#", "storage", "up", "address")
    for node in cluster.nodes:
        rows.add_row(*node_row(node))
    return rows


def node_row(node: NodeStatus) -> list[str | Text]:
    """Return one node's cells; for one that did not answer, why."""
    if node.error is not None:
        return [
            node.node or "?",
            Text(f"no answer ({node.error.code})", style="red"),
            *[""] * 6,
            node.address,
        ]
    role = node.role or "?"
    return [
        node.node or "?",
        Text(role, style=_ROLE_STYLE.get(role, "")),
        str(node.term),
        str(node.applied_index),
        str(node.commit_index),
        str(node.last_index),
        Text(node.storage, style="" if node.storage == "ok" else "bold red"),
        duration(node.uptime_s),
        node.address,
    ]
