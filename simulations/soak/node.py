"""``mcpctl serve`` with a disk and a clock that can be made ill, and a short log if wanted.

Started by the supervisor as ``python -m simulations.soak.node CONTROLS LOG_ENTRIES SERVE-OPTIONS``. The
options, the node and how it is run are those of ``mcpctl serve``.
"""

from __future__ import annotations

import asyncio
import functools
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from consensus.ports import DriverLimits
from mcp.cli.gateway import gateway_settings
from mcp.cli.logs import begin_logging
from mcp.cli.serve import node_config, run_until_stopped, serve
from mcp.clock import SystemClock
from mcp.errors import McpError
from mcp.net.loop import loop_factory
from mcp.node.config import NodeConfig
from mcp.node.storage import open_files
from mcp.node.surroundings import Surroundings
from simulations.soak.ailing_disk import AilingDisk, Ward
from simulations.soak.controls import Controls

RETAINED_PART = 10
"""One in so many entries stays behind a snapshot, for nodes that lag a little."""


class IllClock(SystemClock):
    """The system's clock, whose wall time is off by what the controls say."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    def wall(self) -> float:
        """See :class:`mcp.clock.Clock`."""
        offset_s = self._controls.get().wall_offset_s
        if offset_s:
            self._controls.count(clock_reads=1)
        return super().wall() + offset_s


def surroundings(controls: Controls) -> Surroundings:
    """The real ones, as far as the controls leave them well."""

    def disk_at(root: Path) -> AilingDisk:
        return AilingDisk(root, Ward(root, controls, random.Random(), time.sleep))

    return Surroundings(clock=IllClock(controls), open_files=functools.partial(open_files, disk_at=disk_at))


def with_short_log(config: NodeConfig, entries_max: int) -> NodeConfig:
    """A snapshot after every ``entries_max`` entries; 0 leaves the defaults."""
    if not entries_max:
        return config
    limits = DriverLimits(
        log_entries_max=entries_max, log_entries_retained=max(1, entries_max // RETAINED_PART)
    )
    return replace(config, consensus_limits=limits)


def run(arguments: Sequence[str]) -> None:
    """Serve until stopped."""
    controls_path, log_entries, *options = arguments
    controls = Controls.open(Path(controls_path))

    def begin(
        log_level: str,
        log_format: str,
        stop_on_eof: bool,
        http: str | None,
        grpc: str | None,
        http_control: bool,
        **settings: Any,
    ) -> None:
        lines = begin_logging(log_level, log_format)
        config = with_short_log(node_config(**settings), int(log_entries))
        served = gateway_settings(http, grpc, http_control)
        around = surroundings(controls)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            serving = run_until_stopped(
                config, served=served, stop_on_eof=stop_on_eof, surroundings=around, lines=lines
            )
            runner.run(serving)

    try:
        click.Command("node", params=serve.params, callback=begin).main(options, standalone_mode=False)
    except McpError as error:
        sys.exit(f"{error.code}: {error.message}")


if __name__ == "__main__":
    run(sys.argv[1:])
