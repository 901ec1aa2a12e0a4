"""Durable and replicated inferences: runs what the replicated state gives to this node.

The state decides who runs what and under which fencing token; this module does it and proposes the
outcome. It is driven by level, not by edge: whatever the state says is ours and is not under way is
started, so that nothing depends on an event having been seen (after a restart, after a snapshot).
An outcome is proposed until the state has it or does not want it any more.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from executor.compare import compare_outputs
from mcp.errors import McpError, ModelNotFound
from mcp.node.artefacts import Artefacts
from mcp.node.inference import bound_inputs, naming
from mcp.node.shelf import Shelf
from mcp.node.translation import translated
from mcp.state.records import InferenceRecord
from mcp.state.replicas import ATOL, RTOL
from mcp.state.state import ReplicatedState
from mcp.wire.codec import decode_map, encode_map
from mcp.wire.tensors import pack_inline, unpack_inline

Propose = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Proposes an internal command, ``(op, args)``; raises what refused it."""

PROPOSE_PAUSE_S = 0.2
REFERENCE_PAUSE_S = 0.05

Outputs = Mapping[str, NDArray[np.generic]]


class Assignments:
    """The inferences that this node owes. At most ``runs_max`` are under way at once."""

    def __init__(
        self,
        node_id: str,
        state: ReplicatedState,
        shelf: Shelf,
        artefacts: Artefacts,
        propose: Propose,
        *,
        runs_max: int,
        run_timeout_s: float,
        inline_bytes_max: int,
    ) -> None:
        self._node_id = node_id
        self._state = state
        self._shelf = shelf
        self._artefacts = artefacts
        self._propose = propose
        self._runs_max = runs_max
        self._run_timeout_s = run_timeout_s
        self._inline_bytes_max = inline_bytes_max
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._closed = False

    @property
    def running(self) -> int:
        """How many are under way."""
        return len(self._running)

    async def close(self) -> None:
        """Stop; another node takes over what was under way."""
        self._closed = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reconcile(self) -> None:
        """Start what the state says is ours, as far as there is room."""
        if self._closed:
            return
        for record in self._state.inferences.owed_by(self._node_id):
            if len(self._running) >= self._runs_max:
                return
            key = (record.id, record.token)
            if key not in self._running:
                task = asyncio.ensure_future(self._serve(record))
                self._running[key] = task
                task.add_done_callback(functools.partial(self._done, key))

    def _done(self, key: tuple[str, int], _: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        if not self._closed:
            self.reconcile()

    async def _serve(self, record: InferenceRecord) -> None:
        outcome = await self._outcome(record)
        op = "inference.complete" if record.mode == "durable" else "inference.report"
        args: dict[str, Any] = {"id": record.id, "node": self._node_id, "outcome": outcome}
        if record.mode == "durable":
            args["token"] = record.token
        while self._still_owed(record):
            try:
                await self._propose(op, args)
            except McpError:
                await asyncio.sleep(PROPOSE_PAUSE_S)

    def _still_owed(self, record: InferenceRecord) -> bool:
        return self._state.inferences.owes(self._node_id, record.id, record.token)

    async def _outcome(self, record: InferenceRecord) -> dict[str, Any]:
        try:
            model = self._state.models.get(record.model, record.version)
            if model is None:
                raise ModelNotFound(f"{record.model} {record.version} was undeployed before this ran")
            info = await self._shelf.ensure_within(model, self._run_timeout_s)
            given = {spec["name"]: unpack_inline(spec, text=True) for spec in record.inputs}
            inputs = bound_inputs(given, info.inputs)
            try:
                outputs = await self._shelf.run(model, inputs, None, self._run_timeout_s)
            except McpError as error:
                raise naming(model, error) from error
            return await self._packed(record, outputs)
        except Exception as error:  # the outcome of a run that failed is its error, whatever it is
            return {"error": translated(error).to_wire()}

    async def _packed(self, record: InferenceRecord, outputs: Outputs) -> dict[str, Any]:
        specs = [pack_inline(name, array) for name, array in outputs.items()]
        if sum(len(spec["data"]) for spec in specs) <= self._inline_bytes_max:
            return {"outputs": specs}
        content = encode_map({"outputs": specs})
        digest = await self._artefacts.keep(content)
        own = {"digest": digest, "size": len(content), "node": self._node_id}
        return own if record.mode == "durable" else await self._agreed(record, outputs, own)

    async def _agreed(self, record: InferenceRecord, outputs: Outputs, own: dict[str, Any]) -> dict[str, Any]:
        """A replica's large result: the reference's blob if the two agree, otherwise its own.

        The log holds digests only, so the replicas compare for themselves. The first of those that owe a
        report gives the reference; the others wait for it.
        """
        while (current := self._state.inferences.get(record.id)) and self._still_owed(record):
            reference = current.outcome
            if "digest" in reference:
                return await self._compared(reference, outputs, own)
            if reference or current.owing[0] == self._node_id:
                return own
            await asyncio.sleep(REFERENCE_PAUSE_S)
        return own

    async def _compared(
        self, reference: dict[str, Any], outputs: Outputs, own: dict[str, Any]
    ) -> dict[str, Any]:
        digest, size = reference["digest"], reference["size"]
        if digest == own["digest"]:
            return own
        await self._artefacts.fetch(digest, size, [reference["node"]])
        specs = decode_map(await asyncio.to_thread(self._artefacts.store.content, digest))["outputs"]
        others = {spec["name"]: unpack_inline(spec, text=True) for spec in specs}
        comparison = compare_outputs(others, outputs, rtol=RTOL, atol=ATOL)
        if not comparison.equal:
            return own
        return {**reference, "max_abs_diff": comparison.max_abs_diff}
