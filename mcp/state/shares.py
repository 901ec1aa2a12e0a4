"""Shares of the cluster's limits: the commands of a ledger that is brought along (schema 4).

Who gets how much is the ledger's to say (:class:`mcp.flow.leases.ShareLedger`). It is executed in the order
of the log, by the stamps of its entries, and is part of the replicated state: so it has to give the same on
every node, in every version of the software that executes this schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from mcp.errors import NotFound
from mcp.state.arguments import NODE, integer, matching, only, text
from mcp.state.commands import Moment

LIMIT_BYTES_MAX: Final = 1024
"""The name of a limit in UTF-8."""

_GRANT: Final = frozenset({"limit", "node", "seq", "held", "want"})
_RETURN: Final = frozenset({"limit", "node", "seq"})
_NOTHING: Final[frozenset[str]] = frozenset()


class Ledger(Protocol):
    """What is brought. ``now`` is the stamp of the entry, in seconds. What raises has changed nothing."""

    def declare(self, limits: Mapping[str, Any] | None, now: float) -> None:
        """From now on the limits are these. Raises :class:`~mcp.errors.ConfigInvalid`."""

    def grant(self, limit: str, node: str, *, seq: int, held: int, want: int, now: float) -> Any:
        """Give a node a share; plain values. Raises an :class:`~mcp.errors.McpError`."""

    def return_(self, limit: str, node: str, *, seq: int, now: float) -> None:
        """A node uses its share no more. Raises an :class:`~mcp.errors.McpError`."""

    def handed_out(self, now: float) -> dict[str, Any]:
        """What may be in use at ``now``, by the limit's name, as plain values."""

    def to_plain(self) -> Any:
        """The whole state as plain values, equal for equal states."""

    def restore(self, plain: Any) -> None:
        """Replace the state by what :meth:`to_plain` wrote; ``None``: as at the beginning."""


class Shares:
    """The commands. Without a ledger there are no limits to share."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    def grant(self, args: dict[str, Any], moment: Moment) -> Any:
        """``{limit, node, seq, held, want}``: what the ledger grants, or nil if a later one overtook this.

        Raises :class:`~mcp.errors.NotFound` for an unknown limit, and what the ledger refuses.
        """
        only(args, _GRANT)
        limit, node = _named(args)
        seq, held, want = (integer(args[name], name) for name in ("seq", "held", "want"))
        return self._opened().grant(limit, node, seq=seq, held=held, want=want, now=moment.time_s)

    def return_(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{limit, node, seq}``: the node uses its share no more."""
        only(args, _RETURN)
        limit, node = _named(args)
        self._opened().return_(limit, node, seq=integer(args["seq"], "seq"), now=moment.time_s)
        return {}

    def read(self, args: dict[str, Any], now: float) -> dict[str, Any]:
        """``{}``: what may be in use at ``now``, by the limit's name."""
        only(args, _NOTHING)
        return {} if self._ledger is None else self._ledger.handed_out(now)

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise NotFound("this cluster shares no limits")
        return self._ledger


def _named(args: dict[str, Any]) -> tuple[str, str]:
    limit = text(args["limit"], "limit", LIMIT_BYTES_MAX, bytes_min=1)
    return limit, matching(args["node"], "node", NODE)
