"""What a gateway does for every transport: calls of the cluster's client, and nothing decided.

REST and gRPC are thin shells over this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from mcp.client.client import Client
from mcp.client.results import (
    ClusterStatus,
    Inference,
    InferenceRecord,
    Mode,
    ModelInputs,
    ModelStatus,
    Step,
)
from mcp.clock import Clock, SystemClock, new_id
from mcp.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InputInvalid,
    InvalidArgument,
    McpError,
    ModelNotReady,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from mcp.gateway.context import NOTHING, Context
from mcp.gateway.described import find_model, is_ready, model_metadata, repository_index
from mcp.gateway.limits import FRESH_S, STATUS_TIMEOUT_S
from mcp.gateway.messages import Ask, StreamAsk
from mcp.gateway.requests import InferenceRequest
from mcp.gateway.statistics import Statistics

_log = logging.getLogger("mcp.gateway")

_AGAIN_S: Final = 0.1
"""How old an answer that was no good news may be: a model may have become ready since."""


class Operations:
    """The calls that a gateway answers, through one client.

    ``node`` is the node that the gateway runs in, which is what its readiness is about; without it, the
    cluster's is. With ``control``, models may be taken out of service over HTTP; whoever reaches the port
    may then do so.
    """

    def __init__(
        self,
        client: Client,
        *,
        node: str | None = None,
        control: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._node = node
        self._control = control
        self._clock = clock or SystemClock()
        self.counted = Statistics()
        """The inferences that were asked for here."""
        self._position = 0
        self._told: ClusterStatus | None = None
        self._told_at = 0.0
        self._asking: asyncio.Future[ClusterStatus] | None = None

    async def close(self) -> None:
        """Stop asking; the client belongs to whoever made it."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    # -- inference ----------------------------------------------------------------------------------

    async def infer(
        self, model: str, version: str | None, request: InferenceRequest, context: Context = NOTHING
    ) -> Inference:
        """Run the model on some node. Raises what :meth:`~mcp.client.client.Client.infer` does."""
        return await self.infer_hint(
            hint(model, version), request.inputs, request.names, request.wishes.timeout_s, context
        )

    async def infer_hint(
        self,
        asked: str,
        inputs: ModelInputs,
        outputs: Sequence[str] | None,
        timeout_s: float,
        context: Context = NOTHING,
    ) -> Inference:
        """The same, of whatever the hint ``asked`` stands for."""
        begun = self._clock.monotonic()
        try:
            answer = await self._client.infer(
                asked,
                inputs,
                outputs=outputs,
                session=context.session,
                headers=context.headers or None,
                priority=context.priority,
                timeout_s=timeout_s,
            )
        except McpError as error:
            exists = isinstance(error, InputInvalid | InferenceFailed | ModelNotReady)
            model, _, version = asked.partition("@")
            self.counted.failed(model, version, self._clock.monotonic() - begun, exists=exists)
            raise
        elapsed_s = self._clock.monotonic() - begun
        self.counted.succeeded(answer.model, answer.version, elapsed_s, self._clock.wall())
        return answer

    def stream(self, ask: Ask, stream: StreamAsk) -> AsyncGenerator[Step, None]:
        """Call a model step by step; see :meth:`~mcp.client.client.Client.stream`."""
        return self._client.stream(
            ask.hint,
            ask.inputs,
            carry=stream.carry,
            steps=stream.steps,
            until=stream.until,
            outputs=ask.outputs,
            session=ask.context.session,
            headers=ask.context.headers or None,
            priority=ask.context.priority,
            timeout_s=ask.timeout_s,
        )

    # -- inference in the log -----------------------------------------------------------------------

    async def submit(
        self,
        asked: str,
        inputs: ModelInputs,
        mode: str,
        id: str,  # noqa: A002
        timeout_s: float,
    ) -> None:
        """Have the log take an inference. Raises what :meth:`~mcp.client.client.Client.submit` does."""
        await self._client.submit(asked, inputs, mode=cast(Mode, mode), id=id, timeout_s=timeout_s)

    async def record(self, id: str, wait_s: float) -> InferenceRecord:  # noqa: A002
        """The record of a submitted inference, ``wait_s`` later at most if it is not finished.

        Raises ``NotFound`` where the cluster has none: what a node does not know yet is looked for again.
        """
        if wait_s > 0:
            with contextlib.suppress(DeadlineExceeded, NotFound):
                return await self._client.result(id, timeout_s=wait_s)
        try:
            return await self._client.result(id, wait=False)
        except NotFound:
            await self._client.position()
            return await self._client.result(id, wait=False)

    async def at_least(self, index: int) -> None:
        """See to it that what is answered from now on is at least as new as the log position ``index``.

        Raises ``InvalidArgument`` for a position that the cluster has not reached.
        """
        if index <= self._position:
            return
        self._position = max(self._position, await self._client.position())
        if index > self._position:
            raise InvalidArgument(
                f'the message field "vector" has seen the log position {index}, and the cluster is at'
                f" {self._position}; it is another cluster's, or wrong: leave it out"
            )

    async def cluster(self) -> ClusterStatus:
        """How the nodes are, as of a second ago at most."""
        return await self._status()

    def fresh_id(self) -> str:
        """An id for a message that came without one."""
        return new_id(self._clock)

    # -- models -------------------------------------------------------------------------------------

    async def model_metadata(self, model: str, version: str | None) -> dict[str, Any]:
        """What the model takes and gives. Raises ``ModelNotFound``; ``Unsupported`` from an old node."""
        found = await self._find(model, version)
        if version not in (None, found.version):
            told = await self._client.model(hint(found.name, version))
            found = replace(found, inputs=told.inputs, outputs=told.outputs)
        return model_metadata(found)

    async def model_ready(self, model: str, version: str | None) -> bool:
        """Whether some node can run the model now. Raises ``ModelNotFound``."""
        found = await self._find(model, version)
        return is_ready(found, version, await self._status()) or is_ready(
            found, version, await self._status(_AGAIN_S)
        )

    async def statistics(self, model: str | None, version: str | None) -> dict[str, Any]:
        """This gateway's counts, of one model or of all. Raises ``ModelNotFound``."""
        models = await self._client.models() if model is None else [await self._find(model, version)]
        return self.counted.of(models, version)

    async def repository_index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """Every version of every model, and its state."""
        index = repository_index(await self._client.models(), await self._status(_AGAIN_S))
        return [each for each in index if each["state"] == "READY" or not ready_only]

    async def load(self, model: str) -> None:
        """Nodes hold what the cluster agreed on, so there is nothing to load: only whether it is known.

        Raises ``ModelNotFound``, ``PermissionDenied`` without ``control``.
        """
        self._allow()
        await self._find(model, None)

    async def unload(self, model: str) -> None:
        """Take a model out of service everywhere. Raises ``ModelNotFound``, ``PermissionDenied``."""
        self._allow()
        await self._client.undeploy((await self._find(model, None)).name)

    # -- health -------------------------------------------------------------------------------------

    async def not_ready(self) -> str | None:
        """Why this gateway cannot answer for the cluster now; ``None``: it can."""
        status = await self._status()
        reason = self._problem(status)
        return reason if reason is None else self._problem(await self._status(_AGAIN_S))

    def _problem(self, status: ClusterStatus) -> str | None:
        if self._node is None:
            return None if status.serves else "the cluster has no leader with a majority"
        own = next((node for node in status.nodes if node.node == self._node), None)
        return f"node {self._node} does not answer" if own is None else own.problem

    # -- details ------------------------------------------------------------------------------------

    def _allow(self) -> None:
        if not self._control:
            raise PermissionDenied(
                "models are not loaded and unloaded over HTTP here; use 'mcpctl deploy' and 'mcpctl undeploy'"
                ", or start the node with --http-control"
            )

    async def _find(self, model: str, version: str | None) -> ModelStatus:
        return find_model(await self._client.models(), model, version)

    async def _status(self, fresh_s: float = FRESH_S) -> ClusterStatus:
        """How the nodes are, as of ``fresh_s`` ago at most; many who ask at once are one who asks."""
        if self._told is not None and self._clock.monotonic() - self._told_at <= fresh_s:
            return self._told
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._client.status(timeout_s=STATUS_TIMEOUT_S))
            self._asking.add_done_callback(self._answered)
        try:
            return await asyncio.shield(self._asking)
        except asyncio.CancelledError:
            if self._asking is None or not self._asking.cancelled():
                raise
            raise Unavailable("this gateway is stopping; ask another node") from None

    def _answered(self, asking: asyncio.Future[ClusterStatus]) -> None:
        self._asking = None
        if not asking.cancelled() and asking.exception() is None:
            self._told, self._told_at = asking.result(), self._clock.monotonic()


def hint(model: str, version: str | None) -> str:
    """How a node is asked for a version of a model."""
    return model if version is None else f"{model}@{version}"
