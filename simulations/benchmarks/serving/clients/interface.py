"""What a client of any protocol does."""

from __future__ import annotations

from typing import Any, Protocol

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
