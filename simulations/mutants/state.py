"""Mistakes behind the order, in the replicated state and the nodes around it: these show with whole nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from consensus.batch import Batch
from consensus.interface import Entry
from mcp.causality.vector import VersionVector
from mcp.errors import VersionConflict
from mcp.node.commands import CommandGroup
from mcp.node.deploy import Deployer
from mcp.node.machines import UserMachine
from mcp.node.order import Order
from mcp.node.ordered import OrderedState
from mcp.node.reads import Reads
from mcp.state.applied import Applied
from mcp.state.commands import Moment
from mcp.state.inferences import Inferences
from mcp.state.keys import Keys
from mcp.state.sessions import Sessions
from mcp.state.state import ReplicatedState
from simulations.mutants.mutant import Group, Patch

GROUP = Group("state and nodes", level="node")


@GROUP.mutant()
def repeated_commands_are_executed_again(patch: Patch) -> None:
    """The table of results is not looked at: a command that is sent again takes effect again."""

    def none(_self: Sessions, _session: Any, _seq: int) -> None:
        return None

    each = patch.original(Sessions, "execute_each")

    def anew(self: Sessions, session: Any, commands: Any, operations: Any, moment: Moment) -> list[Applied]:
        for seq, _, _ in commands:
            session.results.pop(seq, None)
        applied: list[Applied] = each(self, session, commands, operations, moment)
        return applied

    patch.method(Sessions, "kept_under", none)
    patch.method(Sessions, "execute_each", anew)


@GROUP.mutant()
def a_groups_results_are_not_kept(patch: Patch) -> None:
    """What a group's commands gave is forgotten: one that is sent again by itself takes effect again."""
    group = patch.original(ReplicatedState, "_group")

    def forgetful(self: ReplicatedState, args: dict[str, Any], moment: Moment) -> list[Applied]:
        applied: list[Applied] = group(self, args, moment)
        results = self.sessions._open[moment.session].results
        for seq, _, _ in args["commands"]:
            results.pop(seq, None)
        return applied

    patch.method(ReplicatedState, "_group", forgetful)


@GROUP.mutant()
def a_groups_results_are_mixed_up(patch: Patch) -> None:
    """The first two commands of a group get one another's results."""
    done = patch.original(CommandGroup, "_group_done")

    def mixed(self: CommandGroup, places: list[int], outcome: Any) -> None:
        done(self, [places[1], places[0], *places[2:]], outcome)

    patch.method(CommandGroup, "_group_done", mixed)


@GROUP.mutant()
def snapshots_lack_the_results_of_sessions(patch: Patch) -> None:
    """The table of results is left out of snapshots: who restores one executes repeated commands again."""
    frozen = patch.original(Sessions, "frozen")

    def without(self: Sessions) -> Callable[[], list[Any]]:
        opened, *rest = frozen(self)()
        return lambda: [[[*fields[:4], []] for fields in opened], *rest]

    patch.method(Sessions, "frozen", without)


@GROUP.mutant()
def snapshots_lack_the_sessions(patch: Patch) -> None:
    """A state that is restored from a snapshot knows no session."""
    frozen = patch.original(Sessions, "frozen")

    def without(self: Sessions) -> Callable[[], list[Any]]:
        _, *rest = frozen(self)()
        return lambda: [[], *rest]

    patch.method(Sessions, "frozen", without)


@GROUP.mutant()
def snapshots_lack_an_executor(patch: Patch) -> None:
    """The state of a user's executor is not in snapshots."""

    def nothing(_self: UserMachine) -> bytes:
        return b"\x90"

    patch.method(UserMachine, "snapshot", nothing)


@GROUP.mutant()
def sessions_are_not_waited_for(patch: Patch) -> None:
    """A read in a session is answered at once, also by a node that has not executed what the session saw."""

    async def at_once(_self: Order, _index: int, _timeout_s: float) -> None:
        return

    patch.method(Order, "wait_applied", at_once)


@GROUP.mutant()
def causality_is_ignored(patch: Patch) -> None:
    """The version vector that comes with a read is taken for empty."""
    read = patch.original(Reads, "read")

    async def forgetful(
        self: Reads,
        kind: str,
        args: Mapping[str, Any],
        consistency: str,
        vector: VersionVector,
        timeout_s: float,
    ) -> tuple[int, Any]:
        told: tuple[int, Any] = await read(self, kind, args, consistency, VersionVector(), timeout_s)
        return told

    patch.method(Reads, "read", forgetful)


@GROUP.mutant()
def linearizable_reads_are_local(patch: Patch) -> None:
    """A linearizable read is answered from whatever is here."""

    async def nothing(self: Order, _timeout_s: float) -> int:
        return self.applied_index

    patch.method(Order, "barrier", nothing)


@GROUP.mutant()
def fencing_tokens_are_not_compared(patch: Patch) -> None:
    """A result counts whichever node reports it, and under whichever token."""
    complete = patch.original(Inferences, "complete")

    def trusting(self: Inferences, args: dict[str, Any], moment: Any) -> Any:
        record = self.get(args["id"])
        if record is not None and record.assignee is not None:
            args = {**args, "node": record.assignee, "token": record.token}
        return complete(self, args, moment)

    patch.method(Inferences, "complete", trusting)


@GROUP.mutant()
def versions_are_not_compared(patch: Patch) -> None:
    """A compare-and-set writes whatever the version is: the loser overwrites the winner."""
    check = patch.original(Keys, "_check_version")

    def blind(self: Keys, key: str, expected: int, attempted: bytes, moment: Any) -> None:
        try:
            check(self, key, expected, attempted, moment)
        except VersionConflict:
            return

    patch.method(Keys, "_check_version", blind)


@GROUP.mutant()
def versions_begin_anew_after_a_delete(patch: Patch) -> None:
    """A key that is created after it was deleted begins with version 1: an old version fits again."""
    delete = patch.original(Keys, "delete")

    def forgetful(self: Keys, args: dict[str, Any], moment: Any) -> dict[str, Any]:
        told: dict[str, Any] = delete(self, args, moment)
        self._deleted_version = 0
        return told

    patch.method(Keys, "delete", forgetful)


@GROUP.mutant()
def a_deploy_needs_no_quorum(patch: Patch) -> None:
    """A model is announced while its bytes are on one node alone."""

    async def alone(self: Deployer, _manifest: dict[str, Any], _timeout_s: float) -> set[str]:
        return {self._node_id}

    patch.method(Deployer, "_replicate", alone)


@GROUP.mutant()
def time_is_the_nodes_own(patch: Patch) -> None:
    """Executing takes the time from the node's clock, and not the stamp in the entry."""
    push = patch.original(OrderedState, "push")

    def local(self: OrderedState, entry: Entry, batch: Batch) -> None:
        push(self, entry, batch._replace(time_s=asyncio.get_running_loop().time()))

    patch.method(OrderedState, "push", local)
