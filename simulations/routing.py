"""``python -m simulations.routing``: what a decision of the router costs.

A cluster of 50 nodes and 100 models of two versions each, with 10 rules and a route for every model, as a
gateway would have it; and the requests that differ in what they make the router do. Everything is in one
process, and what is measured is one call after the other.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from mcp.cli.output import print_json, print_parts, table
from mcp.cluster.router.catalogue import Catalogue
from mcp.cluster.router.features import Features, Hint, Tensor
from mcp.cluster.router.models import ModelRecord, TensorSpec, VersionRecord, model_key
from mcp.cluster.router.nodes import NodeRecord, View
from mcp.cluster.router.router import Router
from mcp.cluster.router.routes import Destination, Entry, Match, Mirror, Route, RouteSet, TextMatch
from mcp.cluster.router.rules import Rule, RuleSet

NODES: Final = 50
MODELS: Final = 100
RULES: Final = 10
FAMILIES: Final = 20
BATCH: Final = 100
"""Decisions between two readings of the clock: one alone is too short for it."""


def catalogue() -> Catalogue:
    """The models: versions 1 and 2, one alias each, five to a family."""
    inputs = (
        TensorSpec("ids", "INT64", ("batch", "length")),
        TensorSpec("mask", "INT64", ("batch", "length")),
    )
    return Catalogue(
        ModelRecord(
            f"model-{number}",
            "1",
            tuple(
                VersionRecord(
                    version=version,
                    family=f"family-{number % FAMILIES}",
                    task="text-generation",
                    tags=(f"tag-{number}", "text"),
                    inputs=inputs,
                    length_max=1024 * (1 + number // FAMILIES),
                )
                for version in ("1", "2")
            ),
            (f"alias-{number}",),
        )
        for number in range(MODELS)
    )


def view(generator: random.Random) -> View:
    """The nodes: each has every model ready, every fifth a GPU."""
    ready = {model_key(f"model-{number}", version): 7 for number in range(MODELS) for version in ("1", "2")}
    return View(
        NodeRecord(
            f"n{number}",
            f"10.0.0.{number}:7000",
            ready=ready,
            providers=("cpu",),
            memory_free_bytes=2**32,
            labels={} if number % 5 else {"gpu": ""},
            queue=generator.randrange(20),
        )
        for number in range(NODES)
    )


def rules() -> RuleSet:
    """The rules, of which the last one is what a long request of one family meets."""
    never = [
        f"when header.tenant == t{number} and length > 512 use model-{number}" for number in range(RULES - 1)
    ]
    last = 'when family == "family-3" and length > 2048 use alias-99 on label:gpu'
    return RuleSet(4, tuple(map(Rule.parse, [*never, last])))


def routes() -> RouteSet:
    """For every model: testers to version 2, and of all others a fifth, with a copy for one in a hundred."""
    testers = Match((("x-tester", TextMatch("regex", "(yes|true|1)")),))
    return RouteSet(5).apply(
        Route(
            name,
            (
                Entry((Destination(name, "2"),), (testers,)),
                Entry(
                    (Destination(name, "1", 80), Destination(name, "2", 20)),
                    mirrors=(Mirror(name, "2", 1.0),),
                ),
            ),
        )
        for name in (f"model-{number}" for number in range(MODELS))
    )


def request(
    hint: str | Hint, headers: dict[str, str] | None = None, *, length: int = 128, session: str = "session-1"
) -> Features:
    """A request with two inputs of one row."""
    tensors = tuple(Tensor(name, "INT64", (1, length), 8 * length) for name in ("ids", "mask"))
    return Features(
        hint,
        tensors,
        length,
        1,
        16 * length,
        session=session,
        headers=headers or {},
        client="client-1",
        position=5,
    )


REQUESTS: Final[dict[str, Features]] = {
    "by name": request("model-7"),
    "by name and version": request("model-7@2"),
    "by alias": request("alias-7"),
    "by alias, without an id": request("alias-7", session=""),
    "by alias, a header matched": request("alias-7", {"x-tester": "true"}),
    "by family, a rule with a selector": request("family-3", length=4096),
    "by family, one of five fits": request("family-4", length=4400),
    "by family and tag, in parts": request(Hint(family="family-7", tags=("tag-27",))),
}
"""What is measured, by what it makes the router do."""


def times_us(call: Callable[[], object], seconds: float) -> list[float]:
    """Microseconds of one call, for every :data:`BATCH` of them within ``seconds``."""
    found: list[float] = []
    ends = time.perf_counter() + seconds
    while True:
        begin = time.perf_counter()
        for _ in range(BATCH):
            call()
        end = time.perf_counter()
        found.append((end - begin) / BATCH * 1e6)
        if end >= ends:
            return found


def measure(seconds: float, seed: int) -> dict[str, Any]:
    """The figures in microseconds: of decisions, by request, and of what is made anew after a change."""
    generator = random.Random(seed)
    models, nodes, ruled, routed = catalogue(), view(generator), rules(), routes()
    router = Router(models, nodes, ruled, routed)
    found: dict[str, Any] = {
        "nodes": NODES,
        "models": MODELS,
        "rules": RULES,
        "decision_us": {
            name: _figures(times_us(_deciding(router, features, generator), seconds))
            for name, features in REQUESTS.items()
        },
    }
    first = REQUESTS["by name"]
    found["index_us"] = {
        "catalogue": _once(catalogue),
        "view": _once(lambda: View(nodes.nodes)),
        "router, all but the view": _once(lambda: Router(models, nodes, ruled, routed)),
        "router for another view, and its first decision": _once(lambda: _another(router).decide(first, 1)),
    }
    medians = [figures["median"] for figures in found["decision_us"].values()]
    found["decision_us_median_of_all"] = round(statistics.median(medians), 2)
    return found


def _another(router: Router) -> Router:
    return router.with_view(View(router.view.nodes))


def _deciding(router: Router, features: Features, generator: random.Random) -> Callable[[], object]:
    def call() -> object:
        return router.decide(features, generator.getrandbits(64))

    return call


def _figures(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median": round(statistics.median(ordered), 2),
        "p99": round(ordered[math.ceil(0.99 * (len(ordered) - 1))], 2),
        "least": round(ordered[0], 2),
    }


def _once(call: Callable[[], object], repeats: int = 20) -> float:
    """The median of calls that are made one by one, in microseconds."""
    found: list[float] = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        found.append((time.perf_counter() - begin) * 1e6)
    return round(statistics.median(found), 1)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--seconds", type=click.FloatRange(0.001, 60), default=0.5, show_default=True, help="For each request."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the queues, and of the decisions.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(seconds: float, seed: int, as_json: bool) -> None:
    """Measure what a decision of the router costs at 50 nodes and 100 models."""
    found = measure(seconds, seed)
    if as_json:
        print_json(found)
        return
    made = table("request", "median us#", "p99 us#", "least us#")
    for name, figures in found["decision_us"].items():
        made.add_row(name, *(f"{figures[column]:.1f}" for column in ("median", "p99", "least")))
    once = table("made anew", "us#")
    for name, time_us in found["index_us"].items():
        once.add_row(name, f"{time_us:.1f}")
    print_parts(made, "", once)


if __name__ == "__main__":
    main()
