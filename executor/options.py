"""What a runtime may use: execution providers, threads, memory, and the limits it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from executor.errors import ProviderUnavailable

_ONNX_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_SHORT_NAMES = {onnx_name: name for name, onnx_name in _ONNX_NAMES.items()}


def onnx_provider(name: str) -> str:
    """The name of a provider in onnxruntime. ``name`` is one of those that options accept."""
    return _ONNX_NAMES[name]


def short_providers(onnx_names: Sequence[str]) -> tuple[str, ...]:
    """The short names of those providers that this package serves with; the others are left out."""
    return tuple(_SHORT_NAMES[name] for name in onnx_names if name in _SHORT_NAMES)


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """How sessions are built. Raises ``ValueError`` for what makes no sense.

    * ``providers``: in order of preference, from "cpu" and "cuda". All of them have to be usable,
      unless ``allow_fallback``: then the usable ones serve and ``ModelInfo.fallback`` names the rest.
      onnxruntime itself only warns about a missing provider and goes on without it. With CUDA, what
      has no kernel on the device runs on the CPU in any case: that is how the provider works.
    * ``intra_op_threads``: threads that work on one operator, per session, the calling thread among
      them. ``inter_op_threads`` above 1 also runs independent operators side by side.
    * ``device_memory_bytes_max``: the limit of *each session's* arena on the device; 0 is no limit.
      What CUDA and cuDNN take for themselves comes on top.
    * ``memory_arena`` keeps freed CPU memory for the next run; ``shrink_arena`` gives back after a
      run whose inputs have ``shrink_bytes_min`` or more, and after the one that follows it, what is not
      in use any more (slower, for rare huge inputs). An arena does not shrink by itself.
    * ``memory_pattern`` plans the memory of each input shape once and keeps the plan for ever: only for
      models with a few fixed shapes.
    * ``tf32`` lets CUDA round matrix inputs to 10 bits of mantissa. Off, so that replicas on different
      providers agree within :func:`executor.compare.compare_outputs`' tolerance.
    """

    providers: tuple[str, ...] = ("cpu",)
    allow_fallback: bool = False
    intra_op_threads: int = 1
    inter_op_threads: int = 1
    device_id: int = 0
    device_memory_bytes_max: int = 0
    memory_arena: bool = True
    shrink_arena: bool = False
    shrink_bytes_min: int = 0
    memory_pattern: bool = False
    tf32: bool = False
    models_max: int = 64
    model_bytes_max: int = 2**31 - 1
    warm_up_bytes_max: int = 256 * 2**20

    def __post_init__(self) -> None:
        if not self.providers or len(set(self.providers)) != len(self.providers):
            raise ValueError(f"providers must be one or more, each once, got {self.providers!r}")
        unknown = [name for name in self.providers if name not in _ONNX_NAMES]
        if unknown:
            raise ValueError(f"unknown providers {unknown}, expected some of {sorted(_ONNX_NAMES)}")
        for name in ("intra_op_threads", "inter_op_threads", "models_max", "model_bytes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("device_id", "device_memory_bytes_max", "warm_up_bytes_max", "shrink_bytes_min"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def usable(self, available: Sequence[str]) -> tuple[str, ...]:
        """The providers to use where ``available`` are, both by short name.

        Raises :class:`ProviderUnavailable` if one is missing and no fallback is allowed. With a
        fallback the CPU is the last resort: it is always there.
        """
        missing = [name for name in self.providers if name not in available]
        if missing and not self.allow_fallback:
            raise ProviderUnavailable(unavailable(missing, available))
        return tuple(name for name in self.providers if name not in missing) or ("cpu",)

    def provider_options(self, name: str) -> dict[str, str]:
        """The options of one provider (onnxruntime, "CUDA Execution Provider", configuration options)."""
        if name != "cuda":
            return {}
        options = {
            "device_id": str(self.device_id),
            # The default doubles the arena at every growth: with a limit per session that wastes half.
            "arena_extend_strategy": "kSameAsRequested",
            # The default benchmarks every new convolution shape, for seconds, in the middle of serving.
            "cudnn_conv_algo_search": "HEURISTIC",
            "do_copy_in_default_stream": "1",
            "use_tf32": str(int(self.tf32)),
        }
        if self.device_memory_bytes_max:
            options["gpu_mem_limit"] = str(self.device_memory_bytes_max)
        return options

    def shrink_list(self, providers: Sequence[str]) -> str:
        """The arenas to shrink after each run, as onnxruntime wants them: ``cpu:0;gpu:0``."""
        arenas = ["cpu:0"] if self.memory_arena else []
        if "cuda" in providers:
            arenas.append(f"gpu:{self.device_id}")
        return ";".join(arenas) if self.shrink_arena else ""


def unavailable(missing: Sequence[str], available: Sequence[str]) -> str:
    """The message for providers that were asked for and are not there."""
    advice = "leave it out of the providers, or allow a fallback"
    if "cuda" in missing:
        advice = f"install onnxruntime-gpu with its CUDA libraries, {advice}"
    return f"providers {list(missing)} are not usable here, {list(available)} are: {advice}"
