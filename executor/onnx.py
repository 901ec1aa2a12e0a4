"""Running ONNX models: the only module that knows onnxruntime, which is imported at first use.

A session takes concurrent runs, so nothing here serialises them. What is added around a session:
inputs are checked before the run and nothing is cast; every run can be stopped (see
:mod:`executor.runs`); a model is taken away only when its runs are over; what onnxruntime does quietly
(going on without a provider, falling back in the middle of serving) is an error or is reported.

**Never fork a process that has loaded a model.** onnxruntime's threads do not exist in the child, which
hangs in its first run and also when it exits. Start processes with ``spawn``
(``multiprocessing.get_context("spawn")``) or ``subprocess``. A runtime that finds itself in a forked child
refuses to work; such a child can only leave by ``exec`` or ``os._exit``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from executor.batching.options import BatchOptions
from executor.batching.proof import rows_are_independent
from executor.batching.rows import Joint, obstacle
from executor.errors import (
    DeadlineExceeded,
    ExecutorClosed,
    ExecutorError,
    InferenceFailed,
    InputInvalid,
    LimitExceeded,
    ModelAlreadyLoaded,
    ModelInvalid,
    ModelNotLoaded,
    ProviderUnavailable,
)
from executor.inputs import Array, InputCheck, select_outputs, zeros
from executor.inspection import ModelInfo, TensorInfo, dtype_of_onnx
from executor.model_file import scan
from executor.options import RuntimeOptions, onnx_provider, short_providers, unavailable
from executor.runs import RunsInFlight, StopSignal, Watchdog, deadline_exceeded

REASON_CHARS_MAX = 500
"""How much of onnxruntime's own message an error carries."""

JOINTS_MAX = 64
"""So many sets of options for joining one model's requests are remembered."""

_LOG_FATAL_ONLY = 4  # what goes wrong is raised; onnxruntime would print it too, once per bad request


@functools.cache
def _onnxruntime() -> Any:
    # From 1.32 on it reports usage to its maker, unless it is told not to before it is imported. What
    # runs on a user's machines is the user's: who wants that sets the variable to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


@functools.cache
def _preload_cuda() -> None:
    """Let CUDA libraries that were installed as Python packages be found (onnxruntime 1.21 and later)."""
    preload = getattr(_onnxruntime(), "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
            preload()


def providers_available() -> tuple[str, ...]:
    """The execution providers that the installed onnxruntime was built with: "cpu", "cuda".

    Whether a device and its libraries are there too shows only when a model is loaded.
    """
    return short_providers(_onnxruntime().get_available_providers())


Joining = tuple[Joint | None, str | None]
"""How requests are joined, or why they are not."""


class Model:
    """A loaded model. :class:`OnnxRuntime` hands it out inside a :class:`PreparedRun`."""

    __slots__ = (
        "_grown",
        "_joined_last",
        "_joints",
        "_rows_changed",
        "check",
        "info",
        "key",
        "mixing",
        "output_names",
        "runs",
        "session",
        "shrink",
        "shrink_bytes_min",
    )

    def __init__(
        self, key: str, session: Any, info: ModelInfo, shrink: str = "", shrink_bytes_min: int = 0
    ) -> None:
        self.key = key
        self.session = session
        self.info = info
        self.shrink = shrink
        self.shrink_bytes_min = shrink_bytes_min
        self._grown = False
        self.check = InputCheck(key, info.inputs)
        self.output_names = tuple(output.name for output in info.outputs)
        self.runs = RunsInFlight()
        self.mixing: str | None = "its rows were not tried yet"
        """Why its rows are not taken for independent of one another; ``None``: they are."""
        self._rows_changed: str | None = None
        self._joints: dict[BatchOptions, Joining] = {}
        self._joined_last: tuple[BatchOptions, Joining] | None = None

    def joint(self, options: BatchOptions) -> Joining:
        """How its requests are joined under these options, or ``None`` and why they are not."""
        last = self._joined_last
        if last is not None and last[0] is options:
            return last[1]
        found = self._joints.get(options)
        if found is None:
            if len(self._joints) >= JOINTS_MAX:
                self._joints = {}
            found = self._joints[options] = self._join(options)
        self._joined_last = options, found
        return found

    def shrinks(self, size_bytes: int) -> str:
        """The arenas to shrink behind a run with inputs of so many bytes.

        Behind a large one, whose outputs are in the arena still, and so behind the next one, too.
        """
        large = size_bytes >= self.shrink_bytes_min
        if large or self._grown:
            self._grown = large
            return self.shrink
        return ""

    def tried(self, mixing: str | None) -> None:
        """Its rows were tried: why they may not be joined, or ``None``."""
        self.mixing = mixing
        self._joints, self._joined_last = {}, None

    def changes_rows(self, reason: str) -> None:
        """A run has shown that results cannot be told apart once requests are joined: never again."""
        self._rows_changed = reason
        self._joints, self._joined_last = {}, None

    def _join(self, options: BatchOptions) -> Joining:
        reason: str | None = "it is switched off for this model"
        if options.mode != "off":
            reason = self._rows_changed or obstacle(self.info.inputs, self.info.outputs)
            if reason is None and options.mode == "auto":
                reason = self.mixing
        if reason is None:
            try:
                return Joint(self.info.inputs, self.info.outputs, options.pad), None
            except ValueError as error:
                reason = str(error)
        return None, reason


class PreparedRun:
    """A run whose inputs have been checked, ready for :meth:`OnnxRuntime.execute`."""

    __slots__ = ("inputs", "model", "outputs", "size_bytes")

    def __init__(self, model: Model, inputs: Mapping[str, Array], outputs: tuple[str, ...]) -> None:
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.size_bytes = sum([array.nbytes for array in inputs.values()])
        """How large the inputs are; of strings, only the references count."""


class OnnxRuntime:
    """Holds models by key and runs them. Every method may be called from any thread.

    ``monotonic`` gives seconds on a clock that never goes back; deadlines are measured on it. Use
    :meth:`close`, or the runtime as a context manager.
    """

    def __init__(self, options: RuntimeOptions | None = None, *, monotonic: Callable[[], float]) -> None:
        self.options = options or RuntimeOptions()
        self.monotonic = monotonic
        self._models: dict[str, Model] = {}
        self._inherited: dict[str, Model] = {}
        self._loading: set[str] = set()
        self._lock = threading.Lock()
        self._watchdog = Watchdog(monotonic)
        self._closed: str | None = None
        _LIVE.add(self)

    def __enter__(self) -> OnnxRuntime:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def models(self) -> dict[str, ModelInfo]:
        """What is loaded, by key."""
        return {key: model.info for key, model in sorted(self._models.copy().items())}

    def info(self, key: str) -> ModelInfo:
        """What a loaded model declares. Raises :class:`ModelNotLoaded`."""
        return self._model(key).info

    def load(self, key: str, model: bytes | Path) -> ModelInfo:
        """Build a session for a model under ``key``. Blocks: seconds, for a large one.

        Prefer a path for large models: of bytes, the session keeps a second copy. Raises
        :class:`ModelInvalid`, :class:`ProviderUnavailable`, :class:`ModelAlreadyLoaded`, or
        :class:`LimitExceeded` for ``models_max`` and ``model_bytes_max``.
        """
        self._reserve(key)
        try:
            size = self._check_size(model)
            rankless = scan(model)
            providers = self.options.usable(providers_available())
            session = self._build(model, providers)
            info = self._describe(session, rankless, size)
            shrink = self.options.shrink_list(info.providers)
            loaded = Model(key, session, info, shrink, self.options.shrink_bytes_min)
            with self._lock:
                self._refuse_if_closed()
                self._models[key] = loaded
            return info
        finally:
            with self._lock:
                self._loading.discard(key)

    def unload(self, key: str, *, drain_s: float | None = None) -> None:
        """Take a model away: no run starts any more, and those in flight are waited for.

        After ``drain_s`` the rest is told to stop (their callers get :class:`ModelNotLoaded`) and is
        waited for. With ``None`` each run takes the time it takes. Blocks. When it returns, no run uses
        the session, and its memory goes with the last prepared run. Raises :class:`ModelNotLoaded`.
        """
        with self._lock:
            model = self._models.pop(key, None)
        if model is None:
            raise self._not_loaded(key)
        model.runs.close()
        if not model.runs.drain(drain_s):
            model.runs.stop_all(ModelNotLoaded(f"model {key!r} was unloaded during the run"))
            model.runs.drain(None)

    def close(self) -> None:
        """Stop every run, unload every model, end the watchdog's thread. May be called again."""
        with self._lock:
            self._closed = self._closed or "the runtime is closed: make a new one"
            models = list(self._models.values())
            self._models.clear()
        for model in models:
            model.runs.close()
            model.runs.stop_all(ExecutorClosed("the runtime was closed during the run"))
        for model in models:
            model.runs.drain(None)
        self._watchdog.close()

    def run(
        self,
        key: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        stop: StopSignal | None = None,
    ) -> dict[str, Array]:
        """Run a model in this thread; the outputs by name, all of them if ``outputs`` names none.

        Strings go in and come out as object arrays of ``str``. The inputs may be read-only, not
        contiguous, not aligned; they must not change before the call returns. Raises
        :class:`ModelNotLoaded`, :class:`InputInvalid` (the model was not run), :class:`InferenceFailed`,
        :class:`DeadlineExceeded` after ``timeout_s``, and whatever ``stop`` was told.
        """
        return self.execute(self.prepare(key, inputs, outputs), timeout_s=timeout_s, stop=stop)

    def prepare(
        self, key: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> PreparedRun:
        """Check a run without running it: quick, and never copies. Raises as :meth:`run` does."""
        model = self._model(key)
        model.check.check(inputs)
        return PreparedRun(model, inputs, select_outputs(key, outputs, model.output_names))

    def execute(
        self, prepared: PreparedRun, *, timeout_s: float | None = None, stop: StopSignal | None = None
    ) -> dict[str, Array]:
        """Run what was prepared, in this thread. Raises as :meth:`run` does."""
        if timeout_s is not None and not timeout_s > 0:
            raise deadline_exceeded(timeout_s, started=False)
        model = prepared.model
        feed = model.check.feed(prepared.inputs)
        signal = stop or StopSignal()
        options = self._run_options(model.shrink and model.shrinks(prepared.size_bytes))
        signal.bind(options)
        if not model.runs.enter(signal):
            raise self._not_loaded(model.key)
        timer = None if timeout_s is None else self._watchdog.arm(signal, timeout_s)
        try:
            values = model.session.run(prepared.outputs, feed, options)
        except Exception as failure:
            raise _translated(model.key, failure, signal.error) from failure
        finally:
            if timer is not None:
                self._watchdog.disarm(timer)
            model.runs.leave(signal)
        return dict(zip(prepared.outputs, values, strict=True))

    def warm_up(self, key: str, *, timeout_s: float | None = None, stop: StopSignal | None = None) -> bool:
        """Run a model once on the smallest inputs, so that the first caller does not pay for it.

        Zeros and empty strings, with 1 for dynamic sizes. ``False``, and no error, if such inputs cannot be
        derived, would take more than ``warm_up_bytes_max``, or do not suit the model.
        """
        inputs = zeros(self.info(key).inputs, self.options.warm_up_bytes_max)
        if inputs is None:
            return False
        try:
            self.run(key, inputs, timeout_s=timeout_s, stop=stop)
        except (InferenceFailed, InputInvalid, DeadlineExceeded):
            return False
        return True

    def try_rows(self, key: str, *, stop: StopSignal | None = None) -> str | None:
        """Try whether a model treats its rows independently, so that requests for it may be joined.

        ``None``, or why they may not unless its owner says so. Made-up values, at most
        ``warm_up_bytes_max`` of them; see :mod:`executor.batching.proof`.
        """
        model = self._model(key)
        info = model.info
        reason = obstacle(info.inputs, info.outputs)
        if reason is None:
            try:
                reason = rows_are_independent(
                    lambda inputs: self.run(key, inputs, stop=stop),
                    info.inputs,
                    info.outputs,
                    bytes_max=self.options.warm_up_bytes_max,
                )
            except ExecutorError as error:
                reason = f"its rows could not be tried: {error}"
        model.tried(reason)
        return reason

    def not_joined(self, key: str, options: BatchOptions) -> str | None:
        """Why requests for a model are not batched under these options; ``None``: they are."""
        return self._model(key).joint(options)[1]

    def changes_rows(self, key: str, reason: str) -> None:
        """A run has shown that a model's results cannot be told apart once requests are joined."""
        self._model(key).changes_rows(reason)

    def _model(self, key: str) -> Model:
        model = self._models.get(key)
        if model is None:
            self._refuse_if_closed()
            raise self._not_loaded(key)
        return model

    def _not_loaded(self, key: str) -> ModelNotLoaded:
        return ModelNotLoaded(f"no model is loaded as {key!r}: load it first")

    def _refuse_if_closed(self) -> None:
        if self._closed is not None:
            raise ExecutorClosed(self._closed)

    def _reserve(self, key: str) -> None:
        with self._lock:
            self._refuse_if_closed()
            if key in self._models or key in self._loading:
                raise ModelAlreadyLoaded(f"a model is already loaded as {key!r}: unload it first")
            if len(self._models) + len(self._loading) >= self.options.models_max:
                raise LimitExceeded(
                    f"models_max = {self.options.models_max} models are loaded: unload one or raise the limit"
                )
            self._loading.add(key)

    def _check_size(self, model: bytes | Path) -> int:
        try:
            size = len(model) if isinstance(model, bytes) else model.stat().st_size
        except OSError as error:
            raise ModelInvalid(f"the model's file cannot be read: {error}") from error
        if size > self.options.model_bytes_max:
            raise LimitExceeded(
                f"the model has {size} bytes, model_bytes_max is {self.options.model_bytes_max}"
            )
        return size

    def _build(self, model: bytes | Path, providers: Sequence[str]) -> Any:
        try:
            return self._session(model, providers)
        except Exception as failure:
            if set(providers) == {"cpu"}:
                raise _invalid(failure) from failure
            reason = _reason(failure)
        # The model or the device? A device that does not work must not look like a broken model.
        try:
            session = self._session(model, ("cpu",))
        except Exception as failure:
            raise _invalid(failure) from failure
        if not self.options.allow_fallback:
            raise ProviderUnavailable(f"{unavailable(providers, ('cpu',))} (onnxruntime: {reason})")
        return session

    def _session(self, model: bytes | Path, providers: Sequence[str]) -> Any:
        ort = _onnxruntime()
        if "cuda" in providers:
            _preload_cuda()
        wanted = [(onnx_provider(name), self.options.provider_options(name)) for name in providers]
        source = model if isinstance(model, bytes) else os.fspath(model)
        session = ort.InferenceSession(
            source, self._session_options(ort), providers=wanted, enable_fallback=0
        )
        session.disable_fallback()
        return session

    def _session_options(self, ort: Any) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_FATAL_ONLY
        options.intra_op_num_threads = self.options.intra_op_threads
        options.inter_op_num_threads = self.options.inter_op_threads
        if self.options.inter_op_threads > 1:
            options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        options.enable_cpu_mem_arena = self.options.memory_arena
        options.enable_mem_pattern = self.options.memory_pattern
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.add_session_config_entry("session.load_model_format", "ONNX")
        return options

    def _describe(self, session: Any, rankless: frozenset[str], size: int) -> ModelInfo:
        in_use = short_providers(session.get_providers())
        missing = tuple(name for name in self.options.providers if name not in in_use)
        if missing and not self.options.allow_fallback:
            raise ProviderUnavailable(unavailable(missing, in_use))
        outputs = session.get_outputs()
        servable = tuple(_tensor(each, rankless) for each in outputs if dtype_of_onnx(each.type))
        if not servable:
            raise ModelInvalid(f"no output has a type that can be served: {[each.type for each in outputs]}")
        for each in session.get_inputs():
            if dtype_of_onnx(each.type) is None:
                raise ModelInvalid(f"input {each.name!r} is a {each.type}, which cannot be served")
        return ModelInfo(
            inputs=tuple(_tensor(each, rankless) for each in session.get_inputs()),
            outputs=servable,
            providers=in_use,
            fallback=missing,
            outputs_unsupported=tuple(each.name for each in outputs if not dtype_of_onnx(each.type)),
            size_bytes=size,
        )

    def _run_options(self, shrink: str) -> Any:
        options = _onnxruntime().RunOptions()
        options.log_severity_level = _LOG_FATAL_ONLY
        if shrink:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrink)
        return options

    def _forked(self) -> None:
        # Taking a session down joins threads that do not exist here, so they are kept.
        self._inherited, self._models = self._models, {}
        self._closed = (
            "this process was forked from one that had loaded models, whose threads do not exist here: "
            "start it with spawn"
        )


def _tensor(declared: Any, rankless: frozenset[str]) -> TensorInfo:
    dtype = dtype_of_onnx(declared.type)
    assert dtype is not None
    shape = None if declared.name in rankless else tuple(declared.shape)
    return TensorInfo(declared.name, dtype, shape)


def _reason(failure: BaseException) -> str:
    """The first line of onnxruntime's message, without its numbers for codes."""
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    text = lines[0]
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text[:REASON_CHARS_MAX]


def _invalid(failure: Exception) -> ModelInvalid:
    return ModelInvalid(f"onnxruntime cannot load this model: {_reason(failure)}")


def _translated(key: str, failure: Exception, stopped: ExecutorError | None) -> ExecutorError:
    if stopped is not None:
        return stopped
    if isinstance(failure, UnicodeEncodeError):
        return InputInvalid(f"the inputs do not fit model {key!r}: a string is not valid Unicode: {failure}")
    return InferenceFailed(f"model {key!r} failed: {_reason(failure)}")


_LIVE: weakref.WeakSet[OnnxRuntime] = weakref.WeakSet()


def _after_fork() -> None:
    for runtime in list(_LIVE):
        runtime._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
