"""The blocking client: the same calls, for programs without an event loop.

One thread runs the event loop of one :class:`~mcp.client.client.Client`; each call is handed to it and
waited for. So any number of threads can share a client, and its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl as ssl_module
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, TypeVar, overload

from mcp.client.artefacts import Progress
from mcp.client.client import DEPLOY_TIMEOUT_S, TIMEOUT_S, Client
from mcp.client.hedging import Hedge
from mcp.client.many import IN_FLIGHT, Answered, Errors, Order
from mcp.client.results import (
    ClusterStatus,
    Consistency,
    Deployment,
    Inference,
    InferenceRecord,
    KeyValue,
    MemberStatus,
    Mode,
    ModelInputs,
    ModelStatus,
    Step,
)
from mcp.client.streaming import AHEAD
from mcp.client.sync_traffic import SyncTrafficCalls
from mcp.client.views import NodesView
from mcp.clock import Clock
from mcp.errors import McpError, Unavailable
from mcp.net.loop import loop_factory
from mcp.net.polling import POLL_S

T = TypeVar("T")

CLOSE_TIMEOUT_S: Final = 1.0
"""How long calls of other threads have to end by themselves when the client is closed."""


class SyncClient(SyncTrafficCalls):
    """A client of one cluster, for any number of threads.

    In short::

        with SyncClient(["10.0.0.1:7400"]) as client:
            answer = client.infer("digits", scan)

    Arguments, results and errors are those of :class:`~mcp.client.client.Client`. A call that is
    interrupted (Ctrl-C) is cancelled. Do not call it from an event loop's thread: it would block the loop.
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
    ) -> None:
        """As :class:`~mcp.client.client.Client`. Starts a thread; :meth:`close` ends it."""
        self._client = Client(
            addresses,
            cluster_id=cluster_id,
            cluster_key=cluster_key,
            ssl=ssl,
            timeout_s=timeout_s,
            hedge=hedge,
            poll_s=poll_s,
            clock=clock,
        )
        self._lock = threading.Lock()
        self._closed = False
        self._process = os.getpid()
        self._loop = loop_factory()()
        # A daemon: a program that forgets to close its client can still end.
        self._thread = threading.Thread(target=self._serve, name="mcp-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the sessions, the connections and the thread. Calls under way in other threads end too.

        In a forked child nothing is closed: they are the parent's.
        """
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            closing = asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        try:
            closing.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _shut(self) -> None:
        """Close the client, then end whatever call is left, so that no thread waits for ever."""
        await self._client.close()
        me = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not me]
        if rest:
            await asyncio.wait(rest, timeout=CLOSE_TIMEOUT_S)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def infer(
        self,
        model: str,
        inputs: ModelInputs,
        *,
        outputs: Sequence[str] | None = None,
        session: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Inference:
        """Run ``model`` once, on one node, outside the log. See :meth:`Client.infer`."""
        return self._run(
            lambda: self._client.infer(
                model,
                inputs,
                outputs=outputs,
                session=session,
                headers=headers,
                priority=priority,
                timeout_s=timeout_s,
            )
        )

    @overload
    def infer_many(
        self,
        model: str,
        inputs: Iterable[ModelInputs],
        *,
        outputs: Sequence[str] | None = None,
        in_flight: int = IN_FLIGHT,
        order: Order = "inputs",
        errors: Literal["raise"] = "raise",
        timeout_s: float | None = None,
    ) -> Iterator[Answered[Inference]]: ...

    @overload
    def infer_many(
        self,
        model: str,
        inputs: Iterable[ModelInputs],
        *,
        outputs: Sequence[str] | None = None,
        in_flight: int = IN_FLIGHT,
        order: Order = "inputs",
        errors: Errors,
        timeout_s: float | None = None,
    ) -> Iterator[Answered[Inference | McpError]]: ...

    def infer_many(
        self,
        model: str,
        inputs: Iterable[ModelInputs],
        *,
        outputs: Sequence[str] | None = None,
        in_flight: int = IN_FLIGHT,
        order: Order = "inputs",
        errors: Errors = "raise",
        timeout_s: float | None = None,
    ) -> Iterator[Answered[Any]]:
        """Run ``model`` once for each of ``inputs``, many at a time. See :meth:`Client.infer_many`.

        The inputs are iterated in the client's own thread, so not in step with your loop.
        """
        results = self._client.infer_many(
            model,
            inputs,
            outputs=outputs,
            in_flight=in_flight,
            order=order,
            errors=errors,
            timeout_s=timeout_s,
        )
        return self._iterated(results)

    def _iterated(self, results: AsyncGenerator[T, None]) -> Iterator[T]:
        """What an asynchronous generator gives; it is closed in the client's thread, however this ends."""
        try:
            while True:
                try:
                    yield self._run(lambda: anext(results))
                except StopAsyncIteration:
                    return
        finally:
            with contextlib.suppress(Unavailable):
                self._run(results.aclose)

    def stream(
        self,
        model: str,
        inputs: ModelInputs,
        *,
        carry: Mapping[str, str],
        steps: int,
        until: str | None = None,
        outputs: Sequence[str] | None = None,
        ahead: int = AHEAD,
        session: str | None = None,
        headers: Mapping[str, str] | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[Step]:
        """Call ``model`` step by step on one node, its state kept there. See :meth:`Client.stream`."""
        results = self._client.stream(
            model,
            inputs,
            carry=carry,
            steps=steps,
            until=until,
            outputs=outputs,
            ahead=ahead,
            session=session,
            headers=headers,
            priority=priority,
            timeout_s=timeout_s,
        )
        return self._iterated(results)

    def submit(
        self,
        model: str,
        inputs: ModelInputs,
        *,
        mode: Mode = "durable",
        id: str | None = None,  # noqa: A002
        timeout_s: float | None = None,
    ) -> str:
        """Put an inference into the log; its id once that is committed. See :meth:`Client.submit`."""
        return self._run(lambda: self._client.submit(model, inputs, mode=mode, id=id, timeout_s=timeout_s))

    def result(
        self,
        id: str,  # noqa: A002
        *,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> InferenceRecord:
        """The record of a submitted inference. See :meth:`Client.result`."""
        return self._run(lambda: self._client.result(id, wait=wait, timeout_s=timeout_s))

    def get(
        self, key: str, *, consistency: Consistency = "session", timeout_s: float | None = None
    ) -> KeyValue | None:
        """The key's value and version, or ``None``. See :meth:`Client.get`."""
        return self._run(lambda: self._client.get(key, consistency=consistency, timeout_s=timeout_s))

    def put(self, key: str, value: Any, *, timeout_s: float | None = None) -> int:
        """Write a plain value; the key's new version. See :meth:`Client.put`."""
        return self._run(lambda: self._client.put(key, value, timeout_s=timeout_s))

    @overload
    def put_many(
        self, values: Mapping[str, Any], *, errors: Literal["raise"] = "raise", timeout_s: float | None = None
    ) -> dict[str, int]: ...

    @overload
    def put_many(
        self, values: Mapping[str, Any], *, errors: Errors, timeout_s: float | None = None
    ) -> dict[str, int | McpError]: ...

    def put_many(
        self, values: Mapping[str, Any], *, errors: Errors = "raise", timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Write many keys, each as :meth:`put` does; the new version of each. See :meth:`Client.put_many`."""
        return self._run(lambda: self._client.put_many(values, errors=errors, timeout_s=timeout_s))

    def compare_and_set(
        self, key: str, value: Any, *, expected_version: int, timeout_s: float | None = None
    ) -> int:
        """Write if the key is at ``expected_version``. See :meth:`Client.compare_and_set`."""
        return self._run(
            lambda: self._client.compare_and_set(
                key, value, expected_version=expected_version, timeout_s=timeout_s
            )
        )

    def delete(self, key: str, *, expected_version: int | None = None, timeout_s: float | None = None) -> int:
        """Remove the key; the version that it had. See :meth:`Client.delete`."""
        return self._run(
            lambda: self._client.delete(key, expected_version=expected_version, timeout_s=timeout_s)
        )

    def delete_prefix(self, prefix: str, *, timeout_s: float | None = None) -> int:
        """Remove every key that starts with ``prefix``. See :meth:`Client.delete_prefix`."""
        return self._run(lambda: self._client.delete_prefix(prefix, timeout_s=timeout_s))

    def execute(self, executor: str, data: bytes, *, timeout_s: float | None = None) -> Any:
        """Have a command executed by the nodes' own executor. See :meth:`Client.execute`."""
        return self._run(lambda: self._client.execute(executor, data, timeout_s=timeout_s))

    def conflicts(self, key: str, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Who lost a compare-and-set over the key. See :meth:`Client.conflicts`."""
        return self._run(lambda: self._client.conflicts(key, timeout_s=timeout_s))

    def keys(
        self,
        prefix: str = "",
        limit: int = 100,
        *,
        after: str | None = None,
        timeout_s: float | None = None,
    ) -> list[str]:
        """The first ``limit`` keys that start with ``prefix``. See :meth:`Client.keys`."""
        return self._run(lambda: self._client.keys(prefix, limit, after=after, timeout_s=timeout_s))

    def deploy(
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
        """Upload an ONNX model and have the cluster agree on it. See :meth:`Client.deploy`.

        ``on_progress`` is called in the client's own thread.
        """
        return self._run(
            lambda: self._client.deploy(
                name,
                model,
                version=version,
                aliases=aliases,
                family=family,
                task=task,
                tags=tags,
                batching=batching,
                requirements=requirements,
                activate=activate,
                timeout_s=timeout_s,
                on_progress=on_progress,
            )
        )

    def activate(self, name: str, version: str, *, timeout_s: float | None = None) -> None:
        """Let the model's name stand for ``version``. See :meth:`Client.activate`."""
        return self._run(lambda: self._client.activate(name, version, timeout_s=timeout_s))

    def undeploy(self, name: str, version: str | None = None, *, timeout_s: float | None = None) -> None:
        """Take a version, or all of them, out of service. See :meth:`Client.undeploy`."""
        return self._run(lambda: self._client.undeploy(name, version, timeout_s=timeout_s))

    def models(self, *, timeout_s: float | None = None) -> list[ModelStatus]:
        """The models that the cluster agreed on. See :meth:`Client.models`."""
        return self._run(lambda: self._client.models(timeout_s=timeout_s))

    def model(self, hint: str, *, timeout_s: float | None = None) -> ModelStatus:
        """What a hint stands for, also a version that is not active. See :meth:`Client.model`."""
        return self._run(lambda: self._client.model(hint, timeout_s=timeout_s))

    def position(self, *, timeout_s: float | None = None) -> int:
        """A log index behind all that was acknowledged before. See :meth:`Client.position`."""
        return self._run(lambda: self._client.position(timeout_s=timeout_s))

    def members(self, *, timeout_s: float | None = None) -> list[MemberStatus]:
        """The nodes of the cluster, and what each is in it. See :meth:`Client.members`."""
        return self._run(lambda: self._client.members(timeout_s=timeout_s))

    def nodes(self, *, timeout_s: float | None = None) -> NodesView:
        """Who is there, as one node sees it by gossip. See :meth:`Client.nodes`."""
        return self._run(lambda: self._client.nodes(timeout_s=timeout_s))

    def promote(self, node: str, *, timeout_s: float | None = None) -> int:
        """Let an observer vote. See :meth:`Client.promote`."""
        return self._run(lambda: self._client.promote(node, timeout_s=timeout_s))

    def remove(self, node: str, *, timeout_s: float | None = None) -> int:
        """Take a node out, alive or dead. See :meth:`Client.remove`."""
        return self._run(lambda: self._client.remove(node, timeout_s=timeout_s))

    def status(self, *, timeout_s: float | None = None) -> ClusterStatus:
        """Ask every node itself, all at once. See :meth:`Client.status`."""
        return self._run(lambda: self._client.status(timeout_s=timeout_s))
