"""What a comparison needs beside the product, and what to say where it is not installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

BENCH: Final = "pip install 'message-coordination-protocol[bench]'"
MLSERVER_PYTHON: Final = "MLSERVER_PYTHON"
"""Names a Python that has MLServer, whose requirements exclude a current FastAPI from its environment."""


@dataclass(frozen=True, slots=True)
class Need:
    """A Python module or a program, and how to get it."""

    name: str
    how: str
    is_program: bool = False

    @property
    def met(self) -> bool:
        """Whether it is installed."""
        found = shutil.which(self.name) if self.is_program else importlib.util.find_spec(self.name)
        return found is not None


WRK: Final = Need("wrk", "apt-get install wrk", is_program=True)
H2LOAD: Final = Need("h2load", "apt-get install nghttp2-client", is_program=True)
ETCD: Final = Need("etcd", "apt-get install etcd-server", is_program=True)


def modules(*names: str) -> tuple[Need, ...]:
    """Modules that the ``bench`` extra brings."""
    return tuple(Need(name, BENCH) for name in names)


def lacking(what: str, needs: Iterable[Need]) -> str | None:
    """Say what ``what`` lacks and how to get it; ``None`` where nothing is missing."""
    missing = [need for need in needs if not need.met]
    if not missing:
        return None
    names = ", ".join(need.name for need in missing)
    hows = "; ".join(dict.fromkeys(need.how for need in missing))
    return (
        f"{what} was not measured, for {names} {'is' if len(missing) == 1 else 'are'} not installed: {hows}"
    )


def mlserver_python() -> str | None:
    """The Python to run MLServer with: the one that ``MLSERVER_PYTHON`` names, else this one if it can."""
    named = os.environ.get(MLSERVER_PYTHON)
    if named:
        return shutil.which(named)
    return sys.executable if importlib.util.find_spec("mlserver") is not None else None
