"""Checks of the machine: ports, disk, room and clock."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil

from mcp.cli.finding import Finding
from mcp.cli.output import duration, size
from mcp.clock import Clock, SystemClock

SYNC_COUNT: Final = 50
SYNC_BYTES: Final = 256
SYNC_S_MAX: Final = 0.010
FREE_BYTES_MIN: Final = 1_000_000_000
# November 2023: before this was written, so a clock that says less was never set.
WALL_S_MIN: Final = 1_700_000_000.0
CLOCK_STEP_S_MAX: Final = 0.002
MEMORY_FILESYSTEMS: Final = ("tmpfs", "ramfs", "devtmpfs")


def machine_checks(listen: Sequence[str], data_dir: Path) -> Iterator[Finding]:
    """Run every check of this module for these addresses and this data directory."""
    for address in listen:
        yield address_free(address)
    folder = nearest_existing(data_dir)
    yield file_system(folder)
    yield disk_sync(folder, SystemClock())
    yield disk_room(folder)
    yield clock_sane(SystemClock())


def address_free(address: str) -> Finding:
    """Check that a node could listen at ``address``."""
    check = f"address {address}"
    if address.startswith("unix:"):
        return Finding(check, "ok", "a Unix socket needs no port")
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        return Finding(check, "fail", "is no host:port", "give an address such as 127.0.0.1:7400")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As a server does, so that connections that are still closing do not count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except OSError as error:
        advice = "stop what uses it (a node may be running already), or choose another with --listen"
        return Finding(check, "fail", f"cannot be listened at: {error.strerror or error}", advice)
    return Finding(check, "ok", "free")


def nearest_existing(folder: Path) -> Path:
    """Return ``folder``, or the nearest folder above it that exists: its file system is the same."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def file_system(folder: Path) -> Finding:
    """Check that the data directory is on a disk, not in memory."""
    mounts = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    found = max(mounts, key=lambda p: len(p.mountpoint), default=None)
    kind = found.fstype if found else "unknown"
    if kind in MEMORY_FILESYSTEMS:
        advice = (
            "choose a --data-dir on a disk: what is in memory is gone after a power loss, whatever was synced"
        )
        return Finding("file system", "warn", f"{folder} is in memory ({kind})", advice)
    return Finding("file system", "ok", f"{kind} at {folder}")


def disk_sync(folder: Path, clock: Clock) -> Finding:
    """Measure how long the disk takes to make a small record durable: a lower bound for every command."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            median_s = statistics.median(timed_sync(file.fileno(), clock) for _ in range(SYNC_COUNT))
    except OSError as error:
        advice = "choose a --data-dir that this user may write to, on a disk with room"
        return Finding("disk sync", "fail", f"{folder}: {error.strerror or error}", advice)
    found = f"{duration(median_s)} (median of {SYNC_COUNT} fdatasync of {SYNC_BYTES} B)"
    if median_s > SYNC_S_MAX:
        advice = "every durable command waits for this: a local SSD or NVMe disk is much faster"
        return Finding("disk sync", "warn", found, advice)
    return Finding("disk sync", "ok", found)


def timed_sync(descriptor: int, clock: Clock) -> float:
    """Append one record, sync it, and return the seconds it took."""
    started = clock.monotonic()
    os.write(descriptor, bytes(SYNC_BYTES))
    # macOS lacks fdatasync.
    getattr(os, "fdatasync", os.fsync)(descriptor)
    return clock.monotonic() - started


def disk_room(folder: Path) -> Finding:
    """Check that there is room for a log, snapshots and models."""
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_MIN:
        advice = f"make room: below {size(FREE_BYTES_MIN)} the log, snapshots and models soon fill the disk"
        return Finding("disk room", "warn", f"{size(free)} free", advice)
    return Finding("disk room", "ok", f"{size(free)} free")


def clock_sane(clock: Clock) -> Finding:
    """Check that the clock was ever set, and that it is fine enough for timeouts of tenths of a second."""
    step_s = min(clock_steps(clock))
    if clock.wall() < WALL_S_MIN:
        advice = "set the clock (timedatectl set-ntp true): certificates and records are dated by it"
        return Finding("clock", "warn", "the date is years in the past", advice)
    if step_s > CLOCK_STEP_S_MAX:
        return Finding("clock", "warn", f"moves in steps of {duration(step_s)}", "use another clock source")
    return Finding("clock", "ok", "set, and fine enough for timeouts")


def clock_steps(clock: Clock) -> Iterator[float]:
    """Measure a few times by how much the monotonic clock moves when it moves."""
    for _ in range(5):
        before = after = clock.monotonic()
        while after == before:
            after = clock.monotonic()
        yield after - before
