"""``python -m simulations.scheduling``: strategies side by side, in virtual time."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from mcp.cli.output import duration, print_json, print_parts, table
from mcp.cluster.scheduler.strategies import PREDICTED_COMPLETION
from simulations.interruption import INTERRUPTED, interruptible
from simulations.options import Seconds
from simulations.scheduling.compare import P99_S, RATIO, Case, Standing, compare
from simulations.scheduling.cost import NODES, Cost, costs
from simulations.scheduling.fleet import FLEETS

SCHEDULERS_MAX = 64
"""How many schedulers may choose independently."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.command(
    context_settings=CONTEXT,
    epilog="""\b
Fleets:
  mixed     accelerators and processors old and new, one of them slowed 4 x
  one-slow  six equal nodes, one of them slowed 4 x
  equal     six equal nodes

\b
Exit status:
   0  predicted completion met the bar wherever a node was slowed
   1  it did not
   2  the call was wrong
 130  it was interrupted

\b
Examples:
  python -m simulations.scheduling
  python -m simulations.scheduling --fleet mixed --schedulers 1 --no-cost
  python -m simulations.scheduling --json | jq '.standings[] | {strategy, ratio}'""",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option(
    "--fleet", "fleets", type=click.Choice(sorted(FLEETS)), multiple=True, help="One of them. [default: all]"
)
@click.option(
    "--schedulers",
    "counts",
    type=click.IntRange(1, SCHEDULERS_MAX),
    multiple=True,
    default=(1, 6),
    show_default=True,
    help="How many choose, each knowing what it sent itself and what was reported.",
)
@click.option("--seconds", type=Seconds(4.0), default=20.0, show_default=True, help="Virtual, of each run.")
@click.option(
    "--cost/--no-cost", "costing", default=True, help="Time a choice on this machine. [default: on]"
)
@click.option("--json", "as_json", is_flag=True, help="One object with everything.")
def scheduling(
    seed: int, fleets: Sequence[str], counts: Sequence[int], seconds: float, costing: bool, as_json: bool
) -> None:
    """Compare the strategies: the load that each sustains, and what each makes of round robin's.

    Everything but the cost is in virtual time, and so the same with the same seed.
    """
    cases = [Case(fleet, count, seed, seconds) for fleet in fleets or FLEETS for count in counts]
    try:
        with interruptible():
            standings = [standing for case in cases for standing in compare(case)]
            measured = costs() if costing else []
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    missed = [each for each in standings if each.strategy == PREDICTED_COMPLETION and _fails(each)]
    if as_json:
        print_json(
            {
                "p99_s": P99_S,
                "bar_ratio": RATIO,
                "bar_met": not missed,
                "standings": standings,
                "cost": measured,
            }
        )
    else:
        _show(standings, measured)
        for each in missed:
            click.echo(f"{each.fleet} with {each.schedulers} schedulers: the bar is not met")
    sys.exit(1 if missed else 0)


def _fails(standing: Standing) -> bool:
    slowed = any(kind.slowed for kind in FLEETS[standing.fleet])
    return slowed and not standing.meets_bar


def _show(standings: Sequence[Standing], measured: Sequence[Cost]) -> None:
    shown = table(
        "fleet",
        "schedulers#",
        "strategy",
        f"sustained at p99 <= {duration(P99_S)}#",
        "x#",
        "load#",
        "p50 there#",
        "p99 there#",
        "x#",
    )
    for each in standings:
        shown.add_row(
            each.fleet,
            str(each.schedulers),
            each.strategy,
            f"{each.sustained:.0f}/s",
            f"{each.ratio:.2f}",
            f"{each.load:.0f}/s",
            duration(each.p50_s),
            duration(each.p99_s),
            f"{each.p99_ratio:.2f}",
        )
    print_parts(shown)
    if not measured:
        return
    timed = table("strategy", f"choice among {NODES}#", "p99#", "whole request#")
    for cost in measured:
        timed.add_row(
            cost.strategy,
            *(
                f"{seconds * 1e6:.1f} us"
                for seconds in (cost.choice_median_s, cost.choice_p99_s, cost.request_median_s)
            ),
        )
    click.echo()
    print_parts(timed)


if __name__ == "__main__":
    scheduling(prog_name="python -m simulations.scheduling")
