"""The models that this node has loaded, by digest, following what the replicated state says.

The state says which models there are; the shelf has the bytes brought here, loads them, warms them up
and keeps them. A model that is not agreed on any more is unloaded once no run uses it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from executor.batching.options import BatchOptions
from executor.errors import DeadlineExceeded, ModelNotLoaded
from executor.inspection import ModelInfo
from executor.interface import BatchingPool, Pool, Ticket
from executor.onnx import OnnxRuntime
from executor.runs import StopSignal
from mcp.errors import McpError, ModelNotReady
from mcp.node.artefacts import Artefacts
from mcp.node.translation import translated
from mcp.state.batching import batching_of
from mcp.state.models import ModelVersion

UNCOMMITTED_S = 120.0
"""How long a model may stay loaded that no committed deploy names."""
RETRY_S_MIN = 0.25
RETRY_S_MAX = 60.0
LOADS_AT_ONCE_MAX = 2
WARM_UP_S_MAX = 10.0
"""A model is ready after that, warm or not: its first run may have no end."""
BATCH_OPTIONS_CACHED_MAX = 1024
"""So many versions' settings of batching are remembered as they were read."""
DRAIN_S_MAX = 30.0
"""How long runs may go on in a model that is unloaded; then they are told to stop."""

Arrays = Mapping[str, NDArray[np.generic]]
Outputs = dict[str, NDArray[np.generic]]
Done = Callable[[Outputs | None, BaseException | None], object]

UNBATCHED = BatchOptions(mode="off")

T = TypeVar("T")

_log = logging.getLogger("mcp.node")


class Shelf:
    """Loaded models. ``on_ready(model)`` is called each time one has become ready here.

    Loading and unloading block, for long if a model wants it so. They have threads of their own, so that
    neither the loop nor the journal, whose syncs are in the loop's threads, ever waits for a model.
    """

    def __init__(
        self,
        runtime: OnnxRuntime,
        pool: Pool,
        artefacts: Artefacts,
        *,
        on_ready: Callable[[str], None],
        batching: bool = True,
    ) -> None:
        self.problems: dict[str, McpError] = {}
        self._runtime = runtime
        self._pool = pool
        self._batching_pool = pool if isinstance(pool, BatchingPool) else None
        self._batching = batching
        self._artefacts = artefacts
        self._on_ready = on_ready
        self._ready: dict[str, ModelInfo] = {}
        self._ready_since: dict[str, float] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._loading: dict[str, asyncio.Task[ModelInfo]] = {}
        self._unloading: dict[str, asyncio.Future[None]] = {}
        self._loaders = ThreadPoolExecutor(LOADS_AT_ONCE_MAX, "model-load")
        self._unloaders = ThreadPoolExecutor(LOADS_AT_ONCE_MAX, "model-unload")

    async def close(self) -> None:
        """Stop loading."""
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # What is in the middle of something ends with the runtime, which is closed after this.
        for threads in (self._loaders, self._unloaders):
            threads.shutdown(wait=False, cancel_futures=True)

    def info(self, digest: str) -> ModelInfo | None:
        """What the model declares, if it is ready here."""
        return self._ready.get(digest)

    def want(self, digest: str, size: int, holders: Sequence[str]) -> asyncio.Task[ModelInfo] | None:
        """Begin to bring a model here and to load it, unless that is done or under way.

        One that failed is left alone for a while, longer each time.
        """
        if digest in self._ready or self._resting(digest):
            return None
        return self._begin(digest, size, holders)

    def _begin(self, digest: str, size: int, holders: Sequence[str]) -> asyncio.Task[ModelInfo]:
        task = self._loading.get(digest)
        if task is None:
            task = asyncio.ensure_future(self._prepare(digest, size, list(holders)))
            self._loading[digest] = task
            task.add_done_callback(functools.partial(self._prepared, digest))
        return task

    async def ensure(self, digest: str, size: int, holders: Sequence[str]) -> ModelInfo:
        """Have a model ready. Raises what kept it from being so."""
        info = self._ready.get(digest)
        return info if info is not None else await asyncio.shield(self._begin(digest, size, holders))

    def keep_only(self, digests: set[str]) -> None:
        """Unload what is not in ``digests``, but for what was prepared a moment ago: it is being deployed."""
        now = asyncio.get_running_loop().time()
        for digest in [d for d in self._ready if d not in digests]:
            if now - self._ready_since[digest] < UNCOMMITTED_S:
                continue
            del self._ready[digest], self._ready_since[digest]
            self._pool.forget(digest)
            unloading = asyncio.get_running_loop().run_in_executor(
                self._unloaders, functools.partial(self._runtime.unload, digest, drain_s=DRAIN_S_MAX)
            )
            self._unloading[digest] = unloading
            unloading.add_done_callback(functools.partial(self._unloaded, digest))

    def run_inline(
        self, digest: str, inputs: Arrays, outputs: Sequence[str] | None
    ) -> dict[str, NDArray[np.generic]] | None:
        """Run a model that is known to be quick at once; ``None``: use :meth:`run`."""
        try:
            return self._pool.try_inline(digest, inputs, outputs)
        except ModelNotLoaded as error:
            raise ModelNotReady(str(error)) from error
        except Exception as error:
            raise translated(error) from error

    @property
    def batches(self) -> bool:
        """Whether :meth:`submit` can be used: a simulated pool, say, has no such thing."""
        return self._batching_pool is not None

    def submit(
        self,
        model: ModelVersion,
        inputs: Arrays,
        outputs: Sequence[str] | None,
        timeout_s: float,
        client: Hashable,
        done: Done,
        calls: int = 1,
    ) -> Outputs | Ticket:
        """Run a model that is ready, maybe together with other requests for it, without a task.

        ``calls``: how many inferences the request has.

        The outputs, if they are there at once; otherwise ``done(outputs, error)`` is called later, once, with
        the pool's own error, or :meth:`cancel` is.
        """
        assert self._batching_pool is not None
        try:
            return self._batching_pool.submit(
                model.digest,
                inputs,
                done,
                outputs=outputs,
                timeout_s=timeout_s,
                client=client,
                options=self.options_of(model),
                calls=calls,
            )
        except ModelNotLoaded as error:
            raise ModelNotReady(str(error)) from error
        except Exception as error:
            raise translated(error) from error

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for that answer any more."""
        if self._batching_pool is not None:
            self._batching_pool.cancel(ticket)

    def options_of(self, model: ModelVersion) -> BatchOptions:
        """How requests for a version are batched here."""
        return batch_options(model.batching) if self._batching else UNBATCHED

    def rows_max(self, model: ModelVersion) -> int:
        """How many rows of several inferences are run at once; 0: they may not be joined."""
        if self._batching_pool is None or model.digest not in self._ready:
            return 0
        options = self.options_of(model)
        return 0 if self._runtime.not_joined(model.digest, options) is not None else options.rows_max

    def rows_worth_joining(self, model: ModelVersion) -> int:
        """How many rows a client had better join: more would be one run, which takes too long; 0: none."""
        most = self.rows_max(model)
        cap = self._batching_pool.rows_cap(model.digest) if self._batching_pool is not None and most else 0
        return min(most, cap) if cap else most

    def changes_rows(self, model: ModelVersion, reason: str) -> None:
        """A run has shown that results cannot be told apart once inferences are joined."""
        self._runtime.changes_rows(model.digest, f"it does not give a row for each row: {reason}")

    def not_batched(self, digest: str, options: BatchOptions) -> str | None:
        """Why requests for a model that is ready are not batched; ``None``: they are."""
        return self._runtime.not_joined(digest, options)

    def figures(self, model: ModelVersion) -> dict[str, Any] | None:
        """What waits for a version that is ready here, and how it is batched, as plain values."""
        if self._batching_pool is None or model.digest not in self._ready:
            return None
        reason = self.not_batched(model.digest, self.options_of(model))
        batched = {"batched": reason is None, "not_batched": reason}
        return {**batched, **self._batching_pool.figures(model.digest)}

    @property
    def loaded(self) -> tuple[int, int]:
        """How many artefacts are loaded here, and their bytes: each once, whoever shares it."""
        return len(self._ready), sum(info.size_bytes for info in self._ready.values())

    def run_totals(self) -> dict[str, tuple[int, float]]:
        """By digest how many runs of a model there were here, and their seconds together."""
        return {} if self._batching_pool is None else self._batching_pool.run_totals()

    async def ensure_within(self, model: ModelVersion, timeout_s: float) -> ModelInfo:
        """As :meth:`ensure`, for no longer than ``timeout_s``. Raises :class:`ModelNotReady`."""
        info = self._ready.get(model.digest)
        if info is not None:
            return info
        if self._resting(model.digest):
            raise _not_ready(model, self.problems[model.digest])
        try:
            async with asyncio.timeout(timeout_s):
                return await self.ensure(model.digest, model.size, model.holders)
        except McpError as error:
            raise _not_ready(model, error) from error
        except TimeoutError:
            raise ModelNotReady(
                f"{model.name} {model.version} did not become ready on this node within {timeout_s:.1f} s; "
                "ask another node, or wait"
            ) from None

    async def run(
        self, model: ModelVersion, inputs: Arrays, outputs: Sequence[str] | None, timeout_s: float
    ) -> dict[str, NDArray[np.generic]]:
        """Run a model, waiting for it to become ready first if need be."""
        await self.ensure_within(model, timeout_s)
        try:
            return await self._pool.run(model.digest, inputs, outputs=outputs, timeout_s=timeout_s)
        except Exception as error:
            raise translated(error) from error

    async def _prepare(self, digest: str, size: int, holders: list[str]) -> ModelInfo:
        try:
            await self._artefacts.fetch(digest, size, holders)
            if not await self._in_loader(self._artefacts.store.intact, digest):
                _log.error("blob %s was damaged on this node's disk: it is fetched again", digest[:12])
                self._artefacts.store.drop(digest)
                await self._artefacts.fetch(digest, size, holders)
            while (unloading := self._unloading.get(digest)) is not None:
                await asyncio.wait([unloading])
            info = await self._in_loader(self._runtime.load, digest, self._artefacts.store.path(digest))
            await self._warm_up(digest)
        except Exception as error:
            raise translated(error) from error
        return info

    async def _warm_up(self, digest: str) -> None:
        signal = StopSignal()
        late = DeadlineExceeded(f"warming up took more than {WARM_UP_S_MAX:g} s")
        timer = asyncio.get_running_loop().call_later(WARM_UP_S_MAX, signal.stop, late)
        try:
            await self._in_loader(self._run_first, digest, signal)
        finally:
            timer.cancel()

    def _run_first(self, digest: str, signal: StopSignal) -> None:
        if self._runtime.warm_up(digest, stop=signal):
            self._runtime.try_rows(digest, stop=signal)

    def _in_loader(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._loaders, work, *arguments)

    def _unloaded(self, digest: str, unloading: asyncio.Future[None]) -> None:
        del self._unloading[digest]
        if not unloading.cancelled() and (error := unloading.exception()) is not None:
            _log.error("model %s was not unloaded: %s", digest[:12], error)

    def _prepared(self, digest: str, task: asyncio.Task[ModelInfo]) -> None:
        self._loading.pop(digest, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._ready[digest] = task.result()
            self._ready_since[digest] = asyncio.get_running_loop().time()
            self.problems.pop(digest, None)
            self._failures.pop(digest, None)
            self._on_ready(digest)
        else:
            self.problems[digest] = translated(error)
            count = self._failures.get(digest, (0, 0.0))[0] + 1
            pause_s = min(RETRY_S_MAX, RETRY_S_MIN * 2**count)
            self._failures[digest] = (count, asyncio.get_running_loop().time() + pause_s)

    def _resting(self, digest: str) -> bool:
        failed = self._failures.get(digest)
        return failed is not None and asyncio.get_running_loop().time() < failed[1]


@functools.lru_cache(maxsize=BATCH_OPTIONS_CACHED_MAX)
def batch_options(packed: bytes | None) -> BatchOptions:
    """What a version's manifest says about batching, as the executor takes it; equal bytes, one object."""
    if packed is None:
        return BatchOptions()
    said = batching_of(packed)
    return BatchOptions(said.mode, said.rows_max, said.latency_bound_ms / 1000, said.pad)


def _not_ready(model: ModelVersion, cause: McpError) -> ModelNotReady:
    return ModelNotReady(
        f"{model.name} {model.version} cannot be made ready on this node ({cause.code}: {cause.message}); "
        "ask another node, it is tried again here",
        details={"cause": cause.to_wire()},
    )
