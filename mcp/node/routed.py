"""What a decision of the router asks for beside an answer here: another node's answer, and copies.

A request that none but another node may answer is passed on to it, by the name of the version that was
decided, and its answer passed back. A *copy* (shadow traffic) is run here like any other request and its
outputs are thrown away: it is made only of what this node has ready, only so many at a time, and whatever
becomes of it makes no difference to the request.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from numpy.typing import NDArray

from executor.inspection import ModelInfo
from mcp.clock import Clock, new_id
from mcp.cluster.router.decision import Decision
from mcp.errors import DeadlineExceeded, McpError, Unavailable
from mcp.net.exchange import Exchange
from mcp.node.fallbacks import Kept
from mcp.node.links import PeerLinks
from mcp.node.scheduling import Place
from mcp.node.shelf import Shelf
from mcp.state.models import ModelVersion
from mcp.state.state import ReplicatedState
from mcp.wire.messages import Message

COPIES_MAX: Final = 64
"""Copies under way at this node; one more is not made."""

LEFT_S_MIN: Final = 0.001
"""What is left of a request's time is not less: so its refusal is that of whoever runs it."""

Read = Callable[[Exchange, ModelInfo], Mapping[str, NDArray[Any]]]
Ask = Callable[[Message, str, float], Awaitable[object]]
"""Has a node answer a message within so many seconds. Raises why it did not."""


class Routed:
    """One node's. All calls on the loop's thread."""

    def __init__(
        self, node_id: str, state: ReplicatedState, shelf: Shelf, links: PeerLinks, clock: Clock
    ) -> None:
        self.forwarded_total = 0
        """Requests that were passed on to another node."""
        self.copies: dict[str, int] = {"made": 0, "failed": 0, "skipped": 0}
        """What became of the copies that a route asked for."""
        self._node_id = node_id
        self._state = state
        self._shelf = shelf
        self._links = links
        self._clock = clock
        self._copying = 0

    async def forward(
        self, exchange: Exchange, decision: Decision, ask: Ask, timeout_s: float, wait_s: float = 0.0
    ) -> None:
        """Have another node answer, after ``wait_s``; the next best where one cannot be reached.

        Raises that node's error, :class:`~mcp.errors.Unavailable` where none is reached, and
        :class:`~mcp.errors.MessageExpired` for a message that was passed on too often.
        """
        asked = self.asked(exchange.message, decision)
        retries = decision.retries
        tries = 1 + (len(decision.nodes) - 1 if retries is None else retries.attempts)
        try_s = timeout_s if retries is None or retries.timeout_s is None else retries.timeout_s
        deadline = self._clock.monotonic() + timeout_s
        await asyncio.sleep(wait_s)
        problem: McpError = unreachable(decision.nodes[0].node)
        for number in range(max(1, tries)):
            node = decision.nodes[number % len(decision.nodes)].node
            left_s = deadline - self._clock.monotonic()
            if self._links.connection(node) is None or left_s <= 0:
                continue
            try:
                await ask(asked, node, min(left_s, try_s))
            except McpError as error:
                problem = error
                if not passes(error):
                    break
            else:
                return
        try:
            raise problem
        finally:
            del problem  # its traceback has this frame: they would keep each other, and the request

    async def forward_placed(
        self,
        exchange: Exchange,
        decision: Decision,
        place: Place,
        ask: Ask,
        here: Callable[[float], Coroutine[Any, Any, None] | None],
        wait_s: float,
    ) -> None:
        """Have the node of the place answer once it has one, or the next that the scheduler chooses.

        ``here`` answers, or gives the work that will, where that is this node. Raises the last error.
        """
        asked, retries = self.asked(exchange.message, decision), decision.retries
        tries = len(place.candidates) if retries is None else 1 + retries.attempts
        try_s = math.inf if retries is None or retries.timeout_s is None else retries.timeout_s
        await asyncio.sleep(wait_s)
        while True:
            await place.turned()
            node, left_s = place.node, max(LEFT_S_MIN, place.left_s)
            assert node is not None
            if node == self._node_id:
                later = here(left_s)
                return None if later is None else await later
            try:
                await ask(asked, node, min(left_s, try_s))
            except McpError as error:
                tries -= 1
                over = not passes(error) or tries < 1 or place.left_s <= 0
                if over or not place.again(error):
                    raise
            else:
                return None

    def asked(self, message: Message, decision: Decision) -> Message:
        """What another node is asked. Raises :class:`~mcp.errors.MessageExpired`."""
        return Message(
            message.type,
            {**message.payload, "model_hint": f"{decision.model}@{decision.version}"},
            new_id(self._clock),
            message.trace_id,
            message.vector,
            message.ttl.hop(),
        )

    async def ask(
        self, exchange: Exchange, asked: Message, node: str, timeout_s: float, keep: Kept | None = None
    ) -> object:
        """Have ``node`` answer, once; gives what it says of its queue. ``keep`` is called with the answer.

        Raises that node's error, and :class:`~mcp.errors.Unavailable` where it is not reached.
        """
        connection = self._links.connection(node)
        if connection is None:
            raise unreachable(node)
        answer = await connection.request(asked, exchange.segments, timeout_s=timeout_s)
        payload = dict(answer.message.payload)
        waited_s = payload.pop("waited_s", None)
        if type(waited_s) is float and waited_s >= 0:
            exchange.waited_s = waited_s
        self.forwarded_total += 1
        exchange.reply(exchange.message.reply(answer.message.type, payload), answer.segments, plain=True)
        if keep is not None:
            keep(payload, answer.segments)
        return payload.get("queue")

    def copy(self, exchange: Exchange, decision: Decision, read: Read, timeout_s: float) -> None:
        """Run the copies of a request that are for this node, once it has had its own turn."""
        for mirrored in decision.mirrored:
            version = self._state.models.get(mirrored.model, mirrored.version)
            here = any(node.node == self._node_id for node in mirrored.nodes)
            info = None if version is None else self._shelf.info(version.digest)
            if version is None or info is None or not here or self._copying >= COPIES_MAX:
                self.copies["skipped"] += 1
                continue
            self._copying += 1
            run = functools.partial(self._run, exchange, version, info, read, timeout_s)
            asyncio.get_running_loop().call_soon(run)

    def _run(
        self, exchange: Exchange, version: ModelVersion, info: ModelInfo, read: Read, timeout_s: float
    ) -> None:
        try:
            inputs = read(exchange, info)
            if not self._shelf.batches:
                raise Unavailable("models are not run this way here")
            taken = self._shelf.submit(version, inputs, None, timeout_s, "copies", self._done)
        except McpError as error:
            self._done(None, error)
        else:
            if isinstance(taken, dict):
                self._done(taken, None)

    def _done(self, outputs: object, error: BaseException | None) -> None:
        self._copying -= 1
        self.copies["made" if error is None else "failed"] += 1


def unreachable(node: str) -> Unavailable:
    """The error of a node that this one has no connection to."""
    return Unavailable(f"this node has no connection to {node}; ask that one")


def passes(error: McpError) -> bool:
    """Whether another node may answer what one has answered so."""
    return error.retryable or isinstance(error, DeadlineExceeded)
