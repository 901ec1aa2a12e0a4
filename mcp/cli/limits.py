"""``mcpctl limits``: how much is let in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table

from mcp.cli.connection import client_command
from mcp.cli.documents import documents, mapping, named, read_text
from mcp.cli.options import json_option
from mcp.cli.output import print_json, print_parts, table
from mcp.cli.routes import expected_version_option
from mcp.client.client import Client
from mcp.errors import InvalidArgument
from mcp.flow.config import FlowConfig, LimitConfig, from_plain, to_plain


@click.group(
    name="limits",
    epilog="""\b
Examples:
  mcpctl limits apply examples/limits.json
  mcpctl limits list""",
)
def limits() -> None:
    """How much is let in: rates of clients, models and the cluster, breakers, requests under way."""


@limits.command(
    name="apply",
    short_help="Put limits into force on every node.",
    epilog="""\b
Examples:
  mcpctl limits apply examples/limits.json
  mcpctl limits apply limits.yaml --expected-version 2

What a file leaves out has its default. Whole files replace each other; docs/routing.md has all fields.""",
)
@click.argument("file")
@expected_version_option
@json_option
@client_command
async def apply_(client: Client, file: str, expected_version: int | None, as_json: bool) -> None:
    """Put the limits in FILE (JSON or YAML; '-': standard input) into force on every node.

    A field that is unknown or makes no sense is refused by its path, and nothing is changed then.
    """
    found = documents(read_text(file), file)
    if len(found) != 1:
        raise InvalidArgument(f"{file} has {len(found)} documents; give one with all limits")
    declared = mapping(found[0], file)
    with named(file):
        plain = to_plain(from_plain(declared))
        version = await client.set_limits(plain, expected_version=expected_version)
    if as_json:
        print_json({"limits": plain, "version": version})
    else:
        click.echo(f"the limits are in force, version {version}")
        await say_what_is_not_deployed(client, from_plain(plain))


@limits.command(
    name="list",
    short_help="Show the limits, and who has which share.",
    epilog="""\b
Examples:
  mcpctl limits list
  mcpctl limits list --json""",
)
@json_option
@client_command
async def list_(client: Client, as_json: bool) -> None:
    """Show the limits, and how those of the cluster are shared out between the nodes now."""
    declared, shares = await client.limits(), await client.shares()
    if as_json:
        print_json({"version": declared.version, "limits": declared.limits, "shares": shares})
        return
    parts: list[RenderableType] = [f"limits, version {declared.version}"]
    if declared.limits is None:
        parts.append("nothing is limited, and nothing is asked before a request is let in")
    else:
        parts.append(limits_table(from_plain(declared.limits)))
    if shares:
        parts.append(shares_table(shares))
    print_parts(*parts)


@limits.command(
    name="remove",
    short_help="Have no limits any more.",
    epilog="""\b
Examples:
  mcpctl limits remove""",
)
@expected_version_option
@json_option
@client_command
async def remove(client: Client, expected_version: int | None, as_json: bool) -> None:
    """Have no limits any more: every request is let in, and nothing is asked."""
    version = await client.set_limits(None, expected_version=expected_version)
    if as_json:
        print_json({"limits": None, "version": version})
    else:
        click.echo(f"nothing is limited any more, version {version}")


async def say_what_is_not_deployed(client: Client, config: FlowConfig) -> None:
    """Note on standard error which models of the limits nobody has deployed: a limit may come before."""
    known = {name for model in await client.models() for name in (model.name, *model.aliases)}
    fallbacks = [
        step.model for model in (config.default_model, *config.models.values()) for step in model.fallbacks
    ]
    named = {*config.models, *(limit.model for limit in config.cluster.values()), *fallbacks} - {None}
    for name in sorted(str(name) for name in named - known):
        click.echo(f"note: {name:.80} is not deployed: what is said of it holds once it is", err=True)


def limits_table(config: FlowConfig) -> Table:
    """Return the limits, one a row."""
    rows = table("of", "limit")
    for what, limit in limits_said(config):
        rows.add_row(what, limit)
    return rows


def limits_said(config: FlowConfig) -> Iterator[tuple[str, str]]:
    """Give what each limit is of, and how large it is."""
    yield "a node", f"{config.in_flight_max} requests under way"
    if config.clients.default is not None:
        yield "each client", _rate(config.clients.default)
    for client, limit in sorted(config.clients.by_name.items()):
        yield f"client {client}", _rate(limit)
    for name, model in (("every other model", config.default_model), *sorted(config.models.items())):
        of = name if model is config.default_model else f"model {name}"
        if model.limit is not None:
            yield f"{of}, per node", _rate(model.limit)
        parts = {"breaker": model.breaker, "adaptive concurrency": model.concurrency}
        told = ", ".join(part for part, there in parts.items() if there is not None)
        yield of, told or "no breaker, no bound of requests under way"
    for name, shared in sorted(config.cluster.items()):
        of = "all models" if shared.model is None else f"model {shared.model}"
        yield f"the cluster ({name}), {of}", f"{shared.amount} per {shared.per_s:g} s"


def _rate(limit: LimitConfig) -> str:
    burst = "" if limit.burst is None else f", at most {limit.burst} at once"
    return f"{limit.amount} per {limit.per_s:g} s{burst} ({limit.kind.replace('_', ' ')})"


def shares_table(shares: Mapping[str, Any]) -> Table:
    """Return what each node may be using of each of the cluster's limits."""
    rows = table("cluster limit", "node", "share#")
    for name, each in sorted(shares.items()):
        for node, units in sorted(each["shares"].items()) or [("nobody asks for it", 0)]:
            # What follows the node's name tells its starts and the limit's versions apart.
            rows.add_row(name, node.partition("/")[0], f"{units / 1000:g} of {each['units'] / 1000:g}")
    return rows
