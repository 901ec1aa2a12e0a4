"""A small file system for one node, so that a full disk is the kernel's and not a story.

A soak takes its file systems away when it ends, unless it is killed; then the next one does (:func:`sweep`).
Which runs are dead a lock tells that the kernel releases with the process (:func:`claimed`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SOURCE: Final = "mcp-soak"
"""What mounted it, in the system's list."""
VOLUMES: Final = "volumes"
"""Where the file systems of a run are, in its folder."""
LOCK: Final = "running"
MOUNTS: Final = Path("/proc/self/mounts")


class Volume:
    """A small file system in memory for one node, which can be filled up. Linux, and root, only."""

    def __init__(self, place: Path, size_bytes: int) -> None:
        self._place = place
        self._ballast = place / "ballast"
        self._size_bytes = size_bytes

    @staticmethod
    def possible(folder: Path) -> bool:
        """Whether this process may mount one: tried out below ``folder``."""
        place = folder / VOLUMES / "probe"
        place.mkdir(parents=True)
        try:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                Volume(place, 64 * 1024).mount()
                Volume(place, 64 * 1024).unmount()
                return True
            return False
        finally:
            place.rmdir()
            place.parent.rmdir()

    def mount(self) -> None:
        """Make it. Raises ``OSError`` or ``CalledProcessError`` where that is not allowed."""
        self._place.mkdir(parents=True, exist_ok=True)
        options = f"size={self._size_bytes},mode=0700"
        _run("mount", "-t", "tmpfs", "-o", options, SOURCE, str(self._place))

    def unmount(self) -> None:
        """Take it away, with all that it holds."""
        _run("umount", "--lazy", str(self._place))

    def fill(self, room_bytes: int) -> None:
        """Leave no more than ``room_bytes``, as far as pages allow."""
        self.relieve()
        free = shutil.disk_usage(self._place).free
        with self._ballast.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            left = max(0, free - room_bytes)
            while left > 0:
                left -= ballast.write(bytes(min(left, 1 << 20)))

    def relieve(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """While the body lasts, and this process lives, nobody sweeps the file systems below ``folder``."""
    path = folder / LOCK
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink()


def sweep(mounts: Path = MOUNTS) -> list[Path]:
    """Take away the file systems of runs that were killed, as far as this process may; where they were."""
    if os.geteuid() != 0 or not mounts.exists():
        return []
    swept = []
    for line in mounts.read_text().splitlines():
        source, written, kind, *_ = line.split(" ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), written))
        if (source, kind, place.parent.name) == (SOURCE, "tmpfs", VOLUMES) and _dead(place.parent.parent):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                Volume(place, 0).unmount()
                swept.append(place)
    return swept


def _dead(folder: Path) -> bool:
    """Whether a run has claimed it and is no more. Where nobody can tell, it is taken to live."""
    try:
        with (folder / LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
