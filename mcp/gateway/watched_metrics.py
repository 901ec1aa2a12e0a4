"""A node's metrics of what changes under way: rollouts, circuit breakers, gossip, and what is loaded.

Read out of ``metrics`` of the node's status, as :mod:`mcp.gateway.node_metrics` does. The status bounds how
many rollouts and breakers it tells of. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp.gateway.exposition import Exposition, counter, gauge

ROLLOUT_STATES: Final = ("going", "done", "rolled back", "aborted")
BREAKER_STATES: Final = ("closed", "open", "half open")
_SIDES: Final = (("from", "old"), ("to", "new"))
_HUNDREDTHS_OF_A_PERCENT: Final = 10_000

LOADED: Final = gauge("artefacts_loaded", "artefacts", "Artefacts that are loaded here, whoever shares them.")
LOADED_BYTES: Final = gauge(
    "artefacts_loaded_bytes", "bytes", "Their bytes as they were deployed; each artefact counts once."
)
ROLLOUT_STATE: Final = gauge(
    "rollout_state", "0 or 1", "1 for the state of the model's latest rollout.", "model", "state"
)
ROLLOUT_STEP: Final = gauge("rollout_step", "steps", "The step that it is at; 0 is the trial.", "model")
ROLLOUT_SHARE: Final = gauge(
    "rollout_share_ratio", "ratio", "The new version's share of the requests, 0 to 1.", "model"
)
_ROLLOUT: Final = ("model", "version", "side")
ROLLOUT_REQUESTS: Final = counter(
    "rollout_requests",
    "requests",
    "Requests that a rollout which goes on has led to this node: of the new version since the step began,"
    " of the old one since the rollout did.",
    *_ROLLOUT,
)
ROLLOUT_FAILURES: Final = counter("rollout_failures", "requests", "Those of them that failed.", *_ROLLOUT)
BREAKER_STATE: Final = gauge(
    "breaker_state", "0 or 1", "1 for the state of the breaker.", "model", "node", "state"
)
BREAKER_OPENINGS: Final = counter(
    "breaker_openings", "openings", "How often the breaker has opened.", "model", "node"
)
BREAKERS_LEFT_OUT: Final = gauge(
    "breakers_left_out", "breakers", "Breakers beyond the 256 that have metrics of their own."
)
GOSSIP_MEMBERS: Final = gauge("gossip_members", "nodes", "Nodes that this one knows of, by state.", "state")
GOSSIP_HEALTH: Final = gauge(
    "gossip_health_score", "points", "How bad the node takes its own state to be; 0 is well (Lifeguard)."
)
_WAY: Final = "transport"
GOSSIP_SENT: Final = counter("gossip_messages_sent", "messages", "Gossip messages that were sent.", _WAY)
GOSSIP_SENT_BYTES: Final = counter("gossip_sent_bytes", "bytes", "Their bytes, sealed.", _WAY)
GOSSIP_RECEIVED: Final = counter(
    "gossip_messages_received", "messages", "Gossip messages that came, refused ones too.", _WAY
)
GOSSIP_RECEIVED_BYTES: Final = counter("gossip_received_bytes", "bytes", "Their bytes, sealed.", _WAY)
GOSSIP_REFUSED: Final = counter(
    "gossip_messages_refused", "messages", "Gossip messages that were refused.", "code"
)
GOSSIP_LOST: Final = counter(
    "gossip_messages_lost",
    "messages",
    "Stream messages that did not arrive (lost) or go (dropped).",
    "reason",
)

FAMILIES: Final = (
    LOADED,
    LOADED_BYTES,
    ROLLOUT_STATE,
    ROLLOUT_STEP,
    ROLLOUT_SHARE,
    ROLLOUT_REQUESTS,
    ROLLOUT_FAILURES,
    BREAKER_STATE,
    BREAKER_OPENINGS,
    BREAKERS_LEFT_OUT,
    GOSSIP_MEMBERS,
    GOSSIP_HEALTH,
    GOSSIP_SENT,
    GOSSIP_SENT_BYTES,
    GOSSIP_RECEIVED,
    GOSSIP_RECEIVED_BYTES,
    GOSSIP_REFUSED,
    GOSSIP_LOST,
)
"""All of them, in the order in which they are told."""


def tell_watched(into: Exposition, metrics: Mapping[str, Any]) -> None:
    """Tell what the ``metrics`` of a node's status say of these."""
    into.sample(LOADED, metrics["artefacts"]["loaded"])
    into.sample(LOADED_BYTES, metrics["artefacts"]["bytes"])
    for rollout in metrics["rollouts"]:
        _tell_rollout(into, rollout)
    for breaker in metrics["breakers"]:
        labels = (breaker["model"], breaker["node"])
        for state in BREAKER_STATES:
            into.sample(BREAKER_STATE, breaker["state"] == state, *labels, _label(state))
        into.sample(BREAKER_OPENINGS, breaker["opened_total"], *labels)
    into.sample(BREAKERS_LEFT_OUT, metrics["breakers_left_out"])
    if metrics["gossip"]:
        _tell_gossip(into, metrics["gossip"])


def _tell_rollout(into: Exposition, rollout: Mapping[str, Any]) -> None:
    model = rollout["model"]
    for state in ROLLOUT_STATES:
        into.sample(ROLLOUT_STATE, rollout["state"] == state, model, _label(state))
    into.sample(ROLLOUT_STEP, rollout["step"], model)
    into.sample(ROLLOUT_SHARE, rollout["weight"] / _HUNDREDTHS_OF_A_PERCENT, model)
    for end, side in _SIDES:
        seen = rollout["seen"].get(rollout[end])
        if seen is not None:
            into.sample(ROLLOUT_REQUESTS, seen[0], model, rollout[end], side)
            into.sample(ROLLOUT_FAILURES, seen[1], model, rollout[end], side)


def _tell_gossip(into: Exposition, gossip: Mapping[str, Any]) -> None:
    for state, count in gossip["members"].items():
        into.sample(GOSSIP_MEMBERS, count, state)
    into.sample(GOSSIP_HEALTH, gossip["health"])
    for way, (messages, size) in gossip["sent"].items():
        into.sample(GOSSIP_SENT, messages, way)
        into.sample(GOSSIP_SENT_BYTES, size, way)
    for way, (messages, size) in gossip["received"].items():
        into.sample(GOSSIP_RECEIVED, messages, way)
        into.sample(GOSSIP_RECEIVED_BYTES, size, way)
    for code, count in gossip["refused"].items():
        into.sample(GOSSIP_REFUSED, count, code)
    for reason in ("lost", "dropped"):
        into.sample(GOSSIP_LOST, gossip[reason], reason)


def _label(state: str) -> str:
    return state.replace(" ", "_")
