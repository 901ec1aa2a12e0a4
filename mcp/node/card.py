"""What a node says of itself in gossip, and what others read in it. Pure.

The *card* changes seldom and reaches everybody; the *load* changes all the time and rides on probes, so it
is short: whole percents, mebibytes and counts. Both come from peers, which may be of another version: what is
not understood is passed over, and what is out of its range counts as not said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mcp.cluster.gossip.limits import CARD_BYTES_MAX
from mcp.cluster.gossip.updates import State
from mcp.cluster.gossip.view import Member
from mcp.cluster.router.nodes import NodeRecord, NodeState
from mcp.node.gauges import Capacity, Sample
from mcp.wire.codec import encode_map

MIB: Final = 1024**2
COUNT_MAX: Final = 2**53
"""The largest number that is taken from a peer."""
READ_MAX: Final = 1024
"""The models, and the labels, that are read of one card; a card has no room for more."""
LOAD_COUNT_MAX: Final = 2**32 - 1
"""The largest count in a load, which has room for no more; above it, this is said."""


def make_card(
    *,
    models: Mapping[str, int],
    providers: Sequence[str],
    capacity: Capacity,
    workers: int,
    labels: Mapping[str, str],
    standing: str,
    version: str,
) -> dict[str, Any]:
    """The card of a node.

    ``models``: ``name@version`` of those that are ready here, to the log position of their deployment.
    ``workers``: inferences that run at one time. ``standing``: what the node is in the cluster as far as it
    knows, for people to read. Models that a card has no room for are left out, from the end of the
    alphabet, and ``models_left_out`` says how many.
    """
    card: dict[str, Any] = {
        "models": {},
        "providers": list(providers),
        "cores": capacity.cores,
        "workers": workers,
        "standing": standing,
        "version": version,
    }
    if capacity.memory_bytes is not None:
        card["memory_mib"] = capacity.memory_bytes // MIB
    if labels:
        card["labels"] = dict(sorted(labels.items()))
    # A key and a position have as many bytes as they have alone; the rest is for the heads of the map.
    room = CARD_BYTES_MAX - len(encode_map(card)) - 32
    listed = sorted(models.items())
    for at, (key, position) in enumerate(listed):
        room -= len(encode_map({key: position})) - 1
        if room < 0:
            card["models_left_out"] = len(listed) - at
            break
        card["models"][key] = position
    return card


def make_load(sample: Sample, *, queue: int, running: int, applied_index: int) -> dict[str, Any]:
    """The load of a node.

    ``cpu``: percents of all processors. ``mem`` and ``dev``: free MiB of memory, and of the device that has
    least. ``queue``: direct inferences that wait, ``run``: those that run. ``at``: the last log position
    that was executed.
    """
    load: dict[str, Any] = {"queue": queue, "run": running, "at": applied_index}
    if sample.cpu is not None:
        load["cpu"] = round(100 * sample.cpu)
    if sample.memory_free_bytes is not None:
        load["mem"] = sample.memory_free_bytes // MIB
    if sample.device_memory_free_bytes is not None:
        load["dev"] = sample.device_memory_free_bytes // MIB
    return {name: value if name == "at" else min(value, LOAD_COUNT_MAX) for name, value in load.items()}


def takes_part(member: Member) -> bool:
    """Whether the member is in the cluster by its own word: what an outsider holds may be old."""
    return member.card.get("standing") not in (None, "outsider")


def node_record(member: Member, deployed: Callable[[str], int | None]) -> NodeRecord:
    """A member that is present, as the router wants to see it.

    ``deployed(key)``: the log position of the deployment of ``name@version`` by this node's own state, or
    ``None``; what a card has of an earlier one does not count.
    """
    card, load = member.card, member.load
    applied = _count(load.get("at")) or 0
    ready = {
        key: max(position, applied)
        for key, position in _map(card.get("models")).items()
        if _count(position) is not None and position >= (deployed(key) or 0)
    }
    free = _count(load.get("mem"))
    measured = {name: _count(load.get(name)) for name in ("cpu", "dev", "run")}
    measured |= {name: _count(card.get(name)) for name in ("workers", "memory_mib")}
    return NodeRecord(
        node=member.name,
        address=member.address,
        state=NodeState.SUSPECT if member.state is State.SUSPECT else NodeState.ALIVE,
        ready=ready,
        providers=_strings(card.get("providers")),
        memory_free_bytes=None if free is None else free * MIB,
        labels={name: text for name, text in _map(card.get("labels")).items() if isinstance(text, str)},
        queue=_count(load.get("queue")) or 0,
        load={name: float(value) for name, value in measured.items() if value is not None},
    )


def _map(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or len(value) > READ_MAX:
        return {}
    return {key: found for key, found in value.items() if isinstance(key, str)}


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > READ_MAX:
        return ()
    return tuple(text for text in value if isinstance(text, str))


def _count(value: object) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value <= COUNT_MAX else None  # type: ignore[operator, return-value]
