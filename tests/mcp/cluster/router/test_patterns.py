"""Patterns: what Python's own says, without its time."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcp.cluster.router.pattern_syntax import (
    GROUPS_DEPTH_MAX,
    PATTERN_CHARS_MAX,
    REPEATS_MAX,
    CharacterSet,
    Node,
    Repeat,
    parse_pattern,
)
from mcp.cluster.router.patterns import PATTERNS_MAX, POSITIONS_MAX, Pattern, pattern
from mcp.errors import InvalidArgument

SINGLE = ["a", "b", "0", "é", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\.", r"\\"]
CLASSES = ["[ab]", "[^a]", "[a-c0]", r"[\d_]", r"[\]a]", "[a-]", "[-a]", r"[\-a]", "[.]", "[a^]"]
ATOMS = st.sampled_from([*SINGLE, *CLASSES])


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = inner.map(lambda part: f"({part})")
    sign = st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "{0}", "*?", "+?", "??", "{1,2}?"])
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: f"(?:{'|'.join([*parts, ''])})"),
        st.tuples(group | ATOMS, sign).map("".join),
    )


PATTERNS = st.recursive(ATOMS, larger, max_leaves=8)
VALUES = st.text("abc0_. \\\n]-^é", max_size=8)


def positions(written: str) -> int:
    """How many characters a pattern stands for, each repetition counted."""

    def count(node: Node) -> int:
        if isinstance(node, Repeat):
            copies = max(1, node.least) if node.most is None else node.most
            return sum(count(node.part) for _ in range(copies))
        return 1 if isinstance(node, CharacterSet) else sum(map(count, node.parts))

    return count(parse_pattern(written))


@given(PATTERNS, st.lists(VALUES, min_size=1, max_size=8), st.booleans())
def test_a_pattern_matches_what_it_says(written: str, values: list[str], anchored: bool) -> None:
    assume(len(written) < PATTERN_CHARS_MAX)
    reference = re.compile(written, re.ASCII)
    if positions(written) > POSITIONS_MAX:
        with pytest.raises(InvalidArgument, match="positions_max"):
            Pattern(written)
        return
    found = Pattern(f"^{written}$" if anchored and "|" not in written else written)
    for value in values:
        assert found.matches(value) is bool(reference.fullmatch(value))


@given(PATTERNS, st.data())
def test_a_pattern_matches_what_was_made_from_it(written: str, data: st.DataObject) -> None:
    assume(len(written) < PATTERN_CHARS_MAX and positions(written) <= POSITIONS_MAX)
    value = data.draw(st.from_regex(re.compile(written, re.ASCII), fullmatch=True))
    assume("\v" not in value)  # white space to Python, and none to RE2, which Istio's patterns are for
    assert Pattern(written).matches(value)


@pytest.mark.parametrize("written", ["(a*)*b", "(a|a)*b", "(a|aa)+b", "(.*a){10}b", "(a+)+(a+)+b"])
def test_no_pattern_takes_long(written: str) -> None:
    """Python's own would be at it until the end of the world."""
    found = Pattern(written)
    assert not found.matches("a" * 1000)
    assert found.matches("a" * 1000 + "b")


def test_a_position_beyond_the_first_chunk_is_reached() -> None:
    written = "".join(chr(ord("a") + place % 26) for place in range(100))
    assert Pattern(written).matches(written)
    assert not Pattern(written).matches(written[:-1])
    assert not Pattern(written).matches(written + "a")


@pytest.mark.parametrize(
    ("written", "position"),
    [
        ("a**", 3),
        ("a*+", 3),
        ("*a", 1),
        ("a|*", 3),
        ("(a", 1),
        ("a)", 2),
        ("[a", 1),
        ("[]", 1),
        ("[[:alpha:]]", 1),
        ("[b-a]", 2),
        (r"[\d-z]", 2),
        (r"[\D]", 2),
        ("a{2,1}", 7),
        ("a{,1}", 3),
        ("a{x}", 3),
        ("a{101}", 3),
        ("a{9999999999}", 3),
        ("{", 1),
        ("}", 1),
        ("]", 1),
        (r"(a)\1", 4),
        (r"\bword", 1),
        (r"\pL", 1),
        (r"\n", 1),
        ("a\\", 2),
        ("(?=a)", 1),
        ("(?!a)", 1),
        ("(?<=a)b", 1),
        ("(?P<x>a)", 1),
        ("(?i)a", 1),
        ("a^b", 2),
        ("a$b", 3),
        ("(a$)", 1),
    ],
)
def test_what_is_not_supported_is_refused_with_its_place(written: str, position: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Pattern(written)
    assert caught.value.details["position"] == position


def test_the_pattern_of_the_manual() -> None:
    found = Pattern("^(.*?;)?(user=jason)(;.*)?$")
    assert found.matches("user=jason")
    assert found.matches("a=1;user=jason;b=2")
    assert not found.matches("user=jasons")


@given(st.text("()[]{}*+?|^$\\.a-,0", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_pattern_or_refused(written: str) -> None:
    try:
        found = Pattern(written)
    except InvalidArgument:
        return
    found.matches("a" * 50)


def test_a_pattern_is_bounded() -> None:
    assert Pattern("(?:ab){64}")
    for written in (
        "a" * (PATTERN_CHARS_MAX + 1),
        "a" * (POSITIONS_MAX + 1),
        f"(a{{{REPEATS_MAX}}}){{{REPEATS_MAX}}}",
        "(" * (GROUPS_DEPTH_MAX + 1) + ")" * (GROUPS_DEPTH_MAX + 1),
    ):
        with pytest.raises(InvalidArgument):
            Pattern(written)


def test_a_pattern_that_repeats_nothing_is_not_built_for_ever() -> None:
    """Positions bound the work only where there are any."""
    written = "()"
    for _ in range(GROUPS_DEPTH_MAX - 2):
        written = f"({written}{{100}})"
    assert Pattern(written).matches("")
    assert Pattern(f"{written}a").matches("a")


def test_the_same_text_is_compiled_once() -> None:
    assert pattern("same") is pattern("same")
    assert pattern.cache_info().maxsize == PATTERNS_MAX
