"""Sentences on a terminal."""

from __future__ import annotations

import pytest

from simulations.sentences import broken, shown


@pytest.mark.parametrize("width", range(4, 60))
def test_a_number_is_never_parted_from_its_unit(width: int) -> None:
    sentence = "3 mutants: 3 caught; the median needed 1,024 seeds, the most 1,100; 12 s"
    lines = broken(sentence, width).split("\n")
    assert " ".join(lines) == sentence
    assert not any(line[-1].isdigit() for line in lines), lines
    longest = max(map(len, ["mutants:", "1,024 seeds,", "needed"]))
    assert all(len(line) <= max(width, longest) for line in lines), lines


def test_what_no_terminal_reads_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    sentence = "a sentence that is wider than 20 columns"
    assert shown(sentence) == sentence
