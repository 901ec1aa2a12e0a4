"""The endpoints below ``/mcp/v1``: what the Open Inference Protocol lacks, on the cluster's client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request

from mcp.client.results import ClusterStatus, NodeStatus, Step
from mcp.client.tracing import current_trace, traced
from mcp.errors import InvalidArgument, McpError
from mcp.gateway.asgi import Bodies, Sendable, others_turn, unless_gone
from mcp.gateway.description import EVENTS
from mcp.gateway.failures import failure
from mcp.gateway.limits import WAIT_S_MAX
from mcp.gateway.messages import (
    ENCODINGS,
    INFER,
    STREAM,
    answer_pieces,
    end_event,
    error_event,
    read_ask,
    read_encoding,
    read_message,
    read_mode,
    read_stream,
    record_pieces,
    step_event,
)
from mcp.gateway.operations import Operations
from mcp.gateway.reply import Reply, Send, head, json_reply
from mcp.gateway.room import Held
from mcp.wire.messages import Message

_TURN_CHARS: Final = 64 * 1024
"""JSON that is written before others have the event loop."""
_ACCEPTED: Final = 202
_RECORDS: Final = "/mcp/v1/inferences"


class Coordination:
    """The endpoints, by the names in the description."""

    def __init__(self, operations: Operations, bodies: Bodies) -> None:
        self._operations = operations
        self._bodies = bodies

    async def message(self, request: Request, held: Held) -> Sendable:
        """An inference, or a stream of steps."""
        message = await self._message(request, held)
        with traced(message.trace_id):
            if message.type == STREAM:
                return await self._stream(request, message)
            _only(message, INFER, STREAM)
            ask = read_ask(message)
            asking = self._operations.infer_hint(
                ask.hint, ask.inputs, ask.outputs, ask.timeout_s, ask.context
            )
            answer = await unless_gone(request.receive, asking)
        return await _json(answer_pieces(message, answer, ask.encoding), held)

    async def submit(self, request: Request, held: Held) -> Sendable:
        """Have the log take an inference."""
        message = await self._message(request, held)
        _only(message, INFER)
        ask, mode = read_ask(message), read_mode(message)
        if ask.outputs is not None:
            raise InvalidArgument('"outputs" cannot be chosen: the record of an inference has all of them')
        with traced(message.trace_id):
            await self._operations.submit(ask.hint, ask.inputs, mode, message.id, ask.timeout_s)
        url = f"{_RECORDS}/{quote(message.id, safe='')}"
        return json_reply({"id": message.id, "url": url}, _ACCEPTED, {"Location": url})

    async def record(self, request: Request, held: Held) -> Sendable:
        """What became of it."""
        held.enter()
        query = request.query_params
        encoding = read_encoding(query.get("encoding", ENCODINGS[0]))
        finding = self._operations.record(request.path_params["id"], _wait_s(query.get("wait_s", "0")))
        return await _json(record_pieces(await unless_gone(request.receive, finding), encoding), held)

    async def cluster(self, _request: Request, _held: Held) -> Sendable:
        """How the nodes are."""
        return json_reply(_cluster(await self._operations.cluster()))

    async def _message(self, request: Request, held: Held) -> Message:
        """The message in the body; its trace is the request's where it names none."""
        body = await self._bodies.read(request, held)
        message = read_message(body, new_id=self._operations.fresh_id())
        message.trace_id = message.trace_id or current_trace()
        await self._operations.at_least(message.vector.get("log"))
        return message

    async def _stream(self, request: Request, message: Message) -> Sendable:
        ask, stream = read_ask(message), read_stream(message)
        steps = self._operations.stream(ask, stream)
        try:
            first = await unless_gone(request.receive, anext(steps))
        except BaseException:
            await steps.aclose()
            raise
        return Events(request, steps, first, ask.encoding, message.trace_id)


class Events:
    """A stream's steps as server-sent events, of which the first is here. Sent once."""

    status = 200

    def __init__(
        self, request: Request, steps: AsyncGenerator[Step, None], first: Step, encoding: str, trace_id: str
    ) -> None:
        self._request = request
        self._steps = steps
        self._first = first
        self._encoding = encoding
        self._trace_id = trace_id

    async def send(self, send: Send, headers: Mapping[str, str]) -> None:
        """Send the steps as they come, no faster than they are read. The node is told if nobody reads on."""
        named = {"Content-Type": EVENTS, "Cache-Control": "no-store", **headers}
        async with aclosing(self._steps):
            await send(head(self.status, named))
            try:
                await unless_gone(self._request.receive, self._events(send))
            except McpError as error:
                await _event(send, [error_event(failure(error))])
            await send({"type": "http.response.body", "body": b""})

    async def _events(self, send: Send) -> None:
        step = self._first
        await _event(send, step_event(step, self._encoding))
        async for step in self._steps:
            await _event(send, step_event(step, self._encoding))
        await _event(send, [end_event(step.number)])


async def _event(send: Send, pieces: Any) -> None:
    """Send one event whole, or nothing of it where it cannot be written."""
    text = "".join(pieces)
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _json(pieces: Iterator[str], held: Held) -> Reply:
    body: list[bytes] = []
    length = turn = 0
    for piece in pieces:
        body.append(piece.encode())
        length += len(body[-1])
        if length - turn > _TURN_CHARS:
            turn = length
            await others_turn()
    held.grow(length)
    return Reply(200, "application/json", body)


def _only(message: Message, *types: str) -> None:
    if message.type not in types:
        raise InvalidArgument(
            f'the message field "type" must be {" or ".join(types)} here, got {message.type!r:.80}; other'
            " messages travel on connections of the native protocol, which knows who sends them"
        )


def _wait_s(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= WAIT_S_MAX:
        raise InvalidArgument(f'"wait_s" must be seconds from 0 to {WAIT_S_MAX:g}, got {text!r:.40}')
    return seconds


def _cluster(status: ClusterStatus) -> dict[str, Any]:
    return {
        "leader": status.leader,
        "term": status.term,
        "voters": status.voters,
        "serves": status.serves,
        "nodes": [_node(node) for node in status.nodes],
        "models": [
            {
                "name": model.name,
                "version": model.version,
                "versions": model.versions,
                "aliases": model.aliases,
                "holders": model.holders,
            }
            for model in status.models
        ],
    }


def _node(node: NodeStatus) -> dict[str, Any]:
    told = {
        "node": node.node,
        "address": node.details.get("address", node.address),
        "reachable": node.reachable,
        "problem": node.problem,
    }
    if not node.reachable:
        return told
    return {
        **told,
        "role": node.role,
        "term": node.term,
        "leader": node.leader,
        "standing": node.standing,
        "first_index": node.first_index,
        "last_index": node.last_index,
        "commit_index": node.commit_index,
        "applied_index": node.applied_index,
        "storage": node.storage,
        "uptime_s": node.uptime_s,
        "package_version": node.package_version,
    }
