"""One call: pick a node, send, and again elsewhere while that is safe and there is time.

The shell around the pure cores: :mod:`mcp.client.routing` decides where, :mod:`mcp.client.retry` whether
and when. What every call shares lives here: the session vector, which every request carries and every
answer advances, the retry budget, and the background work of finding and connecting to the members.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp.causality.vector import VersionVector
from mcp.client import answers
from mcp.client.connections import Connections, Dial, NodeConnection
from mcp.client.hedging import Hedging
from mcp.client.kinds import CallKind
from mcp.client.opened import Opened, first_part
from mcp.client.results import NodeStatus
from mcp.client.retry import Attempts, RetryBudget, RetryLimits, elsewhere_at_once, retryable
from mcp.client.routing import Routing
from mcp.client.tracing import current_trace
from mcp.clock import Clock
from mcp.cluster.outcome import Outcome
from mcp.errors import (
    AuthenticationFailed,
    Busy,
    DeadlineExceeded,
    DependencyMissing,
    InferenceFailed,
    McpError,
    ModelNotReady,
    NoLeader,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    ProviderUnavailable,
    StorageError,
    Unavailable,
)
from mcp.net.calls import Call
from mcp.net.interface import Reply
from mcp.wire.messages import Message, Ttl

_log = logging.getLogger(__name__)

T = TypeVar("T")

Payload = Mapping[str, Any] | Callable[[float], dict[str, Any]]
"""A request's payload, or what makes it for an attempt that may take that many seconds."""

Prepare = Callable[[str], Awaitable[None]]
"""What has to be done at the node with this address before an attempt there."""

_REFUSALS = (AuthenticationFailed, PermissionDenied, ProtocolError)
_FAULTS = (InferenceFailed, StorageError, ProviderUnavailable, DependencyMissing)


def refusal(error: McpError) -> McpError | None:
    """Why a node would not talk to us (another key, another version), if that is what ``error`` says.

    One that was removed from its cluster will answer nothing, either.
    """
    if isinstance(error, Unavailable) and error.details.get("removed") is True:
        return error
    reason = error.__cause__
    return reason if isinstance(error, Unavailable) and isinstance(reason, _REFUSALS) else None


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """The limits that every call shares."""

    dial_timeout_s: float = 2.0
    status_timeout_s: float = 2.0
    """How long one node is waited for when all are asked for their status."""
    hops_max: int = 4
    """How often nodes may pass a request on."""


@dataclass(slots=True)
class Request:
    """What to send. ``to_leader``: the leader answers it without a further hop."""

    kind: CallKind
    type: str
    payload: Payload
    segments: Sequence[Any] = ()
    to_leader: bool = False
    trace_id: str = ""
    plain: bool = False
    final: bool = False
    """What is known of the payload: see :meth:`mcp.net.connection.Connection.begin`."""
    hedged_as: str = ""
    """Where it may be hedged: what its latency is compared with."""
    credit: int = 0
    """Where it is answered in parts: how many may wait here; and, of the whole answer, the deadline."""
    deadline: float = math.inf


@dataclass(slots=True)
class Answer:
    """A node's answer: its payload and segments, and where it came from."""

    payload: dict[str, Any]
    segments: Sequence[Any]
    address: str
    rest: Opened | None = None
    """What comes after the first part, of an answer in parts."""


Done = Callable[[Answer | McpError], None]
"""Takes what came of a request: its answer, or why there is none."""


class Sent:
    """A request that has left by itself, as a callback: no task waits for its answer."""

    __slots__ = ("address", "ahead", "began", "call", "done", "kind", "node")

    def __init__(
        self,
        kind: CallKind,
        node: NodeConnection,
        address: str,
        call: Call,
        began: float,
        ahead: float,
        done: Done,
    ) -> None:
        self.kind = kind
        self.node = node
        self.address = address
        self.call = call
        self.began = began
        self.ahead = ahead
        self.done = done

    def cancel(self) -> None:
        """Nobody waits for the answer any more: the node is told."""
        if not self.call.future.done():
            self.node.connection.abandon(self.call)
            self.call.cancel()


class Exchange:
    """Sends the calls of one client. Use it on one event loop, from any number of tasks."""

    def __init__(
        self,
        dial: Dial,
        routing: Routing,
        clock: Clock,
        *,
        limits: ExchangeLimits | None = None,
        retries: RetryLimits | None = None,
        hedging: Hedging | None = None,
    ) -> None:
        self.hedging = hedging
        self.routing = routing
        self.clock = clock
        self.limits = limits or ExchangeLimits()
        self.vector = VersionVector()
        self._ttl = Ttl(self.limits.hops_max)
        self._retries = retries or RetryLimits()
        self._budget = RetryBudget(self._retries)
        self._random = clock.random()
        self._connections = Connections(dial, routing, clock, dial_timeout_s=self.limits.dial_timeout_s)
        self._background: dict[asyncio.Task[Any], None] = {}
        self._refresh: asyncio.Task[None] | None = None
        self.closed = False

    def fresh_id(self) -> str:
        """32 hexadecimal digits that name a message or a trace. Unique, and no secret."""
        return f"{self._random.getrandbits(128):032x}"

    def attempts(self, kind: CallKind, timeout_s: float, deadline: float | None = None) -> Attempts:
        """The attempts of a call that may take ``timeout_s`` and begins now, or ends at the ``deadline``."""
        self._budget.deposit()
        return Attempts(
            kind,
            self.clock.monotonic() + timeout_s if deadline is None else deadline,
            timeout_s=timeout_s,
            limits=self._retries,
            budget=self._budget,
            random_=self._random,
        )

    # -- one call ---------------------------------------------------------------------------------

    async def call(
        self, request: Request, attempts: Attempts, *, prepare: Prepare | None = None, avoid: str = ""
    ) -> Answer:
        """Send ``request`` until there is an answer, by the rules of :mod:`mcp.client.retry`.

        ``avoid``: the address of a node that failed to answer it already. Raises what those rules end
        with: a node's definite error, ``DeadlineExceeded``, or ``OutcomeUnknown`` for a command whose answer
        was lost.
        """
        trace_id = request.trace_id or current_trace() or self.fresh_id()
        tried: set[str] = {avoid} if avoid else set()
        refusals: dict[str, McpError] = {}
        home: str | None = None
        while True:
            now = self.clock.monotonic()
            if now >= attempts.deadline:
                raise attempts.out_of_time()
            address = self._pick(request, now, tried, home)
            tried.add(address)
            failure = None
            if prepare is not None:
                failure = await self._prepared(prepare, address)
                home, now = address, self.clock.monotonic()
            if failure is None:
                others = request.kind is not CallKind.INFER or self.routing.untried(now, tried)
                timeout_s = attempts.attempt_timeout(now, others=others)
                try:
                    if self.hedging is not None and request.hedged_as:
                        return await self._hedged(self.hedging, request, address, timeout_s, trace_id, tried)
                    return await self.attempt(request, address, timeout_s, trace_id)
                except McpError as error:
                    failure = self._failure(address, error, refusals)
            if elsewhere_at_once(failure):
                home = None
            try:
                sent = not set(self.routing.addresses) <= refusals.keys()
                await self.pause(request.type, attempts, failure, tried, sent=sent)
            except McpError:
                refusals.clear()
                raise
            finally:
                del failure

    async def pause(
        self, what: str, attempts: Attempts, failure: McpError, tried: set[str], *, sent: bool = True
    ) -> None:
        """After an attempt that failed: wait until the next one, or raise what the call ends with.

        ``sent``: whether the request left; it did not where the node would not talk to us.
        """
        try:
            await self._pause(what, attempts, failure, tried, sent)
        except McpError as error:
            # The frames on its way hold it, and the request with all of its tensors: they would keep each
            # other until the collector comes.
            attempts.last_error = None
            raise error.with_traceback(None) from error.__cause__
        finally:
            del failure

    async def _pause(
        self, what: str, attempts: Attempts, failure: McpError, tried: set[str], sent: bool
    ) -> None:
        now = self.clock.monotonic()
        if self.closed:
            raise attempts.ended(Unavailable("the client was closed; make a new one"), failure)
        others = self.routing.untried(now, tried)
        delay_s = attempts.failed(failure, now, others=others, sent=sent)
        _log.debug("%s: %s: %s; again in %.3f s", what, failure.code, failure.message, delay_s)
        if not others:
            tried.clear()
        if delay_s:
            await asyncio.sleep(delay_s)

    # -- calls that go together (mcp.client.gathering, mcp.client.stacking) -------------------

    def commands_at(self) -> tuple[str, int] | None:
        """Which node takes commands, and how many in one message; ``None``: one, or it is not there yet."""
        address = self.routing.pick(CallKind.COMMAND, self.clock.monotonic())
        node = self._connections.at_hand(address)
        most = 1 if node is None else node.connection.peer.limits.commands_max
        return (address, most) if most > 1 else None

    def infers_at(self, left_s: float, now: float) -> tuple[str, float] | None:
        """The node that takes the next inference, if it is connected, and for how long, of ``left_s``."""
        address = self.routing.pick(CallKind.INFER, now)
        if self._connections.at_hand(address) is None:
            return None
        if self.routing.untried(now, (address,)):
            left_s = min(left_s, max(self._retries.attempt_min_s, left_s * self._retries.infer_share))
        return address, left_s

    def command_attempt_s(self, left_s: float) -> float:
        """How long a command's first attempt may take of the time that is left for it."""
        return min(left_s, self._retries.attempt_min_s)

    def send_now(
        self, request: Request, address: str, timeout_s: float, calls: int, done: Done
    ) -> Sent | None:
        """One attempt for so many calls, which leaves at once: ``done`` is called with what came of it, once.

        ``None``: there is no place for it just now, and nothing was sent.
        """
        node = self._connections.at_hand(address)
        if node is None or self.closed:
            return None
        places = node.places(request.kind)
        if not places.take():
            return None
        self._budget.deposit(calls)
        began = self.clock.monotonic()
        try:
            # Of what goes together it is the trace of the call that began it.
            call = self._begin(request, node, timeout_s, current_trace() or self.fresh_id())
        except McpError:
            places.give()
            return None
        node.connection.flush()
        ahead = self.routing.started(request.kind, address, began)
        sent = Sent(request.kind, node, address, call, began, ahead, done)
        call.go_on(functools.partial(self._over, sent))
        return sent

    def _over(self, sent: Sent, reply: asyncio.Future[Reply]) -> None:
        """What was sent by itself has its answer, or will have none."""
        sent.node.places(sent.kind).give()
        outcome, queue = Outcome.ABANDONED, None
        result: Answer | McpError
        if reply.cancelled():
            result = OutcomeUnknown("the call was cancelled before the answer came")
        elif (error := reply.exception()) is None:
            came = reply.result()
            outcome, queue = Outcome.ANSWERED, _queue(came.message.payload)
            result = self._take(came, sent.address)
        elif isinstance(error, McpError):
            outcome = self._judge(sent.kind, sent.address, sent.node, error)
            self._met(error.details.get("index"))
            result = error
        else:
            result = OutcomeUnknown(f"{type(error).__name__} while waiting for the answer")
        now = self.clock.monotonic()
        self.routing.finished(
            sent.kind, sent.address, outcome, now, now - sent.began, ahead=sent.ahead, queue=queue
        )
        self._maintain(now)
        sent.done(result)

    def commands_failed(self, address: str, error: McpError) -> None:
        """Note what the error of a command says about the node."""
        self._judge(CallKind.COMMAND, address, self._connections.at_hand(address), error)

    async def _prepared(self, prepare: Prepare, address: str) -> McpError | None:
        """Prepare the node; what went wrong, if anything did."""
        try:
            await prepare(address)
        except McpError as error:
            return error
        return None

    def _pick(self, request: Request, now: float, tried: set[str], home: str | None) -> str:
        """``home`` is where something was prepared: kept, as long as nothing speaks against it."""
        if home is not None and not self.routing.in_backoff(home, now):
            return home
        return self.routing.pick(request.kind, now, avoid=tried, to_leader=request.to_leader)

    def _failure(self, address: str, error: McpError, refusals: dict[str, McpError]) -> McpError:
        """What an error means for the call. A node that will not talk to us is one node less."""
        reason = refusal(error)
        if reason is None:
            return error
        refusals[address] = reason
        self.routing.hear(answers.members_named(error))
        return reason if set(self.routing.addresses) <= refusals.keys() else error

    async def attempt(self, request: Request, address: str, timeout_s: float, trace_id: str = "") -> Answer:
        """Send ``request`` once, to the node at ``address``, and note how that went."""
        began = self.clock.monotonic()
        outcome, node = Outcome.ABANDONED, None
        ahead, queue = self.routing.started(request.kind, address, began), None
        try:
            node = self._connections.at_hand(address) or await self._connect(address, timeout_s)
            if request.credit:
                opened = await self._open(request, node, address, timeout_s, trace_id)
                outcome = Outcome.ANSWERED
                return opened
            places = node.places(request.kind)
            if not places.take():
                await node.wait_for_place(places, timeout_s)
            try:
                left_s = timeout_s - (self.clock.monotonic() - began)
                call = self._begin(request, node, left_s, trace_id)
                try:
                    reply = await call.future
                except asyncio.CancelledError:
                    node.connection.abandon(call)
                    raise
                finally:
                    del call  # see Connection.request
            finally:
                places.give()
            outcome, queue = Outcome.ANSWERED, _queue(reply.message.payload)
        except McpError as error:
            outcome = self._judge(request.kind, address, node, error)
            self._met(error.details.get("index"))
            raise
        finally:
            now = self.clock.monotonic()
            self.routing.finished(request.kind, address, outcome, now, now - began, ahead=ahead, queue=queue)
            self._maintain(now)
        return self._take(reply, address)

    async def _hedged(
        self,
        hedging: Hedging,
        request: Request,
        address: str,
        timeout_s: float,
        trace_id: str,
        tried: set[str],
    ) -> Answer:
        """As :meth:`attempt`; a second node is asked too where that takes long. The slower one is told."""
        began = self.clock.monotonic()
        wait_s = hedging.begun(request.hedged_as)
        first = asyncio.ensure_future(self.attempt(request, address, timeout_s, trace_id))
        attempts = [first]
        try:
            if wait_s is not None and wait_s < timeout_s:
                done, _ = await asyncio.wait(attempts, timeout=wait_s)
                now = self.clock.monotonic()
                if not done and self.routing.untried(now, tried) and hedging.spend():
                    other = self.routing.pick(request.kind, now, avoid=tried)
                    tried.add(other)
                    left_s = timeout_s - (now - began)
                    attempts.append(asyncio.ensure_future(self.attempt(request, other, left_s, trace_id)))
            winner = await _first_answer(attempts)
            by_hedge = winner is not first
            hedging.answered(request.hedged_as, self.clock.monotonic() - began, by_hedge=by_hedge)
            return winner.result()
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    def _begin(self, request: Request, node: NodeConnection, left_s: float, trace_id: str) -> Call:
        if left_s <= 0:
            raise Unavailable("the whole time went by before the request could be sent")
        message = self._message(request, left_s, trace_id)
        return node.connection.begin(
            message, request.segments, timeout_s=left_s, plain=request.plain, final=request.final
        )

    async def _open(
        self, request: Request, node: NodeConnection, address: str, timeout_s: float, trace_id: str
    ) -> Answer:
        """Begin a stream. Its first part has to be there in ``timeout_s``; its deadline is its own."""
        began = self.clock.monotonic()
        if not node.streams.take():
            await node.wait_for_place(node.streams, timeout_s)
        self.routing.started(request.kind, address, began)
        over = functools.partial(self._stream_over, request.kind, node, address)
        parts = None
        try:
            now = self.clock.monotonic()
            message = self._message(request, request.deadline - now, trace_id)
            parts = node.connection.stream(message, request.segments, timeout_s=request.deadline - now)
            async with asyncio.timeout(timeout_s - (now - began)):
                first = await first_part(parts)
        except BaseException as error:
            if parts is not None:
                parts.close()
            over()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"no step came within {timeout_s:.3g} s") from None
            raise
        return Answer(first.payload, first.segments, address, Opened(parts, over))

    def _stream_over(self, kind: CallKind, node: NodeConnection, address: str) -> None:
        node.streams.give()
        self.routing.finished(kind, address, Outcome.ABANDONED, self.clock.monotonic(), 0.0)
        if node.closed:
            self._connections.lost(address, node)

    async def _connect(self, address: str, timeout_s: float) -> NodeConnection:
        try:
            return await self._connections.get(address, timeout_s)
        except _REFUSALS as error:
            raise Unavailable(f"{address} refused the connection: {error.code}: {error}") from error

    def _message(self, request: Request, timeout_s: float, trace_id: str) -> Message:
        payload = request.payload
        made = payload(timeout_s) if callable(payload) else dict(payload)
        ms = max(1, int(timeout_s * 1000))
        ttl = self._ttl = self._ttl if self._ttl.ms == ms else Ttl(self.limits.hops_max, ms)
        return Message(request.type, made, self.fresh_id(), trace_id, self.vector, ttl, request.credit)

    def _take(self, reply: Reply, address: str) -> Answer:
        payload, vector = reply.message.payload, reply.message.vector
        if vector:
            self.vector = self.vector.merge(vector)
        self._met(payload.get("index"))
        leader = payload.get("leader")
        if isinstance(leader, str):
            self.routing.leader_is(leader)
        return Answer(payload, reply.segments, address)

    def _met(self, index: object) -> None:
        """The log is known to reach ``index``: what this client reads from now on is at least as new."""
        if isinstance(index, int) and index > 0:
            self.vector = self.vector.advance("log", index)

    def _judge(self, kind: CallKind, address: str, node: NodeConnection | None, error: McpError) -> Outcome:
        """What an error says about the node."""
        if node is not None and node.closed:
            self._connections.lost(address, node)
            return Outcome.FAILED
        if isinstance(error, NoLeader):
            self.routing.not_leader(address)
            return Outcome.REFUSED
        if isinstance(error, Busy | ModelNotReady):
            return Outcome.REFUSED
        if isinstance(error, Unavailable):
            return Outcome.FAILED
        if isinstance(error, DeadlineExceeded):
            return Outcome.ABANDONED if kind is CallKind.WAIT else Outcome.TIMED_OUT
        # One that has no subclass is INTERNAL, or of a later version.
        own = type(error) is McpError or isinstance(error, _FAULTS)
        return Outcome.FAULTED if own else Outcome.ANSWERED

    # -- the members ------------------------------------------------------------------------------

    def _maintain(self, now: float) -> None:
        """Begin what is due in the background: asking for the members, connecting to them."""
        if self.closed:
            return
        if self._refresh is None and self.routing.refresh_due(now):
            source = self._connections.any_open
            if source is not None:
                self.routing.refreshing(now)
                self._refresh = self.spawn(self._ask_members(source))
        if not self.routing.all_connected:
            self._connections.warm(self.routing.to_connect(now))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` in the background, until the client is closed."""
        task = asyncio.create_task(work)
        self._background[task] = None
        task.add_done_callback(self._background.pop)
        return task

    async def _ask_members(self, address: str) -> None:
        request = Request(CallKind.READ, "STATUS", {})
        try:
            answer = await self.attempt(request, address, self.limits.status_timeout_s)
            status = answers.node_status(address, answer.payload)
        except McpError as error:
            _log.debug("%s did not tell the members: %s: %s", address, error.code, error)
            self.routing.refresh_failed()
            return
        finally:
            self._refresh = None
        if status.is_outsider:  # the members that it knows are those of before
            self._connections.ask_last(address)
            self.routing.refresh_failed()
        self.learn([status])
        self._connections.forget(self.routing.addresses)
        self._connections.warm(self.routing.to_connect(self.clock.monotonic()))

    def learn(self, statuses: Sequence[NodeStatus]) -> None:
        """Take in the members, and who leads, as nodes tell it."""
        statuses = [status for status in statuses if not status.is_outsider]
        members = [(m.node, m.address) for status in statuses for m in status.members if m.address]
        members += [(s.leader, s.leader_address) for s in statuses if s.leader and s.leader_address]
        if members:
            self.routing.learn(members)

    async def close(self) -> None:
        """End the background work and every connection. Calls in flight end with an error."""
        self.closed = True
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._connections.close()


def _queue(payload: Mapping[str, Any]) -> int | None:
    """What a node says of its queue, if it does and if that makes sense."""
    queue = payload.get("queue")
    return queue if type(queue) is int and queue >= 0 else None


async def _first_answer(attempts: Sequence[asyncio.Task[Answer]]) -> asyncio.Task[Answer]:
    """The first attempt that is answered. A definite error ends it at once, another when all have failed."""
    waiting = set(attempts)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for attempt in done:
            error = attempt.exception()
            if error is None:
                return attempt
            if not waiting or not (isinstance(error, McpError) and retryable(error)):
                raise error
