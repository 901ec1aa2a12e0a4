"""The calls about traffic of the blocking client: see :mod:`mcp.client.traffic`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcp.client.sync_calls import SyncCalls
from mcp.client.traffic import DEFAULT_STEPS, Limits, Rollout, Routes, Rules, Strategies


class SyncTrafficCalls(SyncCalls):
    """The calls of a :class:`~mcp.client.sync.SyncClient` that are about traffic."""

    def rules(self, *, timeout_s: float | None = None) -> Rules:
        """The routing rules. See :meth:`Client.rules`."""
        return self._run(lambda: self._client.rules(timeout_s=timeout_s))

    def set_rules(
        self, rules: Sequence[str], *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> int:
        """Have these rules in place of all that there are. See :meth:`Client.set_rules`."""
        return self._run(
            lambda: self._client.set_rules(rules, expected_version=expected_version, timeout_s=timeout_s)
        )

    def routes(self, *, timeout_s: float | None = None) -> Routes:
        """The weighted routes. See :meth:`Client.routes`."""
        return self._run(lambda: self._client.routes(timeout_s=timeout_s))

    def apply_routes(
        self,
        routes: Sequence[Mapping[str, Any]],
        *,
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Have these routes in place of those of the same hosts. See :meth:`Client.apply_routes`."""
        return self._run(
            lambda: self._client.apply_routes(routes, expected_version=expected_version, timeout_s=timeout_s)
        )

    def remove_routes(
        self, hosts: Sequence[str], *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> list[str]:
        """Have no routes for these hosts. See :meth:`Client.remove_routes`."""
        return self._run(
            lambda: self._client.remove_routes(hosts, expected_version=expected_version, timeout_s=timeout_s)
        )

    def limits(self, *, timeout_s: float | None = None) -> Limits:
        """What is let in, as it was declared. See :meth:`Client.limits`."""
        return self._run(lambda: self._client.limits(timeout_s=timeout_s))

    def set_limits(
        self,
        limits: Mapping[str, Any] | None,
        *,
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Have this configuration of what is let in. See :meth:`Client.set_limits`."""
        return self._run(
            lambda: self._client.set_limits(limits, expected_version=expected_version, timeout_s=timeout_s)
        )

    def strategies(self, *, timeout_s: float | None = None) -> Strategies:
        """By which strategy each model's requests are given to nodes. See :meth:`Client.strategies`."""
        return self._run(lambda: self._client.strategies(timeout_s=timeout_s))

    def set_strategy(
        self,
        model: str,
        strategy: str | None,
        *,
        expected_version: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Have this strategy choose the nodes for a model's requests. See :meth:`Client.set_strategy`."""
        return self._run(
            lambda: self._client.set_strategy(
                model, strategy, expected_version=expected_version, timeout_s=timeout_s
            )
        )

    def rollouts(self, *, timeout_s: float | None = None) -> list[Rollout]:
        """The latest rollout of each model. See :meth:`Client.rollouts`."""
        return self._run(lambda: self._client.rollouts(timeout_s=timeout_s))

    def begin_rollout(
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
        """Give a version of a model a growing share of its requests. See :meth:`Client.begin_rollout`."""
        return self._run(
            lambda: self._client.begin_rollout(
                model,
                to,
                steps=steps,
                max_error=max_error,
                max_p99_ratio=max_p99_ratio,
                interval_s=interval_s,
                min_requests=min_requests,
                timeout_s=timeout_s,
            )
        )

    def abort_rollout(
        self, model: str, *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> Rollout:
        """End a model's rollout. See :meth:`Client.abort_rollout`."""
        return self._run(
            lambda: self._client.abort_rollout(model, expected_version=expected_version, timeout_s=timeout_s)
        )

    def shares(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """How the cluster's limits are shared out. See :meth:`Client.shares`."""
        return self._run(lambda: self._client.shares(timeout_s=timeout_s))

    def explain(
        self, request: Mapping[str, Any], *, trace_id: str = "", timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Why a request would be answered by which version and nodes. See :meth:`Client.explain`."""
        return self._run(lambda: self._client.explain(request, trace_id=trace_id, timeout_s=timeout_s))
