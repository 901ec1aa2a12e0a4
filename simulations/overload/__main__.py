"""A server under more and more load, with admission and without: ``python -m simulations.overload``.

Virtual time: the same seed gives the same figures on every machine. Only ``--cost`` measures this one.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict
from typing import Any, Final, get_args

import click

from mcp.flow.admission import Admission, Request, Ticket
from mcp.flow.config import FlowConfig, from_plain
from mcp.flow.outcome import Outcome
from simulations.overload.batching import Batched, BatchingServer
from simulations.overload.server import Scenario, Server, Service

LOADS: Final = (0.5, 0.8, 1.0, 1.5, 2.0, 5.0)
"""Times what the server can do."""
USUAL_LOAD: Final = 0.8
"""The load with which latencies are compared."""
ROUNDS: Final = 20


def measured(scenario: Scenario | Batched, config: FlowConfig | None) -> dict[str, Any]:
    """One run as plain values; goodput as a share of what the workers can do."""
    if isinstance(scenario, Batched):
        figures, capacity = BatchingServer(scenario, config).run(), scenario.capacity
    else:
        figures, capacity = Server(scenario, config).run(), scenario.workers / scenario.work_s
    return {
        "load": scenario.load,
        "goodput_share": round(figures.goodput / capacity, 3),
        "late_share": round(figures.late / max(1, figures.late + figures.good), 3),
        "refused_share": [
            round(figures.refused_share(priority), 3) for priority in range(len(figures.offered))
        ],
        "p50_ms": round(figures.quantile_s(0.5) * 1000, 2),
        "p99_ms": round(figures.quantile_s(0.99) * 1000, 2),
    }


def compared(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The two figures that matter, of the rows of one server: at the highest load."""
    by_load = {row["load"]: row for row in rows}
    worst = by_load[max(by_load)]
    return {
        "goodput_to_peak": round(worst["goodput_share"] / max(row["goodput_share"] for row in rows), 3),
        "p99_to_usual": round(worst["p99_ms"] / by_load[USUAL_LOAD]["p99_ms"], 3),
    }


def admission_cost_us(requests: int = 5_000) -> dict[str, dict[str, float]]:
    """What one request costs that is let in, in microseconds of this machine: the best of some rounds."""
    limits = {"amount": 1_000_000_000}
    model = {"concurrency": {"initial": 100_000, "most": 100_000}}
    plain = {"default_model": model, "in_flight_max": 100_000}
    rates = {"clients": {"default": limits}, "default_model": {**model, "limit": limits}}
    costs = {}
    for name, config in (("breaker and load", plain), ("and two rates", {**plain, **rates})):
        admission = Admission(from_plain(config), random.Random(1), node="n1")
        rounds = [_round_us(admission, requests) for _ in range(ROUNDS)]
        admit, done = (min(times) for times in zip(*rounds, strict=True))
        costs[name] = {"admit_us": round(admit, 2), "done_us": round(done, 2)}
    return costs


def _round_us(admission: Admission, requests: int) -> tuple[float, float]:
    request, tickets = Request("c", "m"), []
    begun = time.perf_counter()
    for _ in range(requests):
        ticket = admission.admit(request, 1.0)
        assert isinstance(ticket, Ticket)
        tickets.append(ticket)
    admitted = time.perf_counter()
    for ticket in tickets:
        ticket.done(Outcome.SUCCEEDED, 0.001, 1.0, 0.0)
    ended = time.perf_counter()
    return (admitted - begun) / requests * 1e6, (ended - admitted) / requests * 1e6


def _show(title: str, rows: list[dict[str, Any]]) -> None:
    click.echo(f"\n{title}")
    click.echo("  load  goodput   late  refused (by priority)      p50 ms    p99 ms")
    for row in rows:
        refused = " ".join(f"{share:6.1%}" for share in row["refused_share"])
        click.echo(
            f"  {row['load']:4.1f}  {row['goodput_share']:7.1%} {row['late_share']:6.1%}  {refused:<24} "
            f"{row['p50_ms']:9.1f} {row['p99_ms']:9.1f}"
        )


@click.command(
    epilog="""\b
Examples:
  python -m simulations.overload
  python -m simulations.overload --workers 16 --service bimodal --json
  python -m simulations.overload --cost"""
)
@click.option("--workers", type=click.IntRange(1, 1024), default=4, show_default=True)
@click.option(
    "--service", type=click.Choice(get_args(Service)), default="exponential", show_default=True,
    help="How the work of requests is spread.",
)  # fmt: skip
@click.option("--seconds", type=click.FloatRange(1, 3600), default=30.0, show_default=True, help="Virtual.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--cost", is_flag=True, help="Only what one admission costs on this machine.")
@click.option("--json", "as_json", is_flag=True, help="One object with everything.")
def overload(workers: int, service: Service, seconds: float, seed: int, cost: bool, as_json: bool) -> None:
    """Send a server up to five times what it can do, and see what becomes of it."""
    if cost:
        costs = admission_cost_us()
        lines = [f"{name}: admit {us['admit_us']} us, done {us['done_us']} us" for name, us in costs.items()]
        click.echo(json.dumps(costs) if as_json else "\n".join(lines))
        return
    usual = Scenario(load=1.0, workers=workers, service=service, seconds=seconds, seed=seed)
    wanted: dict[str, tuple[Scenario | Batched, FlowConfig | None]] = {
        "with admission": (usual, FlowConfig()),
        "with admission that is not told how long requests waited": (
            _with(usual, tells_waits=False),
            FlowConfig(),
        ),
        "with priorities: a tenth of all is priority 0, the rest 1": (
            _with(usual, priorities=(0.1, 0.9)),
            FlowConfig(),
        ),
        "without admission": (usual, None),
        "with admission, requests run together as nodes do it": (
            Batched(load=1.0, workers=workers, seconds=seconds, seed=seed),
            FlowConfig(),
        ),
    }
    found = {
        title: [measured(_with(scenario, load=load), config) for load in LOADS]
        for title, (scenario, config) in wanted.items()
    }
    if as_json:
        results = {title: {"rows": rows, **compared(rows)} for title, rows in found.items()}
        click.echo(json.dumps({"scenario": asdict(usual), "results": results}))
        return
    for title, rows in found.items():
        _show(title, rows)
        said = compared(rows)
        click.echo(
            f"  at load {LOADS[-1]:g}: {said['goodput_to_peak']:.1%} of the peak's goodput; 99th percentile "
            f"{said['p99_to_usual']:.2f} times that at load {USUAL_LOAD:g}"
        )


def _with(scenario: Any, **changes: Any) -> Any:
    return type(scenario)(**{**asdict(scenario), **changes})


if __name__ == "__main__":
    overload(prog_name="python -m simulations.overload")
