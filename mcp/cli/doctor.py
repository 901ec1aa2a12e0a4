"""``mcpctl doctor``: whether this machine and environment are fit to run a node.

It must work where other commands do not, so it imports neither engine nor client.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.text import Text

from mcp.cli.environment import packaging_checks
from mcp.cli.finding import Finding, Verdict
from mcp.cli.machine import machine_checks
from mcp.cli.options import DEFAULT_ADDRESS, json_option, option, traceback_option, words
from mcp.cli.output import print_json, print_parts, table

_STYLE: dict[Verdict, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command(
    epilog="""\b
Examples:
  mcpctl doctor
  mcpctl doctor --data-dir /var/lib/mcp --listen 0.0.0.0:7400
  mcpctl doctor --json | jq '.findings[] | select(.verdict != "ok")'"""
)
@option(
    "--listen",
    type=words,
    metavar="ADDRESS,...",
    default=DEFAULT_ADDRESS,
    show_default=True,
    envvar="MCP_LISTEN",
    help="Addresses that a node is to serve at.",
)
@option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="the current folder",
    envvar="MCP_DATA_DIR",
    help="Where a node is to keep its data.",
)
@json_option
@traceback_option
@click.pass_context
def doctor(ctx: click.Context, listen: tuple[str, ...], data_dir: Path, as_json: bool) -> None:
    """Check this machine and environment: packages, providers, ports, disk and clock.

    Every finding says what to do. The exit status is 1 when one of them is a failure.
    """
    findings = [*packaging_checks(), *machine_checks(listen, data_dir)]
    failed = any(finding.verdict == "fail" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        show(findings)
    ctx.exit(1 if failed else 0)


def show(findings: list[Finding]) -> None:
    """Print the findings as a table and a closing line."""
    rows = table("", "check", "found")
    for finding in findings:
        found = Text(finding.found)
        if finding.advice:
            found.append(f"\n-> {finding.advice}", style="italic")
        rows.add_row(Text(finding.verdict, style=_STYLE[finding.verdict]), finding.check, found)
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in _STYLE}
    closing = f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} to repair"
    print_parts(rows, Text(closing, style="bold"))
