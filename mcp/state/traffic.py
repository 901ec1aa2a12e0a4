"""What the owners of a cluster declare about traffic (schema 4).

That is rules, weighted routes, what is let in, and for a model the strategy by which nodes are chosen for its
requests. What these mean is for the router, admission and the scheduler to say (:mod:`mcp.cluster.router`,
:mod:`mcp.flow`, :mod:`mcp.cluster.scheduler`), and a node refuses what makes no sense to them before it is
proposed. Here they are plain values: kept, counted, and given back. So nodes agree on them whatever each can
make of them.

Each of the four has a version, which counts its changes from 0. A change that names the version that it was
made for loses when there was another one meanwhile. Rules and limits are replaced as a whole; routes by
their hosts, strategies by their models. Each change is one command, so every node switches at the same
position of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from mcp.errors import InvalidArgument, TooLarge, VersionConflict
from mcp.state.arguments import NAME, integer, mapping, matching, only, packed, sequence, text
from mcp.state.commands import Moment
from mcp.state.shares import Ledger

RULES_MAX: Final = 256
"""Rules of the set."""
RULE_BYTES_MAX: Final = 16 << 10
"""One rule in UTF-8."""
RULES_BYTES_MAX: Final = 128 << 10
"""All rules as msgpack."""
HOST_BYTES_MAX: Final = 1024
"""A host of a route in UTF-8."""
ROUTES_MAX: Final = 1000
"""Hosts that have a route."""
ROUTE_BYTES_MAX: Final = 64 << 10
"""One route as msgpack."""
ROUTES_BYTES_MAX: Final = 4 << 20
"""All routes together."""
LIMITS_BYTES_MAX: Final = 192 << 10
"""The configuration of what is let in, as msgpack."""
STRATEGIES_MAX: Final = 1000
"""Models for which a strategy is declared."""
STRATEGY_BYTES_MAX: Final = 64
"""The name of a strategy in UTF-8."""
DEPTH_MAX: Final = 16
"""How deep any of them is nested."""

_NOTHING: Final[frozenset[str]] = frozenset()
_EXPECTED: Final = frozenset({"expected_version"})


@dataclass(frozen=True, slots=True)
class Declared:
    """Rules, or limits: the version, the log position of its last change, and its value as msgpack."""

    version: int = 0
    index: int = 0
    packed: bytes = b""

    @property
    def value(self) -> Any:
        """The plain value; ``None`` before the first."""
        return msgpack.unpackb(self.packed) if self.packed else None


class Traffic:
    """The rules, the routes, the limits, the strategies. ``ledger`` is told of every change of the limits."""

    def __init__(self, ledger: Ledger | None) -> None:
        self.ruled = False
        """Whether there is any rule."""
        self.revision = 0
        """How often anything changed in this process: whoever has made something of it looks here."""
        self.rules = Declared()
        self.limits = Declared()
        self.routes_version = 0
        self.routes_index = 0
        self.routed = False
        """Whether there is any route or strategy;"""
        self.scheduled = False
        """any strategy."""
        self.strategies_version = 0
        self.strategies_index = 0
        self.held: frozenset[str] = frozenset()
        """Hosts whose route is a rollout's (:mod:`mcp.state.rollouts`): nobody else changes it."""
        self._routes: dict[str, bytes] = {}
        self._strategies: dict[str, str] = {}
        self._named: frozenset[str] = frozenset()
        self._ledger = ledger

    def has_route(self, host: str) -> bool:
        """Say whether there is a route of this host."""
        return host in self._routes

    def names(self, host: str) -> bool:
        """Say whether there is a route of this host, or a strategy for the model of this name."""
        return host in self._named

    def strategy(self, model: str) -> str | None:
        """Return the name of the strategy that is declared for a model, by its exact name."""
        return self._strategies.get(model)

    @property
    def strategies(self) -> dict[str, str]:
        """The strategies by their models, in the order of these."""
        return dict(sorted(self._strategies.items()))

    @property
    def routes(self) -> list[dict[str, Any]]:
        """The routes as plain values, in the order of their hosts."""
        return [msgpack.unpackb(self._routes[host]) for host in sorted(self._routes)]

    @property
    def hosts(self) -> list[str]:
        """The hosts that have a route, in order."""
        return sorted(self._routes)

    # -- commands -----------------------------------------------------------------------------------

    def set_rules(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{rules, expected_version?}``: texts, in place of all that there were; ``{version, index}``.

        Raises :class:`~mcp.errors.VersionConflict`, :class:`~mcp.errors.InvalidArgument` and
        :class:`~mcp.errors.TooLarge`, as the others do.
        """
        only(args, frozenset({"rules"}), _EXPECTED)
        rules = sequence(args["rules"], "rules", RULES_MAX)
        for rule in rules:
            text(rule, "a rule", RULE_BYTES_MAX, bytes_min=1)
        data = packed(rules, "rules", RULES_BYTES_MAX)
        _check_version(args, "rules", self.rules.version)
        self.rules = Declared(self.rules.version + 1, moment.index, data)
        self.ruled = bool(rules)
        self.revision += 1
        return {"version": self.rules.version, "index": moment.index}

    def apply_routes(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{routes, expected_version?}``: in place of those of the same hosts; ``{version, index}``."""
        only(args, frozenset({"routes"}), _EXPECTED)
        given: dict[str, bytes] = {}
        for route in sequence(args["routes"], "routes", ROUTES_MAX):
            host = text(
                mapping(route, "a route").get("host"), "the host of a route", HOST_BYTES_MAX, bytes_min=1
            )
            if host in given:
                raise InvalidArgument(f"two routes are for the host {host!r:.80}; give one for each")
            given[host] = packed(route, "a route", ROUTE_BYTES_MAX, DEPTH_MAX)
        if not given:
            raise InvalidArgument("routes is an array of at least one route")
        self._check_not_held(given)
        _check_version(args, "routes", self.routes_version)
        after = {**self._routes, **given}
        size = sum(map(len, after.values()))
        if len(after) > ROUTES_MAX or size > ROUTES_BYTES_MAX:
            raise TooLarge(
                f"{len(after)} routes of {size} bytes are over routes_max={ROUTES_MAX} or "
                f"routes_bytes_max={ROUTES_BYTES_MAX}; remove some first"
            )
        return self._with_routes(after, moment)

    def remove_routes(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{hosts, expected_version?}``: have no route for these; ``{version, index, removed}``.

        ``removed`` are those that there were. Without any, nothing changes, nor does the version.
        """
        only(args, frozenset({"hosts"}), _EXPECTED)
        hosts = [
            text(host, "a host", HOST_BYTES_MAX, bytes_min=1)
            for host in sequence(args["hosts"], "hosts", ROUTES_MAX)
        ]
        self._check_not_held(hosts)
        _check_version(args, "routes", self.routes_version)
        removed = sorted({host for host in hosts if host in self._routes})
        if not removed:
            return {"version": self.routes_version, "index": self.routes_index, "removed": []}
        after = {host: route for host, route in self._routes.items() if host not in removed}
        return {**self._with_routes(after, moment), "removed": removed}

    def set_limits(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{limits, expected_version?}``: a configuration, or nil for none; ``{version, index}``.

        Raises what the ledger refuses, too: :class:`~mcp.errors.ConfigInvalid`.
        """
        only(args, frozenset({"limits"}), _EXPECTED)
        limits = None if args["limits"] is None else mapping(args["limits"], "limits")
        data = b"" if limits is None else packed(limits, "limits", LIMITS_BYTES_MAX, DEPTH_MAX)
        _check_version(args, "limits", self.limits.version)
        if self._ledger is not None:
            self._ledger.declare(limits, moment.time_s)
        self.limits = Declared(self.limits.version + 1, moment.index, data)
        self.revision += 1
        return {"version": self.limits.version, "index": moment.index}

    def set_strategy(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{model, strategy, expected_version?}``: by its name, or nil for none; ``{version, index}``."""
        only(args, frozenset({"model", "strategy"}), _EXPECTED)
        model = matching(args["model"], "model", NAME)
        strategies = {name: chosen for name, chosen in self._strategies.items() if name != model}
        if args["strategy"] is not None:
            strategies[model] = text(args["strategy"], "a strategy", STRATEGY_BYTES_MAX, bytes_min=1)
        _check_version(args, "strategies", self.strategies_version)
        if len(strategies) > STRATEGIES_MAX:
            raise TooLarge(f"there are strategies_max={STRATEGIES_MAX} strategies; remove some first")
        self._strategies = strategies
        self.strategies_version += 1
        self.strategies_index = moment.index
        self._declared()
        return {"version": self.strategies_version, "index": self.strategies_index}

    def hold(self, host: str, route: Mapping[str, Any] | None, moment: Moment) -> None:
        """A rollout's route is this one from now on, or (``None``) there is none any more."""
        routes = {name: data for name, data in self._routes.items() if name != host}
        if route is None:
            self.held -= {host}
        else:
            routes[host] = packed(route, "a route", ROUTE_BYTES_MAX, DEPTH_MAX)
            self.held |= {host}
        self._with_routes(routes, moment)

    def check_room(self) -> None:
        """Raise :class:`~mcp.errors.TooLarge` where there is no room for one route more."""
        if len(self._routes) >= ROUTES_MAX:
            raise TooLarge(f"there are routes_max={ROUTES_MAX} routes; remove some first")

    def _check_not_held(self, hosts: Iterable[str]) -> None:
        for host in hosts:
            if host in self.held:
                raise VersionConflict(
                    f"the route of {host:.80} belongs to a rollout that is going on; abort that first",
                    details={"key": host, "version": self.routes_version},
                )

    def _with_routes(self, routes: dict[str, bytes], moment: Moment) -> dict[str, Any]:
        self._routes = routes
        self.routes_version += 1
        self.routes_index = moment.index
        self._declared()
        return {"version": self.routes_version, "index": self.routes_index}

    def _declared(self) -> None:
        """Note what a request is compared with before anything else."""
        self.scheduled = bool(self._strategies)
        self.routed = self.scheduled or bool(self._routes)
        self._named = frozenset(self._routes) | frozenset(self._strategies)
        self.revision += 1

    # -- reads --------------------------------------------------------------------------------------

    def read_rules(self, args: dict[str, Any]) -> dict[str, Any]:
        """``{}``: ``{version, index, rules}``."""
        only(args, _NOTHING)
        return {"version": self.rules.version, "index": self.rules.index, "rules": self.rules.value or []}

    def read_routes(self, args: dict[str, Any]) -> dict[str, Any]:
        """``{}``: ``{version, index, routes}``, in the order of their hosts."""
        only(args, _NOTHING)
        return {"version": self.routes_version, "index": self.routes_index, "routes": self.routes}

    def read_limits(self, args: dict[str, Any]) -> dict[str, Any]:
        """``{}``: ``{version, index, limits}``; ``limits`` is ``None`` where none are declared."""
        only(args, _NOTHING)
        return {"version": self.limits.version, "index": self.limits.index, "limits": self.limits.value}

    def read_strategies(self, args: dict[str, Any]) -> dict[str, Any]:
        """``{}``: ``{version, index, strategies}``, a map of models to names."""
        only(args, _NOTHING)
        return {
            "version": self.strategies_version,
            "index": self.strategies_index,
            "strategies": self.strategies,
        }

    # -- snapshots ----------------------------------------------------------------------------------

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal declarations."""
        return [
            [self.rules.version, self.rules.index, self.rules.packed],
            [self.limits.version, self.limits.index, self.limits.packed],
            [self.routes_version, self.routes_index, [self._routes[host] for host in self.hosts]],
            [self.strategies_version, self.strategies_index, self.strategies],
        ]

    @classmethod
    def from_plain(cls, plain: list[Any], ledger: Ledger | None) -> Traffic:
        """Rebuild what :meth:`to_plain` wrote."""
        traffic = cls(ledger)
        rules, limits, (traffic.routes_version, traffic.routes_index, routes), strategies = plain
        traffic.rules, traffic.limits = Declared(*rules), Declared(*limits)
        traffic.ruled = bool(traffic.rules.value)
        traffic._routes = {msgpack.unpackb(route)["host"]: route for route in routes}
        traffic.strategies_version, traffic.strategies_index, traffic._strategies = strategies
        traffic._declared()
        return traffic


def _check_version(args: dict[str, Any], what: str, version: int) -> None:
    expected = args.get("expected_version")
    if expected is not None and integer(expected, "expected_version") != version:
        raise VersionConflict(
            f"the {what} are at version {version}, and {expected} was expected: somebody changed them; "
            "read them again",
            details={"key": what, "version": version},
        )
