"""The ledger of the cluster's limits, as the replicated state wants one (:mod:`mcp.state.shares`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.flow.config import FlowConfig, from_plain
from mcp.flow.leases import ShareLedger


class LimitLedger:
    """A :class:`~mcp.flow.leases.ShareLedger` whose limits are those of the declared configuration."""

    def __init__(self) -> None:
        self._shares = ShareLedger()

    def declare(self, limits: Mapping[str, Any] | None, now: float) -> None:
        """See :class:`mcp.state.shares.Ledger`."""
        config = FlowConfig() if limits is None else from_plain(limits)
        for name in self._shares.limits:
            if name not in config.cluster:
                self._shares.withdraw(name, now)
        for name, limit in sorted(config.cluster.items()):
            self._shares.declare(name, limit.shared())

    def grant(self, limit: str, node: str, *, seq: int, held: int, want: int, now: float) -> Any:
        """See :class:`mcp.state.shares.Ledger`: ``{seq, units, lease_s}``, or ``None``."""
        grant = self._shares.grant(limit, node, seq=seq, held=held, want=want, now=now)
        return None if grant is None else {"seq": grant.seq, "units": grant.units, "lease_s": grant.lease_s}

    def return_(self, limit: str, node: str, *, seq: int, now: float) -> None:
        """See :class:`mcp.state.shares.Ledger`."""
        self._shares.return_(limit, node, seq=seq, now=now)

    def handed_out(self, now: float) -> dict[str, Any]:
        """See :class:`mcp.state.shares.Ledger`: ``{units, shares}`` of each, in thousandths of a request."""
        return {
            name: {"units": limit.units, "shares": self._shares.handed_out(name, now)}
            for name, limit in self._shares.limits.items()
        }

    def to_plain(self) -> Any:
        """See :class:`mcp.state.shares.Ledger`."""
        return self._shares.to_plain()

    def restore(self, plain: Any) -> None:
        """See :class:`mcp.state.shares.Ledger`."""
        self._shares = ShareLedger() if plain is None else ShareLedger.from_plain(plain)
