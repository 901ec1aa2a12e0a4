"""``mcpctl rollout``: a new version takes a growing share of the requests, as long as it behaves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
from rich.table import Table

from mcp.cli import exits
from mcp.cli.connection import client_command
from mcp.cli.options import json_option, option
from mcp.cli.output import console, duration, print_json, print_parts, table
from mcp.client.client import Client
from mcp.client.results import ClusterStatus
from mcp.client.traffic import DEFAULT_STEPS, Rollout
from mcp.cluster.router.fields import Fields
from mcp.cluster.router.fields import duration as duration_of
from mcp.errors import InvalidArgument, McpError, NotFound

LOOK_S: Final = 0.5
"""So long between two looks at a rollout that is followed."""
SILENCE_S_MAX: Final = 30.0
"""While it is followed, no node need answer for so long."""
_NOBODY_S: Final = (
    "figures are with the node that leads, and after the end with the one that led then, until it is started "
    "again; of a rollout with ? it has none, or does not answer"
)


class Begins(click.Group):
    """A group for which what is no command of its own is the model to begin with."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command ``begin`` before the model's name."""
        own = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, ["begin", *args] if args and args[0] not in own else args)


def steps_of(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Read percents with commas between; what they have to be otherwise is for the cluster to say."""
    parts = [part.strip().removesuffix("%").strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= len("100") for part in parts):
        raise click.BadParameter(f"{text!r:.80} are no whole percents with commas between: 5,20,50,100")
    return tuple(map(int, parts))


def share_of(_context: click.Context, _parameter: click.Parameter, text: str) -> float:
    """Read ``1%``, or the same as a fraction, ``0.01``."""
    text = text.strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{text!r:.80} is no share: write 1% or 0.01")
    return share


def seconds_of(_context: click.Context, _parameter: click.Parameter, text: str) -> float:
    """Read ``30s``, ``1m30s``, or seconds without a unit."""
    text = text.strip()
    if text.replace(".", "", 1).isdecimal():
        return float(text)
    try:
        return Fields({"interval": text}, "").take("interval", duration_of)
    except InvalidArgument as error:
        raise click.BadParameter(error.message) from None


@click.group(
    name="rollout",
    cls=Begins,
    epilog="""\b
Examples:
  mcpctl deploy digits new.onnx --version 2 --no-activate
  mcpctl rollout digits --to 2 --steps 5,20,50,100 --max-error 1% --max-p99-ratio 1.5
  mcpctl rollout status digits
  mcpctl rollout list
  mcpctl rollout abort digits

'mcpctl rollout begin --help' has the options.""",
)
def rollout() -> None:
    """Give a new version a growing share of a model's requests; it is rolled back if it misbehaves.

    'mcpctl rollout MODEL' is 'mcpctl rollout begin MODEL'.
    """


@rollout.command(
    name="begin",
    short_help="Begin a rollout and follow it.",
    epilog="""\b
Examples:
  mcpctl rollout digits --to 2
  mcpctl rollout digits --to 2 --steps 1,10,100 --max-error 0.1% --interval 5m --no-wait""",
)
@click.argument("model")
@option("--to", required=True, metavar="VERSION", help="The version that is to become the active one.")
@option(
    "--steps",
    default=",".join(map(str, DEFAULT_STEPS)),
    show_default=True,
    callback=steps_of,
    metavar="PERCENT,...",
    help="Its shares of the requests, the last 100. Half of the first is tried before.",
)
@option(
    "--max-error",
    default="1%",
    show_default=True,
    callback=share_of,
    metavar="SHARE",
    help="So many of its requests may fail.",
)
@option(
    "--max-p99-ratio",
    type=click.FloatRange(min=0),
    default=1.5,
    show_default=True,
    metavar="RATIO",
    help="Its 99th percentile may be so many times the old version's.",
)
@option(
    "--interval",
    "interval_s",
    default="30s",
    show_default=True,
    callback=seconds_of,
    metavar="DURATION",
    help="A step takes at least so long.",
)
@option(
    "--min-requests",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="N",
    help="A step sees at least so many of its requests.",
)
@option("--no-wait", is_flag=True, help="Do not follow it: it goes on by itself.")
@json_option
@client_command
async def begin(client: Client, model: str, *, to: str, no_wait: bool, as_json: bool, **plan: Any) -> None:
    """Give the version VERSION of MODEL a growing share of its requests, and follow that to its end.

    The cluster goes on by itself, whoever leads it, also when this command is interrupted. The exit status is
    1 when the version was rolled back, or the rollout aborted.
    """
    begun = await client.begin_rollout(model, to, **plan)
    if not no_wait:
        begun = await follow(client, begun, shown=not as_json)
    if as_json:
        print_json(rollout_json(begun))
    elif no_wait:
        click.echo(told(begun))
    if not begun.going and begun.state != "done":
        click.get_current_context().exit(exits.FAILED)


async def follow(client: Client, begun: Rollout, *, shown: bool) -> Rollout:
    """Look at a rollout until it has ended, and say what changes. Gives how it ended."""
    said = ""
    heard_s = asyncio.get_running_loop().time()
    verbose = console().is_terminal
    while True:
        line = told(begun)
        try:
            found = await find(client, begun.model)
            if found.version < begun.version or found.to != begun.to:
                raise NotFound(f"another rollout of {begun.model} has begun since")
            begun = found
            line = told(begun)
            if verbose and begun.going:
                line += looked((await looks_of(client)).get(begun.model))
            heard_s = asyncio.get_running_loop().time()
        except McpError as error:
            if not error.retryable or asyncio.get_running_loop().time() - heard_s > SILENCE_S_MAX:
                raise
        if shown and line != said:
            click.echo(line)
            said = line
        if not begun.going:
            return begun
        await asyncio.sleep(LOOK_S)


async def find(client: Client, model: str) -> Rollout:
    """Return a model's rollout. Raises :class:`~mcp.errors.NotFound`."""
    for each in await client.rollouts():
        if each.model == model:
            return each
    raise NotFound(f"{model} has no rollout any more")


async def looks_of(client: Client) -> dict[str, Mapping[str, Any]]:
    """What the leader saw of each rollout last, by its model."""
    return looks_in(await client.status())


def looks_in(cluster: ClusterStatus) -> dict[str, Mapping[str, Any]]:
    """What leaders saw of each rollout last, by its model, as far as their nodes answered."""
    looks: dict[str, Mapping[str, Any]] = {}
    for node in cluster.nodes:
        for look in node.details.get("rollouts") or []:
            if not isinstance(look, Mapping):
                continue
            model = str(look.get("model"))
            # One that has led before may still have its look at a rollout that has ended since.
            if model not in looks or _changed(look) > _changed(looks[model]):
                looks[model] = look
    return looks


def _changed(look: Mapping[str, Any]) -> int:
    version = look.get("version")
    return version if isinstance(version, int) else 0


def look_at(each: Rollout, looks: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the last look at this rollout, and at no other of the model; ``None``: no node has it."""
    look = looks.get(each.model)
    if look is None or look.get("ended", False) is each.going or look.get("to", each.to) != each.to:
        return None
    return look


def told(each: Rollout) -> str:
    """Return where a rollout is, in a line."""
    steps = each.plan.get("steps") or []
    where = f"{each.model}: version {each.from_} to {each.to}"
    if each.going:
        step = "trial" if each.step == 0 else f"step {each.step} of {len(steps)}"
        return f"{where}, {step}: {each.percent:g} % of the requests"
    return f"{where}: {each.state}{f', {each.reason}' if each.reason else ''}"


def looked(look: Mapping[str, Any] | None) -> str:
    """Return what the leader made of a rollout, to be put behind where it is."""
    if look is None:
        return ""
    left_out = look.get("left_out") or []
    missing = f"; without {', '.join(map(str, left_out))}, which did not answer" if left_out else ""
    return f"; {look.get('reason')}{missing}"


def rollout_json(each: Rollout) -> dict[str, Any]:
    """Return a rollout as it is on the wire."""
    fields = {name: getattr(each, name) for name in Rollout.__slots__}
    return {"from" if name == "from_" else name: value for name, value in fields.items()}


@rollout.command(
    name="list",
    short_help="Show the latest rollout of each model.",
    epilog="""\b
Examples:
  mcpctl rollout list
  mcpctl rollout list --json""",
)
@json_option
@client_command
async def list_(client: Client, as_json: bool) -> None:
    """Show the latest rollout of each model, and what the leader saw of it last."""
    await show(client, await client.rollouts(), as_json=as_json)


@rollout.command(
    name="status",
    short_help="The same, or that of one model.",
    epilog="""\b
Examples:
  mcpctl rollout status
  mcpctl rollout status digits""",
)
@click.argument("model", required=False)
@json_option
@client_command
async def status(client: Client, model: str | None, as_json: bool) -> None:
    """Show MODEL's latest rollout, and what the leader saw of it last; without MODEL, that of each model."""
    found = await client.rollouts()
    if model is not None:
        found = [each for each in found if each.model == model]
        if not found:
            raise NotFound(f"{model} had no rollout; begin one: mcpctl rollout {model} --to VERSION")
    await show(client, found, as_json=as_json)


async def show(client: Client, found: Sequence[Rollout], *, as_json: bool) -> None:
    """Print rollouts with what the leader saw of them last, and why there is nothing of some."""
    looks = await looks_of(client)
    if as_json:
        print_json([{**rollout_json(each), "look": look_at(each, looks)} for each in found])
        return
    print_parts(rollouts_table(found, looks) if found else "there was no rollout yet")
    if any(look_at(each, looks) is None for each in found):
        click.echo(f"note: {_NOBODY_S}", err=True)


def rollouts_table(found: Sequence[Rollout], looks: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the rollouts, one a row."""
    rows = table("model", "from", "to", "state", "step#", "share#", "requests#", "failed#", "p99#", "reason")
    for each in found:
        look = look_at(each, looks)
        new = {"requests": "?", "failures": "?"} if look is None else look.get("new") or {}
        rows.add_row(
            each.model,
            each.from_,
            each.to,
            each.state,
            f"{each.step}/{len(each.plan.get('steps') or [])}",
            f"{each.percent:g} %",
            str(new.get("requests", "")),
            str(new.get("failures", "")),
            duration(float(new["p99_s"])) if new.get("p99_s") else "",
            each.reason or looked(look).removeprefix("; "),
        )
    return rows


@rollout.command(
    name="abort",
    short_help="End a rollout: the old version answers all again.",
    epilog="""\b
Examples:
  mcpctl rollout abort digits""",
)
@click.argument("model")
@option("--expected-version", type=click.IntRange(min=0), help="Only if its last change has this number.")
@json_option
@client_command
async def abort(client: Client, model: str, expected_version: int | None, as_json: bool) -> None:
    """End MODEL's rollout: the old version answers all its requests again, at once and on every node."""
    ended = await client.abort_rollout(model, expected_version=expected_version)
    if as_json:
        print_json(rollout_json(ended))
    else:
        click.echo(told(ended))
