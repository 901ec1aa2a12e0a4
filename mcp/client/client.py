"""The asynchronous client: one obvious call for each thing that the cluster does."""

from __future__ import annotations

import asyncio
import os
import ssl as ssl_module
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, get_args, overload

from mcp.client import answers, arguments
from mcp.client.artefacts import Artefact, Progress, fetch, upload
from mcp.client.calls import read_request
from mcp.client.catalogue import CatalogueReads
from mcp.client.commands import CommandLane
from mcp.client.direct import DirectCalls
from mcp.client.exchange import Exchange, Request, refusal
from mcp.client.hedging import Hedge, Hedging
from mcp.client.kinds import CallKind
from mcp.client.many import Errors
from mcp.client.one_call import CALLS_MAX
from mcp.client.results import (
    ClusterStatus,
    Consistency,
    Deployment,
    InferenceRecord,
    KeyValue,
    MemberStatus,
    Mode,
    ModelInputs,
    ModelStatus,
    NodeStatus,
    cluster_status,
)
from mcp.client.routing import Routing
from mcp.client.stacking import Stacking
from mcp.client.tensors import packed_inline, unpacked, unpacked_blob
from mcp.client.tracing import current_trace
from mcp.client.traffic import TrafficCalls
from mcp.client.views import NodesView, nodes_view
from mcp.clock import Clock, SystemClock, new_id
from mcp.errors import DeadlineExceeded, InvalidArgument, McpError, NotFound
from mcp.net.address import Scheme, parse_address
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.net.limits import Limits
from mcp.net.memory import MemoryNetwork
from mcp.net.polling import POLL_S
from mcp.state.batching import read_batching
from mcp.state.requirements import REQUIREMENT_FIELDS
from mcp.wire.handshake import Identity, Role

TIMEOUT_S: Final = 10.0
"""How long a call may take, unless the client or the call says otherwise."""
DEPLOY_TIMEOUT_S: Final = 60.0
_DELETED: Final = "the answer to a deletion by prefix"
KEYS_PER_READ_MAX: Final = 1000
"""How many keys a node lists in one answer."""
CONNECTION_LIMITS: Final = Limits(keepalive_s=1.5, dead_after_s=5.0)
"""A node that hangs without closing its connections is found out within a call's time."""


class Client(DirectCalls, CatalogueReads, TrafficCalls):
    """A client of one cluster. Use it on one event loop, from any number of tasks.

    In short::

        async with Client(["10.0.0.1:7400", "10.0.0.2:7400"]) as client:
            answer = await client.infer("digits", scan)

    ``addresses`` are some of the nodes; the others are found by asking them. ``cluster_key`` is the
    secret that every node and client of the cluster holds. ``timeout_s`` bounds each call that does not
    say otherwise. With ``hedge``, a direct inference that takes unusually long is asked of a second node too,
    and the first answer counts. Nothing is sent before the first call.

    Every call either returns, or raises an :class:`~mcp.errors.McpError`. Beside those that a call
    names, each may raise ``DeadlineExceeded`` (no answer in time, nothing was changed) and
    ``AuthenticationFailed`` (every node refused this client); calls that change something may raise
    ``OutcomeUnknown``: sent, answer lost, may have taken effect. Cancelling a call cancels its request.

    What this client has written or seen, it sees on every node from then on (read your writes, monotonic
    reads): each request carries the highest log index that it has met.
    """

    def __init__(
        self,
        addresses: Sequence[str] | str,
        *,
        cluster_id: str = "mcp",
        cluster_key: bytes | None = None,
        ssl: ssl_module.SSLContext | None = None,
        timeout_s: float = TIMEOUT_S,
        hedge: Hedge | None = None,
        poll_s: float = POLL_S,
        clock: Clock | None = None,
        network: MemoryNetwork | None = None,
    ) -> None:
        """``poll_s``: so long an answer is looked for before the event loop sleeps (:mod:`mcp.net.polling`).

        ``network`` is where ``memory://`` addresses are, for a cluster in the same process.

        Raises :class:`~mcp.errors.InvalidArgument` for no or unusable addresses or timeouts, and
        :class:`~mcp.errors.ConfigInvalid` for a cluster id that no cluster has, or such a ``poll_s``.
        """
        clock = clock or SystemClock()
        self._timeout_s = arguments.timeout(timeout_s, TIMEOUT_S)
        self._clock = clock
        limits = replace(CONNECTION_LIMITS, poll_s=poll_s)
        identity = Identity(cluster_id, f"client-{new_id(clock)}", cluster_key or b"", Role.CLIENT)

        async def dial(address: str, dial_timeout_s: float) -> Connection:
            return await connect(
                address,
                identity,
                ssl=ssl if parse_address(address).scheme is Scheme.TCP else None,
                timeout_s=dial_timeout_s,
                limits=limits,
                clock=clock,
                network=network,
            )

        routing = Routing(arguments.addresses(addresses), clock.random())
        self._exchange = Exchange(dial, routing, clock, hedging=None if hedge is None else Hedging(hedge))
        self._stacking = Stacking(self._exchange)
        # Deploys have a session of their own: a slow one would hold back the window of all commands.
        self._commands = CommandLane(self._exchange, lambda: new_id(clock))
        self._deploys = CommandLane(self._exchange, lambda: new_id(clock))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the sessions, as far as that is quickly done, and close every connection.

        Calls that are under way end with ``Unavailable``, or ``OutcomeUnknown`` where that is true.
        """
        if not self._exchange.closed:
            await asyncio.gather(self._commands.close(), self._deploys.close())
            await self._exchange.close()
            self._commands.release()
            self._deploys.release()

    @property
    def hedging(self) -> Hedging | None:
        """How many requests were hedged so far, and how many hedges won; ``None`` without ``hedge``."""
        return self._exchange.hedging

    # -- inference in the log ---------------------------------------------------------------------

    async def submit(
        self,
        model: str,
        inputs: ModelInputs,
        *,
        mode: Mode = "durable",
        id: str | None = None,  # noqa: A002
        timeout_s: float | None = None,
    ) -> str:
        """Put an inference into the log and return its id as soon as that is committed.

        ``durable``: one node runs it, another if that one dies, and one result is recorded.
        ``replicated``: every replica runs it and the results are compared. The inputs travel in the log,
        so they are small (64 KiB). Give an ``id`` of your own to find the record again after a crash.
        Raises ``ModelNotFound``, ``InputInvalid``, ``TooLarge``, ``InvalidArgument``.
        """
        if mode not in get_args(Mode):
            raise InvalidArgument(f"mode is 'durable' or 'replicated', not {mode!r:.40}")
        identifier = new_id(self._clock) if id is None else arguments.text("an inference's id", id)
        args = {
            "id": identifier,
            "model_hint": arguments.text("a model", model),
            "inputs": packed_inline(inputs),
            "mode": mode,
            "trace_id": current_trace() or identifier,
        }
        await self._command("inference.submit", args, timeout_s)
        return identifier

    async def result(
        self,
        id: str,  # noqa: A002
        *,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> InferenceRecord:
        """The record of a submitted inference; with ``wait``, once it is finished.

        An inference that failed is returned with its ``error``, not raised. Large outputs are fetched
        from the node that holds them and verified. Raises ``NotFound`` for an id that was never
        submitted, and ``DeadlineExceeded`` when it is not finished in time (it goes on).
        """
        deadline = self._clock.monotonic() + arguments.timeout(timeout_s, self._timeout_s)
        if wait:
            request = Request(
                CallKind.WAIT, "INFERENCE_WAIT", {"id": arguments.text("an inference's id", id)}
            )
        else:
            request = read_request("inference", {"id": arguments.text("an inference's id", id)}, "session")
        try:
            answer = await self._call(request, timeout_s)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                f"inference {id} was not finished in time, or no node told so; it goes on:"
                f" call result({id!r}) again. ({error.message})",
                details=error.details,
            ) from error
        if answer.payload.get("value") is None:
            raise NotFound(f"there is no inference {id}; it was never submitted, or finished long ago")
        return await self._record(answers.mapping(answer.payload["value"], "an inference's record"), deadline)

    async def _record(self, value: Mapping[str, Any], deadline: float) -> InferenceRecord:
        what = "an inference's record"
        outputs = None
        if value.get("outputs") is not None:
            outputs = unpacked(value["outputs"])
        elif value.get("blob") is not None:
            blob = answers.mapping(value["blob"], what)
            digest = answers.required(blob, "digest", str, what)
            size = answers.required(blob, "size", int, what)
            content = await fetch(self._exchange, digest, size, blob.get("node"), deadline)
            outputs = unpacked_blob(content)
        return answers.record(value, outputs)

    # -- keys -------------------------------------------------------------------------------------

    async def get(
        self, key: str, *, consistency: Consistency = "session", timeout_s: float | None = None
    ) -> KeyValue | None:
        """The key's value and version, or ``None``.

        ``session``: at least as new as all that this client has seen, from any node. ``linearizable``:
        the latest, which the leader confirms with a majority. ``stale``: whatever the node has.
        """
        return answers.key_value(
            await self._read("key", {"key": arguments.text("a key", key)}, consistency, timeout_s)
        )

    async def put(self, key: str, value: Any, *, timeout_s: float | None = None) -> int:
        """Write a plain value, whatever was there before; returns the key's new version.

        Raises ``InvalidArgument`` for a value that is not plain (None, bool, int of 64 bits, float, str,
        bytes, lists and dicts with text keys), ``TooLarge``.
        """
        args = {"key": arguments.text("a key", key), "value": arguments.plain(value)}
        return _version(await self._command("key.put", args, timeout_s))

    @overload
    async def put_many(
        self, values: Mapping[str, Any], *, errors: Literal["raise"] = "raise", timeout_s: float | None = None
    ) -> dict[str, int]: ...

    @overload
    async def put_many(
        self, values: Mapping[str, Any], *, errors: Errors, timeout_s: float | None = None
    ) -> dict[str, int | McpError]: ...

    async def put_many(
        self, values: Mapping[str, Any], *, errors: Errors = "raise", timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Write many keys, each as :meth:`put` does; returns the new version of each.

        It costs a fraction of as many calls of :meth:`put`, and is no transaction: every key is a command of
        its own, in no set order. With ``errors="return"`` an error is given in the place of a version, and
        the other keys are written. Otherwise what cannot be sent (an empty key, a value that is not plain)
        is raised before any key is written, and else the first error when all have ended; its details have
        the ``key``. ``timeout_s`` is for all together. Raises ``InvalidArgument``, also for more than
        ``CALLS_MAX`` keys, and as :meth:`put`.
        """
        if not isinstance(values, Mapping) or len(values) > CALLS_MAX:
            given = f"{len(values)} of them" if isinstance(values, Mapping) else type(values).__name__
            raise InvalidArgument(f"put_many takes a dict of up to {CALLS_MAX} keys and values, not {given}")
        if errors not in get_args(Errors):
            raise InvalidArgument(f"errors is 'raise' or 'return', not {errors!r:.80}")
        bound_s = arguments.timeout(timeout_s, self._timeout_s)
        found: dict[str, Any] = {}
        calls: dict[str, tuple[str, dict[str, Any]]] = {}
        for key, value in values.items():
            found[key] = None  # its place among the others
            try:
                args = {"key": arguments.text("a key", key), "value": arguments.plain(value)}
                calls[key] = "key.put", args
            except McpError as error:
                if errors == "raise":
                    raise _of_key(error, key) from None
                found[key] = error
        ended = await self._commands.commands(list(calls.values()), bound_s)
        for key, each in zip(calls, ended, strict=True):
            if isinstance(each, BaseException) and not (errors == "return" and isinstance(each, McpError)):
                raise _of_key(each, key) if isinstance(each, McpError) else each
            found[key] = each if isinstance(each, McpError) else _version(each)
        return found

    async def compare_and_set(
        self, key: str, value: Any, *, expected_version: int, timeout_s: float | None = None
    ) -> int:
        """Write if the key is at ``expected_version`` (0: if there is no such key); the new version.

        Raises ``VersionConflict``, whose ``details`` have the winner's value and version.
        """
        args = {
            "key": arguments.text("a key", key),
            "value": arguments.plain(value),
            "expected_version": arguments.expected_version(expected_version),
        }
        return _version(await self._command("key.cas", args, timeout_s))

    async def delete(
        self, key: str, *, expected_version: int | None = None, timeout_s: float | None = None
    ) -> int:
        """Remove the key, if it is at ``expected_version`` where one is given.

        Returns the version that it had; 0: there was no such key. Raises ``VersionConflict``.
        """
        args: dict[str, Any] = {"key": arguments.text("a key", key)}
        if expected_version is not None:
            args["expected_version"] = arguments.expected_version(expected_version)
        return _version(await self._command("key.delete", args, timeout_s))

    async def delete_prefix(self, prefix: str, *, timeout_s: float | None = None) -> int:
        """Remove every key that starts with ``prefix``, which must not be empty; how many there were.

        Up to 1,000 go at one position of the log; more of them are several commands, between which others
        may come. Raises ``Unsupported`` while a node runs a version that cannot execute this (schema 2).
        """
        args = {"prefix": arguments.text("a prefix", prefix)}
        timeout_s = arguments.timeout(timeout_s, self._timeout_s)
        deadline = self._clock.monotonic() + timeout_s
        deleted = 0
        while True:
            value = answers.mapping(await self._command("key.delete_prefix", args, timeout_s), _DELETED)
            deleted += answers.required(value, "deleted", int, _DELETED)
            timeout_s = deadline - self._clock.monotonic()
            if not answers.required(value, "more", bool, _DELETED):
                return deleted
            if timeout_s <= 0:
                raise DeadlineExceeded(
                    f"{deleted} keys that start with {prefix!r:.80} are deleted, more are left: call again"
                )

    # -- the user's own executors -----------------------------------------------------------------

    async def execute(self, executor: str, data: bytes, *, timeout_s: float | None = None) -> Any:
        """Have a command executed by the nodes' own ``executor``, once, in the order of the log.

        ``data`` is opaque to everybody but the executor. Returns what it returns (plain values), or
        raises what it refused with; ``NotFound``: the nodes have no executor of that name.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidArgument(f"an executor's command is bytes, not {type(data).__name__}")
        args = {"machine": arguments.text("an executor", executor), "data": bytes(data)}
        return await self._command("machine.execute", args, timeout_s)

    async def conflicts(self, key: str, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Who lost a compare-and-set over the key, when, and what they tried; the oldest first."""
        value = await self._read("conflicts", {"key": arguments.text("a key", key)}, "session", timeout_s)
        return answers.items(value, "the conflicts of a key")

    async def keys(
        self,
        prefix: str = "",
        limit: int = 100,
        *,
        after: str | None = None,
        timeout_s: float | None = None,
    ) -> list[str]:
        """The first ``limit`` keys, in order, that start with ``prefix`` (and come after ``after``).

        More than ``KEYS_PER_READ_MAX`` are read in several steps: keys that are written or deleted
        meanwhile may be missing or there.
        """
        if not isinstance(prefix, str) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgument(
                f"keys takes a text and a number from 1 on, not {prefix!r:.40}, {limit!r:.40}"
            )
        found: list[str] = []
        while True:
            wanted = min(limit - len(found), KEYS_PER_READ_MAX)
            args: dict[str, Any] = {"prefix": prefix, "limit": wanted}
            if after is not None:
                args["after"] = arguments.text("after", after)
            page = answers.strings(await self._read("keys", args, "session", timeout_s), "the keys")
            found += page
            if len(page) < wanted or len(found) >= limit:
                return found
            after = page[-1]

    # -- models and the cluster -------------------------------------------------------------------

    async def deploy(
        self,
        name: str,
        model: bytes | str | os.PathLike[str],
        *,
        version: str | None = None,
        aliases: Sequence[str] = (),
        family: str | None = None,
        task: str | None = None,
        tags: Sequence[str] = (),
        batching: Mapping[str, Any] | None = None,
        requirements: Mapping[str, Any] | None = None,
        activate: bool = True,
        timeout_s: float = DEPLOY_TIMEOUT_S,
        on_progress: Progress | None = None,
    ) -> Deployment:
        """Upload an ONNX model (its bytes, or the path of its file) and have the cluster agree on it.

        Returns when the manifest is committed and a quorum of nodes holds the verified bytes. A broken
        upload goes on where it stopped, also on another node. ``on_progress`` is called with the bytes
        that the node has and the total. ``batching`` says how requests may share a run: ``mode``,
        ``rows_max``, ``latency_bound_ms``, ``pad``; ``requirements`` what one request may have, and what a
        node needs: ``length_max``, ``batch_max``, ``size_max``, ``run_bytes``, ``providers``
        (``docs/protocol.md``). Unless ``activate`` is false, the version answers for the bare name from then
        on; the first one always does. Raises ``ModelInvalid``, ``InvalidArgument``, ``StorageError``;
        ``Unsupported`` if a node does not know ``batching`` or ``requirements`` yet.
        """
        manifest: dict[str, Any] = {
            "name": arguments.text("a model", name),
            "version": None if version is None else arguments.text("a version", version),
            "aliases": arguments.texts("aliases", aliases),
            "family": family,
            "task": task,
            "tags": arguments.texts("tags", tags),
        }
        if batching is not None:
            manifest["batching"] = read_batching(dict(batching)).to_plain()
        if requirements is not None:
            manifest |= arguments.only("requirements", requirements, REQUIREMENT_FIELDS)
        attempts = self._exchange.attempts(CallKind.COMMAND, arguments.timeout(timeout_s, DEPLOY_TIMEOUT_S))
        attempts.patient = True  # every node loads the model before it is agreed on
        payload: dict[str, Any] = {"manifest": manifest, **({} if activate else {"activate": False})}
        artefact = await asyncio.to_thread(Artefact.open, Path(model) if isinstance(model, str) else model)
        manifest |= {"digest": artefact.digest, "size": artefact.size}

        async def prepare(address: str) -> None:
            await upload(self._exchange, address, artefact, attempts.deadline, on_progress)

        try:
            answer = await self._deploys.send("DEPLOY", payload, attempts, prepare=prepare)
        finally:
            artefact.close()
        return answers.deployment(answer.payload)

    async def activate(self, name: str, version: str, *, timeout_s: float | None = None) -> None:
        """Let the model's bare name, and its aliases, stand for ``version``: back to an older one, say.

        Every node switches at the same position of the log. That version is active already: nothing
        changes. Raises ``ModelNotFound`` where there is no such version.
        """
        args = {"name": arguments.text("a model", name), "version": arguments.text("a version", version)}
        await self._command("model.activate", args, timeout_s)

    async def undeploy(
        self, name: str, version: str | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Take a version of a model out of service; without ``version`` all of them, and the name.

        When the active version goes, the one of the rest that was deployed last becomes active. Raises
        ``ModelNotFound`` where there is no such version.
        """
        args = {
            "name": arguments.text("a model", name),
            "version": None if version is None else arguments.text("a version", version),
        }
        await self._command("model.undeploy", args, timeout_s)

    async def models(self, *, timeout_s: float | None = None) -> list[ModelStatus]:
        """The models that the cluster agreed on. Whether a node has one ready is in :meth:`status`."""
        value = await self._read("models", {}, "session", timeout_s)
        return [answers.model(item) for item in answers.items(value, "the models")]

    async def members(self, *, timeout_s: float | None = None) -> list[MemberStatus]:
        """The nodes of the cluster: what each is in it, and whether it is up, by the replicated state."""
        value = await self._read("members", {}, "session", timeout_s)
        return [answers.member(item) for item in answers.items(value, "the members")]

    async def nodes(self, *, timeout_s: float | None = None) -> NodesView:
        """Who is there, what each can do and how busy it is, as one node sees it by gossip."""
        return nodes_view((await self._call(Request(CallKind.READ, "VIEW", {}), timeout_s)).payload)

    async def promote(self, node: str, *, timeout_s: float | None = None) -> int:
        """Let the observer ``node`` vote; the log index of the configuration in which it does.

        Raises ``NotCaughtUp`` while it lags behind the log, ``MembershipRefused`` with the reason where it
        makes no sense or is not safe, and ``NotFound`` for no member.
        """
        return await self._change_members("promote", node, timeout_s)

    async def remove(self, node: str, *, timeout_s: float | None = None) -> int:
        """Take ``node`` out, alive or dead; the log index of the configuration without it.

        Raises ``MembershipRefused`` where too few of the others can be reached to decide anything without
        it, and ``NotFound`` for no member.
        """
        return await self._change_members("remove", node, timeout_s)

    async def _change_members(self, change: str, node: str, timeout_s: float | None) -> int:
        attempts = self._exchange.attempts(CallKind.COMMAND, arguments.timeout(timeout_s, self._timeout_s))
        arguments.text("a node", node)
        # Which server of that name is meant is settled once, so that a repetition means no other.
        listed = await self._exchange.call(read_request("members", {}, "linearizable"), attempts)
        found = map(answers.member, answers.items(listed.payload.get("value"), "the members"))
        member = next((member for member in found if member.node == node and member.role != "none"), None)
        if member is None:
            raise NotFound(f"{node!r} is no member of the cluster; 'mcpctl members' lists them")
        payload = {"change": change, "node": node, "journal": member.journal}
        answer = await self._exchange.call(Request(CallKind.COMMAND, "MEMBER_CHANGE", payload), attempts)
        return answers.required(answer.payload, "index", int, "a change of members")

    async def status(self, *, timeout_s: float | None = None) -> ClusterStatus:
        """Ask every node itself, all at once. Those that do not answer soon are listed with the error."""
        bound_s = min(arguments.timeout(timeout_s, self._timeout_s), self._exchange.limits.status_timeout_s)
        asked: dict[str, NodeStatus] = {}
        while missing := [a for a in self._exchange.routing.addresses if a not in asked]:
            found = await asyncio.gather(*(self._node_status(address, bound_s) for address in missing))
            asked.update(zip(missing, found, strict=True))
            self._exchange.learn([node for node in found if node.reachable])
        named = [replace(n, node=n.node or self._exchange.routing.node_id(n.address)) for n in asked.values()]
        return cluster_status(_one_per_node(named))

    async def _node_status(self, address: str, timeout_s: float) -> NodeStatus:
        request = Request(CallKind.READ, "STATUS", {})
        try:
            answer = await self._exchange.attempt(request, address, timeout_s)
            return answers.node_status(address, answer.payload)
        except McpError as error:
            # Why a node refused to talk says more than that it cannot be reached.
            reason = refusal(error) or error
            return NodeStatus(address, self._exchange.routing.node_id(address), reason)

    # -- the ways of sending ----------------------------------------------------------------------


def _one_per_node(nodes: Sequence[NodeStatus]) -> list[NodeStatus]:
    """A node that is known under two addresses is listed once, under one at which it answered."""
    chosen: dict[str, NodeStatus] = {}
    for node in sorted(nodes, key=lambda node: node.reachable):
        chosen[node.node or node.address] = node
    return list(chosen.values())


def _of_key(error: McpError, key: object) -> McpError:
    """The error of one key of many: which one it is of is said."""
    return type(error)(f"key {key!r:.80}: {error.message}", details={**error.details, "key": key})


def _version(value: object) -> int:
    if type(value) is dict and type(version := value.get("version")) is int:
        return version
    what = "the answer to a key's write"
    fields = value if type(value) is dict else answers.mapping(value, what)
    return answers.required(fields, "version", int, what)
