"""``mcpctl nodes``: who is there, as one node sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click
from rich.console import RenderableType
from rich.text import Text

from mcp.cli.connection import client_command
from mcp.cli.options import json_option
from mcp.cli.output import duration, fitting, narrower, print_json, print_parts, size
from mcp.cli.replaced import replaced_parts
from mcp.client.client import Client
from mcp.client.views import NodesView, SeenNode

MIB: Final = 1024**2
COLUMNS: Final = (
    "node",
    "state",
    "for",
    "standing",
    "models#",
    "on",
    "cores#",
    "cpu#",
    "free#",
    "queue#",
    "labels",
    "address",
)
DISPENSABLE: Final = ("cores#", "on", "free#", "cpu#", "queue#", "labels", "for")
"""Left out, in this order, where the terminal is too narrow for all."""
_STATE_STYLE: Final = {"alive": "green", "suspect": "yellow", "dead": "red"}


@click.command(
    epilog="""\b
Examples:
  mcpctl nodes --connect 10.0.0.1:7400
  mcpctl nodes --json | jq '.nodes[] | select(.state == "alive") | .node'"""
)
@json_option
@client_command
async def nodes(client: Client, as_json: bool) -> None:
    """List the nodes that the asked one sees, what each can do and how busy it is.

    Nodes tell each other by gossip, so that every node sees the same after a moment. A dead node is listed
    for an hour. The standing is the one that 'mcpctl members' has: "none" is no member, any more or yet.
    """
    view = await client.nodes()
    if as_json:
        print_json(view)
        return
    gone = any(node.role == "none" for node in view.nodes)
    print_parts(*view_parts(view), *(replaced_parts(await client.status()) if gone else ()))


def view_parts(view: NodesView) -> list[RenderableType]:
    """The nodes as a table, and below it what is wrong with whoever was asked."""
    table = fitting(narrower(COLUMNS, [_row(node) for node in view.nodes], DISPENSABLE))
    parts: list[RenderableType] = [table]
    if view.contested:
        parts.append(
            Text(f"another node claims the name {view.asked}: give one of the two another", style="bold red")
        )
    return parts


def _row(node: SeenNode) -> dict[str, str | Text]:
    card, load = node.card, node.load
    models, labels = card.get("models"), card.get("labels")
    return {
        "node": node.node,
        "state": Text(node.state, style=_STATE_STYLE.get(node.state, "")),
        "for": duration(node.age_s),
        "standing": node.role or _said(card, "standing").replace("outsider", "none"),
        "models": str(_models(card, models)) if isinstance(models, Mapping) else "",
        "on": ",".join(map(str, card["providers"])) if isinstance(card.get("providers"), list) else "",
        "cores": _said(card, "cores"),
        "cpu": f"{load['cpu']} %" if _is_count(load.get("cpu")) else "",
        "free": size(load["mem"] * MIB) if _is_count(load.get("mem")) else "",
        "queue": _said(load, "queue"),
        "labels": _labels(labels) if isinstance(labels, Mapping) else "",
        "address": node.address,
    }


def _models(card: Mapping[str, Any], listed: Mapping[str, Any]) -> int:
    """How many versions are ready there: a card lists as many as fit, and says how many others there are."""
    left_out = card.get("models_left_out")
    return len(listed) + (int(left_out or 0) if _is_count(left_out) else 0)


def _labels(labels: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" if value else str(name) for name, value in labels.items())


def _said(values: Mapping[str, Any], name: str) -> str:
    return "" if values.get(name) is None else str(values[name])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
