"""What a node answers: one table from message type to operation.

Requests arrive as callbacks. What can be answered at once is (a small model, a read that is not behind);
what takes a commit is answered from the commit's own callback; only what has several steps gets a task.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from consensus.configuration import Standing
from consensus.driver import Applied as Committed
from consensus.errors import ConsensusError
from mcp.errors import (
    InvalidArgument,
    McpError,
    MessageExpired,
    PermissionDenied,
    Unavailable,
)
from mcp.net.exchange import Exchange
from mcp.node.artefacts import Artefacts
from mcp.node.blobs import BlobStatus
from mcp.node.commands import CommandGroup
from mcp.node.deploy import Deployer
from mcp.node.inference import DirectInference
from mcp.node.order import Order, refusal
from mcp.node.payload import integer, mapping, text
from mcp.node.reads import Reads
from mcp.node.rollouts import Counting
from mcp.node.roster import Roster
from mcp.node.routing import Routing
from mcp.node.streaming import StreamedInference
from mcp.node.submitting import Submitting
from mcp.node.translation import translated
from mcp.state.applied import Applied
from mcp.state.commands import encode_command
from mcp.wire.handshake import Role
from mcp.wire.messages import EMPTY_VECTOR

Operation = Callable[[Exchange], Coroutine[Any, Any, None]]
REQUESTS_ACTIVE_MAX = 8_192
UNKNOWN = "unknown"
"""Under which requests of a type that there is not are counted: what peers send must not make this grow."""
NEEDS_STATE = frozenset({"INFER_REQUEST", "INFER_STREAM", "READ", "INFERENCE_WAIT", "ROUTE_EXPLAIN"})
"""What is answered from this node's state, which must not be that of before a restart."""


NEEDS_MEMBERSHIP = frozenset({"COMMAND", "COMMANDS", "DEPLOY", "MEMBER_CHANGE"})
"""What a node that was removed has nobody to ask for."""


class Dispatch:
    """The operations of one node; :meth:`on_request` is the way in."""

    def __init__(
        self,
        order: Order,
        reads: Reads,
        direct: DirectInference,
        streamed: StreamedInference,
        routing: Routing,
        deployer: Deployer,
        artefacts: Artefacts,
        status: Callable[..., dict[str, Any]],
        roster: Roster,
        counting: Counting,
        *,
        caught_up: Callable[[], bool],
        admit: Callable[[str, Mapping[str, Any]], None],
        submitting: Submitting,
        others: Mapping[str, Callable[[Exchange], None]],
        in_groups: Callable[[], bool],
        request_timeout_s_max: float,
    ) -> None:
        self.counts: dict[str, int] = {}
        self.expired_total = 0
        """Requests that had expired when they arrived."""
        self._order = order
        self._reads = reads
        self._direct = direct
        direct.spawn = self._spawn
        self._streamed = streamed
        self._routing = routing
        self._deployer = deployer
        self._artefacts = artefacts
        self._status = status
        self._roster = roster
        self._caught_up = caught_up
        self._admit = admit
        self._submitting = submitting
        self._in_groups = in_groups
        self._timeout_s_max = request_timeout_s_max
        self._active: dict[asyncio.Task[None], None] = {}
        self._at_once: dict[str, Callable[[Exchange], None]] = {
            "COMMAND": self._command,
            "COMMANDS": self._commands,
            "STATUS": self._answer_status,
            "INFER_STREAM": self._stream,
            **others,
            "ROLLOUT_FIGURES": counting.answer,
        }
        self._in_a_task: dict[str, Operation] = {
            "READ": self._read,
            "INFERENCE_WAIT": self._inference_wait,
            "ROUTE_EXPLAIN": self._explain,
            "BLOB_STAT": self._blob_stat,
            "BLOB_PUT": self._blob_put,
            "BLOB_GET": self._blob_get,
            "DEPLOY": self._deploy,
            "MODEL_PREPARE": self._model_prepare,
            "MEMBER_CHANGE": self._member_change,
        }

        self._known = frozenset([*self._at_once, *self._in_a_task, "INFER_REQUEST"])

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = list(self._active)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def on_request(self, exchange: Exchange) -> None:
        """Answer a request, now or later."""
        kind = exchange.message.type
        counted = kind if kind in self._known else UNKNOWN
        self.counts[counted] = self.counts.get(counted, 0) + 1
        try:
            if exchange.message.ttl.expired:
                self.expired_total += 1
                raise MessageExpired("the message's ttl.ms had run out when it arrived; send it with more")
            if kind in NEEDS_STATE and not self._may_answer(exchange):
                if self._is_outside():
                    raise self._roster.outsiders_refusal()
                raise Unavailable("this node is starting and has not caught up; ask another one, or wait")
            if self._roster.removed and kind in NEEDS_MEMBERSHIP:
                raise self._roster.outsiders_refusal()
            if kind == "INFER_REQUEST":
                self._infer(exchange)
            elif kind in self._at_once:
                self._at_once[kind](exchange)
            elif kind in self._in_a_task:
                self._spawn(exchange, self._in_a_task[kind](exchange))
            else:
                known = ", ".join(sorted(self._known))
                raise InvalidArgument(f"message type {kind!r:.80} is unknown; this node answers {known}")
        except McpError as error:
            exchange.fail(error)

    def _may_answer(self, exchange: Exchange) -> bool:
        """Whether this node's state is good enough; for a read that may be stale any member's is."""
        return self._caught_up() or (_stale(exchange) and not self._is_outside())

    def _is_outside(self) -> bool:
        # Asked now, and not when the roster looked last: one that starts again may have been removed before.
        return self._order.driver.status().standing is Standing.OUTSIDER

    def _spawn(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        if len(self._active) >= REQUESTS_ACTIVE_MAX:
            work.close()
            raise self._order.busy(f"{REQUESTS_ACTIVE_MAX} requests are under way on this node")
        task = asyncio.ensure_future(self._run(exchange, work))
        self._active[task] = None
        task.add_done_callback(functools.partial(self._ended, work))
        exchange.on_cancel(lambda: task.cancel() and None)

    def _ended(self, work: Coroutine[Any, Any, None], task: asyncio.Task[None]) -> None:
        del self._active[task]
        work.close()  # for a request that was cancelled before its task had begun

    @staticmethod
    async def _run(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # every request is answered, whatever went wrong
            exchange.fail(translated(error))

    def _timeout_s(self, exchange: Exchange) -> float:
        return min(self._timeout_s_max, exchange.message.ttl.ms / 1000)

    def _reply(
        self, exchange: Exchange, kind: str, payload: dict[str, Any], index: int, *, final: bool = False
    ) -> None:
        vector = EMPTY_VECTOR.advance("log", index) if index else EMPTY_VECTOR
        exchange.reply(exchange.message.reply(kind, payload, vector), final=final)

    # -- ordered commands ---------------------------------------------------------------------------

    def _command(self, exchange: Exchange) -> None:
        payload = exchange.message.payload
        data = encode_command(
            text(payload, "op"),
            mapping(payload, "args"),
            session=text(payload, "session"),
            seq=integer(payload, "seq"),
            ack=integer(payload, "ack"),
        )
        op, args = payload["op"], payload.get("args", {})
        wait_s = self._let_in(exchange, op, args)
        done, timeout_s = functools.partial(self._committed, exchange), self._timeout_s(exchange)
        self._submitting.submit(op, args, wait_s, data, done, exchange.fail, timeout_s=timeout_s)

    def _let_in(self, exchange: Exchange, op: str, args: Mapping[str, Any]) -> float:
        """Refuse a command that is not to be proposed; gives how long to wait before it is."""
        self._admit(op, args)
        if op != "inference.submit":
            return 0.0
        return self._submitting.let_in(exchange.connection.peer.node_id, args)

    def _commands(self, exchange: Exchange) -> None:
        let_in = functools.partial(self._let_in, exchange)
        group = CommandGroup(exchange, self._order, let_in, self._submitting.submit, self._answer_commands)
        group.submit(
            exchange.message.payload.get("commands"),
            in_groups=self._in_groups(),
            timeout_s=self._timeout_s(exchange),
        )

    def _answer_commands(self, exchange: Exchange, group: CommandGroup) -> None:
        payload = {"results": group.results, "leader": self._order.leader}
        self._reply(exchange, "COMMANDS_RESULT", payload, group.index, final=group.plain)
        # The client goes on with these while this node answers others.
        exchange.connection.flush()

    def _committed(self, exchange: Exchange, outcome: Committed | ConsensusError) -> None:
        if isinstance(outcome, ConsensusError):
            exchange.fail(translated(outcome))
            return
        applied: Applied = outcome.result
        if applied.error is not None:
            exchange.fail(refusal(applied, outcome.index))
            return
        payload = {"index": outcome.index, "value": applied.value, "leader": self._order.leader}
        self._reply(exchange, "COMMAND_RESULT", payload, outcome.index)

    # -- reads --------------------------------------------------------------------------------------

    async def _read(self, exchange: Exchange) -> None:
        message = exchange.message
        index, value = await self._reads.read(
            text(message.payload, "kind"),
            mapping(message.payload, "args"),
            text(message.payload, "consistency"),
            message.vector,
            self._timeout_s(exchange),
        )
        if message.payload["kind"] == "members":
            value = self._roster.described(value)
        payload = {"index": index, "value": value, "leader": self._order.leader}
        self._reply(exchange, "READ_RESULT", payload, index)

    async def _inference_wait(self, exchange: Exchange) -> None:
        message = exchange.message
        index, value = await self._reads.finished_inference(
            text(message.payload, "id"), message.vector, self._timeout_s(exchange)
        )
        payload = {"index": index, "value": value, "leader": self._order.leader}
        self._reply(exchange, "READ_RESULT", payload, index)

    def _answer_status(self, exchange: Exchange) -> None:
        with_digest = exchange.message.payload.get("digest") is True
        self._reply(exchange, "STATUS_RESULT", self._status(with_digest=with_digest), 0)

    # -- direct inference ---------------------------------------------------------------------------

    def _infer(self, exchange: Exchange) -> None:
        timeout_s = self._timeout_s(exchange)
        later = self._direct.answer(exchange, timeout_s)
        if later is not None:
            self._spawn(exchange, later)

    def _stream(self, exchange: Exchange) -> None:
        later = self._streamed.answer(exchange, self._timeout_s(exchange))
        if later is not None:
            self._spawn(exchange, later)

    async def _explain(self, exchange: Exchange) -> None:
        seen = exchange.message.vector.get("log")
        await self._order.wait_applied(seen, self._timeout_s(exchange))
        self._reply(exchange, "ROUTE_EXPLAINED", self._routing.explain(exchange), self._order.applied_index)

    # -- artefacts ----------------------------------------------------------------------------------

    async def _blob_stat(self, exchange: Exchange) -> None:
        digest = text(exchange.message.payload, "digest")
        self._blob_status(exchange, await asyncio.to_thread(self._artefacts.store.status, digest))

    async def _blob_put(self, exchange: Exchange) -> None:
        payload = exchange.message.payload
        if len(exchange.segments) != 1:
            raise InvalidArgument(f"BLOB_PUT takes one segment, got {len(exchange.segments)}")
        status = await self._artefacts.put(
            text(payload, "digest"),
            integer(payload, "size"),
            integer(payload, "offset"),
            memoryview(exchange.segments[0]),
        )
        self._blob_status(exchange, status)

    def _blob_status(self, exchange: Exchange, status: BlobStatus) -> None:
        payload = {
            "digest": status.digest,
            "size": status.size,
            "received": status.received,
            "complete": status.complete,
        }
        self._reply(exchange, "BLOB_STATUS", payload, 0)

    async def _blob_get(self, exchange: Exchange) -> None:
        payload = exchange.message.payload
        digest, offset = text(payload, "digest"), integer(payload, "offset")
        chunk = await self._artefacts.read(digest, offset, integer(payload, "length"))
        size = self._artefacts.store.status(digest).size
        answer = {"digest": digest, "offset": offset, "size": size}
        exchange.reply(exchange.message.reply("BLOB_CHUNK", answer), (memoryview(chunk),))

    # -- models -------------------------------------------------------------------------------------

    async def _deploy(self, exchange: Exchange) -> None:
        payload = exchange.message.payload
        answer = await self._deployer.deploy(
            text(payload, "session"),
            integer(payload, "seq"),
            integer(payload, "ack"),
            mapping(payload, "manifest"),
            self._timeout_s(exchange),
            activate=_wanted(payload, "activate"),
        )
        self._reply(exchange, "DEPLOYED", answer, answer["index"])

    async def _model_prepare(self, exchange: Exchange) -> None:
        peer = exchange.connection.peer
        if peer.role is not Role.NODE:
            raise PermissionDenied("MODEL_PREPARE is what nodes say to one another; use DEPLOY")
        manifest = mapping(exchange.message.payload, "manifest")
        answer = await self._deployer.prepare(manifest, peer.node_id, self._timeout_s(exchange))
        self._reply(exchange, "MODEL_PREPARED", answer, 0)

    # -- members ------------------------------------------------------------------------------------

    async def _member_change(self, exchange: Exchange) -> None:
        payload, timeout_s = exchange.message.payload, self._timeout_s(exchange)
        if self._order.driver.status().standing is Standing.OUTSIDER:
            raise Unavailable("this node is no member of the cluster; ask another one")
        what, node = text(payload, "change"), text(payload, "node")
        journal = None if payload.get("journal") is None else integer(payload, "journal")
        if what == "join":
            peer = exchange.connection.peer
            if peer.role is not Role.NODE or peer.node_id != node or journal is None:
                raise PermissionDenied(
                    "a node joins by itself: start it with --join and an address of a member"
                )
            index = await self._roster.take_in(node, journal, text(payload, "address"), timeout_s)
        elif what == "promote":
            index = await self._roster.promote(node, journal, timeout_s)
        elif what == "remove":
            index = await self._roster.remove(node, journal, timeout_s)
        else:
            raise InvalidArgument(f"change {what!r:.40} is unknown: choose join, promote or remove")
        answer = {"index": index, "members": self._roster.to_plain()}
        self._reply(exchange, "MEMBER_CHANGED", answer, 0)


def _stale(exchange: Exchange) -> bool:
    return exchange.message.payload.get("consistency") == "stale"


def _wanted(payload: Mapping[str, Any], name: str) -> bool:
    """A field that is true where it is missing. Raises :class:`InvalidArgument`."""
    value = payload.get(name, True)
    if type(value) is not bool:
        raise InvalidArgument(f"{name} is true or false, not {value!r:.40}")
    return value
