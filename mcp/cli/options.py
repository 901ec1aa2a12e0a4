"""Options that several commands share. Each has an environment variable, and its help names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from mcp.cli.invocation import Invocation

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

DEFAULT_ADDRESS: Final = "127.0.0.1:7400"
FILE: Final = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


def words(value: object) -> tuple[str, ...]:
    """Read several texts: separated by commas on the command line, a list in a file."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise click.BadParameter(f"{value!r} is no list of texts")
    return tuple(part.strip() for part in parts if part.strip())


def option(*names: str, **attributes: Any) -> Decorator:
    """Declare an option as :func:`click.option` does, with its environment variable in the help.

    Without ``envvar`` the variable is named after command and flag by :func:`name_variables`.
    """
    return click.option(*names, show_envvar=True, allow_from_autoenv=False, **attributes)


def name_variables(command: click.Command, name: str) -> None:
    """Give every option without a variable its own: ``MCP_INFER_INPUT`` for ``mcpctl infer --input``.

    That of a group's command has both names in it: ``MCP_ROUTE_EXPLAIN_SESSION``.
    """
    for within, each in (command.commands if isinstance(command, click.Group) else {}).items():
        name_variables(each, f"{name}_{within}")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.show_envvar and not parameter.envvar:
            flag = parameter.opts[0].removeprefix("--").replace("-", "_")
            parameter.envvar = f"MCP_{name}_{flag}".upper()


def together(*decorators: Decorator) -> Decorator:
    """Apply several decorators as one, the first named outermost, so that help keeps their order."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _ask_for_traceback(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    invocation = ctx.find_object(Invocation)
    if invocation is not None and wanted:
        invocation.traceback = True


def _ask_for_json(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> bool:
    invocation = ctx.find_object(Invocation)
    if invocation is not None:
        invocation.as_json = wanted
    return wanted


traceback_option = option(
    "--traceback",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_ask_for_traceback,
    envvar="MCP_TRACEBACK",
    help="Show Python's traceback when it fails.",
)

json_option = option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_ask_for_json,
    envvar="MCP_JSON",
    help='Print one JSON value for programs, also when it fails: {"error": {code, message, details}}.',
)

cluster_options = together(
    option(
        "--cluster-id",
        default="mcp",
        show_default=True,
        envvar="MCP_CLUSTER_ID",
        help="The cluster's name; another cluster's nodes are refused.",
    ),
    option(
        "--cluster-key-file",
        type=FILE,
        envvar="MCP_CLUSTER_KEY_FILE",
        help="File with the secret that nodes and clients share. MCP_CLUSTER_KEY may hold it instead.",
    ),
)

tls_options = together(
    option(
        "--tls-ca",
        type=FILE,
        envvar="MCP_TLS_CA",
        help="Authority to trust (PEM): clients use TLS with it, and nodes ask for certificates of its.",
    ),
    option("--tls-cert", type=FILE, envvar="MCP_TLS_CERT", help="Own certificate (PEM)."),
    option("--tls-key", type=FILE, envvar="MCP_TLS_KEY", help="Key of the certificate (PEM)."),
)

connection_options = together(
    option(
        "--connect",
        default=DEFAULT_ADDRESS,
        show_default=True,
        metavar="ADDRESS[,ADDRESS...]",
        envvar="MCP_CONNECT",
        help="Any nodes of the cluster; the others are found. host:port or unix:///path.",
    ),
    cluster_options,
    tls_options,
    option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        envvar="MCP_TIMEOUT",
        help="Give up after this long.",
    ),
)
