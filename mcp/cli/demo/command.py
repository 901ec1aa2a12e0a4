"""``mcpctl demo``: the whole thing, from processes to verdict, with everything removed afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import click

from mcp.cli import exits
from mcp.cli.demo.cluster import LocalCluster
from mcp.cli.demo.digits import load_digits
from mcp.cli.demo.display import Display
from mcp.cli.demo.report import Report, summary
from mcp.cli.demo.scenario import Scenario
from mcp.cli.options import json_option, traceback_option
from mcp.cli.output import console, print_json, print_parts
from mcp.client.client import Client
from mcp.clock import SystemClock

NODE_COUNT = 3


@click.command(
    epilog="""\b
Examples:
  mcpctl demo
  mcpctl demo --json | jq .failover_ms"""
)
@json_option
@traceback_option
@click.pass_context
def demo(ctx: click.Context, as_json: bool) -> None:
    """Three nodes, a real model, a killed leader: watch that nothing is lost.

    Starts three node processes on this machine, deploys a model of handwritten digits, reads 899 scans with
    it in all three ways, kills the leader with SIGKILL under load and starts it again later. Then it reads
    every acknowledged command back from every node. Takes less than a minute, leaves nothing behind, and
    ends with status 1 if anything was lost, applied twice, unequal or wrong.
    """
    try:
        report = asyncio.run(demonstrated(quiet=as_json))
    except asyncio.CancelledError:
        raise click.Abort from None
    if as_json:
        print_json(report.to_json())
    else:
        print_parts(summary(report))
    ctx.exit(exits.SUCCESS if report.passed else exits.FAILED)


async def demonstrated(*, quiet: bool) -> Report:
    """Run the demo and return its report. However it ends, its processes and files are gone by then."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    # As Ctrl-C does: unwinding what was started, not leaving it behind.
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    clock = SystemClock()
    started = clock.monotonic()
    digits = load_digits()
    with Display(console(stderr=True), clock, quiet=quiet) as display:
        display.event(f"starting {NODE_COUNT} nodes")
        async with contextlib.AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(LocalCluster(NODE_COUNT, clock))
            client = await stack.enter_async_context(Client(cluster.addresses, cluster_key=cluster.key))
            report = await Scenario(cluster, client, digits, display, clock).run()
    report.duration_s = round(clock.monotonic() - started, 2)
    return report
