"""Weighted routes between versions, one for each host, which is a model's name or alias.

A route has entries; the first whose match holds decides. It names destinations with weights, and may
name mirrors that get a copy of some requests, a timeout and retries. Requests that match no entry, like those
for a host without a route, get the active version. A set of routes is replicated and changes as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mcp.cluster.router.fields import SECONDS_MAX, Fields, number, text, whole
from mcp.cluster.router.patterns import pattern
from mcp.errors import InvalidArgument, TooLarge

ROUTES_MAX: Final = 1000
"""The most hosts of one set of routes."""
ENTRIES_MAX: Final = 32
"""The most entries of one route."""
MATCHES_MAX: Final = 16
"""The most alternatives of one entry's match."""
HEADERS_MAX: Final = 16
"""The most headers that one alternative looks at."""
DESTINATIONS_MAX: Final = 64
"""The most destinations of one entry."""
MIRRORS_MAX: Final = 4
"""The most mirrors of one entry."""
WEIGHT_MAX: Final = 1_000_000
"""The largest weight of a destination."""
ATTEMPTS_MAX: Final = 10
"""The most retries of one request."""

_TEXT_KINDS: Final = ("exact", "prefix", "regex")


@dataclass(frozen=True, slots=True)
class TextMatch:
    """What a header has to be: ``kind`` is ``exact``, ``prefix``, ``regex`` (all of it) or ``present``."""

    kind: str
    value: str = ""

    def to_plain(self) -> dict[str, str]:
        """Return ``{kind: value}``."""
        return {} if self.kind == "present" else {self.kind: self.value}


@dataclass(frozen=True, slots=True)
class Match:
    """Holds if all of ``headers`` are as they say and none of ``without_headers`` is. Names in lower case."""

    headers: tuple[tuple[str, TextMatch], ...] = ()
    without_headers: tuple[tuple[str, TextMatch], ...] = ()


@dataclass(frozen=True, slots=True)
class Destination:
    """A version of a model (``None``: the active one) and its share, ``weight`` of the sum of all weights."""

    model: str
    version: str | None = None
    weight: int = 1

    def __str__(self) -> str:
        return self.model if self.version is None else f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True)
class Mirror:
    """A version that gets a copy of ``percent`` (0 to 100) of the requests; its answers are thrown away."""

    model: str
    version: str | None = None
    percent: float = 100.0

    def __str__(self) -> str:
        return self.model if self.version is None else f"{self.model}@{self.version}"


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a failed request is tried again, and the seconds of each try (``None``: what is left)."""

    attempts: int
    timeout_s: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return ``{"attempts", "timeout_s"}``."""
        return {"attempts": self.attempts, "timeout_s": self.timeout_s}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. It holds if any of ``matches`` does; without any, always. ``timeout_s``: for all tries."""

    destinations: tuple[Destination, ...]
    matches: tuple[Match, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    timeout_s: float | None = None
    retries: Retries | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """The entries of one host, in the order in which they are tried."""

    host: str
    entries: tuple[Entry, ...]

    def with_weights(self, weights: Mapping[str, int], entry: int = 0) -> Route:
        """Return the route with other weights, by version, for the destinations of one of its entries.

        Versions that are not named keep theirs. Raises :class:`~mcp.errors.InvalidArgument` for an entry or a
        version that is not there, and for weights of which none is above 0.
        """
        if not 0 <= entry < len(self.entries):
            raise InvalidArgument(
                f"the route of {self.host:.80} has {len(self.entries)} entries, and no {entry}"
            )
        before = self.entries[entry]
        missing = weights.keys() - {each.version for each in before.destinations}
        if missing:
            raise InvalidArgument(f"entry {entry} of {self.host:.80} has no version {sorted(missing)[0]:.80}")
        after = tuple(
            each if each.version is None else replace(each, weight=weights.get(each.version, each.weight))
            for each in before.destinations
        )
        check_weights([each.weight for each in after], f"the weights of entry {entry} of {self.host:.80}")
        entries = list(self.entries)
        entries[entry] = replace(before, destinations=after)
        return replace(self, entries=tuple(entries))


@dataclass(frozen=True, slots=True)
class RouteSet:
    """Routes in the order of their hosts. ``version`` counts the changes of the set."""

    version: int = 0
    routes: tuple[Route, ...] = ()

    def get(self, host: str) -> Route | None:
        """Return the route of a host, or ``None``."""
        return next((route for route in self.routes if route.host == host), None)

    def apply(self, routes: Iterable[Route]) -> RouteSet:
        """Return the next version of the set, with these routes in place of those of the same hosts.

        Raises :class:`~mcp.errors.TooLarge` over :data:`ROUTES_MAX`.
        """
        return _set(self.version + 1, [*self.routes, *routes])

    def remove(self, host: str) -> RouteSet:
        """Return the next version of the set without the route of a host, which may be missing."""
        return RouteSet(self.version + 1, tuple(route for route in self.routes if route.host != host))

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, equal for equal sets."""
        return {"version": self.version, "routes": [_route_plain(route) for route in self.routes]}

    @classmethod
    def from_plain(cls, plain: object) -> RouteSet:
        """Read what :meth:`to_plain` wrote, or anybody else.

        Raises :class:`~mcp.errors.InvalidArgument` with the path of the field that is wrong.
        """
        fields = Fields(plain, "")
        version = fields.take("version", whole(0))
        routes = fields.each("routes", ROUTES_MAX, _route)
        fields.done()
        hosts = [route.host for route in routes]
        if len(set(hosts)) < len(hosts):
            raise InvalidArgument("routes: a host is there twice")
        return _set(version, routes)


def _set(version: int, routes: Iterable[Route]) -> RouteSet:
    by_host = {route.host: route for route in routes}
    if len(by_host) > ROUTES_MAX:
        raise TooLarge(f"a set of routes for {len(by_host)} hosts is over routes_max={ROUTES_MAX}")
    return RouteSet(version, tuple(by_host[host] for host in sorted(by_host)))


def check_weights(weights: Iterable[int], what: str) -> None:
    """Demand weights of 0 to :data:`WEIGHT_MAX`, one of them above 0."""
    every = list(weights)
    if not any(every) or not all(type(each) is int and 0 <= each <= WEIGHT_MAX for each in every):
        raise InvalidArgument(f"{what}: integers in 0..{WEIGHT_MAX} are expected, one of them above 0")


def text_match(fields: Fields) -> TextMatch:
    """Read ``{exact|prefix|regex: text}``; an empty map asks only whether the header is there."""
    given = [kind for kind in _TEXT_KINDS if kind in fields.names()]
    if len(given) > 1:
        raise fields.refuse(given[1], f"{given[0]} is there already: one is enough")
    if not given:
        fields.done(known=_TEXT_KINDS)
        return TextMatch("present")
    value = fields.take(given[0], text)
    fields.done(known=_TEXT_KINDS)
    if given[0] == "regex":
        try:
            pattern(value)
        except InvalidArgument as error:
            raise fields.refuse("regex", error.message) from None
    return TextMatch(given[0], value)


def header_matches(fields: Fields) -> tuple[tuple[str, TextMatch], ...]:
    """Read a map of headers to what they have to be; names are lowered and sorted."""
    names = fields.names()
    if len(names) > HEADERS_MAX:
        raise InvalidArgument(f"{fields.path}: {len(names)} headers are over headers_max={HEADERS_MAX}")
    found = {text(name).lower(): text_match(fields.fields(name)) for name in names}
    if len(found) < len(names):
        raise InvalidArgument(f"{fields.path}: a header is there twice, in capitals and without")
    return tuple(sorted(found.items()))


def _match(fields: Fields) -> Match:
    def headers(name: str) -> tuple[tuple[str, TextMatch], ...]:
        return fields.take(name, lambda value: header_matches(Fields(value, fields.at(name))), ())

    match = Match(headers("headers"), headers("without_headers"))
    fields.done()
    return match


def _destination(fields: Fields) -> Destination:
    found = Destination(
        fields.take("model", text),
        fields.take("version", text, None),
        fields.take("weight", whole(0, WEIGHT_MAX)),
    )
    fields.done()
    return found


def _mirror(fields: Fields) -> Mirror:
    found = Mirror(
        fields.take("model", text), fields.take("version", text, None), fields.take("percent", number(0, 100))
    )
    fields.done()
    return found


def _retries(fields: Fields) -> Retries:
    found = Retries(
        fields.take("attempts", whole(0, ATTEMPTS_MAX)),
        fields.take("timeout_s", number(1e-9, SECONDS_MAX), None),
    )
    fields.done()
    return found


def _entry(fields: Fields) -> Entry:
    destinations = fields.each("destinations", DESTINATIONS_MAX, _destination, needed=True)
    check_weights([each.weight for each in destinations], fields.at("destinations"))
    found = Entry(
        distinct(destinations, fields, "destinations"),
        fields.each("matches", MATCHES_MAX, _match),
        fields.each("mirrors", MIRRORS_MAX, _mirror),
        fields.take("timeout_s", number(1e-9, SECONDS_MAX), None),
        fields.take("retries", lambda value: _retries(Fields(value, fields.at("retries"))), None),
        fields.take("name", text, ""),
    )
    fields.done()
    return found


def distinct(destinations: tuple[Destination, ...], fields: Fields, name: str) -> tuple[Destination, ...]:
    """Demand that no two destinations are the same: by their name an id finds its version."""
    if len({(each.model, each.version) for each in destinations}) < len(destinations):
        raise fields.refuse(name, "a destination is there twice; add its weights up")
    return destinations


def _route(fields: Fields) -> Route:
    route = Route(fields.take("host", text), fields.each("entries", ENTRIES_MAX, _entry, needed=True))
    fields.done()
    return route


def _route_plain(route: Route) -> dict[str, Any]:
    return {"host": route.host, "entries": [_entry_plain(entry) for entry in route.entries]}


def _entry_plain(entry: Entry) -> dict[str, Any]:
    retries = entry.retries
    return {
        "name": entry.name or None,
        "matches": [
            {
                "headers": {name: found.to_plain() for name, found in match.headers},
                "without_headers": {name: found.to_plain() for name, found in match.without_headers},
            }
            for match in entry.matches
        ],
        "destinations": [
            {"model": each.model, "version": each.version, "weight": each.weight}
            for each in entry.destinations
        ],
        "mirrors": [
            {"model": each.model, "version": each.version, "percent": each.percent} for each in entry.mirrors
        ],
        "timeout_s": entry.timeout_s,
        "retries": None if retries is None else retries.to_plain(),
    }
