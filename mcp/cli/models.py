"""``mcpctl deploy`` and ``mcpctl models``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from mcp.cli.connection import client_command
from mcp.cli.options import FILE, json_option, option
from mcp.cli.output import console, print_json, print_parts, size, table
from mcp.client.client import Client
from mcp.client.results import ModelStatus

DEPLOY_TIMEOUT_S = 60.0


@click.command(
    epilog="""\b
Examples:
  mcpctl deploy digits examples/digits/digits.onnx
  mcpctl deploy digits new.onnx --version 2 --alias digits-latest --family mlp --task classification"""
)
@click.argument("name")
@click.argument("model", type=FILE)
@option("--version", metavar="TEXT", help="Its version; by default the next number.")
@option("--alias", "aliases", multiple=True, help="Another name that a request may use. Repeatable.")
@option("--family", metavar="TEXT", help="The family that a request may ask for instead of a name.")
@option("--task", metavar="TEXT", help="The task that a request may ask for instead of a name.")
@option("--tag", "tags", multiple=True, help="A word to remember it by. Repeatable.")
@option(
    "--deploy-timeout",
    "deploy_timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=DEPLOY_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="Give up after this long.",
)
@json_option
@client_command
async def deploy(
    client: Client, name: str, model: Path, deploy_timeout_s: float, as_json: bool, **manifest: Any
) -> None:
    """Put the ONNX file MODEL into service as NAME on every node.

    Returns once the nodes have agreed on it and a quorum holds the verified bytes.
    """
    with uploading(name, shown=not as_json) as on_progress:
        done = await client.deploy(
            name, model, timeout_s=deploy_timeout_s, on_progress=on_progress, **manifest
        )
    if as_json:
        print_json(done)
        return
    click.echo(
        f"{done.name} version {done.version} is in service: {size(done.size)}, "
        f"sha256 {done.digest[:16]}, held by {', '.join(done.holders)}"
    )


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
    """List the models that the cluster agreed on."""
    cluster = await client.status()
    if as_json:
        print_json(cluster.models)
    else:
        print_parts(models_table(cluster.models))


def models_table(found: Sequence[ModelStatus]) -> Table | str:
    """Return the models, one a row, or a sentence when there is none."""
    if not found:
        return "no model is deployed yet: mcpctl deploy NAME MODEL.onnx"
    rows = table("model", "version", "also", "aliases", "ready", "held by", "sha256")
    for model in found:
        rows.add_row(
            model.name,
            model.version,
            ", ".join(version for version in model.versions if version != model.version),
            ", ".join(model.aliases),
            "yes" if model.ready else "loading",
            ", ".join(model.holders),
            model.digest[:16],
        )
    return rows
