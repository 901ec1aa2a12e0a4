"""What a node says of itself: the ``STATUS_RESULT`` payload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcp.clock import Clock
from mcp.errors import Busy
from mcp.node.watched import others_told, watched
from mcp.version import VERSION
from mcp.wire.version import PROTOCOL_VERSION

if TYPE_CHECKING:
    from mcp.node.assembly import Assembly
    from mcp.node.shelf import Shelf
    from mcp.state.models import ModelVersion


DIGEST_REST = 20
"""For so many times as long as a digest took, no other is computed: it holds up the loop."""


class Report:
    """Reads every part of a node and changes none."""

    def __init__(self, parts: Assembly, clock: Clock) -> None:
        self._parts = parts
        self._clock = clock
        self._started_s = clock.monotonic()
        self._digest: tuple[int, str] | None = None
        self._digest_again_s = 0.0

    def status(
        self, *, with_digest: bool = False, with_models: bool = True, rested: bool = True
    ) -> dict[str, Any]:
        """Plain values; indexes count log entries from 1. Without ``with_models``, ``models`` are none.

        ``with_digest`` adds ``state_digest``: nodes whose ``applied_index`` is equal hold equal states
        exactly when these are equal. It costs a pass over the whole state, so :class:`Busy` is raised
        while one has been computed a moment ago, unless ``rested`` is false.
        """
        parts = self._parts
        engine = parts.driver.status()
        payload: dict[str, Any] = {
            "node": parts.config.node_id,
            "address": parts.membership.address,
            "role": str(engine.role),
            "term": engine.term,
            "leader": engine.leader,
            "leader_address": self._address_of(engine.leader),
            "commit_index": engine.commit_index,
            "applied_index": parts.driver.applied_index,
            "last_index": engine.last_index,
            "first_index": engine.first_index,
            "voters": list(engine.voters),
            "observers": list(engine.observers),
            "standing": str(engine.standing),
            "joining": None if parts.joining.problem is None else parts.joining.problem.to_wire(),
            "peers": {
                peer: {
                    "connected": parts.links.connected(peer),
                    "match": engine.match.get(peer),
                    "journal": parts.links.linked_journal(peer),
                }
                for peer in parts.roster.peers()
            },
            "members": self._members(),
            "models": self._models() if with_models else [],
            "rollouts": parts.rollouts.to_plain(),
            "replacing": parts.replacing.to_plain(),
            "journal": parts.joining.journal,
            "providers": list(parts.providers),
            "providers_missing": [p for p in parts.config.providers if p not in parts.providers],
            "schema": {"in_force": parts.state.schema.in_force, "own_max": parts.state.schema.own_max},
            "storage": self._storage(),
            "caught_up": parts.membership.caught_up,
            "uptime_s": self._clock.monotonic() - self._started_s,
            "version": PROTOCOL_VERSION,
            "package_version": VERSION,
            "metrics": self._metrics(),
        }
        if with_digest:
            payload["state_digest"] = self._state_digest(rested)
        return payload

    def _address_of(self, node: str | None) -> str | None:
        if node is None:
            return None
        if node == self._parts.config.node_id:
            return self._parts.membership.address
        member = self._parts.state.members.get(node)
        return member.address if member is not None else self._parts.roster.address_of(node)

    def _members(self) -> list[dict[str, Any]]:
        return [
            {
                "node": m.node,
                "address": m.address,
                "state": "up" if m.up else "down",
                "schema": m.schema,
                "executors": list(m.executors),
            }
            for m in self._parts.state.members.all()
        ]

    def _models(self) -> list[dict[str, Any]]:
        shelf = self._parts.shelf
        run_totals = shelf.run_totals()
        models = []
        for model in self._parts.state.models.all():
            active = model.versions[model.active]
            problem = shelf.problems.get(active.digest)
            models.append(
                {
                    "name": model.name,
                    "version": model.active,
                    "versions": list(model.versions),
                    "digest": active.digest,
                    "aliases": list(model.aliases),
                    "ready": shelf.info(active.digest) is not None,
                    "holders": list(active.holders),
                    "problem": None if problem is None else problem.to_wire(),
                    "inference": _figures(shelf, active, run_totals),
                    "others": {
                        other.version: {
                            "digest": other.digest,
                            "ready": shelf.info(other.digest) is not None,
                            "inference": _figures(shelf, other, run_totals),
                        }
                        for other in others_told(self._parts, model)
                    },
                }
            )
        return models

    def _storage(self) -> str:
        driver = self._parts.driver
        if driver.failure is not None:
            return f"failed: {driver.failure}"
        return "full" if driver.disk_full else "ok"

    def _metrics(self) -> dict[str, Any]:
        parts = self._parts
        syncs, syncs_s = parts.driver.syncs
        return {
            "requests": dict(sorted(parts.dispatch.counts.items())),
            "consensus_dropped": dict(sorted(parts.driver.dropped.items())),
            "peer_messages_dropped": parts.links.dropped,
            "replicas_diverged": parts.follower.diverged,
            "voters_replaced_total": parts.replacing.replaced_total,
            "assigned_running": parts.assignments.running,
            "inference_queued": parts.pool.queued,
            "inference_running": parts.pool.running,
            "inference_inline_total": parts.pool.inline_total,
            "inference_threaded_total": parts.pool.threaded_total,
            "inference_streams": len(parts.streamed.streams),
            "inference_streams_relayed": len(parts.relaying.streams),
            "inference_streams_passed_on_total": parts.relaying.total,
            "inference_stream_steps_total": parts.streamed.steps_total,
            "messages_expired_total": parts.dispatch.expired_total,
            "syncs_total": syncs,
            "sync_seconds_total": syncs_s,
            "connections": {
                "open": sum(listener.open for listener in parts.listeners),
                "accepted_total": sum(listener.accepted for listener in parts.listeners),
                "refused_total": sum(listener.refused for listener in parts.listeners),
            },
            "state": parts.state.counters(),
            "inference_routed_total": parts.routing.decided_total,
            "inference_forwarded_total": parts.routed.forwarded_total,
            "inference_copies_total": dict(parts.routed.copies),
            "admission": parts.admitting.figures(),
            "scheduling": parts.scheduling.figures(),
            **watched(parts),
        }

    def _state_digest(self, rested: bool) -> str:
        index = self._parts.driver.applied_index
        if self._digest is None or self._digest[0] != index:
            begun = self._clock.monotonic()
            if rested and begun < self._digest_again_s:
                raise Busy(
                    "a digest of the whole state was asked for a moment ago, and takes long; "
                    "ask again in a while, or without it"
                )
            self._digest = (index, self._parts.state.digest())
            ended = self._clock.monotonic()
            self._digest_again_s = ended + DIGEST_REST * (ended - begun)
        return self._digest[1]


def _figures(
    shelf: Shelf, version: ModelVersion, run_totals: Mapping[str, tuple[int, float]]
) -> dict[str, Any] | None:
    figures = shelf.figures(version)
    if figures is not None:
        executions, seconds = run_totals.get(version.digest, (0, 0.0))
        figures |= {"executions_total": executions, "execution_seconds_total": seconds}
    return figures
