"""A node's metrics, read out of what it says of itself: nothing is counted for them. Pure.

The payload of ``STATUS_RESULT`` (``docs/protocol.md``) has every figure; a scrape asks for it once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from mcp.client.answers import node_status
from mcp.gateway import traffic_metrics, watched_metrics
from mcp.gateway.exposition import Exposition, Family, Kind, counter, gauge
from mcp.gateway.limits import MODELS_TOLD_MAX, PEERS_TOLD_MAX

Status = Mapping[str, Any]
Read = Callable[[Status], float]
Labelled = Callable[[Status], Iterable[tuple[tuple[str, ...], float]]]

_ROLES: Final = ("leader", "follower", "candidate")


def _metric(name: str) -> Read:
    return lambda status: status["metrics"][name]


def _state(name: str) -> Read:
    return lambda status: status["metrics"]["state"][name]


def _connections(name: str) -> Read:
    return lambda status: status["metrics"]["connections"][name]


BUILD: Final = gauge("build_info", "1", "Always 1; which software this is.", "version", "protocol")

PLAIN: Final[tuple[tuple[Family, Read], ...]] = (
    (gauge("uptime_seconds", "seconds", "Since the node started."), lambda s: s["uptime_s"]),
    (
        gauge("ready", "0 or 1", "Whether the node can take part, as /readyz says."),
        lambda s: node_status("", s).problem is None,
    ),
    (gauge("storage_ok", "0 or 1", "Whether the disk takes writes."), lambda s: s["storage"] == "ok"),
    (gauge("consensus_term", "terms", "The current term."), lambda s: s["term"]),
    (
        gauge("consensus_leader_known", "0 or 1", "Whether the node knows a leader."),
        lambda s: s["leader"] is not None,
    ),
    (
        gauge("consensus_commit_index", "entries", "The log position that is committed."),
        lambda s: s["commit_index"],
    ),
    (
        gauge("consensus_applied_index", "entries", "The log position that is executed here."),
        lambda s: s["applied_index"],
    ),
    (
        gauge("consensus_last_index", "entries", "The last log position that is here."),
        lambda s: s["last_index"],
    ),
    (
        gauge("consensus_first_index", "entries", "The first log position that is kept."),
        lambda s: s["first_index"],
    ),
    (
        gauge("consensus_voters", "nodes", "Who votes, by the configuration in force here."),
        lambda s: len(s["voters"]),
    ),
    (gauge("consensus_observers", "nodes", "Who only observes."), lambda s: len(s["observers"])),
    (
        counter(
            "consensus_links_dropped", "messages", "Messages to peers that were dropped: no link, or clogged."
        ),
        _metric("peer_messages_dropped"),
    ),
    (
        counter("messages_expired", "messages", "Requests whose ttl had run out on arrival."),
        _metric("messages_expired_total"),
    ),
    (
        gauge("connections", "connections", "Open native connections, those in their handshake too."),
        _connections("open"),
    ),
    (
        counter("connections_accepted", "connections", "Native connections that were accepted."),
        _connections("accepted_total"),
    ),
    (
        counter("connections_refused", "connections", "Those that ended in their handshake."),
        _connections("refused_total"),
    ),
    (
        gauge("inference_queue_requests", "requests", "Inferences that wait for a worker."),
        _metric("inference_queued"),
    ),
    (gauge("inference_running", "runs", "Runs in workers now."), _metric("inference_running")),
    (gauge("inference_streams", "streams", "Streams that are run here now."), _metric("inference_streams")),
    (
        gauge("inference_streams_relayed", "streams", "Streams under way that are passed on to other nodes."),
        _metric("inference_streams_relayed"),
    ),
    (
        counter("inference_streams_passed_on", "streams", "Streams that another node began for this one."),
        _metric("inference_streams_passed_on_total"),
    ),
    (
        counter("inference_stream_steps", "steps", "Steps of streams that were run."),
        _metric("inference_stream_steps_total"),
    ),
    (
        gauge("inference_assigned_running", "inferences", "Durable and replicated inferences that run here."),
        _metric("assigned_running"),
    ),
    (
        counter("voters_replaced", "voters", "Dead voters that this node has taken out while it led."),
        _metric("voters_replaced_total"),
    ),
    (gauge("state_sessions", "sessions", "Open sessions of clients."), _state("sessions_open")),
    (
        counter("state_sessions_expired", "sessions", "Sessions that were forgotten."),
        _state("sessions_expired"),
    ),
    (
        counter("state_commands_executed", "commands", "Commands that took effect, in the whole cluster."),
        _state("commands_executed"),
    ),
    (
        counter("state_commands_deduplicated", "commands", "Repetitions that were answered from memory."),
        _state("commands_deduplicated"),
    ),
    (gauge("state_keys", "keys", "Keys."), _state("keys")),
    (gauge("state_members", "nodes", "Members that have said hello."), _state("members")),
    (gauge("state_models", "models", "Models that the cluster agreed on."), _state("models")),
    (
        gauge("state_inferences_unfinished", "inferences", "Submitted and not finished."),
        _state("inferences_unfinished"),
    ),
    (
        gauge("state_inferences_waiting", "inferences", "Of these, without a node that has their model."),
        _state("inferences_waiting"),
    ),
    (
        counter("state_inferences_done", "inferences", "Submitted inferences that ended with a result."),
        _state("inferences_done"),
    ),
    (
        counter("state_inferences_failed", "inferences", "Submitted inferences that ended with an error."),
        _state("inferences_failed"),
    ),
    (
        counter("state_replicas_diverged", "results", "Replicas whose result differed."),
        _state("replicas_diverged"),
    ),
)
"""Families of one number each, and where it is."""

SYNCS: Final = Family(
    "mcp_consensus_sync_duration_seconds",
    Kind.SUMMARY,
    "seconds",
    "Syncs (fsync) of the log: how many, and their time. One covers all that gathered.",
)


def _roles(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    return [((role,), status["role"] == role) for role in _ROLES]


def _peers(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    peers = list(status["peers"].items())[:PEERS_TOLD_MAX]
    return [((peer,), told["connected"]) for peer, told in peers]


def _lags(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    peers = list(status["peers"].items())[:PEERS_TOLD_MAX]
    return [((peer,), told["match"]) for peer, told in peers if told["match"] is not None]


def _dropped(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    return [((reason,), count) for reason, count in status["metrics"]["consensus_dropped"].items()]


def _requests(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    return [((kind,), count) for kind, count in status["metrics"]["requests"].items()]


def _runs(status: Status) -> Iterable[tuple[tuple[str, ...], float]]:
    metrics = status["metrics"]
    return [
        (("event_loop",), metrics["inference_inline_total"]),
        (("worker",), metrics["inference_threaded_total"]),
    ]


LABELLED: Final[tuple[tuple[Family, Labelled], ...]] = (
    (gauge("consensus_role", "0 or 1", "1 for the role that the node has.", "role"), _roles),
    (gauge("consensus_peer_connected", "0 or 1", "Whether there is a link to that peer.", "peer"), _peers),
    (
        gauge(
            "consensus_peer_match_index", "entries", "On the leader: what is durable at that peer.", "peer"
        ),
        _lags,
    ),
    (
        counter("consensus_messages_dropped", "messages", "Peers' messages that were dropped.", "reason"),
        _dropped,
    ),
    (counter("requests", "requests", "Native requests that came.", "type"), _requests),
    (counter("inference_runs", "runs", "Runs of all models.", "on"), _runs),
)
"""Families with labels, and where their numbers are."""

_MODEL: Final = ("model", "version")
_DIGITS: Final = 12
MODELS_LEFT_OUT: Final = gauge(
    "models_left_out",
    "versions",
    f"Versions of models beyond the {MODELS_TOLD_MAX} that have metrics of their own.",
)
MODEL_INFO: Final = gauge(
    "model_info",
    "1",
    "Always 1; which artefact that version is, by 12 digits of its SHA-256.",
    *_MODEL,
    "digest",
)
MODEL_ACTIVE: Final = gauge("model_active", "0 or 1", "Whether that version is the active one.", *_MODEL)
MODEL_READY: Final = gauge("model_ready", "0 or 1", "Whether this node can run that version.", *_MODEL)
MODEL_RUN: Final = Family(
    "mcp_model_run_duration_seconds",
    Kind.SUMMARY,
    "seconds",
    "Runs of the model on this node, however they were asked for: how many, and their time.",
    _MODEL,
)
MODEL: Final[tuple[tuple[Family, str], ...]] = (
    (gauge("model_queue_requests", "requests", "Requests that wait.", *_MODEL), "queued"),
    (gauge("model_running", "runs", "Runs under way.", *_MODEL), "running"),
    (gauge("model_batched", "0 or 1", "Whether requests may share a run.", *_MODEL), "batched"),
    (
        counter("model_queued_requests", "requests", "Requests that were run after a wait.", *_MODEL),
        "requests_total",
    ),
    (counter("model_expired", "requests", "Overdue while they waited or ran.", *_MODEL), "expired_total"),
    (
        counter("model_cancelled", "requests", "Given up while they waited or ran.", *_MODEL),
        "cancelled_total",
    ),
    (
        counter("model_batches_failed", "runs", "Batches that were run again one by one.", *_MODEL),
        "batches_failed_total",
    ),
)
"""Families with one number for each model, and its name in the figures of inference."""
MODEL_ROWS: Final = counter(
    "model_runs",
    "runs",
    "Runs of requests that waited, by rows up to this power of two.",
    *_MODEL,
    "rows_max",
)
MODEL_REFUSED: Final = counter(
    "model_refused", "requests", "Refused at a bound (full), or as too late.", *_MODEL, "reason"
)

FAMILIES: Final = (
    BUILD,
    *(family for family, _ in PLAIN),
    SYNCS,
    *(family for family, _ in LABELLED),
    *traffic_metrics.FAMILIES,
    *watched_metrics.FAMILIES,
    MODELS_LEFT_OUT,
    MODEL_INFO,
    MODEL_ACTIVE,
    MODEL_READY,
    MODEL_RUN,
    *(family for family, _ in MODEL),
    MODEL_ROWS,
    MODEL_REFUSED,
)
"""All of them, in the order in which they are told."""


def tell_node(into: Exposition, status: Status) -> None:
    """Tell what a node's status says. ``status`` is this version's own, so nothing in it is missing."""
    into.sample(BUILD, 1, status["package_version"], status["version"])
    for family, read in PLAIN:
        into.sample(family, read(status))
    metrics = status["metrics"]
    into.summary(SYNCS, metrics["syncs_total"], metrics["sync_seconds_total"])
    for family, found in LABELLED:
        for labels, value in found(status):
            into.sample(family, value, *labels)
    traffic_metrics.tell_traffic(into, metrics)
    watched_metrics.tell_watched(into, metrics)
    told = versions_told(status)
    models = status["models"]
    into.sample(MODELS_LEFT_OUT, sum(1 + len(model["others"]) for model in models) - len(told))
    for labels, active, version in told:
        into.sample(MODEL_INFO, 1, *labels, version["digest"][:_DIGITS])
        into.sample(MODEL_ACTIVE, active, *labels)
        _tell_version(into, labels, version)


def versions_told(status: Status) -> list[tuple[tuple[str, str], bool, Mapping[str, Any]]]:
    """Model and version, whether it is the active one, and what the status has of it; active ones first."""
    models = status["models"]
    active = [((model["name"], model["version"]), True, model) for model in models]
    others = (
        ((model["name"], version), False, told)
        for model in models
        for version, told in model["others"].items()
    )
    return list(itertools.islice(itertools.chain(active, others), MODELS_TOLD_MAX))


def _tell_version(into: Exposition, labels: tuple[str, str], version: Mapping[str, Any]) -> None:
    into.sample(MODEL_READY, version["ready"], *labels)
    figures = version["inference"]
    if figures is None:
        return
    into.summary(MODEL_RUN, figures["executions_total"], figures["execution_seconds_total"], *labels)
    for family, name in MODEL:
        into.sample(family, figures[name], *labels)
    for rows, runs in figures["batch_rows"].items():
        into.sample(MODEL_ROWS, runs, *labels, rows)
    for reason, count in figures["refused_total"].items():
        into.sample(MODEL_REFUSED, count, *labels, reason)
