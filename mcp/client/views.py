"""What a node sees of the others: the answer to ``VIEW``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp.client import answers


@dataclass(frozen=True, slots=True)
class SeenNode:
    """A node as the one that was asked sees it.

    ``state`` is ``"alive"``, ``"suspect"`` (it does not answer), ``"dead"`` or ``"left"``, for ``age_s``
    seconds. ``role`` is what it is by the members' list of the node that was asked: "voter", "observer" or
    "none"; empty where that does not know. ``card`` is what it can do and ``load`` how busy it is, by its
    own word: ``docs/protocol.md``.
    """

    node: str
    address: str
    state: str
    age_s: float
    card: Mapping[str, Any]
    load: Mapping[str, Any]
    role: str = ""


@dataclass(frozen=True, slots=True)
class NodesView:
    """What the node ``asked`` sees, itself included, in the order of the names.

    ``contested``: another node claims its name, so that nobody hears of it. ``health``: 0 is well; the
    higher, the less it trusts its own judgement of others.
    """

    asked: str
    contested: bool
    health: int
    nodes: list[SeenNode]


def nodes_view(payload: Mapping[str, Any]) -> NodesView:
    """Read a ``VIEW_RESULT``. Raises :class:`~mcp.errors.ProtocolError`."""
    what = "a node's view"
    return NodesView(
        asked=answers.required(payload, "node", str, what),
        contested=answers.required(payload, "contested", bool, what),
        health=answers.required(payload, "health", int, what),
        nodes=[_node(item, what) for item in answers.items(payload.get("members"), what)],
    )


def _node(item: Mapping[str, Any], what: str) -> SeenNode:
    return SeenNode(
        node=answers.required(item, "node", str, what),
        address=answers.required(item, "address", str, what),
        state=answers.required(item, "state", str, what),
        age_s=float(answers.required(item, "age_s", float, what)),
        card=answers.mapping(item.get("card") or {}, what),
        load=answers.mapping(item.get("load") or {}, what),
        role=str(item.get("role") or ""),
    )
