"""The demo while it runs: bars and nodes on a terminal, one line per event elsewhere, or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mcp.cli.demo.cluster import LocalCluster
from mcp.cli.demo.workload import Inferences, Ledger, Request, Way
from mcp.client.results import ClusterStatus
from mcp.clock import Clock

REFRESH_PER_S: Final = 10
BAR_WIDTH: Final = 36
_STYLES: Final = {"leader": "bold green", "follower": "green", "candidate": "yellow", "down": "bold red"}


class Display:
    """Shows a demo on ``console``. ``quiet`` shows nothing unless the console is a terminal."""

    def __init__(self, console: Console, clock: Clock, *, quiet: bool = False) -> None:
        self._console = console
        self._clock = clock
        self._started = clock.monotonic()
        self._events: list[tuple[float, str]] = []
        self._roles: dict[str, str] = {}
        self._inferences: Inferences | None = None
        self._ledger: Ledger | None = None
        self._prints = not quiet and not console.is_terminal
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console, refresh_per_second=REFRESH_PER_S, transient=True, get_renderable=self.picture
            )

    def __enter__(self) -> Display:
        """Begin to draw."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the picture away and leave the events, so that they can be read afterwards."""
        if self._live is not None:
            self._live.stop()
            self._console.print(self._story())

    def event(self, text: str) -> None:
        """Note that something happened, with the seconds since the start."""
        self._events.append((self._clock.monotonic() - self._started, text))
        if self._prints:
            self._console.print(f"{self._events[-1][0]:5.1f} s  {text}")

    def follow(self, inferences: Inferences, ledger: Ledger) -> None:
        """Draw this work from now on."""
        self._inferences, self._ledger = inferences, ledger

    def show_nodes(self, cluster: LocalCluster, status: ClusterStatus) -> None:
        """Draw each node in the role that it gave last; one whose process has ended is down."""
        told = {node.node: node.role or "?" for node in status.reachable}
        self._roles = {
            node: told.get(node, "silent") if process.running else "down"
            for node, process in cluster.nodes.items()
        }

    def picture(self) -> RenderableType:
        """Return what the terminal shows at this moment."""
        parts: list[RenderableType] = [self._story()]
        if self._roles:
            parts.append(self._nodes())
        if self._inferences is not None:
            parts.append(self._bars(self._inferences.requests))
        return Group(*parts)

    def _story(self) -> Text:
        return Text("\n".join(f"{at:5.1f} s  {text}" for at, text in self._events))

    def _nodes(self) -> Text:
        line = Text("\n  ")
        for node, role in self._roles.items():
            line.append(f"{node} {role}", style=_STYLES.get(role, ""))
            line.append("    ")
        return line

    def _bars(self, requests: Sequence[Request]) -> Table:
        asked = Counter(request.way for request in requests)
        answered = Counter(request.way for request in requests if request.answered)
        rows = Table(box=None, show_header=False, padding=(0, 2))
        for way in Way:
            bar = ProgressBar(total=asked[way], completed=answered[way], width=BAR_WIDTH)
            rows.add_row(f"{way} inferences", bar, f"{answered[way]} of {asked[way]}")
        if self._ledger is not None:
            rows.add_row("durable writes", "", f"{len(self._ledger.acknowledged)} acknowledged")
        return rows
