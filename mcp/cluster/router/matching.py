"""Routes made ready for decisions: matches compiled, destinations looked up."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from mcp.cluster.router.acceptance import Acceptance
from mcp.cluster.router.catalogue import Catalogue
from mcp.cluster.router.features import Features
from mcp.cluster.router.hashing import WeightedChoice, digest, mix
from mcp.cluster.router.models import Candidate
from mcp.cluster.router.patterns import pattern
from mcp.cluster.router.reasons import Reason, Step
from mcp.cluster.router.routes import Destination, Match, Mirror, Route, RouteSet, TextMatch
from mcp.errors import ModelNotFound

Test = Callable[[str | None], bool]

_NO_ID: Final = 0x8CB92BA72F3D8DD7


class _Alternative(NamedTuple):
    headers: tuple[tuple[str, Test], ...]
    without: tuple[tuple[str, Test], ...]

    def holds(self, headers: Mapping[str, str]) -> bool:
        for name, test in self.headers:
            if not test(headers.get(name)):
                return False
        for name, test in self.without:  # noqa: SIM110 (a generator costs three times as much)
            if test(headers.get(name)):
                return False
        return True


class By(enum.IntEnum):
    """What a request is told apart by, when versions share the requests."""

    SESSION = 0
    TRACE = 1
    SEED = 2


_SENTENCES: Final = {
    By.SESSION: "entry {0} of the route of {1}: {2} by weight {3} of {4}, the same for this session",
    By.TRACE: "entry {0} of the route of {1}: {2} by weight {3} of {4}, the same for this trace",
    By.SEED: "entry {0} of the route of {1}: {2} by weight {3} of {4}, drawn for want of an id",
}
_ALONE: Final = "entry {0} of the route of {1}: {2}, and no other"


def told_apart(features: Features, seed: int) -> tuple[By, int]:
    """Return what a request is told apart by, and 64 bits of it."""
    if features.session:
        return By.SESSION, digest(features.session)
    if features.trace_id:
        return By.TRACE, digest(features.trace_id)
    return By.SEED, mix(seed ^ _NO_ID)


class Pick(NamedTuple):
    """The version that answers, if the inputs fit; ``ready`` is the entry that says so, if one does."""

    candidate: Candidate
    ready: Ready | None
    reason: Reason


class Ready:
    """An entry, ready for decisions. ``place`` counts the entries of its host from 1."""

    __slots__ = ("_alternatives", "_choice", "_picks", "acceptance", "entry", "host", "mirrors", "place")

    def __init__(self, route: Route, place: int, catalogue: Catalogue) -> None:
        entry = route.entries[place - 1]
        self.host, self.place, self.entry = route.host, place, entry
        self._alternatives = tuple(map(_alternative, entry.matches))
        self._choice = WeightedChoice((str(each), each.weight) for each in entry.destinations)
        self._picks = [self._pick(each, catalogue) for each in entry.destinations]
        self.mirrors = tuple(ReadyMirror.of(each, catalogue) for each in entry.mirrors)
        self.acceptance = self._common()
        """What all destinations take, where that is the same: then it can be told before one is drawn."""

    def _common(self) -> Acceptance | None:
        candidates = [picks[0].candidate for picks in self._picks if picks is not None]
        taken = {(r.inputs, r.length_max, r.batch_max, r.size_max) for r in (c.record for c in candidates)}
        return candidates[0].acceptance if len(taken) == 1 and len(candidates) == len(self._picks) else None

    def _pick(self, destination: Destination, catalogue: Catalogue) -> tuple[Pick, ...] | None:
        candidate = _candidate(destination, catalogue)
        if candidate is None:
            return None
        every = self.entry.destinations
        facts = (self.place, self.host, candidate.key, destination.weight, sum(each.weight for each in every))
        sentences = [_ALONE if len(every) == 1 else _SENTENCES[by] for by in By]
        return tuple(Pick(candidate, self, Reason(Step.ROUTE, sentence, facts)) for sentence in sentences)

    def holds(self, headers: Mapping[str, str]) -> bool:
        """Say whether this entry is for a request with these headers."""
        if not self._alternatives:
            return True
        for alternative in self._alternatives:  # noqa: SIM110
            if alternative.holds(headers):
                return True
        return False

    def pick(self, features: Features, seed: int, told: tuple[By, int] | None = None) -> Pick:
        """Return the version that the weights give a request: for one id always the same.

        ``told`` is what :func:`told_apart` says of the request, for who asks several. Raises
        :class:`~mcp.errors.ModelNotFound` if the version is not deployed.
        """
        by, place = By.SESSION, 0
        if len(self._picks) > 1:
            by, key = told or told_apart(features, seed)
            place = self._choice.place(key)
        picks = self._picks[place]
        if picks is None:
            raise ModelNotFound(
                f"entry {self.place} of the route of {self.host:.80} leads to "
                f"{self.entry.destinations[place]}, which is not deployed; deploy it, or change the route",
                details={"candidates": [each[0].candidate.key for each in self._picks if each is not None]},
            )
        return picks[by]


class ReadyMirror(NamedTuple):
    """A mirror, ready: ``None`` where it is not deployed. ``passed`` is the reason where no copy is due."""

    mirror: Mirror
    candidate: Candidate | None
    passed: Reason

    @classmethod
    def of(cls, mirror: Mirror, catalogue: Catalogue) -> ReadyMirror:
        """Look the mirror up."""
        passed = Reason(Step.MIRROR, "no copy for {0}: {1:g} % get one", (mirror, mirror.percent))
        return cls(mirror, _candidate(mirror, catalogue), passed)


class ReadyRoutes:
    """Routes by host, each made ready when it is first asked for."""

    __slots__ = ("_catalogue", "_ready", "_routes", "version")

    def __init__(self, routes: RouteSet, catalogue: Catalogue) -> None:
        self.version = routes.version
        self._catalogue = catalogue
        self._routes = {route.host: route for route in routes.routes}
        self._ready: dict[str, tuple[Ready, ...]] = {}

    def get(self, host: str) -> tuple[Ready, ...] | None:
        """Return the entries of a host, or ``None``."""
        found = self._ready.get(host)
        if found is None and host in self._routes:
            route = self._routes[host]
            found = tuple(Ready(route, place, self._catalogue) for place in range(1, len(route.entries) + 1))
            self._ready[host] = found
        return found


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
        matches = pattern(text).matches
        return lambda value: value is not None and matches(value)
    return lambda value: value is not None
