"""What a node finds around itself: time, network, disk, threads. A simulation brings its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from executor.interface import Pool
from executor.onnx import OnnxRuntime
from executor.pool import InferencePool
from mcp.clock import Clock, SystemClock
from mcp.net.memory import MemoryNetwork
from mcp.net.names import Resolve, system_resolve
from mcp.node.config import NodeConfig
from mcp.node.gauges import Gauges, SystemGauges
from mcp.node.storage import NodeFiles, open_files


def make_pool(runtime: OnnxRuntime, config: NodeConfig) -> Pool:
    """Threads for inferences, as many as the settings say; one model never gets all of them."""
    return InferencePool(
        runtime,
        workers=config.workers,
        workers_per_model_max=max(1, config.workers - 1),
        queue_runs_max=config.limits.inference_runs_max,
        queue_bytes_max=config.limits.inference_bytes_max,
    )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The real ones by default.

    ``clock`` gives time and randomness. ``network`` is where ``memory://`` addresses are. ``open_files``
    opens and recovers what is below a data directory, with a number for a journal that is made; it may block.
    ``make_pool`` makes what runs models. ``gauges`` measure the machine, and ``resolve`` finds the addresses
    of host names.
    """

    clock: Clock = field(default_factory=SystemClock)
    network: MemoryNetwork = field(default_factory=partial(MemoryNetwork, handing_over=True))
    open_files: Callable[[Path, int], NodeFiles] = open_files
    make_pool: Callable[[OnnxRuntime, NodeConfig], Pool] = make_pool
    gauges: Gauges = field(default_factory=SystemGauges)
    resolve: Resolve = system_resolve
