"""Causal delivery: no process is handed a message before one that it may have been a consequence of.

Within a process events are in order; a message is sent before it is delivered; and *happened before* is the
least order that has both. A message m comes causally before n if sending m happened before sending n. Then
whoever is handed n has been handed m first, if m was for them too. The oracle knows nothing of vectors: of
every message it keeps the whole set of messages that came before it, found from the record alone.

A send happens at its invocation: whatever the process was handed by then may have caused it. A process
counts as having been handed its own messages when it sends them. Beyond the order: nothing is handed
twice to one process, nothing that was never sent, is for others, or whose sending failed; with ``settled``
everything whose sending was acknowledged has arrived.

Not covered: agreement on one order of concurrent messages (causal order does not promise it); a process
that forgets: after a restart it goes on under its name with what it had been handed, or takes a new name.

Sources: Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System", 1978 (happened
before); Birman, Schiper and Stephenson, "Lightweight Causal and Atomic Group Multicast", 1991, section 3
(causal delivery).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from simulations.checking.history import History
from simulations.checking.operations import Deliver, Operation, Send
from simulations.checking.verdict import Verdict, Violation, verdict

CAUSAL: Final = "causal delivery"


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message: its number, how it was sent, and every message that came causally before it, as bits."""

    number: int
    message: str
    operation: Operation
    past: int

    def is_for(self, process: str) -> bool:
        to = self.operation.call.to if isinstance(self.operation.call, Send) else None
        return to is None or process in to or process == self.operation.process


@dataclass(slots=True)
class _Process:
    """What a process was handed or sent, what is for others, and all that happened before its next event."""

    handed: dict[str, Operation] = field(default_factory=dict)
    excused: int = 0
    past: int = 0


def check_causal(history: History, *, settled: bool = False) -> Verdict:
    """Check every delivery. ``settled``: the run had come to rest, so nothing may be missing."""
    oracle = _Oracle()
    for operation in history:
        if isinstance(operation.call, Send):
            oracle.send(operation, operation.call.message)
        elif isinstance(operation.call, Deliver):
            oracle.deliver(operation, operation.call.message)
    if settled:
        oracle.settle()
    return verdict(CAUSAL, oracle.delivered, oracle.violations)


class _Oracle:
    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.delivered = 0
        self._sent: dict[str, _Sent] = {}
        self._numbered: list[_Sent] = []
        self._processes: dict[str, _Process] = {}

    def send(self, operation: Operation, message: str) -> None:
        process = self._processes.setdefault(operation.process, _Process())
        if message in self._sent:
            self._accuse(f"message {message!r} was sent twice", self._sent[message].operation, operation)
            return
        sent = _Sent(len(self._numbered), message, operation, process.past)
        self._sent[message] = sent
        self._numbered.append(sent)
        if not operation.failed:
            self._hand(process, sent, operation)

    def deliver(self, operation: Operation, message: str) -> None:
        self.delivered += 1
        process = self._processes.setdefault(operation.process, _Process())
        sent = self._sent.get(message)
        if sent is None:
            self._accuse(f"message {message!r} was delivered and had not been sent", operation)
            return
        self._check(process, sent, operation)
        self._hand(process, sent, operation)

    def _hand(self, process: _Process, sent: _Sent, operation: Operation) -> None:
        process.handed[sent.message] = operation
        process.excused |= 1 << sent.number
        process.past |= sent.past | 1 << sent.number

    def _check(self, process: _Process, sent: _Sent, operation: Operation) -> None:
        name = f"message {sent.message!r}"
        earlier = process.handed.get(sent.message)
        if earlier is not None and isinstance(earlier.call, Deliver):
            self._accuse(f"{name} was delivered twice", earlier, operation)
        if sent.operation.failed:
            self._accuse(f"{name} was delivered, and sending it had failed", sent.operation, operation)
        if not sent.is_for(operation.process):
            self._accuse(f"{name} was delivered and is for others", sent.operation, operation)
        missing = sent.past & ~process.excused
        while missing:
            cause = self._numbered[(missing & -missing).bit_length() - 1]
            missing &= missing - 1
            # Told once, or never to be told: it is for others.
            process.excused |= 1 << cause.number
            if cause.is_for(operation.process):
                what = f"{name} was delivered before {cause.message!r}, which came causally before it"
                self._accuse(what, cause.operation, sent.operation, operation)

    def settle(self) -> None:
        """Say what is missing of everything whose sending was acknowledged."""
        for sent in self._numbered:
            if sent.operation.result is None:
                continue
            for name, process in self._processes.items():
                if sent.is_for(name) and sent.message not in process.handed:
                    self._accuse(f"message {sent.message!r} was never delivered to {name}", sent.operation)

    def _accuse(self, what: str, *operations: Operation) -> None:
        self.violations.append(Violation(what, tuple(map(str, sorted(operations, key=lambda o: o.invoked)))))
