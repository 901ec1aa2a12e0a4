"""On what the figures were taken."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import onnxruntime
import psutil


def describe(data_folder: Path) -> dict[str, Any]:
    """What a reader has to know to compare figures; ``data_folder`` is where the nodes' disk is."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": file_system(data_folder),
        "python": platform.python_version(),
        "onnxruntime": str(onnxruntime.__version__),
        "pysyncobj": version_of("pysyncobj"),
        "nodes_event_loop": nodes_event_loop(),
        "client_event_loop": "asyncio",
        "load_before": round(os.getloadavg()[0], 2),
    }


class Others:
    """How much of the machine was used by anybody but this process and those that it started.

    Those have to have ended by the end of the ``with`` block: only then are they counted as its own.
    """

    def __init__(self) -> None:
        self._begun = (0.0, 0.0)
        self.share = 0.0
        """From 0 to 1, of all cores, once the block has ended."""

    def __enter__(self) -> Self:
        self._begun = times()
        return self

    def __exit__(self, *exception: object) -> None:
        passed, others = (now - then for now, then in zip(times(), self._begun, strict=True))
        self.share = max(0.0, others) / passed if passed > 0 else 0.0


def times() -> tuple[float, float]:
    """Seconds of all cores together: those that passed, and those that others were busy."""
    machine = psutil.cpu_times()
    busy = machine.user + machine.system + getattr(machine, "nice", 0.0) + getattr(machine, "softirq", 0.0)
    passed = busy + machine.idle + getattr(machine, "iowait", 0.0) + getattr(machine, "steal", 0.0)
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return passed, busy - sum(usage.ru_utime + usage.ru_stime for usage in used)


def nodes_event_loop() -> str:
    """The event loop that ``mcpctl serve`` takes here: uvloop where it is installed."""
    if importlib.util.find_spec("uvloop") is None:
        return "asyncio"
    return f"uvloop {version_of('uvloop')}"


def version_of(distribution: str) -> str:
    """The installed version."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def file_system(folder: Path) -> str:
    """The kind of file system that ``folder`` is on."""
    mounts = [p for p in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"
