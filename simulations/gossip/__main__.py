"""``python -m simulations.gossip``: the figures of gossip in virtual time, and whether each bar is met."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

import click
from rich.table import Table

from mcp.cli.output import print_json, print_parts, table
from simulations.gossip import measures
from simulations.gossip.measures import Figure
from simulations.options import Seconds

NOT_MET: Final = 1
"""The exit status where a bar is not met."""
SEEDS: Final = 5
"""So many seeds in a row are run for what differs from run to run."""
PARTED_S: Final = 30.0
"""For how long the halves are apart."""
REST_S: Final = 60.0
"""For how long the cost at rest is measured."""


def figures(seed: int, nodes: int, seconds: float, loss: float, crashes: int) -> Iterator[Figure]:
    """One after the other, as they come."""
    seeds = range(seed, seed + SEEDS)
    yield from measures.entry_figures(seeds, nodes)
    yield from measures.crash_figures(seeds, nodes, crashes)
    yield from measures.crash_figures(seeds, nodes, crashes, loss)
    yield from measures.rest_figures(seed, nodes, REST_S)
    yield from measures.healing_figures(seeds, nodes, PARTED_S)
    yield from measures.loss_figures(seed, nodes, loss, seconds)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", default=1, show_default=True, help="The first seed; five in a row are used.")
@click.option("--nodes", type=click.IntRange(4, 99), default=50, show_default=True)
@click.option("--seconds", type=Seconds(1.0), default=3600.0, show_default=True, help="Of datagrams lost.")
@click.option("--loss", type=click.FloatRange(0.0, 0.5), default=0.1, show_default=True)
@click.option("--crashes", type=click.IntRange(1), default=20, show_default=True, help="For each seed.")
@click.option("--json", "as_json", is_flag=True, help="One figure a line.")
def main(seed: int, nodes: int, seconds: float, loss: float, crashes: int, as_json: bool) -> None:
    """Run many nodes that only gossip, in virtual time. The hour at 10 % loss takes some minutes.

    Exits with 1 where a bar is not met.
    """
    found: list[Figure] = []
    for figure in figures(seed, nodes, seconds, loss, crashes):
        found.append(figure)
        if as_json:
            print_json(figure.to_dict(), indent=None)
    if not as_json:
        print_parts(_table(found))
    sys.exit(0 if all(figure.met for figure in found) else NOT_MET)


def _table(found: list[Figure]) -> Table:
    made = table("figure", "value#", "unit", "bar#", "met")
    for figure in found:
        bar = "" if figure.at_most is None else f"{figure.at_most:g}"
        met = "" if figure.at_most is None else "yes" if figure.met else "NO"
        made.add_row(figure.name, f"{figure.value:.2f}", figure.unit, bar, met)
    return made


if __name__ == "__main__":
    main()
