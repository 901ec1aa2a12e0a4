"""The ``mcpctl`` command: finds the subcommand, and turns every failure into one line and a status."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

import click

from mcp.cli import exits
from mcp.cli.invocation import Invocation
from mcp.cli.options import name_variables
from mcp.errors import McpError

OUTPUT_FAILED: Final = "OUTPUT_FAILED"
OUTPUT_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What writing to a full or broken standard output gives; such an error names no file."""


MISSPELT: Final = 0.75
"""How like one of the two options an unknown one has to be for it to be meant (difflib's ratio)."""


class Entry(NamedTuple):
    """A subcommand that is not imported yet: where it lives and what the list of commands says of it."""

    module: str
    attribute: str
    summary: str


SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Try it": {
        "demo": Entry(
            "mcp.cli.demo.command", "demo", "Three nodes, a real model, a killed leader: watch it."
        ),
        "doctor": Entry("mcp.cli.doctor", "doctor", "Check this machine and environment."),
    },
    "Run it": {
        "serve": Entry("mcp.cli.serve", "serve", "Run a node until it is told to stop."),
        "status": Entry("mcp.cli.status", "status", "Show the nodes, who leads, the log and the models."),
    },
    "Members": {
        "members": Entry("mcp.cli.members", "members", "List the nodes, who votes and who observes."),
        "nodes": Entry("mcp.cli.nodes", "nodes", "List who is there, what each can do, how busy it is."),
        "promote": Entry("mcp.cli.members", "promote", "Let an observer vote."),
        "remove": Entry("mcp.cli.members", "remove", "Take a node out of the cluster, alive or dead."),
    },
    "Models and inference": {
        "deploy": Entry("mcp.cli.models", "deploy", "Put a model into service on every node."),
        "models": Entry("mcp.cli.models", "models", "List the models that the cluster agreed on."),
        "activate": Entry("mcp.cli.models", "activate", "Put another version of a model into service."),
        "undeploy": Entry("mcp.cli.models", "undeploy", "Take a version, or a model, out of service."),
        "infer": Entry("mcp.cli.infer", "infer", "Ask a model now: fast, nothing is recorded."),
        "submit": Entry("mcp.cli.infer", "submit", "Record an inference, so that it survives any node."),
        "result": Entry("mcp.cli.infer", "result", "Show a recorded inference, and wait for it."),
    },
    "Traffic": {
        "route": Entry("mcp.cli.routes", "route", "Rules and weighted routes: apply, list, remove, explain."),
        "rollout": Entry(
            "mcp.cli.rollout", "rollout", "A new version step by step, rolled back by itself: status, abort."
        ),
        "limits": Entry("mcp.cli.limits", "limits", "How much is let in: apply, list, remove."),
    },
    "Keys": {
        "get": Entry("mcp.cli.keys", "get", "Read a key."),
        "put": Entry("mcp.cli.keys", "put", "Write a key, or only if its version is as expected."),
        "delete": Entry("mcp.cli.keys", "delete", "Remove a key, or only if its version is as expected."),
        "keys": Entry("mcp.cli.keys", "keys", "List keys."),
        "conflicts": Entry("mcp.cli.keys", "conflicts", "Show the writes that lost against a newer version."),
    },
}
COMMANDS: Final = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
ALIASES: Final = {"routes": "route"}
"""Other spellings that are understood, and not listed."""


class LazyCommands(click.Group):
    """A group whose commands are imported only when one of them is run or explained."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say where options are written; Click would only name the two that may come before a command."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if difflib.get_close_matches(error.option_name, ("--version", "--help"), cutoff=MISSPELT):
                raise
            raise click.UsageError(
                f"there is no option {error.option_name!r} before the command: write a command's options "
                "behind it, as in 'mcpctl status --json'",
                ctx,
            ) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every command's name, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, or return ``None`` for an unknown name."""
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        name_variables(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was asked for, or say which ones come close."""
        args = [ALIASES.get(args[0], args[0]), *args[1:]]
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "'mcpctl --help' lists them"
            raise click.UsageError(f"there is no command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, from the table and without importing one."""
        for section, entries in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])


def print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """Print the installed version and leave; a clone that was never installed has none."""
    if wanted:
        try:
            version = metadata.version("message-coordination-protocol")
        except metadata.PackageNotFoundError:
            version = "unknown (run from source, not installed)"
        click.echo(f"mcpctl {version}")
        ctx.exit()


@click.group(
    cls=LazyCommands,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
    epilog=exits.EXPLANATION,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the version and exit.",
)
@click.pass_context
def mcpctl(ctx: click.Context) -> None:
    """Coordinate ONNX inference over several machines, with the promises of a consensus system.

    Every option can also be given as the environment variable that its help names. This is the Message
    Coordination Protocol, not the Model Context Protocol.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (by default the process's own) and return its exit status.

    Nothing is raised: a failure is one line on standard error, ``mcpctl: CODE: message``, preceded by
    the traceback only where ``--traceback`` asked for it. With ``--json`` it is also an object on standard
    output, unless the command has printed its answer already.
    """
    open_closed_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    invocation = Invocation()
    try:
        status = mcpctl.main(args=given, prog_name="mcpctl", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return exits.INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # The reader has gone (``mcpctl keys | head``); click makes that an exit of its own.
        discard(sys.stdout)
        return exits.OUTPUT_CLOSED
    except Exception as error:
        if invocation.traceback:
            traceback.print_exc()
        return failed(error, as_json=wants_json(error, invocation, given))
    return status if isinstance(status, int) else exits.SUCCESS


def open_closed_streams() -> None:
    """Open the standard streams that whoever started this process has closed, to nothing.

    Otherwise the next files have their numbers, such as the journal, and whatever a library writes to
    standard error would go into it.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # The streams before it are open, so that it gets the lowest number, which is its own.
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  (for good)


def wants_json(error: Exception, invocation: Invocation, given: Sequence[str]) -> bool:
    """Whether the failure is to be told as JSON; asked of the raw arguments where they could not be read."""
    if isinstance(error, click.UsageError) and not invocation.as_json:
        variable = os.environ.get("MCP_JSON", "").lower()
        return "--json" in given or variable in {"1", "true", "t", "yes", "y", "on"}
    return invocation.as_json and not invocation.answered


def failed(error: Exception, *, as_json: bool) -> int:
    """Say what went wrong, and return the exit status for it."""
    code, message, details = described(error)
    if as_json and code != OUTPUT_FAILED:
        answer = {"error": {"code": code, "message": message, "details": details}}
        try:
            # Imported only here, because rich takes a while and most commands end well.
            importlib.import_module("mcp.cli.output").print_json(answer)
        except OSError:
            discard(sys.stdout)
    if code == OUTPUT_FAILED:
        discard(sys.stdout)
    try:
        click.echo(f"mcpctl: {code}: {' '.join(message.split())}", err=True)
    except OSError:
        discard(sys.stderr)
    return exits.exit_status(code)


def discard(stream: TextIO) -> None:
    """Let go of what cannot be written: Python would try once more at exit, and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def described(error: Exception) -> tuple[str, str, dict[str, Any]]:
    """Return the code, the message and the details by which a user meets ``error``."""
    match error:
        case McpError():
            return error.code, error.message, error.details
        case click.ClickException():
            return "INVALID_ARGUMENT", usage_message(error), {}
        case OSError(filename=str() | bytes() as name, strerror=str() as reason):
            return "INVALID_ARGUMENT", f"{os.fsdecode(name)}: {reason}", {}
        case OSError(errno=number, strerror=str() as reason) if number in OUTPUT_ERRORS:
            return OUTPUT_FAILED, f"standard output cannot be written: {reason}", {}
        case ExceptionGroup():
            return described(error.exceptions[0])
        case ModuleNotFoundError():
            return "DEPENDENCY_MISSING", f"{error}; 'mcpctl doctor' checks the environment", {}
    return "INTERNAL", f"{type(error).__name__}: {error} (a defect: run it again with --traceback)", {}


def usage_message(error: click.ClickException) -> str:
    """Return what was wrong with the command line, and which help tells more."""
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see '{context.command_path} --help'" if context is not None else message
