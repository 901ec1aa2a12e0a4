"""How MLServer is told what to serve. Pure but for the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from simulations.benchmarks.serving.subjects import Subject

BATCH_ROWS_MAX: Final = 64
BATCH_WAIT_S: Final = 0.001
RUNTIME: Final = "simulations.benchmarks.serving.servers.mlserver_v2.OnnxModel"


def settings(subject: Subject, ports: tuple[int, int, int], folder: Path) -> Path:
    """Write the settings for one model, batched adaptively in one process; gives the folder to start it in.

    ``ports`` are for HTTP, gRPC and metrics, all on loopback.
    """
    place = folder / f"mlserver-{subject.name}"
    place.mkdir(exist_ok=True)
    http, grpc, metrics = ports
    server = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        # Runs in the server's own process: workers would cost a hop through a queue.
        "parallel_workers": 0,
        "debug": False,
    }
    model = {
        "name": subject.name,
        "implementation": RUNTIME,
        "parameters": {"uri": str(subject.model)},
        "max_batch_size": BATCH_ROWS_MAX,
        "max_batch_time": BATCH_WAIT_S,
    }
    (place / "settings.json").write_text(json.dumps(server))
    (place / "model-settings.json").write_text(json.dumps(model))
    return place
