"""A user's own executor for the simulations: it writes down every command, and tells its place."""

from __future__ import annotations

import msgpack

from executor.interface import Command, Result

NAME = "tally"


class Tally:
    """Every command is a text of its own. Result: how many there were before it."""

    def __init__(self) -> None:
        self.marks: list[str] = []

    def execute(self, command: Command) -> Result:
        """See :class:`executor.interface.Executor`. A text that ends in ``!`` is refused."""
        text = command.data.decode()
        if text.endswith("!"):
            return Result(error=("INPUT_INVALID", f"{text} is refused"))
        self.marks.append(text)
        return Result(len(self.marks) - 1)

    def snapshot(self) -> bytes:
        """See :class:`executor.interface.Executor`."""
        packed: bytes = msgpack.packb(self.marks)
        return packed

    def restore(self, snapshot: bytes) -> None:
        """See :class:`executor.interface.Executor`."""
        self.marks = msgpack.unpackb(snapshot)
