"""What a cluster's owners declare about traffic: rules, routes, limits, rollouts; and why it goes so.

Each is replicated and has a version. A change may name the version that it was made for, and is
refused with ``VersionConflict`` if there was another one meanwhile. Each change is one entry of the log, so
all nodes switch at the same position. All of it needs schema 4: ``Unsupported`` while a node is older.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp.client import answers, arguments
from mcp.client.calls import Calls
from mcp.client.exchange import Request
from mcp.client.kinds import CallKind

DEFAULT_STEPS: Final = (5, 20, 50, 100)
"""The shares of a rollout, in percent."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules in the order in which they are tried. ``version`` 0: there never were any."""

    version: int
    index: int
    rules: list[str]


@dataclass(frozen=True, slots=True)
class Routes:
    """The routes in the order of their hosts, as plain values (``docs/protocol.md``)."""

    version: int
    index: int
    routes: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is let in, as plain values (:mod:`mcp.flow.config`); ``None``: nothing is declared."""

    version: int
    index: int
    limits: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Strategies:
    """By which strategy the node for a request is chosen, by model; for others the client's choice stands."""

    version: int
    index: int
    strategies: dict[str, str]


@dataclass(frozen=True, slots=True)
class Rollout:
    """The latest rollout of a model: from the version ``from_`` to the version ``to``.

    ``step`` 0 is the trial, with half of the first share; ``percent`` the new version's share now. ``state``
    is "going", "done", "rolled back" or "aborted", and ``reason`` says why. ``version`` and ``index`` (a log
    position) are of its last change, at ``since_s`` (seconds since the epoch).
    """

    model: str
    from_: str
    to: str
    plan: dict[str, Any]
    step: int
    percent: float
    state: str
    reason: str
    version: int
    index: int
    since_s: float

    @property
    def going(self) -> bool:
        """Whether it has not ended."""
        return self.state == "going"


class TrafficCalls(Calls):
    """The calls of a :class:`~mcp.client.client.Client` that are about traffic."""

    async def rules(self, *, timeout_s: float | None = None) -> Rules:
        """The routing rules."""
        fields = await self._declared("rules", timeout_s)
        return Rules(*_placed(fields), rules=answers.strings(fields.get("rules"), "the rules"))

    async def set_rules(
        self, rules: Sequence[str], *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> int:
        """Have these rules, in this order, in place of all that there are; the new version.

        A rule is a text such as ``when length > 2048 use glm-large on label:gpu``. Raises
        ``InvalidArgument`` for what is no rule, and for one that leads to what is not deployed.
        """
        args = {"rules": arguments.texts("rules", rules)}
        return _version(await self._change("rules.set", args, expected_version, timeout_s))

    async def routes(self, *, timeout_s: float | None = None) -> Routes:
        """The weighted routes."""
        fields = await self._declared("routes", timeout_s)
        return Routes(*_placed(fields), routes=answers.items(fields.get("routes"), "the routes"))

    async def apply_routes(
        self,
        routes: Sequence[Mapping[str, Any]],
        *,
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Have these routes in place of those of the same hosts; the new version of the set.

        Raises ``InvalidArgument`` with the path of a field that is wrong, and for a host or a destination
        that is not deployed.
        """
        args = {"routes": [arguments.mapping("a route", each) for each in arguments.items("routes", routes)]}
        return _version(await self._change("routes.apply", args, expected_version, timeout_s))

    async def remove_routes(
        self, hosts: Sequence[str], *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> list[str]:
        """Have no routes for these hosts; those of them that had one. Their active versions answer again."""
        args = {"hosts": arguments.texts("hosts", hosts)}
        answer = await self._change("routes.remove", args, expected_version, timeout_s)
        return answers.strings(answer.get("removed"), "the answer to a removal of routes")

    async def limits(self, *, timeout_s: float | None = None) -> Limits:
        """What is let in, as it was declared."""
        fields = await self._declared("limits", timeout_s)
        limits = fields.get("limits")
        return Limits(
            *_placed(fields), limits=None if limits is None else answers.mapping(limits, "the limits")
        )

    async def set_limits(
        self,
        limits: Mapping[str, Any] | None,
        *,
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Have this configuration of what is let in, or (``None``) none; the new version.

        Raises ``ConfigInvalid`` with the path of a field that is wrong.
        """
        args = {"limits": None if limits is None else arguments.mapping("a set of limits", limits)}
        return _version(await self._change("limits.set", args, expected_version, timeout_s))

    async def strategies(self, *, timeout_s: float | None = None) -> Strategies:
        """By which strategy each model's requests are given to nodes, where one is declared."""
        fields = await self._declared("strategies", timeout_s)
        told = answers.mapping(fields.get("strategies"), "the strategies")
        return Strategies(*_placed(fields), {model: str(name) for model, name in told.items()})

    async def set_strategy(
        self,
        model: str,
        strategy: str | None,
        *,
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Have this strategy choose the nodes for a model's requests, or (``None``) none; the new version.

        It is "round_robin", "least_loaded", "priority_queue" or "predicted_completion". Raises
        ``InvalidArgument`` for another one, and ``ModelNotFound`` for what is not deployed.
        """
        args = {
            "model": arguments.text("a model", model),
            "strategy": None if strategy is None else arguments.text("a strategy", strategy),
        }
        return _version(await self._change("strategy.set", args, expected_version, timeout_s))

    async def rollouts(self, *, timeout_s: float | None = None) -> list[Rollout]:
        """The latest rollout of each model, in the order of the models."""
        told = await self._read("rollouts", {}, "session", timeout_s)
        return [_rollout(fields) for fields in answers.items(told, "the rollouts")]

    async def begin_rollout(
        self,
        model: str,
        to: str,
        *,
        steps: Sequence[int] = DEFAULT_STEPS,
        max_error: float = 0.01,
        max_p99_ratio: float = 1.5,
        interval_s: float = 30.0,
        min_requests: int = 50,
        timeout_s: float | None = None,
    ) -> Rollout:
        """Give a version of a model a growing share of its requests; the cluster goes on by itself from here.

        ``steps`` are percents, the last 100; each takes at least ``interval_s`` seconds and ``min_requests``
        of the new version's requests. It is rolled back when more than the share ``max_error`` of those fail,
        or their 99th percentile is over ``max_p99_ratio`` times the old version's. Raises ``ModelNotFound``,
        ``VersionConflict`` where the model has a route or a rollout that is going on, ``InvalidArgument``.
        """
        plan = {
            "steps": arguments.items("steps", steps),
            "max_error": max_error,
            "max_p99_ratio": max_p99_ratio,
            "interval_s": interval_s,
            "min_requests": min_requests,
        }
        args = {
            "model": arguments.text("a model", model),
            "to": arguments.text("a version", to),
            "plan": arguments.plain(plan),
        }
        return _rollout(await self._change("rollout.begin", args, None, timeout_s))

    async def abort_rollout(
        self, model: str, *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> Rollout:
        """End a model's rollout: the old version answers all its requests again, at once.

        Raises ``NotFound`` where there never was one, and ``VersionConflict`` where it has ended.
        """
        args = {"model": arguments.text("a model", model)}
        return _rollout(await self._change("rollout.abort", args, expected_version, timeout_s))

    async def shares(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """How the cluster's limits are shared out, by their names: ``{units, shares}`` each.

        ``units`` is the limit and ``shares`` what each node may be using, in thousandths of a request.
        """
        return answers.mapping(await self._read("shares", {}, "session", timeout_s), "the shares")

    async def explain(
        self, request: Mapping[str, Any], *, trace_id: str = "", timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Why a request would be answered by which version and nodes; nothing is run.

        ``request`` is the payload of an ``INFER_REQUEST``, whose tensors need no data. Raises what the
        request would, with ``details["reasons"]`` up to there.
        """
        payload = arguments.mapping("a request", request)
        answer = await self._call(
            Request(CallKind.READ, "ROUTE_EXPLAIN", payload, trace_id=trace_id), timeout_s
        )
        return dict(answer.payload)

    async def _declared(self, kind: str, timeout_s: float | None) -> dict[str, Any]:
        return answers.mapping(await self._read(kind, {}, "session", timeout_s), f"the {kind}")

    async def _change(
        self, op: str, args: dict[str, Any], expected_version: int | None, timeout_s: float | None
    ) -> dict[str, Any]:
        if expected_version is not None:
            args["expected_version"] = arguments.expected_version(expected_version)
        return answers.mapping(await self._command(op, args, timeout_s), f"the answer to {op}")


def _placed(fields: Mapping[str, Any]) -> tuple[int, int]:
    what = "the answer to a read"
    return answers.required(fields, "version", int, what), answers.required(fields, "index", int, what)


def _version(fields: Mapping[str, Any]) -> int:
    return answers.required(fields, "version", int, "the answer to a change")


def _rollout(fields: Mapping[str, Any]) -> Rollout:
    what = "a rollout"
    return Rollout(
        model=answers.required(fields, "model", str, what),
        from_=answers.required(fields, "from", str, what),
        to=answers.required(fields, "to", str, what),
        plan=answers.mapping(fields.get("plan"), what),
        step=answers.required(fields, "step", int, what),
        percent=answers.required(fields, "percent", float, what),
        state=answers.required(fields, "state", str, what),
        reason=answers.required(fields, "reason", str, what),
        version=answers.required(fields, "version", int, what),
        index=answers.required(fields, "index", int, what),
        since_s=answers.required(fields, "since_s", float, what),
    )
