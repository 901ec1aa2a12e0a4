"""Routes: their plain form, and what a match holds for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_worlds import model

from mcp.cluster.router.catalogue import Catalogue
from mcp.cluster.router.matching import Ready, problems
from mcp.cluster.router.routes import (
    ROUTES_MAX,
    Destination,
    Entry,
    Match,
    Mirror,
    Retries,
    Route,
    RouteSet,
    TextMatch,
)
from mcp.errors import InvalidArgument, TooLarge

TEXTS = st.text(min_size=1, max_size=5)
MATCHES = st.one_of(
    st.builds(TextMatch, st.sampled_from(["exact", "prefix"]), TEXTS),
    st.builds(TextMatch, st.just("regex"), st.sampled_from(["a+", "(yes|no)"])),
    st.just(TextMatch("present")),
)
HEADERS = st.dictionaries(st.sampled_from(["x", "user"]), MATCHES).map(
    lambda found: tuple(sorted(found.items()))
)
DESTINATIONS = st.lists(
    st.builds(Destination, TEXTS, st.none() | TEXTS, st.integers(1, 100)),
    min_size=1,
    max_size=3,
    unique_by=lambda each: (each.model, each.version),
).map(tuple)
ENTRIES = st.builds(
    Entry,
    DESTINATIONS,
    st.lists(st.builds(Match, HEADERS, HEADERS), max_size=2).map(tuple),
    st.lists(st.builds(Mirror, TEXTS, st.none() | TEXTS, st.floats(0, 100)), max_size=2).map(tuple),
    st.none() | st.floats(0.001, 100),
    st.none() | st.builds(Retries, st.integers(0, 10), st.none() | st.floats(0.001, 100)),
    TEXTS | st.just(""),
)
ROUTES = st.builds(Route, TEXTS, st.lists(ENTRIES, min_size=1, max_size=2).map(tuple))

PLAIN: dict[str, Any] = {
    "version": 3,
    "routes": [
        {
            "host": "glm",
            "entries": [
                {
                    "matches": [{"headers": {"x-user": {"prefix": "t"}}}],
                    "destinations": [
                        {"model": "glm", "version": "1", "weight": 3},
                        {"model": "glm", "version": "2", "weight": 0},
                    ],
                    "mirrors": [{"model": "glm", "version": "2", "percent": 5}],
                    "timeout_s": 2.5,
                    "retries": {"attempts": 2},
                }
            ],
        }
    ],
}


@settings(max_examples=60)
@given(st.lists(ROUTES, max_size=2, unique_by=lambda route: route.host))
def test_routes_are_plain_values(routes: list[Route]) -> None:
    found = RouteSet(7).apply(routes)
    assert found.version == 8
    assert RouteSet.from_plain(found.to_plain()) == found


def test_what_is_left_out_has_its_default() -> None:
    (route,) = RouteSet.from_plain(PLAIN).routes
    assert route == Route(
        "glm",
        (
            Entry(
                (Destination("glm", "1", 3), Destination("glm", "2", 0)),
                (Match((("x-user", TextMatch("prefix", "t")),)),),
                (Mirror("glm", "2", 5.0),),
                2.5,
                Retries(2),
            ),
        ),
    )


def changed(path: str, value: Any) -> dict[str, Any]:
    plain: Any = copy.deepcopy(PLAIN)
    at = plain
    *way, last = path.split(".")
    for step in way:
        at = at[int(step)] if step.isdigit() else at[step]
    at[int(last) if last.isdigit() else last] = value
    return plain  # type: ignore[no-any-return]


ENTRY = "routes.0.entries.0"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("more", 1, "more: unknown field: take it out; there are: version, r"),
        ("version", -1, "version: an integer in 0"),
        ("routes", {}, "routes: a list is expected"),
        ("routes.0", 1, r"routes\[0\]: a map is expected"),
        ("routes.0.host", "", r"routes\[0\].host: a text"),
        ("routes.0.entries", [], r"routes\[0\].entries: at least one"),
        (f"{ENTRY}.tls", [], r"routes\[0\].entries\[0\].tls: unknown field: take it out"),
        (f"{ENTRY}.destinations", [], "destinations: at least one"),
        (f"{ENTRY}.destinations.0.weight", 0, "destinations: integers in 0..1000000 are expected"),
        (f"{ENTRY}.destinations.0.weight", -1, r"destinations\[0\].weight: an integer in 0"),
        (f"{ENTRY}.destinations.0.weight", True, r"destinations\[0\].weight: an integer in 0"),
        (f"{ENTRY}.destinations.0.weight", None, r"destinations\[0\].weight: missing"),
        (f"{ENTRY}.destinations.1.version", "1", "destinations: a destination is there twice"),
        (f"{ENTRY}.mirrors.0.percent", 101, r"mirrors\[0\].percent: a number in 0..100"),
        (f"{ENTRY}.mirrors.0.percent", float("nan"), r"mirrors\[0\].percent: a number in 0..100"),
        (f"{ENTRY}.timeout_s", 0, "timeout_s: a number"),
        (f"{ENTRY}.retries.attempts", 11, "retries.attempts: an integer in 0..10"),
        (f"{ENTRY}.matches.0.headers", [], "headers: a map is expected"),
        (f"{ENTRY}.matches.0.headers.x-user", {"exact": "a", "prefix": "b"}, "x-user.prefix: exact is there"),
        (
            f"{ENTRY}.matches.0.headers.x-user",
            {"suffix": "a"},
            "x-user.suffix: unknown field: take it out; there are: exact, prefix, regex",
        ),
        (f"{ENTRY}.matches.0.headers.x-user", {"regex": "(a"}, "x-user.regex: the pattern"),
        (f"{ENTRY}.matches.0.headers.x-user", {"exact": "a" * 257}, "x-user.exact: a text of 257"),
        (f"{ENTRY}.matches.0.headers.X-User", {}, "a header is there twice"),
        (f"{ENTRY}.matches.0.headers", {str(n): {} for n in range(17)}, "over headers_max=16"),
        (f"{ENTRY}.matches", [{}] * 17, "matches: 17 items are over the limit of 16"),
    ],
)
def test_what_is_wrong_is_refused_by_its_path(path: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        RouteSet.from_plain(changed(path, value))


def test_a_host_has_one_route() -> None:
    with pytest.raises(InvalidArgument, match="a host is there twice"):
        RouteSet.from_plain({"version": 1, "routes": PLAIN["routes"] * 2})


def test_a_set_changes_as_a_whole() -> None:
    route = Route("a", (Entry((Destination("a", "1"),)),))
    other = Route("a", (Entry((Destination("a", "2"),)),))
    first = RouteSet().apply([route, Route("b", route.entries)])
    second = first.apply([other])
    assert (second.version, second.get("a"), second.get("b")) == (2, other, Route("b", route.entries))
    assert first.get("a") == route
    third = second.remove("a")
    assert (third.version, third.get("a"), len(third.routes)) == (3, None, 1)
    with pytest.raises(TooLarge):
        RouteSet().apply(Route(f"m{number}", route.entries) for number in range(ROUTES_MAX + 1))


def test_weights_change_by_version() -> None:
    entry = Entry((Destination("a", "1", 100), Destination("a", "2", 0), Destination("a", None, 1)))
    route = Route("a", (entry,)).with_weights({"1": 80, "2": 20})
    assert [each.weight for each in route.entries[0].destinations] == [80, 20, 1]
    for weights, place in (({"3": 1}, 0), ({"1": -1}, 0), ({"1": 1}, 1)):
        with pytest.raises(InvalidArgument):
            route.with_weights(weights, place)
    with pytest.raises(InvalidArgument):
        Route("a", (Entry((Destination("a", "1", 100),)),)).with_weights({"1": 0})


def holds(match: Match, headers: dict[str, str]) -> bool:
    """The oracle."""

    def one(name: str, wanted: TextMatch) -> bool:
        if name not in headers:
            return False
        value = headers[name]
        if wanted.kind == "exact":
            return value == wanted.value
        if wanted.kind == "prefix":
            return value[: len(wanted.value)] == wanted.value
        if wanted.kind == "regex":
            return {"a+": value != "" and set(value) == {"a"}, "(yes|no)": value in ("yes", "no")}[
                wanted.value
            ]
        return True

    return all(one(*each) for each in match.headers) and not any(one(*each) for each in match.without_headers)


@settings(max_examples=60)
@given(
    st.lists(st.builds(Match, HEADERS, HEADERS), max_size=2),
    st.dictionaries(
        st.sampled_from(["x", "user"]), st.sampled_from(["", "a", "aa", "yes", "no", "n"]) | TEXTS
    ),
)
def test_an_entry_holds_if_any_of_its_matches_does(matches: list[Match], headers: dict[str, str]) -> None:
    route = Route("a", (Entry((Destination("a"),), tuple(matches)),))
    ready = Ready(route, 1, Catalogue([model("a")]))
    assert ready.holds(headers) is (not matches or any(holds(match, headers) for match in matches))


@pytest.mark.parametrize(
    ("headers", "holding"),
    [
        ({"user": "tim"}, True),
        ({"user": "tim", "x": "no"}, True),
        ({"user": "tim", "x": "yes"}, False),
        ({"user": "tim", "y": ""}, False),
        ({"user": "jim"}, False),
        ({"x": "no"}, False),
    ],
)
def test_headers_that_are_not_wanted_keep_a_match_from_holding(
    headers: dict[str, str], holding: bool
) -> None:
    without = (("x", TextMatch("exact", "yes")), ("y", TextMatch("present")))
    match = Match((("user", TextMatch("prefix", "ti")),), without)
    route = Route("a", (Entry((Destination("a"),), (match,)),))
    assert Ready(route, 1, Catalogue([model("a")])).holds(headers) is holding


def test_what_is_not_deployed_is_a_problem() -> None:
    catalogue = Catalogue([model("a", "1", "2", aliases=("x",))])
    entry = Entry((Destination("a", "1"), Destination("x", "3", 0)), mirrors=(Mirror("b"),))
    routes = RouteSet().apply([Route("x", (entry,)), Route("y", (Entry((Destination("x"),)),))])
    assert problems(routes, catalogue) == [
        "x: entry 1: x@3 is not deployed",
        "x: entry 1: b is not deployed",
        "y: no model has this name or alias",
    ]
