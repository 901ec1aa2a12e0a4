"""What a node does about what was agreed: it follows the replicated state.

Events say that something may have changed; the state says what is so. Work is therefore coalesced (one
look at the state per turn of the loop, however many events) and repeated now and then, so that nothing
depends on having seen an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from mcp.errors import McpError
from mcp.node.assignments import Assignments
from mcp.node.order import Order
from mcp.node.reads import Reads
from mcp.node.shelf import Shelf
from mcp.state import events
from mcp.state.state import ReplicatedState

_log = logging.getLogger("mcp.node")

_MODEL_EVENTS = (
    events.ModelDeployed,
    events.ModelActivated,
    events.ModelUndeployed,
    events.HolderChanged,
)
_RUN_EVENTS = (
    events.InferenceAssigned,
    events.ReplicatedRequested,
    events.MemberUp,
    events.MemberDown,
)


class Follower:
    """Turns events into work for one node."""

    def __init__(
        self,
        node_id: str,
        state: ReplicatedState,
        shelf: Shelf,
        assignments: Assignments,
        reads: Reads,
        order: Order,
    ) -> None:
        self.diverged = 0
        self._node_id = node_id
        self._state = state
        self._shelf = shelf
        self._assignments = assignments
        self._reads = reads
        self._order = order
        self._due: asyncio.Handle | None = None
        self._models_due = False
        self._announcing: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def close(self) -> None:
        """Follow no more."""
        self._closed = True
        if self._due is not None:
            self._due.cancel()
        tasks = list(self._announcing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def applied(self, index: int, happened: Sequence[events.Event]) -> None:
        """An entry was executed, and this came of it."""
        self._order.advanced(index)
        for event in happened:
            if isinstance(event, events.InferenceFinished):
                self._reads.inference_changed(event.id)
            elif isinstance(event, events.SchemaRaised):
                _log.info("commands of schema %d are in force from log position %d on", event.schema, index)
            elif isinstance(event, _MODEL_EVENTS):
                self._soon(models=True)
            elif isinstance(event, _RUN_EVENTS):
                self._soon(models=False)
            elif isinstance(event, events.ReplicaDiverged):
                self.diverged += 1
                _log.warning(
                    "replica %s gave another result for inference %s (largest difference %s)",
                    event.node,
                    event.id,
                    event.max_abs_diff,
                )

    def restored(self, index: int) -> None:
        """The state was replaced by a snapshot."""
        self._order.advanced(index)
        self._reads.everything_changed()
        self._soon(models=True)

    def look(self) -> None:
        """Compare what the state says with what is so here, and act."""
        self._due = None
        if self._closed:
            return
        if self._models_due:
            self._models_due = False
            self._follow_models()
        self._assignments.reconcile()

    def look_again(self) -> None:
        """As :meth:`look`, models included: the safety net that is called now and then."""
        self._models_due = True
        self.look()

    def announce(self, digest: str) -> None:
        """A model has become ready here: tell the log, unless it knows."""
        self._soon(models=False)
        if self._closed or digest in self._announcing or not self._state.models.is_referenced(digest):
            return
        if self._node_id in self._state.models.holders(digest):
            return
        task = asyncio.ensure_future(self._announce(digest))
        self._announcing[digest] = task
        task.add_done_callback(lambda _: self._announcing.pop(digest, None))

    def _soon(self, *, models: bool) -> None:
        self._models_due = self._models_due or models
        if self._due is None and not self._closed:
            self._due = asyncio.get_running_loop().call_soon(self.look)

    def _follow_models(self) -> None:
        self._shelf.keep_only(self._state.models.digests())
        for digest, size, holders in self._state.models.artefacts():
            if self._shelf.info(digest) is None:
                self._shelf.want(digest, size, [node for node in holders if node != self._node_id])
            elif self._node_id not in holders:
                self.announce(digest)

    async def _announce(self, digest: str) -> None:
        try:
            await self._order.internal("model.holder", {"digest": digest, "node": self._node_id})
        except McpError as error:
            # Tried again by the next look.
            _log.debug("could not announce model %s: %s", digest[:12], error)
