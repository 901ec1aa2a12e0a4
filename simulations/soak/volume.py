"""A small file system for one node, so that a full disk is the kernel's and not a story."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path


class Volume:
    """A small file system in memory for one node, which can be filled up. Linux, and root, only."""

    def __init__(self, place: Path, size_bytes: int) -> None:
        self._place = place
        self._ballast = place / "ballast"
        self._size_bytes = size_bytes

    @staticmethod
    def possible(folder: Path) -> bool:
        """Whether this process may mount one: tried out below ``folder``."""
        place = folder / "volume-probe"
        place.mkdir()
        try:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                Volume(place, 64 * 1024).mount()
                Volume(place, 64 * 1024).unmount()
                return True
            return False
        finally:
            place.rmdir()

    def mount(self) -> None:
        """Make it. Raises ``OSError`` or ``CalledProcessError`` where that is not allowed."""
        self._place.mkdir(parents=True, exist_ok=True)
        options = f"size={self._size_bytes},mode=0700"
        _run("mount", "-t", "tmpfs", "-o", options, "soak", str(self._place))

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


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
