"""What can go wrong while running work. `mcp.errors` translates these for users."""

from __future__ import annotations


class ExecutorError(Exception):
    """Root of this package's errors. ``code`` is stable and used on wires and in logs."""

    code = "EXECUTOR"


class QueueFull(ExecutorError):
    """The command queue has reached its limit. Nothing was queued; retry when it has drained."""

    code = "QUEUE_FULL"


class OutOfOrder(ExecutorError):
    """A command did not follow the last one. Indexes count on by one, positions within an index too."""

    code = "OUT_OF_ORDER"


class ModelNotLoaded(ExecutorError):
    """No model is loaded under that key."""

    code = "MODEL_NOT_LOADED"


class ModelInvalid(ExecutorError):
    """The bytes are no ONNX model that this runtime can load."""

    code = "MODEL_INVALID"


class ProviderUnavailable(ExecutorError):
    """An execution provider was asked for that this machine lacks, and no fallback was allowed."""

    code = "PROVIDER_UNAVAILABLE"


class InputInvalid(ExecutorError):
    """An input's name, type or shape is not what the model declares. The model was not run."""

    code = "INPUT_INVALID"


class DeadlineExceeded(ExecutorError):
    """The run was stopped, or never started, because its deadline had passed."""

    code = "DEADLINE_EXCEEDED"


class InferenceFailed(ExecutorError):
    """onnxruntime refused during the run. The model stays loaded and other runs go on."""

    code = "INFERENCE_FAILED"


class SnapshotInvalid(ExecutorError):
    """An executor cannot restore from these bytes."""

    code = "SNAPSHOT_INVALID"


class ModelAlreadyLoaded(ExecutorError):
    """A model is loaded, or being loaded, under that key. Unload it first, or use another key."""

    code = "MODEL_ALREADY_LOADED"


class LimitExceeded(ExecutorError):
    """A named limit of the runtime would have been passed. The message names it."""

    code = "LIMIT_EXCEEDED"


class RunCancelled(ExecutorError):
    """Whoever had asked for the run stopped it."""

    code = "RUN_CANCELLED"


class ExecutorClosed(ExecutorError):
    """The runtime or the pool has been closed, or belongs to the process that this one was forked from."""

    code = "EXECUTOR_CLOSED"
