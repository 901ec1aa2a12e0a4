"""``mcpctl serve``: run one node until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import socket
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from mcp.cli.credentials import cluster_key
from mcp.cli.gateway import GatewaySettings, gateway, gateway_options, gateway_settings
from mcp.cli.logs import FORMATS, JsonLines, begin_logging
from mcp.cli.options import (
    DEFAULT_ADDRESS,
    FILE,
    cluster_options,
    option,
    tls_options,
    together,
    traceback_option,
    words,
)
from mcp.errors import ConfigInvalid
from mcp.net.limits import FILES_ENOUGH
from mcp.net.loop import loop_factory
from mcp.net.polling import POLL_S, POLL_S_MAX
from mcp.node import Node, NodeConfig
from mcp.node.collector import collect_rarely
from mcp.node.config import MEMORY_ARENAS, REPLACE_DEAD_AFTER_S_MAX, REPLACE_DEAD_AFTER_S_MIN
from mcp.node.surroundings import Surroundings
from mcp.state.commands import SCHEMA_MAX

CONFIG_BYTES_MAX: Final = 1024 * 1024
PROVIDERS: Final = ("cpu", "cuda")
_log = logging.getLogger("mcp.node")


def voters(value: object) -> dict[str, str]:
    """Read addresses by node id: ``n1=host:port,n2=host:port`` on the command line, a table in a file."""
    if isinstance(value, Mapping):
        if not all(isinstance(address, str) for address in value.values()):
            raise click.BadParameter("every address is a text such as '10.0.0.1:7400'")
        return {str(node): address for node, address in value.items()}
    found: dict[str, str] = {}
    for part in words(value):
        node, separator, address = (text.strip() for text in part.partition("="))
        if not separator or not node or not address:
            raise click.BadParameter(f"{part!r} is not id=address, such as n1=10.0.0.1:7400")
        if node in found:
            raise click.BadParameter(f"node {node!r} is there twice")
        found[node] = address
    return found


def labels(value: object) -> dict[str, str]:
    """Read labels: ``gpu,zone=a`` on the command line, a table in a file."""
    if isinstance(value, Mapping):
        if not all(isinstance(text, str) for text in value.values()):
            raise click.BadParameter("every label's value is a text, which may be empty")
        return {str(name): text for name, text in value.items()}
    return {name: text for name, _, text in (part.partition("=") for part in words(value))}


def provider_names(value: object) -> tuple[str, ...]:
    """Read names of providers as :func:`~mcp.cli.options.words` does, and refuse those that do not exist."""
    found = words(value)
    for name in found:
        if name not in PROVIDERS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(PROVIDERS)}")
    return found


def seconds_range(value: object) -> tuple[float, float]:
    """Read a shortest and a longest time: ``0.25-0.5``, in a file also a list of two numbers."""
    parts = value.split("-") if isinstance(value, str) else value
    try:
        shortest, longest = (float(part) for part in parts)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise click.BadParameter(f"{value!r} is no range of seconds such as 0.25-0.5") from None
    return shortest, longest


def read_config(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    """Take the options' defaults from a TOML file, so that flags and environment still win.

    The keys are the options' names with underscores. Raises :class:`~mcp.errors.ConfigInvalid` for a
    file that is not TOML, and for a key that is no option: a typing mistake must not pass in silence.
    """
    if path is None:
        return
    try:
        with path.open("rb") as file:
            settings = tomllib.loads(file.read(CONFIG_BYTES_MAX).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path} is not TOML: {error}") from error
    known = option_names(ctx.command)
    unknown = sorted(settings.keys() - known.keys())
    if unknown:
        raise ConfigInvalid(
            f"{path}: {unknown[0]!r} is no setting of 'mcpctl serve'; known are {', '.join(sorted(known))}"
        )
    ctx.default_map = {known[key]: value for key, value in settings.items()}


def option_names(command: click.Command) -> dict[str, str]:
    """Return the parameters that a file may set, by the name that it uses: the flag's own."""
    settable = (p for p in command.params if isinstance(p, click.Option) and p.expose_value)
    return {str(p.opts[0]).removeprefix("--").replace("-", "_"): str(p.name) for p in settable}


cluster_membership_options = together(
    option(
        "--node-id", envvar="MCP_NODE_ID", help="This node's name in the cluster; by default the host's name."
    ),
    option(
        "--listen",
        type=words,
        metavar="TEXT,...",
        envvar="MCP_LISTEN",
        help=f"Addresses to serve at: host:port or unix:///path. By default this node's entry in --peers, "
        f"otherwise {DEFAULT_ADDRESS}.",
    ),
    option(
        "--peers",
        type=voters,
        metavar="ID=ADDRESS,...",
        envvar="MCP_PEERS",
        help="Every voter of a cluster that is begun, with its address, this node included; the same list on "
        "every node. All of them have to run once before the first leader is elected.",
    ),
    option(
        "--join",
        type=words,
        metavar="ADDRESS,...",
        envvar="MCP_JOIN",
        help="Addresses of any nodes of a running cluster: this one comes in, catches up, and then votes. A "
        "name may stand for several, and is asked for again every 30 s.",
    ),
    option(
        "--broadcast",
        metavar="ADDRESS",
        envvar="MCP_BROADCAST",
        help="The network's broadcast address, or a multicast group, with a port, the same on every node: "
        "there they hear who looks for them. Without --peers a node so finds the cluster that it joins.",
    ),
    option(
        "--labels",
        type=labels,
        metavar="NAME[=VALUE],...",
        envvar="MCP_LABELS",
        help="What this node says of itself to whoever chooses among nodes, such as gpu or zone=a.",
    ),
    option(
        "--observer",
        is_flag=True,
        envvar="MCP_OBSERVER",
        help="With --join or --broadcast: receive everything and serve, but do not vote until "
        "'mcpctl promote'.",
    ),
    option(
        "--advertise", envvar="MCP_ADVERTISE", help="The address that others are told, if not the listed one."
    ),
    option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="MCP_DATA_DIR",
        help="Where the log, the snapshots and the models lie; by default mcp-data/NODE-ID.",
    ),
    option(
        "--engine",
        type=click.Choice(["raft", "solo"]),
        envvar="MCP_ENGINE",
        help="raft for nodes that agree, solo for one process alone; by default raft with --peers, --join or "
        "--broadcast.",
    ),
    option(
        "--replace-dead-after",
        "replace_dead_after_s",
        type=click.FloatRange(REPLACE_DEAD_AFTER_S_MIN, REPLACE_DEAD_AFTER_S_MAX),
        metavar="SECONDS",
        envvar="MCP_REPLACE_DEAD_AFTER",
        help="While this node leads, let an observer take the place of a voter that has been dead for so "
        "long; by default nobody is replaced. The same on every voter.",
    ),
    option(
        "--schema-max",
        type=click.IntRange(1, SCHEMA_MAX),
        default=SCHEMA_MAX,
        show_default=True,
        envvar="MCP_SCHEMA_MAX",
        help="Execute commands up to this schema; lower while an upgrade may still be taken back.",
    ),
)

execution_options = together(
    option(
        "--providers",
        type=provider_names,
        metavar="TEXT,...",
        default="cpu",
        show_default=True,
        envvar="MCP_PROVIDERS",
        help="Where models run, the first preferred: cpu, cuda.",
    ),
    option(
        "--allow-provider-fallback",
        is_flag=True,
        envvar="MCP_ALLOW_PROVIDER_FALLBACK",
        help="Go on with the next provider where one is missing, and report it.",
    ),
    option(
        "--device-memory-bytes-max",
        type=click.IntRange(min=1),
        metavar="BYTES",
        envvar="MCP_DEVICE_MEMORY_BYTES_MAX",
        help="The most memory of a device that models may take; by default all of it.",
    ),
    option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        envvar="MCP_THREADS",
        help="Threads that one inference may use.",
    ),
    option(
        "--workers",
        type=click.IntRange(min=1),
        default=3,
        show_default=True,
        envvar="MCP_WORKERS",
        help="Inferences that run at the same time; one model never takes all of them.",
    ),
    option(
        "--batching/--no-batching",
        default=True,
        show_default=True,
        envvar="MCP_BATCHING",
        help="Let requests share a run where the model allows it.",
    ),
    option(
        "--memory-arena",
        type=click.Choice(MEMORY_ARENAS),
        default=MEMORY_ARENAS[0],
        show_default=True,
        envvar="MCP_MEMORY_ARENA",
        help="What a run took of the processor's memory is kept for the next one: 'shrink' gives it back "
        "after inputs of 16 MiB and more, 'keep' never; 'off' keeps nothing, and is slower where much goes "
        "from one operator to the next.",
    ),
    option(
        "--poll-us",
        type=click.IntRange(min=0, max=round(POLL_S_MAX * 1e6)),
        default=round(POLL_S * 1e6),
        show_default=True,
        metavar="MICROSECONDS",
        envvar="MCP_POLL_US",
        help="After an answer the client's next request is looked for, for so long, before the node sleeps, "
        "as long as that pays: a caller that asks and waits is answered sooner. 0: sleep at once.",
    ),
)

timing_options = together(
    option(
        "--election-timeout",
        type=seconds_range,
        metavar="SECONDS-SECONDS",
        default="0.25-0.5",
        show_default=True,
        envvar="MCP_ELECTION_TIMEOUT",
        help="A follower that hears nothing for a time in this range stands for election.",
    ),
    option(
        "--heartbeat",
        "heartbeat_s",
        type=click.FloatRange(min=0, min_open=True),
        default=0.05,
        show_default=True,
        metavar="SECONDS",
        envvar="MCP_HEARTBEAT",
        help="How often the leader says that it is there.",
    ),
)


@click.command(
    epilog="""\b
Examples:
  mcpctl serve                                       # one node on this machine only
  mcpctl serve --node-id n1 --peers n1=10.0.0.1:7400,n2=10.0.0.2:7400,n3=10.0.0.3:7400 \\
      --cluster-key-file cluster.key --data-dir /var/lib/mcp
  mcpctl serve --node-id n4 --listen 10.0.0.4:7400 --join 10.0.0.1:7400 --cluster-key-file cluster.key
  mcpctl serve --listen 10.0.0.5:7400 --broadcast 10.0.0.255:7401 --cluster-key-file cluster.key
  mcpctl serve --config node.toml

\b
A file has the options' names with underscores:
  node_id = "n1"
  data_dir = "/var/lib/mcp"
  cluster_key_file = "/etc/mcp/key"
  [peers]
  n1 = "10.0.0.1:7400"
  n2 = "10.0.0.2:7400"
  n3 = "10.0.0.3:7400" """
)
@option(
    "--config",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=read_config,
    envvar="MCP_CONFIG",
    help="A TOML file with any of these options. Flags and environment come before it.",
)
@cluster_membership_options
@cluster_options
@tls_options
@execution_options
@timing_options
@gateway_options
@option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
    envvar="MCP_LOG_LEVEL",
    help="What is worth a line on standard error.",
)
@option(
    "--log-format",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    envvar="MCP_LOG_FORMAT",
    help="How these lines look: text, or JSON with term, log position and trace.",
)
@option(
    "--stop-on-eof",
    is_flag=True,
    envvar="MCP_STOP_ON_EOF",
    help="Stop when standard input ends, so as not to outlive the program that started this node.",
)
@traceback_option
def serve(
    log_level: str,
    log_format: str,
    stop_on_eof: bool,
    http: str | None,
    grpc: str | None,
    http_control: bool,
    **options: Any,
) -> None:
    """Run a node until SIGTERM or Ctrl-C.

    Prints one line when it is ready. A node that was killed is started again with the same command: it
    continues from its data directory.
    """
    lines = begin_logging(log_level, log_format)
    config = node_config(**options)
    settings = gateway_settings(http, grpc, http_control)
    _allow_files()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run_until_stopped(config, served=settings, stop_on_eof=stop_on_eof, lines=lines))


def node_config(
    *,
    node_id: str | None,
    listen: tuple[str, ...] | None,
    peers: dict[str, str] | None,
    join: tuple[str, ...] | None,
    broadcast: str | None,
    labels: dict[str, str] | None,
    data_dir: Path | None,
    engine: str | None,
    cluster_key_file: Path | None,
    election_timeout: tuple[float, float],
    poll_us: int,
    **others: Any,
) -> NodeConfig:
    """Return the node's settings: the options, and what follows from those that were not given."""
    node = node_id or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().partition(".")[0]) or "node"
    voters = peers or {}
    own = voters.get(node)
    return NodeConfig(
        node_id=node,
        listen=listen or ((own,) if own else (DEFAULT_ADDRESS,)),
        voters=voters,
        join=join or (),
        broadcast=broadcast,
        labels=labels or {},
        data_dir=data_dir or Path("mcp-data") / node,
        engine=engine or ("raft" if voters or join or broadcast else "solo"),
        cluster_key=cluster_key(cluster_key_file),
        election_timeout_min_s=election_timeout[0],
        election_timeout_max_s=election_timeout[1],
        poll_s=poll_us / 1e6,
        **others,
    )


def _allow_files() -> None:
    """Have as many open files as the system lets this process: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_ENOUGH if hard == resource.RLIM_INFINITY else min(hard, FILES_ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _stop_on_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    try:
        loop.add_reader(sys.stdin, lambda: None if os.read(sys.stdin.fileno(), 4096) else stop.set())
    except (OSError, ValueError):
        # A file, /dev/null or nothing at all: nobody holds the other end, so there is nobody to outlive.
        _log.warning(
            "standard input is neither a pipe nor a terminal: with --stop-on-eof this node stops now"
        )
        stop.set()


async def run_until_stopped(
    config: NodeConfig,
    *,
    served: GatewaySettings | None = None,
    stop_on_eof: bool = False,
    surroundings: Surroundings | None = None,
    lines: JsonLines | None = None,
) -> None:
    """Start the node, say so on standard output, and stop it in order at the first signal.

    What is ``served`` beside the node is so before it says that. ``surroundings`` are the real ones unless a
    simulation brings its own. ``lines`` are told of the node. Raises what kept it from starting or going on.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if stop_on_eof:
        _stop_on_eof(loop, stop)
    node = Node(config, surroundings=surroundings)
    if lines is not None:
        lines.node, lines.position = config.node_id, lambda: node.position
    await node.start()
    stopping, failing = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(node.wait_failed())
    try:
        async with gateway(node, served or GatewaySettings()) as addresses:
            collect_rarely()
            words = {"node": config.node_id, "address": node.address, "engine": config.engine, **addresses}
            if node.address not in node.addresses:
                words["listen"] = ",".join(node.addresses)
            click.echo(" ".join(["ready", *(f"{name}={value}" for name, value in words.items())]))
            await asyncio.wait((stopping, failing), return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                raise failing.result()
    finally:
        stopping.cancel()
        failing.cancel()
        await node.stop()
