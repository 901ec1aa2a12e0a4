"""What a cluster's owners declare about traffic: rules, routes, limits; and why a request goes where it does.

Each of the three is replicated and has a version. A change may name the version that it was made for, and is
refused with ``VersionConflict`` if there was another one meanwhile. Each change is one entry of the log, so
all nodes switch at the same position. All of it needs schema 4: ``Unsupported`` while a node is older.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp.client import answers, arguments
from mcp.client.exchange import Answer, Request
from mcp.client.kinds import CallKind
from mcp.client.results import Consistency


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


class TrafficCalls:
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
        args = {"routes": [arguments.plain(dict(route)) for route in routes]}
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
        args = {"limits": None if limits is None else arguments.plain(dict(limits))}
        return _version(await self._change("limits.set", args, expected_version, timeout_s))

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
        payload = arguments.plain(dict(request))
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

    # What the client has.

    async def _call(self, request: Request, timeout_s: float | None) -> Answer:
        raise NotImplementedError

    async def _read(
        self, kind: str, args: Mapping[str, Any], consistency: Consistency, timeout_s: float | None
    ) -> Any:
        raise NotImplementedError

    def _command(self, op: str, args: Mapping[str, Any], timeout_s: float | None) -> Coroutine[Any, Any, Any]:
        raise NotImplementedError


def _placed(fields: Mapping[str, Any]) -> tuple[int, int]:
    what = "the answer to a read"
    return answers.required(fields, "version", int, what), answers.required(fields, "index", int, what)


def _version(fields: Mapping[str, Any]) -> int:
    return answers.required(fields, "version", int, "the answer to a change")
