"""``mcpctl infer``, ``submit`` and ``result``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import click
import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mcp.cli.connection import client_command
from mcp.cli.inputs import INPUT_FORMS, Request, Sources, header_of, request_from, typed
from mcp.cli.options import FILE, Command, json_option, option, together
from mcp.cli.output import duration, print_json, print_parts, table
from mcp.client.client import Client
from mcp.client.results import Inference, InferenceRecord, ModelStatus, Step
from mcp.clock import SystemClock
from mcp.errors import InvalidArgument, ModelNotFound, Unsupported
from mcp.wire.tensors import dtype_name

VALUES_SHOWN_CHARS = 60

input_options = together(
    option(
        "--input", "pairs", multiple=True, metavar="NAME=VALUE", help=f"One input: {INPUT_FORMS}. Repeatable."
    ),
    option("--npz", type=FILE, help="A file of arrays that are named as the model's inputs."),
    option(
        "--json-input", "json_file", metavar="FILE", help="A JSON object of inputs; '-' reads standard input."
    ),
    option("--text", help="A text, for a model that takes one."),
    option("--request", metavar="FILE", help="A whole INFER_REQUEST as JSON; '-' reads standard input."),
    option(
        "--rows",
        metavar="START:STOP",
        help="Only these rows of every input; one number is one row, counted from 0.",
    ),
)


def takes_inputs(command: Command) -> Command:
    """Give a command the optional MODEL and the input options."""
    return click.argument("model", required=False)(input_options(command))


async def asked(client: Client, model: str | None, options: Mapping[str, Any]) -> Request:
    """Read the request that the options of :func:`takes_inputs` describe.

    The cluster is asked for the model's types only if there are numbers without one.
    """
    return await with_types(client, request_from(model, Sources(**options)))


async def with_types(client: Client, request: Request) -> Request:
    """Give bare numbers the element types that the model declares, which the cluster is asked for."""
    if not request.untyped:
        return request
    return typed(request, await _declared_types(client, request.model))


async def _declared_types(client: Client, hint: str) -> dict[str, str]:
    """The element types of the inputs of whatever ``hint`` stands for, by input name.

    A family, a task or tags may stand for several models: there only what all of them declare counts.
    """
    try:
        return _types(await client.model(hint))
    except (ModelNotFound, Unsupported):
        wanted = set(hint.split(","))
        several = [
            _types(model)
            for model in await client.models()
            # The name and the aliases are for a node of an earlier version, which tells of no single one.
            if hint in (model.name, *model.aliases, model.family, model.task)
            or wanted <= set(model.tags or ())
        ]
    alike = set.intersection(*(set(types.items()) for types in several)) if several else set()
    return dict(alike)


def _types(model: ModelStatus) -> dict[str, str]:
    return {str(spec.get("name")): str(spec.get("dtype")) for spec in model.inputs or ()}


@click.command(
    epilog="""\b
Examples:
  mcpctl infer digits --input image=@examples/digits/held_out.npz:images --rows 0:5
  jq -n '{image: [[range(64) % 17]]}' | mcpctl infer digits --json-input - --json
  jq -n '{mcp_version: "1.0", type: "INFER_REQUEST", payload: {model_hint: "digits",
    inputs: [{name: "image", data: [[range(64) % 17]]}]}}' | mcpctl infer --request -
  mcpctl infer MODEL --text "good morning"     # for a model that takes one text
  mcpctl infer decoder --npz start.npz --stream 100 --carry next=state --until over"""
)
@takes_inputs
@option(
    "--stream",
    "steps",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Call it so many times in a row on one node, and print each step; with --json a line for each.",
)
@option(
    "--carry",
    multiple=True,
    metavar="OUTPUT=INPUT",
    help="With --stream: what a step gives as OUTPUT, the next one takes as INPUT. Repeatable.",
)
@option("--until", metavar="OUTPUT", help="With --stream: end with the first step in which it has no zero.")
@option("--session", metavar="TEXT", help="Requests of one session get one version of a weighted route.")
@option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="What routes look at. Repeatable.")
@option("--priority", type=int, help="The larger, the more urgent, where requests wait or are refused.")
@json_option
@client_command
async def infer(
    client: Client,
    *,
    model: str | None,
    session: str | None,
    priority: int | None,
    headers: tuple[str, ...],
    steps: int | None,
    carry: tuple[str, ...],
    until: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Ask MODEL (a name, an alias, a family or a task) now.

    The answer comes straight from one node; nothing is recorded. 'mcpctl submit' records.
    """
    _check_kind(steps, carry or until, session or headers or priority)
    carried = dict(_carried(pair) for pair in carry)
    request = await asked(client, model, options)
    if steps is not None:
        stream = client.stream(
            request.model,
            request.inputs,
            carry=carried,
            steps=steps,
            until=until,
            timeout_s=request.timeout_s,
        )
        async with aclosing(stream):
            async for step in stream:
                show_step(step, as_json=as_json)
        return
    clock = SystemClock()
    started = clock.monotonic()
    answer = await client.infer(
        request.model,
        request.inputs,
        session=session or request.session,
        headers={**request.headers, **dict(map(header_of, headers))} or None,
        priority=request.priority if priority is None else priority,
        timeout_s=request.timeout_s,
    )
    took_s = clock.monotonic() - started
    if as_json:
        print_json(
            {
                "model": answer.model,
                "version": answer.version,
                "node": answer.node,
                "duration_ms": round(took_s * 1000, 3),
                "fallback": answer.fallback,
                "age_s": answer.age_s,
                "outputs": answer.outputs,
            }
        )
        return
    origin = f"{answer.model} version {answer.version} on {answer.node}, {duration(took_s)}{_instead(answer)}"
    print_parts(outputs_table(answer.outputs), Text(origin, style="dim"))


def _instead(answer: Inference) -> str:
    """What is to be said of an answer that is not the model's own, or not of now."""
    if answer.fallback is None:
        return ""
    aged = "" if answer.age_s is None else f", {duration(answer.age_s)} old"
    return f" (fallback: {answer.fallback}{aged})"


def _carried(pair: str) -> tuple[str, str]:
    source, equals, target = pair.partition("=")
    if not (source and equals and target):
        raise InvalidArgument(f"--carry takes OUTPUT=INPUT, not {pair!r:.80}")
    return source, target


def _check_kind(steps: int | None, of_stream: object, of_call: object) -> None:
    """Refuse options of a stream for a single call, and the other way round."""
    if steps is None and of_stream:
        raise InvalidArgument("--carry and --until say how steps follow one another: give --stream STEPS too")
    if steps is not None and of_call:
        raise InvalidArgument(
            "--session, --header and --priority are for a single call: leave them out, or --stream"
        )


def show_step(step: Step, *, as_json: bool) -> None:
    """Print one step of a stream as soon as it is there."""
    if as_json:
        print_json({"step": step.number, "node": step.node, "outputs": step.outputs}, indent=None)
    else:
        print_parts(Text(f"step {step.number} on {step.node}", style="dim"), outputs_table(step.outputs))


@click.command(
    epilog="""\b
Examples:
  mcpctl submit digits --input image=@examples/digits/held_out.npz:images --rows 0
  mcpctl submit digits --input image=@examples/digits/held_out.npz:images --rows 0:5 \\
      --id nightly-batch --mode replicated --wait"""
)
@takes_inputs
@option(
    "--mode",
    type=click.Choice(["durable", "replicated"]),
    default="durable",
    show_default=True,
    help="One node runs it, or every node does and the results are compared.",
)
@option("--id", "inference_id", metavar="ID", help="Its id; the same id again is the same inference.")
@option("--wait", is_flag=True, help="Wait for the result and show it.")
@json_option
@client_command
async def submit(
    client: Client,
    *,
    model: str | None,
    mode: str,
    inference_id: str | None,
    wait: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Record an inference, and print its id.

    Returns once a quorum of the nodes has it on disk: from then on it is done whichever node fails.
    """
    request = await asked(client, model, options)
    accepted = await client.submit(
        request.model,
        request.inputs,
        mode=mode,  # type: ignore[arg-type]
        id=inference_id,
        timeout_s=request.timeout_s,
    )
    if wait:
        show(await client.result(accepted), as_json=as_json)
    elif as_json:
        print_json({"id": accepted})
    else:
        click.echo(accepted)


@click.command(
    epilog="""\b
Examples:
  mcpctl result 5f1c0a7be2d94c3f8a6b7c8d9e0f1a2b
  mcpctl result nightly-batch --no-wait --json     # what 'submit --id nightly-batch' recorded"""
)
@click.argument("inference_id", metavar="ID")
@option("--no-wait", is_flag=True, help="Show it as it is now, finished or not.")
@json_option
@client_command
async def result(client: Client, inference_id: str, no_wait: bool, as_json: bool) -> None:
    """Show the recorded inference ID, once it is finished."""
    show(await client.result(inference_id, wait=not no_wait), as_json=as_json)


def show(record: InferenceRecord, *, as_json: bool) -> None:
    """Print a record. Raises its own error after that, so that a failed inference fails the command."""
    if as_json:
        print_json(record)
    else:
        print_parts(*record_parts(record))
    if record.error is not None:
        raise record.error


def record_parts(record: InferenceRecord) -> list[RenderableType]:
    """Return what a record says: its state in a line, then its outputs and its replicas."""
    where = f" on {record.node}" if record.node else ""
    parts: list[RenderableType] = [
        f"{record.id}  {record.status}, {record.mode}, {record.model} version {record.version}{where}"
    ]
    if record.outputs is not None:
        parts.append(outputs_table(record.outputs))
    if record.replicas:
        parts.append(replicas_table(record))
    return parts


def outputs_table(outputs: Mapping[str, Any]) -> Table:
    """Return the outputs, one a row, with as many values as fit on it."""
    rows = table("output", "type", "shape", "values")
    for name, value in outputs.items():
        array = np.asarray(value)
        shown = np.array2string(
            array,
            threshold=12,
            edgeitems=3,
            separator=", ",
            precision=4,
            suppress_small=True,
            max_line_width=1000,
        )
        text = " ".join(shown.split())
        if len(text) > VALUES_SHOWN_CHARS:
            text = f"{text[: VALUES_SHOWN_CHARS - 3]}..."
        rows.add_row(name, dtype_name(array), "x".join(map(str, array.shape)) or "scalar", text)
    return rows


def replicas_table(record: InferenceRecord) -> Table:
    """Return how each replica's result compares with the recorded one."""
    rows = table("replica", "equal", "largest difference#")
    for node, compared in sorted(record.replicas.items()):
        difference = compared.max_abs_diff
        rows.add_row(
            node, "yes" if compared.equal else "NO", "?" if difference is None else f"{difference:.3g}"
        )
    return rows
