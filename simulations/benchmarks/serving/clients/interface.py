"""What a client of any protocol does."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from simulations.benchmarks.in_process import Outputs


class Asker(Protocol):
    """A client that may be asked any number of times at once."""

    async def connect(self) -> None:
        """Be ready to ask."""

    async def ask(self, row: int) -> Any:
        """Ask for a row of the subject; the answer as it came. Raises what went wrong."""

    def read(self, answer: Any, like: Outputs) -> Outputs:
        """The outputs in an answer, in types and shapes like those that are expected."""

    async def close(self) -> None:
        """End it."""


def one_behind_the_other(answer: bytes, like: Outputs) -> Outputs:
    """The outputs in an answer that is their bytes alone, in types and shapes like those of ``like``."""
    found, offset = {}, 0
    for name, value in like.items():
        found[name] = np.frombuffer(answer, value.dtype, value.size, offset).reshape(value.shape)
        offset += value.nbytes
    return found
