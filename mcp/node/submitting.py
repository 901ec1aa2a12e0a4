"""What is submitted to the log, looked at before it is proposed: whether its inputs fit the model's.

The log takes any tensors for a model that there is, and only a run would find that they do not fit. So the
node that is asked compares them with what the version declares, as a run does, and refuses with its error.

Nothing that could be right is refused. What this node knows may be old: another version may be the active
one by now. So inputs that do not fit are looked at once more behind a barrier, when this node knows all that
anybody was told before; where there is no such moment, the log decides. Inputs that fit cost a comparison of
types and shapes, and wait for nothing.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack

from consensus.driver import Done
from executor.errors import ExecutorError
from executor.inputs import InputCheck
from executor.inspection import TensorInfo
from mcp.cluster.router.acceptance import Acceptance
from mcp.cluster.router.features import Features, Tensor
from mcp.errors import McpError
from mcp.node.inference import bound_inputs, naming
from mcp.node.order import Order
from mcp.node.translation import translated
from mcp.state.models import ModelVersion
from mcp.state.state import ReplicatedState
from mcp.wire.tensors import TENSORS_MAX, unpack_all

LOOKS_MAX: Final = 256
"""So many submissions are looked at again at a time; more are left to the log."""
LOOK_S_MAX: Final = 5.0
"""So long is waited for the barrier; then the log decides."""
DECLARED_CACHED_MAX: Final = 1024
"""So many versions' declared inputs are remembered as they were read."""
LEFT_S_MIN: Final = 0.001


class Submitting:
    """Proposes clients' commands. All calls on the loop's thread."""

    def __init__(
        self,
        state: ReplicatedState,
        order: Order,
        let_in: Callable[[str, Mapping[str, Any]], float],
    ) -> None:
        self.let_in = let_in
        """Refuses a client's submission by the rates, ``(client, args)``, or gives how long it waits."""
        self._state = state
        self._order = order
        self._looks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Look at nothing any more."""
        looks = list(self._looks)
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    def submit(
        self,
        op: str,
        args: Mapping[str, Any],
        wait_s: float,
        data: bytes,
        done: Done,
        refused: Callable[[McpError], object],
        *,
        timeout_s: float,
    ) -> None:
        """As :meth:`Order.submit_after`, unless it is an inference that does not fit its model."""
        if op != "inference.submit" or len(self._looks) >= LOOKS_MAX or self.misfit(args) is None:
            self._order.submit_after(wait_s, data, done, refused, timeout_s=timeout_s)
            return
        look = asyncio.ensure_future(self._look_again(args, wait_s, data, done, refused, timeout_s))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    def misfit(self, args: Mapping[str, Any]) -> McpError | None:
        """What a run would refuse of a submission; ``None``: nothing, as far as this node can tell.

        An id that the log has already, a model that this node does not know, and what is no list of tensors
        are the log's to answer.
        """
        inference, hint, specs = args.get("id"), args.get("model_hint"), args.get("inputs")
        if type(hint) is not str or type(inference) is not str:
            return None
        if type(specs) is not list or len(specs) > TENSORS_MAX:
            return None
        if self._state.inferences.get(inference) is not None:
            return None
        try:
            version = self._state.models.resolve(hint)
            tensors = tuple(Tensor(spec["name"], spec["dtype"], tuple(spec["shape"]), 0) for spec in specs)
            fits = _declared(version.specs)[1].fits(Features(hint, tensors=tensors))
        except (McpError, KeyError, TypeError):
            return None
        return None if fits else _refusal(version, specs)

    async def _look_again(
        self,
        args: Mapping[str, Any],
        wait_s: float,
        data: bytes,
        done: Done,
        refused: Callable[[McpError], object],
        timeout_s: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            try:
                await self._order.barrier(min(timeout_s, LOOK_S_MAX))
            except McpError:
                problem = None
            else:
                problem = self.misfit(args)
            if problem is not None:
                raise problem
            took_s = loop.time() - began_s
            left_s = max(LEFT_S_MIN, timeout_s - took_s)
            wait_s = max(0.0, wait_s - took_s)
            self._order.submit_after(wait_s, data, done, refused, timeout_s=left_s)
        except McpError as error:
            refused(error)


def _refusal(version: ModelVersion, specs: list[Any]) -> McpError | None:
    """The error of a run with these inputs, ``None`` where it would have none."""
    declared, _ = _declared(version.specs)
    try:
        inputs = bound_inputs(unpack_all(specs, [], text=True), declared)
        InputCheck(version.digest, declared).check(inputs)
    except McpError as error:
        return error
    except ExecutorError as error:
        return naming(version, translated(error))
    return None


@functools.lru_cache(maxsize=DECLARED_CACHED_MAX)
def _declared(packed: bytes) -> tuple[tuple[TensorInfo, ...], Acceptance]:
    """A version's declared inputs, to be told and to be compared with; no bounds of requests."""
    specs = [
        (spec["name"], spec["dtype"], None if spec["shape"] is None else tuple(spec["shape"]))
        for spec in msgpack.unpackb(packed)[0]
    ]
    return tuple(TensorInfo(*spec) for spec in specs), Acceptance(specs)
