"""What the replicas apply, written down by an observer: the inside of the evidence.

All replicas apply the same commands at the same places with the same outcomes, wherever they began (on an
empty disk, behind a snapshot), and hold the same state there. The ledger sees every command that any replica
applies, compares it with what the first to be there did, and keeps of the first what the checkers of
histories want: which requests took effect, and what became of the grants of inferences.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mcp.errors import McpError
from mcp.state.applied import Applied
from mcp.state.commands import GROUP, Command, decode_command
from mcp.state.events import InferenceAssigned
from mcp.state.state import ReplicatedState
from simulations.checking.fencing import Granted, Reported, Revoked, Step
from simulations.invariants import Violation
from simulations.nodes.rollouts import RolloutLedger

SAME_COMMANDS = "replicas apply the same"
SAME_STATES = "replicas hold the same state"
NO_DEFECTS = "no command meets a defect"
GRANTS_FIT = "no share is granted beyond the limit"

Place = tuple[int, int]
"""A log index, and a position in its entry."""

_MOVES_GRANTS = frozenset(
    {
        "member.hello",
        "member.down",
        "inference.submit",
        "inference.complete",
        "inference.reassign",
        "model.deploy",
        "model.undeploy",
        "model.holder",
    }
)


class Ledger:
    """See the head of this module. ``fail`` takes what is wrong; nothing is raised into the replicas.

    Of the states at every ``digest_every``-th log index the digests are compared.
    """

    def __init__(self, digest_every: int, fail: Callable[[Exception], None]) -> None:
        self.requests: list[str] = []
        """Ids of the requests that took effect, in order."""
        self.steps: list[Step] = []
        self.counts: Counter[str] = Counter()
        self.rollouts = RolloutLedger(fail)
        self._digest_every = digest_every
        self._fail = fail
        self._outcomes: dict[Place, tuple[bytes, str]] = {}
        self._digests: dict[int, tuple[str, str]] = {}
        self._last: Place = (0, -1)
        self._grants: dict[str, Granted] = {}

    @property
    def compared(self) -> int:
        """At how many log indexes the digests of states were compared."""
        return len(self._digests)

    def watch(self, name: str, state: ReplicatedState) -> None:
        """From now on write down what the replica ``name`` applies to its ``state``."""
        apply = state.apply

        def observed(data: bytes, *, index: int, position: int, **rest: Any) -> Applied:
            if position == 0 and index % self._digest_every == 0:
                self._compare_states(name, index, state)
            changes = state.rollouts.changes
            applied = apply(data, index=index, position=position, **rest)
            self.rollouts.applied(name, (index, position), changes, state)
            self._applied(name, (index, position), data, applied, state)
            return applied

        state.apply = observed  # type: ignore[method-assign]

    def _compare_states(self, name: str, index: int, state: ReplicatedState) -> None:
        digest = state.digest()
        known, who = self._digests.setdefault(index, (digest, name))
        if known != digest:
            self._fail(Violation(SAME_STATES, f"{who} and {name} differ before log index {index}"))

    def _applied(
        self, name: str, place: Place, data: bytes, applied: Applied, state: ReplicatedState
    ) -> None:
        told = f"{applied.value!r} {applied.error!r} {applied.events!r} {applied.executed}"
        print_ = hashlib.blake2b(data + told.encode(), digest_size=16).digest()
        known = self._outcomes.get(place)
        if known is not None:
            if known[0] != print_:
                self._fail(Violation(SAME_COMMANDS, f"{known[1]} and {name} differ at {place}: {told:.300}"))
            return
        self._outcomes[place] = print_, name
        if place < self._last:
            self._fail(Violation(SAME_COMMANDS, f"{name} applied at {place}, which others have passed by"))
        self._last = place
        if applied.error is not None and applied.error[0] == "INTERNAL":
            self._fail(Violation(NO_DEFECTS, f"{name} at {place}: {applied.error[1]}"))
        try:
            command = decode_command(data)
        except McpError as error:
            self._fail(Violation(NO_DEFECTS, f"{name} at {place}: {error}"))
            return
        for each, came in apart(command, applied):
            self._note(each, came, state)

    # -- once for every place -----------------------------------------------------------------------

    def _note(self, command: Command, applied: Applied, state: ReplicatedState) -> None:
        self.counts["commands"] += 1
        if not applied.executed:
            self.counts["repeated"] += 1
            return
        if applied.error is None:
            request = request_of(command.op, command.args)
            if request is not None:
                self.requests.append(request)
        else:
            self.counts[f"refused {applied.error[0]}"] += 1
        if command.op == "share.grant" and applied.error is None and applied.value is not None:
            self.counts["shares granted"] += 1
            problem = overdrawn(command.args, applied.value, state)
            if problem is not None:
                self._fail(Violation(GRANTS_FIT, problem))
        if command.op in _MOVES_GRANTS:
            self._note_grants(command, applied, state)

    def _note_grants(self, command: Command, applied: Applied, state: ReplicatedState) -> None:
        if command.op == "inference.complete":
            self._note_report(command.args, applied, state)
        # What has lost its grant, before what has got one.
        granted = [event for event in applied.events if isinstance(event, InferenceAssigned)]
        anew = {event.id for event in granted}
        for task in list(self._grants):
            record = state.inferences.get(task)
            if record is None or task in anew or record.assignee is None:
                del self._grants[task]
                self.steps.append(Revoked(task))
        for event in granted:
            step = self._grants[event.id] = Granted(event.id, event.node, event.token)
            self.steps.append(step)

    def _note_report(self, args: dict[str, Any], applied: Applied, state: ReplicatedState) -> None:
        task = args["id"]
        record = state.inferences.get(task)
        if record is None or (applied.error is not None and applied.error[0] != "FENCED"):
            return
        accepted = applied.error is None
        if accepted and not record.finished:
            return  # An error that another node need not meet: nothing was recorded.
        if accepted and record.node != args["node"]:
            return  # The last attempt: the error that was recorded is the cluster's.
        self.steps.append(Reported(task, args["node"], args["token"], args["outcome"], accepted))
        self.counts["reports"] += 1
        self.counts["fenced"] += not accepted
        if accepted:
            self._grants.pop(task, None)


def apart(command: Command, applied: Applied) -> Iterator[tuple[Command, Applied]]:
    """Each command of a group with what came of it; any other by itself."""
    if command.op != GROUP or applied.error is not None:
        yield command, applied
        return
    for (seq, op, args), came in zip(command.args["commands"], applied.value, strict=True):
        yield Command(command.session, seq, command.args["ack"], op, args, command.schema), came


def request_of(op: str, args: dict[str, Any]) -> str | None:
    """The id under which the clients of `simulations.nodes.workload` know a command."""
    if op in ("key.put", "key.cas"):
        value = args["value"]
        return str(value["by"] if type(value) is dict else value)
    if op == "inference.submit":
        return str(args["id"])
    if op == "machine.execute":
        return bytes(args["data"]).decode()
    return None


def overdrawn(args: Mapping[str, Any], value: Mapping[str, Any], state: ReplicatedState) -> str | None:
    """What is wrong with a share that was granted just now: it is more than the others leave."""
    shared = state.read("shares", {}).get(args["limit"])
    if shared is None:
        return f"a share of {args['limit']}, which is no limit"
    others = sum(units for node, units in shared["shares"].items() if node != args["node"])
    if value["units"] <= max(0, shared["units"] - others):
        return None
    return f"{args['node']} got {value['units']} of {shared['units']}, and others may be using {others}"
