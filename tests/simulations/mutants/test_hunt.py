"""A handful of mutants that are found out soon, hunted with every change; the command hunts all of them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from simulations.__main__ import simulations
from simulations.mutants.catalogue import MUTANTS
from simulations.mutants.hunt import Fate, hunt


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("sends-before-the-sync", "promises are durable"),
        ("the-vote-is-forgotten-at-the-start", "nothing goes back"),
        ("elections-without-asking", "elections are wanted"),
    ],
)
def test_a_mutant_is_found_out(name: str, rule: str) -> None:
    told = hunt(MUTANTS[name], range(4))
    assert told.fate is Fate.CAUGHT, told
    assert told.rule == rule


def test_the_command_tells_programs_what_found_it() -> None:
    result = CliRunner().invoke(
        simulations, ["mutants", "commands-are-answered-when-they-are-appended", "--seeds", "5", "--json"]
    )
    assert result.exit_code == 0, result.output
    told, totals = [json.loads(line) for line in result.stdout.splitlines()]
    assert (told["fate"], told["verdict"], told["rule"]) == ("caught", "safety", "proposals resolve once")
    assert told["seed"] == told["seeds"] - 1
    assert totals["caught_share"] == 1.0
    assert totals["rules"] == {"proposals resolve once": 1}
