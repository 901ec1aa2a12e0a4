"""The language of rules: what it reads, what it refuses and where, and what it decides."""

from __future__ import annotations

import operator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_worlds import model

from mcp.cluster.router.catalogue import Catalogue, Resolution
from mcp.cluster.router.conditions import And, Comparison, Condition, Not, Operator, Or, compiled
from mcp.cluster.router.features import Features, Tensor
from mcp.cluster.router.grammar import DEPTH_MAX, REQUIREMENTS_MAX
from mcp.cluster.router.rules import RULES_CHARS_MAX, RULES_MAX, Rule, RuleSet
from mcp.cluster.router.selector import About, Requirement, Selector
from mcp.cluster.router.tokens import RULE_CHARS_MAX
from mcp.errors import InvalidArgument, TooLarge

PRINTABLE = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs",)), max_size=8)
WORDS = st.sampled_from(
    ["glm-large", "a/b", "3d-unet", "1.0", "when", "not", "model", "label", "-1", "x y", '"', "\\"]
)
TEXTS = PRINTABLE | WORDS
NAMES = TEXTS.filter(bool)
INTEGERS = st.integers(-(10**18) + 1, 10**18 - 1) | st.sampled_from([0, 2048, 2**20, 3 * 2**30, 1000])
COMPARISONS = st.one_of(
    st.builds(
        Comparison, st.sampled_from(["length", "batch", "priority"]), st.sampled_from(Operator), INTEGERS
    ),
    st.builds(Comparison, st.just("bytes"), st.sampled_from(Operator), INTEGERS.map(abs)),
    st.builds(
        Comparison,
        st.sampled_from(["model", "family", "task", "hint", "client", "header.x", "header.user-id"]),
        st.sampled_from([Operator.EQUAL, Operator.UNEQUAL]),
        TEXTS,
    ),
    st.builds(
        Comparison,
        st.just("dtype"),
        st.sampled_from([Operator.EQUAL, Operator.UNEQUAL]),
        st.sampled_from(["FP32", "INT64"]),
    ),
)


def nested(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(Not, inner) | st.builds(And, parts) | st.builds(Or, parts)


CONDITIONS: st.SearchStrategy[Condition] = st.recursive(COMPARISONS, nested, max_leaves=8)
REQUIREMENTS = st.builds(Requirement, st.just(About.LABEL), NAMES, st.none() | NAMES) | st.builds(
    Requirement, st.sampled_from([About.PROVIDER, About.NODE]), NAMES
)
RULES = st.builds(
    Rule,
    CONDITIONS,
    NAMES,
    st.none() | NAMES,
    st.none() | st.builds(Selector, st.lists(REQUIREMENTS, min_size=1, max_size=3).map(tuple)),
)


@settings(max_examples=60)
@given(RULES)
def test_a_printed_rule_reads_back_as_the_same(rule: Rule) -> None:
    assert Rule.parse(str(rule)) == rule


@settings(max_examples=60)
@given(st.lists(RULES, max_size=3), st.integers(0, 9))
def test_a_set_of_rules_is_plain_values(rules: list[Rule], version: int) -> None:
    found = RuleSet(version, tuple(rules))
    assert RuleSet.from_plain(found.to_plain()) == found


WORDS_OF_RULES = [*"()>=:,@51x", "when", "not", "length", "model", "==", "and", "or", "use", "on", "label"]


def assert_rule_or_refused(text: str) -> None:
    error: InvalidArgument | None = None
    try:
        rule = Rule.parse(text)
    except InvalidArgument as caught:
        error = caught
    else:
        assert Rule.parse(str(rule)) == rule
    assert error is None or 1 <= error.details["position"] <= len(text) + 1


@settings(max_examples=60)
@given(st.text('()whenusotarld <>=!1"\\@,:.-\n', max_size=60) | st.text(max_size=20))
def test_any_text_is_a_rule_or_refused_with_its_place(text: str) -> None:
    assert_rule_or_refused(text)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(WORDS_OF_RULES)))
def test_any_words_are_a_rule_or_refused(words: list[str]) -> None:
    text = " ".join(["when", *words])
    assert_rule_or_refused(text)


def test_the_rule_of_the_specification() -> None:
    rule = Rule.parse("when length > 2048 use glm-large on label:gpu")
    assert rule == Rule(
        Comparison("length", Operator.ABOVE, 2048),
        "glm-large",
        None,
        Selector((Requirement(About.LABEL, "gpu"),)),
    )
    assert str(rule) == "when length > 2048 use glm-large on label:gpu"


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("when bytes>=1.5MiB use a", "when bytes >= 1536KiB use a"),
        ("when bytes < 64kB use a", "when bytes < 64000 use a"),
        ("when bytes == 3GiB use a@2", "when bytes == 3GiB use a@2"),
        ("when bytes == 0 use a", "when bytes == 0 use a"),
        ("when dtype == FP16 use a", 'when dtype == "FP16" use a'),
        ("when header.X-User-Id != eu/1 use a", 'when header.x-user-id != "eu/1" use a'),
        ("when not not model == a use a", 'when not not model == "a" use a'),
        (
            "when (batch > 9 or batch == 1) and client == x use a on label:zone=eu , provider:cuda,node:n",
            'when (batch > 9 or batch == 1) and client == "x" use a on label:zone=eu, provider:cuda, node:n',
        ),
        (
            "when model == a or model == b and not (task == c) use 3d-unet@1.0",
            'when model == "a" or model == "b" and not task == "c" use 3d-unet@1.0',
        ),
        (r'when hint == "say \"\\\"" use "use"', r'when hint == "say \"\\\"" use "use"'),
        ('when header.x == "" use a', 'when header.x == "" use a'),
    ],
)
def test_what_is_written_and_how_it_is_printed(written: str, printed: str) -> None:
    assert str(Rule.parse(written)) == printed


@pytest.mark.parametrize(
    ("written", "position", "expected"),
    [
        ("", 1, '"when"'),
        ("if length > 1 use a", 1, '"when"'),
        ("when", 5, "feature"),
        ("when size > 1 use a", 6, "length, batch, bytes"),
        ("when length = 1 use a", 13, "==, !=, <=, >="),
        ("when model > a use a", 12, "one of ==, !="),
        ("when length > many use a", 15, "an integer"),
        ("when length > 1.5 use a", 15, "an integer"),
        ("when length > 2MiB use a", 15, "an integer"),
        ("when bytes > 2XB use a", 14, "whole number of bytes"),
        ("when bytes > 0.3KiB use a", 14, "whole number of bytes"),
        ("when bytes > -1 use a", 14, "whole number of bytes"),
        ("when bytes > 99999999TiB use a", 14, "whole number of bytes"),
        ("when length > 1 model use a", 17, '"and", "or" or "use"'),
        ("when (length > 1 use a", 18, '"and", "or" or ")"'),
        ("when length > 1) use a", 16, '"and", "or" or "use"'),
        ("when dtype == float32 use a", 15, "FP32"),
        ("when model == task use a", 15, "a text to compare model with"),
        ("when model == and use a", 15, "a text to compare model with"),
        ("when length > 1 use", 20, "the name or alias of a model"),
        ("when length > 1 use when", 21, "the name or alias of a model"),
        ('when length > 1 use ""', 21, "the name or alias of a model"),
        ("when length > 1 use a@", 23, "a version"),
        ("when length > 1 use a b", 23, '"@", "on" or the end'),
        ("when length > 1 use a on gpu", 26, "label, provider, node"),
        ("when length > 1 use a on label gpu", 32, '":"'),
        ("when length > 1 use a on label:gpu=", 36, "the label's value"),
        ("when length > 1 use a on provider:cuda=1", 39, '"," or the end'),
        ('when model == "a use a', 15, "double quotes"),
        ('when model == "a\\n" use a', 15, "double quotes"),
        ("when length > 1\nuse a", 16, "a word, a number"),
        ("when header. == a use a", 6, "feature"),
        ("when length > 1 use a on node:n1, ", 35, "label, provider, node"),
    ],
)
def test_what_is_no_rule_is_refused_with_place_and_expectation(
    written: str, position: int, expected: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Rule.parse(written)
    assert caught.value.details["position"] == position
    assert expected in caught.value.details["expected"]
    assert caught.value.message.startswith(f"at character {position}: expected ")


def test_a_rule_is_bounded_in_length_depth_and_requirements() -> None:
    deep = "not " * DEPTH_MAX
    assert Rule.parse(f"when {deep}length > 1 use a")
    for written in (
        f"when not {deep}length > 1 use a",
        f"when {'(' * (DEPTH_MAX + 1)}length > 1{')' * (DEPTH_MAX + 1)} use a",
        "when length > 1 use a" + " " * RULE_CHARS_MAX,
        f"when length > 1 use a on {', '.join(['label:x'] * (REQUIREMENTS_MAX + 1))}",
        "when " + "(" * (RULE_CHARS_MAX - 5),
        "when " + "not " * ((RULE_CHARS_MAX - 5) // 4),
    ):
        with pytest.raises(InvalidArgument):
            Rule.parse(written)
    side_by_side = " and ".join(["(length > 1)"] * 100)
    assert Rule.parse(f"when {side_by_side} use a")


def test_a_set_is_bounded_and_says_which_rule_is_wrong() -> None:
    rule = "when length > 1 use a"
    assert len(RuleSet.from_plain({"version": 1, "rules": [rule] * RULES_MAX}).rules) == RULES_MAX
    with pytest.raises(InvalidArgument, match=r"rules: 257 items"):
        RuleSet.from_plain({"version": 1, "rules": [rule] * (RULES_MAX + 1)})
    long = f'when client == "{"x" * 4000}" use a'
    with pytest.raises(TooLarge):
        RuleSet.from_plain({"version": 1, "rules": [long] * (RULES_CHARS_MAX // 4000 + 1)})
    with pytest.raises(TooLarge):
        RuleSet.read("\n".join([rule] * (RULES_MAX + 1)))
    with pytest.raises(InvalidArgument, match=r"rules\[1\]: at character 6") as caught:
        RuleSet.from_plain({"version": 1, "rules": [rule, "when x"]})
    assert caught.value.details["position"] == 6


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("wehn batch > 1 use m", 'expected "when", got wehn; did you mean when?'),
        ("when lenght > 1 use m", "got lenght; did you mean length?"),
        ("when haeder.x-a == b use m", "got haeder.x-a; did you mean header.x-a?"),
        ("when dtype == FP31 use m", "got FP31; did you mean FP3"),
        ("when batch > 1 us m", "got us; did you mean use?"),
        ("when batch > 1 use m on lable:gpu", "got lable; did you mean label?"),
        ("when something > 1 use m", "header.NAME, got something"),
    ],
)
def test_a_misspelt_word_is_told_with_the_one_that_may_be_meant(written: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Rule.parse(written)
    assert said in caught.value.message
    assert ("did you mean" in said) or caught.value.message.endswith(said)


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        (None, "the document: a map is expected"),
        ({"rules": []}, "version: missing"),
        ({"version": True, "rules": []}, "version: an integer"),
        ({"version": 1}, "rules: missing"),
        ({"version": 1, "rules": "when"}, "rules: a list"),
        ({"version": 1, "rules": [1]}, "rules: a text"),
        ({"version": 1, "rules": [], "more": 1}, "more: unknown field: take it out; there are: version, r"),
    ],
)
def test_a_set_that_is_none_is_refused_by_its_field(plain: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        RuleSet.from_plain(plain)


def test_a_file_has_a_rule_on_each_line() -> None:
    found = RuleSet.read("# long ones\n\n  when length > 1 use a  \nwhen batch > 1 use b\n", 3)
    assert (found.version, list(map(str, found.rules))) == (
        3,
        ["when length > 1 use a", "when batch > 1 use b"],
    )
    with pytest.raises(InvalidArgument, match=r"line 3: at character 5"):
        RuleSet.read("# long ones\n\nwhen")


# -- what a condition decides ------------------------------------------------------------------------

OPERATIONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
SMALL = st.integers(-1, 2)
NUMBERED = st.builds(
    Comparison, st.sampled_from(["length", "batch", "bytes", "priority"]), st.sampled_from(Operator), SMALL
)
TEXTUAL = st.builds(
    Comparison,
    st.sampled_from(["model", "family", "task", "hint", "client", "dtype", "header.x", "header.y"]),
    st.sampled_from([Operator.EQUAL, Operator.UNEQUAL]),
    st.sampled_from(["a", "b", ""]),
)
DECIDABLE: st.SearchStrategy[Condition] = st.recursive(NUMBERED | TEXTUAL, nested, max_leaves=8)
OPTIONAL = st.none() | st.sampled_from(["a", "b"])


def holds(condition: Condition, has: dict[str, Any]) -> bool:
    """The oracle: a map of what is known, walked each time."""
    if isinstance(condition, Not):
        return not holds(condition.part, has)
    if isinstance(condition, And):
        return all(holds(part, has) for part in condition.parts)
    if isinstance(condition, Or):
        return any(holds(part, has) for part in condition.parts)
    if condition.feature == "dtype":
        return (condition.value in has["dtype"]) is (condition.operator is Operator.EQUAL)
    value = has.get(condition.feature)
    if value is None:
        return condition.operator is Operator.UNEQUAL
    return bool(OPERATIONS[condition.operator.value](value, condition.value))


@settings(max_examples=60)
@given(
    DECIDABLE,
    st.tuples(*[st.none() | SMALL] * 3),
    SMALL,
    st.tuples(*[OPTIONAL] * 3),
    st.sampled_from(["a", "b", ""]),
    st.dictionaries(st.sampled_from("xy"), st.sampled_from(["a", ""])),
    st.none() | st.lists(st.sampled_from("ab")),
)
def test_a_condition_holds_if_its_parts_say_so(
    condition: Condition,
    numbers: tuple[int | None, ...],
    priority: int,
    common: tuple[str | None, ...],
    client: str,
    headers: dict[str, str],
    dtypes: list[str] | None,
) -> None:
    tensors = None if dtypes is None else tuple(Tensor("x", dtype, (1,), 1) for dtype in dtypes)
    features = Features("h", tensors, *numbers, priority=priority, client=client, headers=headers)
    resolution = (
        Catalogue([model("a")])
        .resolve("a")
        ._replace(hint="b", model=common[0], family=common[1], task=common[2])
    )
    has = {
        **dict(zip(("length", "batch", "bytes"), numbers, strict=True)),
        **dict(zip(("model", "family", "task"), common, strict=True)),
        **{f"header.{name}": value for name, value in headers.items()},
        "priority": priority,
        "hint": "b",
        "client": client or None,
        "dtype": dtypes or [],
    }
    assert compiled(condition)(features, resolution) is holds(condition, has)


@pytest.mark.parametrize(
    ("condition", "holding"),
    [
        ("dtype == FP16", True),
        ("dtype != FP16", False),
        ("dtype == FP64", False),
        ("dtype != FP64", True),
        ("length > 1", False),
        ("length <= 1", False),
        ("length != 1", True),
        ("not length > 1", True),
        ("batch == 1 and priority >= 0", True),
        ("batch == 2 and priority >= 0", False),
        ("batch == 2 or priority >= 0", True),
        ("batch == 2 or not priority >= 0", False),
        ("header.x == yes", True),
        ("header.y != yes", True),
        ('client == ""', False),
        ('client != ""', True),
    ],
)
def test_what_is_missing_is_equal_to_nothing(condition: str, holding: bool) -> None:
    tensors = tuple(Tensor("x", dtype, (1,), 1) for dtype in ("FP16", "FP32"))
    wanted = Features("a", tensors, batch=1, headers={"x": "yes"})
    test = compiled(Rule.parse(f"when {condition} use a").condition)
    assert test(wanted, Catalogue([model("a")]).resolve("a")) is holding


def test_deciding_looks_at_nothing_else() -> None:
    resolution: Resolution = Catalogue([model("a")]).resolve("a")
    test = compiled(Rule.parse("when header.x == 1 and header.y == 2 and length > 3 use a").condition)
    assert test(Features("a", length=4, headers={"x": "1", "y": "2"}), resolution)
    assert not test(Features("a", length=4, headers={"x": "1"}), resolution)
