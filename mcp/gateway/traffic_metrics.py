"""A node's metrics of traffic: what was routed, let in, refused, answered instead, and given to other nodes.

Read out of ``metrics`` of the node's status, as :mod:`mcp.gateway.node_metrics` does. What nobody has
declared (limits, strategies) counts as 0. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from mcp.gateway.exposition import Exposition, Family, counter, gauge

Metrics = Mapping[str, Any]
Read = Callable[[Metrics], float]
Labelled = Callable[[Metrics], Iterable[tuple[str, float]]]

CHOICES: Final = ("here", "passed_on", "queued")
REFUSALS: Final = ("too_late", "busy")


def _number(part: str, name: str) -> Read:
    return lambda metrics: metrics[part].get(name, 0)


def _each(part: str, name: str) -> Labelled:
    return lambda metrics: sorted(metrics[part].get(name, {}).items())


def _some(part: str, names: Iterable[str]) -> Labelled:
    return lambda metrics: [(name, metrics[part][name]) for name in names if name in metrics[part]]


PLAIN: Final[tuple[tuple[Family, Read], ...]] = (
    (
        counter("inference_routed", "requests", "Inferences that the router decided, not their name alone."),
        lambda metrics: metrics["inference_routed_total"],
    ),
    (
        counter("inference_forwarded", "requests", "Inferences that another node answered for this one."),
        lambda metrics: metrics["inference_forwarded_total"],
    ),
    (
        counter("admission_admitted", "requests", "Inferences that the limits let in."),
        _number("admission", "admitted"),
    ),
    (
        gauge("admission_in_flight", "requests", "Inferences under way that the limits let in."),
        _number("admission", "in_flight"),
    ),
    (
        gauge("admission_answers_kept", "answers", "Answers that are kept for fallbacks."),
        _number("admission", "kept"),
    ),
    (
        gauge("scheduling_waiting_requests", "requests", "Requests that wait here for a node."),
        _number("scheduling", "waiting"),
    ),
    (
        gauge("scheduling_waiting_bytes", "bytes", "The tensors of those."),
        _number("scheduling", "waiting_bytes"),
    ),
)
"""Families of one number each, and where it is."""

LABELLED: Final[tuple[tuple[Family, Labelled], ...]] = (
    (
        counter("inference_copies", "requests", "Copies for routes, by what became of them.", "outcome"),
        lambda metrics: sorted(metrics["inference_copies_total"].items()),
    ),
    (
        counter("admission_refused", "requests", "Inferences that the limits refused.", "reason"),
        _each("admission", "refused"),
    ),
    (
        counter("admission_fallbacks", "requests", "Inferences that were answered instead.", "kind"),
        _each("admission", "fallbacks"),
    ),
    (
        counter("scheduling_choices", "requests", "Requests given to a node by a strategy.", "choice"),
        _some("scheduling", CHOICES),
    ),
    (
        counter("scheduling_refused", "requests", "Requests that no node had a place for in time.", "reason"),
        _some("scheduling", REFUSALS),
    ),
)
"""Families with one label each, and where their numbers are."""

FAMILIES: Final = (*(family for family, _ in PLAIN), *(family for family, _ in LABELLED))
"""All of them, in the order in which they are told."""


def tell_traffic(into: Exposition, metrics: Metrics) -> None:
    """Tell what the ``metrics`` of a node's status say of traffic."""
    for family, read in PLAIN:
        into.sample(family, read(metrics))
    for family, found in LABELLED:
        for label, value in found(metrics):
            into.sample(family, value, label)
