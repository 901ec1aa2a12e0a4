"""The router's benchmark: every kind of request is decided as its name says, and the figures come out."""

from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner

from mcp.cluster.router.router import Router
from simulations.routing import MODELS, NODES, REQUESTS, catalogue, main, routes, rules, view

DECIDED = {
    "by name": ("model-7", NODES, "name of a model"),
    "by name and version": ("model-7", NODES, "no route counts"),
    "by alias": ("model-7", NODES, "for this session"),
    "by alias, without an id": ("model-7", NODES, "for want of an id"),
    "by alias, a header matched": ("model-7", NODES, "entry 1 of the route"),
    "by family, a rule with a selector": ("model-99", NODES // 5, "rule 10 of version 4"),
    "by family, one of five fits": ("model-84", NODES, "of 5 candidates the inputs fit model-84@"),
    "by family and tag, in parts": ("model-27", NODES, "family family-7, tags tag-27"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_what_it_is_called(name: str) -> None:
    router = Router(catalogue(), view(random.Random(1)), rules(), routes())
    decision = router.decide(REQUESTS[name], 1)
    model, eligible, reason = DECIDED[name]
    assert (decision.model, len(decision.eligible)) == (model, eligible)
    assert any(reason in str(each) for each in decision.reasons)


def test_the_figures_come_out_as_json_and_as_tables() -> None:
    printed = CliRunner().invoke(main, ["--seconds", "0.001", "--json"], catch_exceptions=False)
    found = json.loads(printed.output)
    assert (found["nodes"], found["models"]) == (NODES, MODELS)
    assert found["decision_us"].keys() == REQUESTS.keys()
    assert all(0 < each["least"] <= each["median"] <= each["p99"] for each in found["decision_us"].values())
    table = CliRunner().invoke(main, ["--seconds", "0.001"], catch_exceptions=False)
    assert all(name in table.output for name in REQUESTS)
