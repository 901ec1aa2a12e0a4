"""JSON that is read in pieces is what the standard library reads at once, errors included."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.gateway import json_pieces
from mcp.gateway.json_pieces import loads_in_pieces

SEED = 20264


def refused(text: str) -> float:
    raise ValueError(f"{text} is no number")


def outcome(read: Any, text: str) -> Any:
    try:
        return json.dumps(read(text))
    except (ValueError, RecursionError) as error:
        return type(error), str(error)


def at_once(text: str) -> Any:
    return json.loads(text, parse_constant=refused)


def in_pieces(text: str) -> Any:
    return loads_in_pieces(text, refused)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_pieces, "PIECE_CHARS", 5)
    monkeypatch.setattr(json_pieces, "_STRETCH", json_pieces.re.compile(r'[^{}"]{8,}'))


NUMBERS = st.one_of(st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(NUMBERS, st.booleans(), st.none(), st.text('ab[]{},:" N', max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=8), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=40,
)
DAMAGE = st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["", "[", "]", ",", '"', "NaN", "1", "-"])))


@given(VALUES, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]), DAMAGE)
@settings(max_examples=400, deadline=None)
def test_the_same_comes_of_it(value: Any, separators: tuple[str, str], damage: list[tuple[int, str]]) -> None:
    text = json.dumps({"data": value, "id": "x"}, separators=separators)
    assert outcome(in_pieces, text) == outcome(at_once, text)
    for place, put in damage[:3]:
        text = text[: place % len(text)] + put + text[place % len(text) + 1 :]
    assert outcome(in_pieces, text) == outcome(at_once, text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ":[1,2,3,4,5,6,7,8,9],"}',
        '{"a": "[1,2,3,4,5,6,7,8,9]", "b": [1,2,3,4,5,6,7,8,9]}',
        '{"a": ["[1,2,3,4,5,6,7,8,9]", NaN]}',
        '{"a": ["[1,2,3,4,5,6,7,8,9]", Infinity]}',
        '{"a": [1,2,3,4,5,6,7,8,9,]}',
        '{"a": [,1,2,3,4,5,6,7,8,9]}',
        '{"a": [1,2,3,4,,5,6,7,8,9]}',
        '{"a": [[],[],[],[],[],[],[],[]]}',
        '{"a": [[1,2,3],[],[4,5,6,7],8,[9,[10,11,12]]]}',
        '{"a": [1,2,3,4,5,6],"a": [7,8,9,10,11,12]}',
        '{"a": [1,2,3,4,5,6] [7,8,9,10,11,12]}',
        "[" * 5000 + "]" * 5000,
        "[" * 40 + "1,1,1,1,1,1,1,1,1,1" + "]" * 40,
        "[1,2,3,4,5,6,7,8,9,10]",
        "",
    ],
)
def test_what_looks_like_a_list_and_what_is_none(text: str) -> None:
    assert outcome(in_pieces, text) == outcome(at_once, text)


def test_lists_of_numbers_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(SEED)
    longest = 0
    plain = json.loads

    def loads(text: str, **options: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(text))
        return plain(text, **options)

    monkeypatch.setattr(json_pieces.json, "loads", loads)
    for shape in ((400,), (100, 4), (1, 20, 20), (5, 1, 80)):
        value: Any = [generator.random() for _ in range(400)]
        for size in reversed(shape[1:]):
            value = [value[begin : begin + size] for begin in range(0, len(value), size)]
        text = json.dumps({"inputs": [{"name": "x", "shape": shape, "data": value}], "outputs": []})
        longest = 0
        assert in_pieces(text) == plain(text)
        assert 0 < longest < 200, shape
