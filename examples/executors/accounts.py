"""A bank as a replicated state machine: transfers between accounts, refused where there is not enough."""

from __future__ import annotations

import json

from executor.interface import Command, Result


class Accounts:
    """A command is ``b"SOURCE TARGET AMOUNT"``; its result is both balances, in whole coins."""

    def __init__(self) -> None:
        self.balances = {"ann": 100, "bob": 100, "eve": 0}

    def execute(self, command: Command) -> Result:
        """Move the amount. Whatever is wrong with a command is a result, never an exception."""
        try:
            source, target, text = command.data.decode().split()
            amount = int(text)
        except ValueError:
            return Result(error=("INPUT_INVALID", "a transfer is SOURCE TARGET AMOUNT"))
        if source not in self.balances or target not in self.balances or amount <= 0:
            return Result(error=("INPUT_INVALID", "there is no such account, or nothing to move"))
        if self.balances[source] < amount:
            return Result(error=("INPUT_INVALID", f"{source} has only {self.balances[source]}"))
        self.balances[source] -= amount
        self.balances[target] += amount
        return Result([self.balances[source], self.balances[target]])

    def snapshot(self) -> bytes:
        """The balances. Equal ones give equal bytes."""
        return json.dumps(self.balances, sort_keys=True).encode()

    def restore(self, snapshot: bytes) -> None:
        """Replace the balances."""
        self.balances = json.loads(snapshot)
