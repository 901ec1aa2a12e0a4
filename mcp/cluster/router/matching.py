"""Routes made ready for decisions: matches compiled, destinations looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mcp.cluster.router.catalogue import Catalogue
from mcp.cluster.router.hashing import WeightedChoice
from mcp.cluster.router.models import Candidate
from mcp.cluster.router.patterns import Pattern
from mcp.cluster.router.routes import Destination, Entry, Match, Mirror, Route, RouteSet, TextMatch

Test = Callable[[str | None], bool]


class _Alternative(NamedTuple):
    headers: tuple[tuple[str, Test], ...]
    without: tuple[tuple[str, Test], ...]

    def holds(self, headers: Mapping[str, str]) -> bool:
        for name, test in self.headers:
            if not test(headers.get(name)):
                return False
        return not any(test(headers.get(name)) for name, test in self.without) if self.without else True


class Ready(NamedTuple):
    """An entry, ready. A destination or a mirror that is not deployed is ``None``.

    ``place`` counts the entries of its host from 1; ``total`` is the sum of the weights.
    """

    host: str
    place: int
    entry: Entry
    alternatives: tuple[_Alternative, ...]
    choice: WeightedChoice
    candidates: tuple[Candidate | None, ...]
    mirrors: tuple[Candidate | None, ...]
    total: int

    def holds(self, headers: Mapping[str, str]) -> bool:
        """Say whether this entry is for a request with these headers."""
        if not self.alternatives:
            return True
        return any(each.holds(headers) for each in self.alternatives)


def ready_routes(routes: RouteSet, catalogue: Catalogue) -> dict[str, tuple[Ready, ...]]:
    """Return the entries by host."""
    return {
        route.host: tuple(
            _ready(route, place, entry, catalogue) for place, entry in enumerate(route.entries, 1)
        )
        for route in routes.routes
    }


def problems(routes: RouteSet, catalogue: Catalogue) -> list[str]:
    """Return what in the routes is not deployed, by host: what to refuse before they are applied.

    A host that is no model's name or alias is one, and so is a destination of any weight, or a mirror,
    that does not exist.
    """
    found: list[str] = []
    for route in routes.routes:
        if catalogue.target(route.host) is None:
            found.append(f"{route.host:.80}: no model has this name or alias")
        for place, entry in enumerate(route.entries, 1):
            targets: tuple[Destination | Mirror, ...] = (*entry.destinations, *entry.mirrors)
            found += [
                f"{route.host:.80}: entry {place}: {each} is not deployed"
                for each in targets
                if _candidate(each, catalogue) is None
            ]
    return found


def _ready(route: Route, place: int, catalogue: Catalogue) -> Ready:
    entry = route.entries[place - 1]
    return Ready(
        route.host,
        place,
        entry,
        tuple(map(_alternative, entry.matches)),
        WeightedChoice((str(each), each.weight) for each in entry.destinations),
        tuple(_candidate(each, catalogue) for each in entry.destinations),
        tuple(_candidate(each, catalogue) for each in entry.mirrors),
        sum(each.weight for each in entry.destinations),
    )


def _candidate(target: Destination | Mirror, catalogue: Catalogue) -> Candidate | None:
    found = catalogue.target(target.model)
    if found is None or found.model is None or found.pinned is not None:
        return None
    return catalogue.version(found.model, target.version)


def _alternative(match: Match) -> _Alternative:
    return _Alternative(
        tuple((name, _test(wanted)) for name, wanted in match.headers),
        tuple((name, _test(wanted)) for name, wanted in match.without_headers),
    )


def _test(wanted: TextMatch) -> Test:
    text = wanted.value
    if wanted.kind == "exact":
        return lambda value: value == text
    if wanted.kind == "prefix":
        return lambda value: value is not None and value.startswith(text)
    if wanted.kind == "regex":
        pattern = Pattern(text)
        return lambda value: value is not None and pattern.matches(value)
    return lambda value: value is not None
