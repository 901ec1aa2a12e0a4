"""``mcpctl deploy``, ``models``, ``activate`` and ``undeploy``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from mcp.cli.connection import client_command
from mcp.cli.options import FILE, json_option, option
from mcp.cli.output import console, fitting, narrower, print_json, print_parts, size
from mcp.client.client import Client
from mcp.client.results import ModelStatus, NodeStatus, newest_first
from mcp.errors import McpError
from mcp.state.batching import LATENCY_BOUND_MS, LATENCY_BOUND_MS_MOST, MODES, ROWS_MAX, ROWS_MAX_MOST

DEPLOY_TIMEOUT_S = 60.0


@click.command(
    epilog="""\b
Examples:
  mcpctl deploy digits examples/digits/digits.onnx
  mcpctl deploy digits examples/digits/digits.onnx --version 2 --alias scans --task classification
  mcpctl deploy words words.onnx --batching dynamic --batch-pad ids=0 --batch-pad mask=0"""
)
@click.argument("name")
@click.argument("model", type=FILE)
@option("--version", metavar="TEXT", help="Its version; by default the next number.")
@option("--alias", "aliases", multiple=True, help="Another name that a request may use. Repeatable.")
@option("--family", metavar="TEXT", help="The family that a request may ask for instead of a name.")
@option("--task", metavar="TEXT", help="The task that a request may ask for instead of a name.")
@option(
    "--batching",
    "batching_mode",
    type=click.Choice(MODES),
    help="Whether requests may share a run; auto, the default, tries whether rows are independent.",
)
@option(
    "--batch-rows-max",
    type=click.IntRange(1, ROWS_MAX_MOST),
    metavar="ROWS",
    help=f"The most rows in one run; {ROWS_MAX} by default.",
)
@option(
    "--batch-latency-bound",
    "latency_bound_s",
    type=click.FloatRange(0, LATENCY_BOUND_MS_MOST / 1000),
    metavar="SECONDS",
    help=f"How late an answer may be because of batching; {LATENCY_BOUND_MS / 1000:g} by default.",
)
@option(
    "--batch-pad",
    "pads",
    multiple=True,
    metavar="INPUT=NUMBER",
    help="Fill requests of unequal lengths up with this number, where that changes no result. Repeatable.",
)
@option("--tag", "tags", multiple=True, help="A word that a request may ask for. Repeatable.")
@option("--length-max", type=click.IntRange(1), metavar="ELEMENTS", help="The longest sequence it takes.")
@option("--batch-max", type=click.IntRange(1), metavar="ROWS", help="The most rows that a request may have.")
@option("--size-max", type=click.IntRange(1), metavar="BYTES", help="The largest inputs of a request.")
@option("--run-bytes", type=click.IntRange(0), metavar="BYTES", help="Memory a run takes beside its inputs.")
@option("--provider", "providers", multiple=True, help="An execution provider that will do. Repeatable.")
@option(
    "--no-activate",
    is_flag=True,
    help="Let another version go on answering for the name: this one is for 'mcpctl rollout'.",
)
@option(
    "--deploy-timeout",
    "deploy_timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=DEPLOY_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    envvar="MCP_DEPLOY_TIMEOUT",
    help="Give up after this long.",
)
@json_option
@client_command
async def deploy(
    client: Client,
    name: str,
    model: Path,
    deploy_timeout_s: float,
    as_json: bool,
    batching_mode: str | None,
    batch_rows_max: int | None,
    latency_bound_s: float | None,
    pads: Sequence[str],
    length_max: int | None,
    batch_max: int | None,
    size_max: int | None,
    run_bytes: int | None,
    providers: Sequence[str],
    no_activate: bool,
    **manifest: Any,
) -> None:
    """Put the ONNX file MODEL into service as NAME on every node.

    Returns once the nodes have agreed on it and a quorum holds the verified bytes. The version becomes the
    active one, also if it was deployed before, unless --no-activate is given.
    """
    batching = batching_said(batching_mode, batch_rows_max, latency_bound_s, pads)
    said = {
        "length_max": length_max,
        "batch_max": batch_max,
        "size_max": size_max,
        "run_bytes": run_bytes,
        "providers": list(providers) or None,
    }
    requirements = {name: value for name, value in said.items() if value is not None}
    with uploading(name, shown=not as_json) as on_progress:
        done = await client.deploy(
            name,
            model,
            timeout_s=deploy_timeout_s,
            on_progress=on_progress,
            batching=batching,
            requirements=requirements or None,
            activate=not no_activate,
            **manifest,
        )
    if as_json:
        print_json(done)
        return
    how = "deployed" if no_activate else "in service"
    click.echo(
        f"{done.name} version {done.version} is {how}: {size(done.size)}, "
        f"sha256 {done.digest[:16]}, held by {', '.join(done.holders)}"
    )


def batching_said(
    mode: str | None, rows_max: int | None, latency_bound_s: float | None, pads: Sequence[str]
) -> dict[str, Any] | None:
    """Return what the options say about batching, for a manifest; ``None``: nothing."""
    said: dict[str, Any] = {}
    if mode is not None:
        said["mode"] = mode
    if rows_max is not None:
        said["rows_max"] = rows_max
    if latency_bound_s is not None:
        said["latency_bound_ms"] = latency_bound_s * 1000
    if pads:
        said["pad"] = dict(map(pad_of, pads))
    return said or None


def pad_of(text: str) -> tuple[str, int | float]:
    """Read ``INPUT=NUMBER``; the last ``=`` parts them."""
    name, _, number = text.rpartition("=")
    for kind in (int, float):
        with suppress(ValueError):
            if name:
                return name, kind(number)
    raise click.BadParameter(f"{text!r} is not INPUT=NUMBER", param_hint="--batch-pad")


@contextmanager
def uploading(name: str, *, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar on a terminal's standard error, and give what moves it; elsewhere ``None``."""
    out = console(stderr=True)
    if not shown or not out.is_terminal:
        yield None
        return
    columns = (TextColumn("sending {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda sent, total: progress.update(task, completed=sent, total=total)


@click.command(
    epilog="""\b
Examples:
  mcpctl models
  mcpctl models --json"""
)
@json_option
@client_command
async def models(client: Client, as_json: bool) -> None:
    """List the models that the cluster agreed on, and the nodes that have their active version ready."""
    found, cluster = await asyncio.gather(client.models(), client.status())
    if as_json:
        print_json([model_json(model, cluster.nodes, LOGGED) for model in found])
    else:
        print_parts(models_table(found, cluster.nodes))


STATED: Final = ("name", "version", "versions", "digest", "aliases", "holders")
"""What a node's status says of a model."""
LOGGED: Final = (*STATED, "size", "family", "task", "tags", "inputs", "outputs", "batching")
"""What the log knows of it."""


def model_json(model: ModelStatus, nodes: Sequence[NodeStatus], fields: Sequence[str]) -> dict[str, Any]:
    """Return these fields of a model, and how it stands with each of the nodes."""
    ready, problems = readiness(model, nodes)
    how_it_stands = {"ready_on": ready, "problems": problems, "inference": inference(model, nodes)}
    return {field: getattr(model, field) for field in fields} | how_it_stands


def inference(model: ModelStatus, nodes: Sequence[NodeStatus]) -> dict[str, dict[str, Any]]:
    """Return what waits for a model, what ran and what was refused, by node."""
    return {
        node.node: said.inference
        for node in nodes
        for said in node.models
        if node.node is not None and said.inference is not None
        if (said.name, said.digest) == (model.name, model.digest)
    }


def readiness(model: ModelStatus, nodes: Sequence[NodeStatus]) -> tuple[list[str], dict[str, McpError]]:
    """Return who has the active version ready, and what keeps others from it, by node."""
    ready: list[str] = []
    problems: dict[str, McpError] = {}
    for node in nodes:
        for said in node.models:
            if node.node is not None and (said.name, said.digest) == (model.name, model.digest):
                if said.ready:
                    ready.append(node.node)
                elif said.problem is not None:
                    problems[node.node] = said.problem
    return ready, problems


def holders(model: ModelStatus, nodes: Sequence[NodeStatus]) -> list[str]:
    """Return the members that hold the model's bytes: whoever has left serves nobody any more."""
    newest = next(iter(newest_first([node for node in nodes if node.reachable])), None)
    members = set() if newest is None else {*newest.voters, *newest.observers}
    return [holder for holder in model.holders if not members or holder in members]


COLUMNS: Final = ("model", "version", "other versions", "aliases", "ready on", "held by", "sha256")
DISPENSABLE: Final = ("sha256", "held by", "aliases")
"""Left out, in this order, where the terminal is too narrow for all."""


def models_table(found: Sequence[ModelStatus], nodes: Sequence[NodeStatus]) -> Table | str:
    """Return the models, one a row, or a sentence when there is none."""
    if not found:
        return "no model is deployed yet: mcpctl deploy NAME MODEL.onnx"
    rows = [model_row(model, nodes) for model in found]
    return fitting(narrower(COLUMNS, rows, DISPENSABLE))


def model_row(model: ModelStatus, nodes: Sequence[NodeStatus]) -> dict[str, str | Text]:
    """Return one model's cells by column."""
    ready, problems = readiness(model, nodes)
    failed = ", ".join(f"{node}: {problem.code}" for node, problem in problems.items())
    states = Text(", ".join(ready) or ("" if failed else "loading"))
    if failed:
        states.append(f"{', ' if ready else ''}{failed}", style="red")
    return {
        "model": model.name,
        "version": model.version,
        "other versions": ", ".join(version for version in model.versions if version != model.version),
        "aliases": ", ".join(model.aliases),
        "ready on": states,
        "held by": ", ".join(holders(model, nodes)),
        "sha256": model.digest[:16],
    }


@click.command(
    epilog="""\b
Examples:
  mcpctl activate digits 1     # back to version 1, on every node at once"""
)
@click.argument("name")
@click.argument("version")
@json_option
@client_command
async def activate(client: Client, name: str, version: str, as_json: bool) -> None:
    """Put VERSION of the model NAME into service, an older one or a newer one.

    Every node switches at the same position of the log. Other versions stay deployed: NAME@VERSION asks them.
    """
    await client.activate(name, version)
    if as_json:
        print_json({"name": name, "version": version})
    else:
        click.echo(f"{name} version {version} is in service")


@click.command(
    epilog="""\b
Examples:
  mcpctl undeploy digits --version 2
  mcpctl undeploy digits                 # all versions, and the name"""
)
@click.argument("name")
@option("--version", metavar="TEXT", help="Only this version; by default all of them.")
@json_option
@client_command
async def undeploy(client: Client, name: str, version: str | None, as_json: bool) -> None:
    """Take the model NAME, or one version of it, out of service on every node.

    When the active version goes, the one of the rest that was deployed last is in service.
    """
    await client.undeploy(name, version)
    left = next((model for model in await client.models() if model.name == name), None)
    if as_json:
        print_json({"name": name, "undeployed": version, "active": None if left is None else left.version})
        return
    gone = f"{name} version {version}" if version is not None else name
    rest = f"; version {left.version} is in service" if left is not None else ""
    click.echo(f"{gone} is out of service{rest}")
