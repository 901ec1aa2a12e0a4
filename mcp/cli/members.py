"""``mcpctl members``, ``promote`` and ``remove``."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from mcp.cli.connection import client_command
from mcp.cli.options import json_option
from mcp.cli.output import print_json, print_parts
from mcp.cli.replaced import replaced_parts
from mcp.client.client import Client
from mcp.client.results import MemberStatus


@click.command(
    epilog="""\b
Examples:
  mcpctl members
  mcpctl members --json"""
)
@json_option
@client_command
async def members(client: Client, as_json: bool) -> None:
    """List the nodes: who votes, who observes, who is up, and where each is reached.

    "none" is a node that was a member once, or waits to become one. Below the table stands which dead voters
    the nodes have replaced by themselves.
    """
    found = await client.members()
    if as_json:
        print_json(found)
        return
    gone = any(member.role == "none" for member in found)
    print_parts(members_table(found), *(replaced_parts(await client.status()) if gone else ()))


def members_table(found: list[MemberStatus]) -> Table:
    """The members as a table."""
    table = Table("node", "role", "state", "address", box=None, pad_edge=False)
    for member in found:
        table.add_row(member.node, member.role or "none", member.state, member.address)
    return table


@click.command(
    epilog="""\b
Examples:
  mcpctl promote n4"""
)
@click.argument("node")
@json_option
@client_command
async def promote(client: Client, node: str, as_json: bool) -> None:
    """Let the observer NODE vote. It has to have caught up with the log.

    A node that joined without --observer is promoted by itself.
    """
    _tell(await client.promote(node), f"{node} votes", as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  mcpctl remove n3          # a dead node too: the others decide"""
)
@click.argument("node")
@json_option
@client_command
async def remove(client: Client, node: str, as_json: bool) -> None:
    """Take NODE out of the cluster, whether it runs or not. Its process goes on, and is no member any more.

    One that leads hands leadership over first. Refused when what is left could not decide anything: when too
    few of the others can be reached. It may come back on an empty data directory, with --join.
    """
    _tell(await client.remove(node), f"{node} is no member any more", as_json=as_json)


def _tell(index: int, what: str, *, as_json: bool) -> None:
    answer: dict[str, Any] = {"index": index}
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{what} (log position {index})")
