"""Where pages go: one file each, in a folder that is made if need be."""

from __future__ import annotations

from pathlib import Path

from simulations.report.page import page
from simulations.report.record import Run


def write(run: Run, folder: Path, name: str) -> Path:
    """Write the page of ``run`` as ``name`` in ``folder`` and return where it is. What was there is replaced.

    Raises ``OSError`` when that cannot be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(page(run), encoding="utf-8")
    return path.resolve()
