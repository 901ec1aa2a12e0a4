"""``mcpctl get``, ``put``, ``delete``, ``keys`` and ``conflicts``."""

from __future__ import annotations

import json
from typing import Any, get_args

import click
from click.core import ParameterSource

from mcp.cli.connection import client_command
from mcp.cli.options import json_option, option
from mcp.cli.output import plain, print_json, print_parts, table
from mcp.client.client import Client
from mcp.client.results import Consistency
from mcp.errors import InvalidArgument, NotFound
from mcp.wire.json_codec import plain_json


def as_text(value: Any) -> str:
    """Return a key's value for reading: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False, default=str)


@click.command(
    epilog="""\b
Examples:
  mcpctl get greeting
  mcpctl get greeting --linearizable --json"""
)
@click.argument("key")
@option(
    "--consistency",
    type=click.Choice(get_args(Consistency)),
    default="session",
    show_default=True,
    help="As fresh as what this client has seen, the latest, or whatever the node that answers has.",
)
@option("--linearizable", is_flag=True, help="The latest value, confirmed by a quorum at this moment.")
@option("--stale", is_flag=True, help="Whatever the node that answers has; it may be behind.")
@json_option
@client_command
async def get(
    client: Client, key: str, consistency: Consistency, linearizable: bool, stale: bool, as_json: bool
) -> None:
    """Read KEY. A text is printed as it is, everything else as JSON."""
    freshness = chosen(consistency, linearizable=linearizable, stale=stale)
    found = await client.get(key, consistency=freshness)
    if found is None:
        raise NotFound(f"there is no key {key!r}")
    if as_json:
        print_json(found)
    else:
        click.echo(as_text(found.value))


def chosen(consistency: Consistency, *, linearizable: bool, stale: bool) -> Consistency:
    """Return the consistency that the three options of ``get`` mean together.

    A flag comes before the environment. Raises :class:`~mcp.errors.InvalidArgument` for two that differ.
    """
    context = click.get_current_context(silent=True)
    source = context.get_parameter_source("consistency") if context is not None else None
    named: set[Consistency] = {consistency} if source is ParameterSource.COMMANDLINE else set()
    named |= {"linearizable"} if linearizable else set()
    named |= {"stale"} if stale else set()
    if len(named) > 1:
        raise InvalidArgument(f"{' and '.join(sorted(named))} exclude each other: ask for one of them")
    return named.pop() if named else consistency


@click.command(
    epilog="""\b
Examples:
  mcpctl put greeting hello
  mcpctl put limits '{"rps": 50}' --json-value
  mcpctl put greeting hi --expected-version 1     # only if nobody wrote since
  mcpctl put greeting hi --expected-version 0     # only if it does not exist

A key's version is one more with every write. A key that is created after others were deleted begins above the
versions that these had, so that nobody who remembers an old version takes it for the new one's."""
)
@click.argument("key")
@click.argument("value")
@option("--json-value", is_flag=True, help="VALUE is JSON; otherwise it is stored as text.")
@option(
    "--expected-version",
    type=click.IntRange(min=0),
    help="Write only if the key is at this version; 0: only if it does not exist.",
)
@json_option
@client_command
async def put(
    client: Client, *, key: str, value: str, json_value: bool, expected_version: int | None, as_json: bool
) -> None:
    """Write VALUE under KEY.

    Returns once a quorum of the nodes has it on disk, and prints the key's new version.
    """
    stored = parsed(value) if json_value else value
    if expected_version is None:
        version = await client.put(key, stored)
    else:
        version = await client.compare_and_set(key, stored, expected_version=expected_version)
    if as_json:
        print_json({"key": key, "version": version})
    else:
        click.echo(f"{key} is at version {version}")


def parsed(value: str) -> Any:
    """Parse a JSON value. Raises :class:`~mcp.errors.InvalidArgument`, which says where it ends being one."""
    try:
        return plain_json(value)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"VALUE is not JSON: {error}; leave out --json-value to store it as text"
        ) from error


@click.command(
    epilog="""\b
Examples:
  mcpctl delete greeting
  mcpctl delete greeting --expected-version 2     # only if nobody wrote since
  mcpctl delete --prefix jobs/17/                 # every key that begins so"""
)
@click.argument("key")
@option("--prefix", "by_prefix", is_flag=True, help="Remove every key that begins with KEY.")
@option(
    "--expected-version",
    type=click.IntRange(min=1),
    help="Remove only if the key is at this version.",
)
@json_option
@client_command
async def delete(
    client: Client, key: str, by_prefix: bool, expected_version: int | None, as_json: bool
) -> None:
    """Remove KEY.

    Returns once a quorum of the nodes has it on disk. A key that is not there is no error, unless a version
    of it is expected.
    """
    if by_prefix:
        if expected_version is not None:
            raise InvalidArgument("--prefix is of many keys, --expected-version of one: give one of them")
        count = await client.delete_prefix(key)
        if as_json:
            print_json({"prefix": key, "deleted": count})
        else:
            click.echo(f"{count} keys that begin with {key} are deleted")
        return
    version = await client.delete(key, expected_version=expected_version)
    if as_json:
        print_json({"key": key, "deleted": version > 0, "version": version or None})
    else:
        click.echo(f"{key} is deleted, it was at version {version}" if version else f"there was no key {key}")


@click.command(
    epilog="""\b
Examples:
  mcpctl keys
  mcpctl keys user/ --limit 1000 --json
  mcpctl keys user/ --after user/4711"""
)
@click.argument("prefix", default="")
@option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="At most this many; standard error says if there are more.",
)
@option("--after", metavar="KEY", help="Only those that come after KEY, which need not exist.")
@json_option
@client_command
async def keys(client: Client, prefix: str, limit: int, after: str | None, as_json: bool) -> None:
    """List the keys that begin with PREFIX, in order."""
    found = await client.keys(prefix, limit + 1, after=after)
    truncated, found = len(found) > limit, found[:limit]
    if as_json:
        print_json({"keys": found, "truncated": truncated})
        return
    for key in found:
        click.echo(key)
    if truncated:
        click.echo(f"mcpctl: there are more: --limit N shows more, --after {found[-1]} the next", err=True)


@click.command(
    epilog="""\b
Examples:
  mcpctl conflicts greeting
  mcpctl conflicts greeting --json"""
)
@click.argument("key")
@json_option
@client_command
async def conflicts(client: Client, key: str, as_json: bool) -> None:
    """Show the writes to KEY that lost: each expected a version that was no longer current."""
    found = await client.conflicts(key)
    if as_json:
        print_json(found)
        return
    rows = table("index#", "session", "expected#", "was#", "attempted value")
    for lost in found:
        rows.add_row(
            str(lost.get("index")),
            str(lost.get("session")),
            str(lost.get("expected_version")),
            str(lost.get("winner_version")),
            as_text(lost.get("attempted")),
        )
    print_parts(rows if found else f"no write to {key} has lost")
