"""What a machine has and how busy it is: a port, which a simulation replaces.

What cannot be measured is ``None`` and is said to nobody: processors and memory need psutil, the memory of
NVIDIA devices needs nvidia-ml-py.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Capacity:
    """What there is. Memory in bytes."""

    cores: int
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What was found just now.

    ``cpu``: the share of all processors that was busy since the last sample, 0 to 1. ``memory_free_bytes``:
    what can still be had without swapping. ``device_memory_free_bytes``: of the device that has least.
    """

    cpu: float | None = None
    memory_free_bytes: int | None = None
    device_memory_free_bytes: int | None = None


class Gauges(Protocol):
    """Reads the machine. Calls are short and raise nothing, but for :meth:`open`, which may block."""

    def open(self) -> None:
        """Look for devices; blocks. Without it there are none."""

    def capacity(self) -> Capacity:
        """What there is."""

    def sample(self) -> Sample:
        """How busy it is."""


class SystemGauges:
    """The machine that this process runs on."""

    def __init__(self) -> None:
        self._psutil = _optional("psutil")
        self._device_memory_free: Callable[[], int | None] = lambda: None

    def open(self) -> None:
        """Look for NVIDIA devices; blocks while the driver starts."""
        self._device_memory_free = _nvml() or self._device_memory_free

    def capacity(self) -> Capacity:
        """The processors that this process may run on, and the machine's memory."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        memory = None if self._psutil is None else int(self._psutil.virtual_memory().total)
        return Capacity(cores, memory)

    def sample(self) -> Sample:
        """How busy the machine is."""
        device = self._device_memory_free()
        if self._psutil is None:
            return Sample(device_memory_free_bytes=device)
        return Sample(
            cpu=min(1.0, float(self._psutil.cpu_percent(None)) / 100),
            memory_free_bytes=int(self._psutil.virtual_memory().available),
            device_memory_free_bytes=device,
        )


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _nvml() -> Callable[[], int | None] | None:
    """What reads the free memory of devices; ``None`` where there is no device, driver or package."""
    nvml = _optional("pynvml")
    if nvml is None:
        return None
    try:
        nvml.nvmlInit()
        devices = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return None

    def free() -> int | None:
        try:
            return min(int(nvml.nvmlDeviceGetMemoryInfo(device).free) for device in devices)
        except nvml.NVMLError:
            return None

    return free if devices else None
