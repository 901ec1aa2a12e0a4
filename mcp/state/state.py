"""The replicated state: one dispatcher over small deterministic machines.

:meth:`ReplicatedState.apply` is a function of the state and the command alone. Time is the leader's stamp
inside the entry, which never goes back; randomness would be the entry's seed; no result depends on the
order of a set or on the hash of a string. So nodes that apply the same commands hold the same state, to
the byte, and :meth:`ReplicatedState.digest` can prove it (Schneider, "Implementing Fault-Tolerant Services
Using the State Machine Approach", 1990, section 2).

An operation checks everything before it changes anything: a command that gives an error leaves the
state as it was, but for the sessions' bookkeeping and, when a compare-and-set lost, the conflict log.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final

from mcp.errors import (
    ConfigInvalid,
    InvalidArgument,
    McpError,
    PermissionDenied,
    StorageCorrupt,
    Unsupported,
    VersionMismatch,
)
from mcp.state import arguments
from mcp.state.applied import Applied, Error, Incapable, error_of, guarded
from mcp.state.commands import GROUP, SCHEMA_MAX, Command, Moment, decode_command, schema_of
from mcp.state.events import Event, MemberDown, MemberUp, SchemaRaised
from mcp.state.groups import GROUPED, apply_group
from mcp.state.inferences import Inferences
from mcp.state.keys import Keys
from mcp.state.limits import StateLimits
from mcp.state.machines import Machine, Machines
from mcp.state.members import Members
from mcp.state.models import Models
from mcp.state.rollouts import Rollouts
from mcp.state.schema import Schema
from mcp.state.sessions import Sessions
from mcp.state.shares import Ledger, Shares
from mcp.state.snapshots import digest_of, seal, unseal
from mcp.state.traffic import Traffic


class Issuer(enum.Enum):
    """Who may issue an operation."""

    CLIENT = "client"
    """Only within a session: it would not be safe to repeat."""
    NODE = "node"
    """Only a node, without a session."""
    ANY = "any"


_Handler = Callable[[dict[str, Any], Moment], tuple[Any, list[Event]]]
_NO_ARGS: Final[frozenset[str]] = frozenset()
_TRAFFIC_SINCE: Final = schema_of("rules.set")
"""Snapshots have that part since this schema is in force: so older versions write and read the others."""
_UNNUMBERED: Final = frozenset({"session.open", "session.close", GROUP})
"""Commands of a session that have no place in it: a group's commands have theirs."""


class ReplicatedState:
    """Everything that the cluster agrees on. The machines are public to read and must not be changed.

    ``limits`` decide what is taken, and ``machines`` are what users bring: give every node of a cluster
    the same. ``schema_max`` is the newest schema of commands that this node executes. ``make_ledger`` gives a
    new ledger of the cluster's limits (:mod:`mcp.state.shares`).
    """

    sessions: Sessions
    keys: Keys
    members: Members
    models: Models
    inferences: Inferences
    traffic: Traffic
    rollouts: Rollouts
    schema: Schema

    def __init__(
        self,
        limits: StateLimits | None = None,
        machines: Mapping[str, Machine] | None = None,
        schema_max: int = SCHEMA_MAX,
        make_ledger: Callable[[], Ledger] | None = None,
    ) -> None:
        self.limits = limits or StateLimits()
        self.machines = Machines(machines or {}, self.limits)
        self._applied = (0, -1)
        self._time_s = 0.0
        self._schema_max = schema_max
        members, models = Members(self.limits), Models(self.limits)
        inferences = Inferences(self.limits, members, models)
        schema = Schema(members, self.limits, schema_max)
        self._make_ledger = make_ledger
        self.ledger = None if make_ledger is None else make_ledger()
        traffic = Traffic(self.ledger)
        rollouts = Rollouts(traffic, models)
        sessions, keys = Sessions(self.limits), Keys(self.limits)
        self._install(sessions, keys, members, models, inferences, traffic, rollouts, schema)

    @property
    def applied_index(self) -> int:
        """The log index of the last command applied; 0 before the first."""
        return self._applied[0]

    @property
    def time_s(self) -> float:
        """The latest stamp, in seconds since the epoch."""
        return self._time_s

    def apply(
        self, data: bytes, *, index: int, position: int, term: int, time_s: float, seed: int
    ) -> Applied:
        """Apply the command at ``position`` of the entry at ``index``.

        Never raises for any ``data``: what is no command gives an error, which is the same on every node.
        Positions only grow; one that was applied already gives an error and changes nothing. The one
        exception that passes through is :class:`MemoryError`: it is no function of the command, so a node
        that went on would hold another state than the others.
        """
        place = (index, position)
        if place <= self._applied:
            return Applied(None, ("INTERNAL", f"position {position} of {index} was applied already", {}))
        self._applied = place
        self._time_s = max(self._time_s, time_s)
        self.sessions.expire(self._time_s)
        try:
            command = decode_command(data, self._schema_max)
            moment = Moment(index, position, self._time_s, command.session, term, seed, command.schema)
            return self._issue(command, moment)
        except McpError as error:
            return Applied(None, error_of(error))
        except Incapable as error:
            return Applied(None, (VersionMismatch.code, str(error), {}))

    def read(self, kind: str, args: Mapping[str, Any]) -> Any:
        """Read plain values: of a kind that the table of views below has.

        Raises :class:`~mcp.errors.InvalidArgument` and :class:`~mcp.errors.TooLarge` for bad arguments.
        """
        view = self._views.get(kind) if type(kind) is str else None
        if view is None:
            raise InvalidArgument(f"the kind of a read is one of {', '.join(self._views)}, not {kind!r:.80}")
        return view(arguments.mapping(args, "args"))

    def counters(self) -> dict[str, int]:
        """Return what was counted since the cluster began, and how much there is of everything."""
        return {
            "sessions_open": len(self.sessions),
            "sessions_expired": self.sessions.expired,
            "commands_executed": self.sessions.executed,
            "commands_deduplicated": self.sessions.deduplicated,
            "keys": len(self.keys),
            "conflicts_kept": len(self.keys.conflicts),
            "members": len(self.members),
            "models": len(self.models),
            "inferences_unfinished": self.inferences.unfinished,
            "inferences_waiting": self.inferences.waiting,
            "inferences_done": self.inferences.done,
            "inferences_failed": self.inferences.failed,
            "replicas_diverged": self.inferences.diverged,
            "routes": len(self.traffic.hosts),
        }

    # -- snapshots ----------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return the whole state. Equal states give equal bytes."""
        return self.frozen()()

    def frozen(self) -> Callable[[], bytes]:
        """What :meth:`snapshot` gives, of now. The call may come later, and from another thread.

        What is large holds immutable records, so taking it is a shallow copy, a few microseconds for a
        thousand of them; writing it down, which takes a thousand times as long, holds nobody up.
        """
        head = [self.limits.to_plain(), self._applied, self._time_s]
        large = (self.sessions.frozen(), self.keys.frozen(), self.keys.conflicts.frozen())
        directories = [self.members.to_plain(), self.models.to_plain()]
        inferences, machines = self.inferences.frozen(), self.machines.to_plain()
        schema = self.schema.in_force
        newer: list[Any] = []
        if schema >= _TRAFFIC_SINCE:
            ledger = None if self.ledger is None else self.ledger.to_plain()
            newer = [[self.traffic.to_plain(), ledger, self.rollouts.to_plain()]]
        return lambda: seal(
            [*head, *(part() for part in large), *directories, inferences(), *newer, machines, schema], schema
        )

    def restore(self, snapshot: bytes) -> None:
        """Replace the whole state, limits included, by what :meth:`snapshot` wrote.

        Raises :class:`~mcp.errors.StorageCorrupt` and :class:`~mcp.errors.VersionMismatch` for any other
        bytes, and leaves the state as it was.
        """
        payload = unseal(snapshot, self._schema_max)
        try:
            self._rebuild(payload)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ConfigInvalid) as error:
            raise StorageCorrupt(f"the snapshot's digest is right and its content is not: {error}") from error

    def digest(self) -> str:
        """Return a SHA-256 of the whole state, as 64 hexadecimal digits. It costs a snapshot."""
        return digest_of(self.snapshot())

    def _rebuild(self, payload: list[Any]) -> None:
        limit_values, applied, time_s, *parts, own, in_force = payload
        sessions, keys, conflicts, members, models, inferences, *newer = parts
        limits = StateLimits(**dict(zip(StateLimits.__slots__, limit_values, strict=True)))
        index, position = applied
        declared, shares, rolling = newer[0] if newer else (None, None, None)
        ledger, traffic = self._restored_traffic(declared, shares)
        new_members = Members.from_plain(members, limits)
        new_models = Models.from_plain(models, limits)
        rollouts = Rollouts(traffic, new_models)
        if rolling is not None:
            rollouts = Rollouts.from_plain(rolling, traffic, new_models)
        machines = (
            Sessions.from_plain(sessions, limits),
            Keys.from_plain(keys, conflicts, limits),
            new_members,
            new_models,
            Inferences.from_plain(inferences, limits, new_members, new_models),
            traffic,
            rollouts,
            Schema(new_members, limits, self._schema_max, in_force),
        )
        self.machines.restore(own)
        self.limits, self._applied, self._time_s = limits, (index, position), time_s
        self.ledger = ledger
        self._install(*machines)

    def _restored_traffic(self, declared: Any, shares: Any) -> tuple[Ledger | None, Traffic]:
        ledger = None if self._make_ledger is None else self._make_ledger()
        if ledger is not None:
            ledger.restore(shares)
        return ledger, Traffic(ledger) if declared is None else Traffic.from_plain(declared, ledger)

    # -- dispatch -----------------------------------------------------------------------------------

    def _install(
        self,
        sessions: Sessions,
        keys: Keys,
        members: Members,
        models: Models,
        inferences: Inferences,
        traffic: Traffic,
        rollouts: Rollouts,
        schema: Schema,
    ) -> None:
        self.sessions, self.keys, self.members = sessions, keys, members
        self.models, self.inferences, self.schema = models, inferences, schema
        self.traffic, self.rollouts = traffic, rollouts
        self._operations: dict[str, tuple[Issuer, _Handler]] = {
            "noop": (Issuer.ANY, _noop),
            "session.open": (Issuer.CLIENT, self._session_open),
            "session.close": (Issuer.CLIENT, self._session_close),
            "key.put": (Issuer.CLIENT, _quiet(keys.put)),
            "key.cas": (Issuer.CLIENT, _quiet(keys.cas)),
            "key.delete": (Issuer.CLIENT, _quiet(keys.delete)),
            "model.deploy": (Issuer.ANY, rollouts.watching(self._waking(models.deploy))),
            "model.undeploy": (Issuer.ANY, rollouts.watching(self._waking(models.undeploy))),
            "model.activate": (Issuer.ANY, rollouts.watching(models.activate)),
            "model.holder": (Issuer.NODE, self._waking(models.holder)),
            "member.hello": (Issuer.NODE, self._member_hello),
            "member.down": (Issuer.NODE, self._member_down),
            "inference.submit": (Issuer.ANY, inferences.submit),
            "inference.complete": (Issuer.NODE, inferences.complete),
            "inference.reassign": (Issuer.NODE, inferences.reassign),
            "machine.execute": (Issuer.CLIENT, _quiet(self._machine_execute)),
            "inference.report": (Issuer.NODE, inferences.report),
            "schema.raise": (Issuer.NODE, self._schema_raise),
            # From here on those of newer schemas, so that older versions list the same before them.
            "key.delete_prefix": (Issuer.CLIENT, _quiet(keys.delete_prefix)),
            GROUP: (Issuer.CLIENT, _quiet(self._group)),
            **_traffic_operations(traffic, Shares(self.ledger)),
            **_rollout_operations(rollouts),
        }
        self._quiet_operations: dict[str, Callable[[dict[str, Any], Moment], Any]] = {
            "key.put": keys.put,
            "key.cas": keys.cas,
            "key.delete": keys.delete,
            "machine.execute": self._machine_execute,
        }
        """Of clients, since schema 1, and without events: most commands are these."""
        self._grouped_operations = {op: self._quiet_operations[op] for op in GROUPED}
        self._views = self._make_views()

    def _make_views(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        keys, models, traffic = self.keys, self.models, self.traffic
        return {
            "key": keys.read,
            "conflicts": keys.read_conflicts,
            "keys": keys.read_list,
            "inference": self.inferences.read,
            "models": models.read,
            "model": models.read_one,
            "members": self.members.read,
            "rules": traffic.read_rules,
            "routes": traffic.read_routes,
            "limits": traffic.read_limits,
            "strategies": traffic.read_strategies,
            "rollouts": self.rollouts.read,
            "shares": lambda args: Shares(self.ledger).read(args, self._time_s),
        }

    def _issue(self, command: Command, moment: Moment) -> Applied:
        """Execute a command, once if it stands in a session."""
        if not command.session or command.op in _UNNUMBERED:
            value, error, events = self._execute(command, moment)
            return Applied(value, error, events, executed=True)
        sessions = self.sessions
        kept = sessions.kept(command, moment.time_s)
        if kept is not None:
            return Applied(*kept, recorded=True)
        value, error, events = self._execute(command, moment)
        sessions.keep(command, (value, error))
        return Applied(value, error, events, True, True)

    def _execute(self, command: Command, moment: Moment) -> tuple[Any, Error | None, tuple[Event, ...]]:
        op = command.op
        quiet = self._quiet_operations.get(op)
        if quiet is not None and command.session and command.schema == 1:
            # As the handler would: every schema in force has these, and any client may issue them.
            value, error = guarded(quiet, op, command.args, moment)
            return value, error, ()
        try:
            handler = self._handler(command)
        except McpError as refused:
            return None, error_of(refused), ()
        given, error = guarded(handler, op, command.args, moment)
        if error is not None:
            return None, error, ()
        value, events = given
        return value, None, tuple(events)

    def _handler(self, command: Command) -> _Handler:
        entry = self._operations.get(command.op)
        if entry is None or schema_of(command.op) > command.schema:
            # The same text from every version that executes this schema: it is a result like any other.
            known = ", ".join(op for op in self._operations if schema_of(op) <= command.schema)
            raise InvalidArgument(f"there is no operation {command.op!r:.80}; there are {known}")
        if command.schema > self.schema.in_force:
            raise Unsupported(
                f"the command has schema {command.schema}, and {self.schema.in_force} is in force; "
                "it should not have been proposed before"
            )
        issuer, handler = entry
        if command.session:
            if issuer is Issuer.NODE:
                raise PermissionDenied(f"{command.op} is for the cluster's own nodes, outside of any session")
        elif issuer is Issuer.CLIENT or command.seq or command.ack:
            raise InvalidArgument(
                f"{command.op} without a session (seq={command.seq}, ack={command.ack}) could not be told "
                "from its own duplicate; open a session, and send it there"
            )
        return handler

    def _session_open(self, args: dict[str, Any], moment: Moment) -> tuple[Any, list[Event]]:
        arguments.only(args, _NO_ARGS)
        return self.sessions.open(moment), []

    def _session_close(self, args: dict[str, Any], moment: Moment) -> tuple[Any, list[Event]]:
        arguments.only(args, _NO_ARGS)
        return self.sessions.close(moment), []

    def _machine_execute(self, args: dict[str, Any], moment: Moment) -> Any:
        return self.machines.execute(args, moment, self.members)

    def _group(self, args: dict[str, Any], moment: Moment) -> list[Applied]:
        return apply_group(args, moment, self.sessions, self._grouped_operations, self.keys.put_run)

    def _member_hello(self, args: dict[str, Any], moment: Moment) -> tuple[Any, list[Event]]:
        before, member = self.members.hello(args, moment)
        events: list[Event] = []
        if before is None or not before.up or before.incarnation != member.incarnation:
            events.append(MemberUp(member.node, member.address, member.incarnation))
        if before is not None and before.incarnation != member.incarnation:
            events += self.inferences.lost(member.node, moment)
        return {}, events + self.inferences.wake(moment)

    def _member_down(self, args: dict[str, Any], moment: Moment) -> tuple[Any, list[Event]]:
        before, member = self.members.down(args, moment)
        if not before.up:
            return {}, []
        events: list[Event] = [MemberDown(member.node, member.incarnation)]
        return {}, events + self.inferences.lost(member.node, moment)

    def _schema_raise(self, args: dict[str, Any], moment: Moment) -> tuple[Any, list[Event]]:
        changed = self.schema.raise_to(args)
        events: list[Event] = [SchemaRaised(self.schema.in_force)] if changed else []
        return {"schema": self.schema.in_force}, events

    def _waking(self, operation: _Handler) -> _Handler:
        """Let an operation that changes who can run what be followed by assigning what waits."""

        def followed(args: dict[str, Any], moment: Moment) -> tuple[Any, list[Event]]:
            value, events = operation(args, moment)
            return value, events + self.inferences.wake(moment)

        return followed


def _traffic_operations(traffic: Traffic, shares: Shares) -> dict[str, tuple[Issuer, _Handler]]:
    """Those of schema 4."""
    return {
        "rules.set": (Issuer.CLIENT, _quiet(traffic.set_rules)),
        "routes.apply": (Issuer.CLIENT, _quiet(traffic.apply_routes)),
        "routes.remove": (Issuer.CLIENT, _quiet(traffic.remove_routes)),
        "limits.set": (Issuer.CLIENT, _quiet(traffic.set_limits)),
        "strategy.set": (Issuer.CLIENT, _quiet(traffic.set_strategy)),
        "share.grant": (Issuer.NODE, _quiet(shares.grant)),
        "share.return": (Issuer.NODE, _quiet(shares.return_)),
    }


def _rollout_operations(rollouts: Rollouts) -> dict[str, tuple[Issuer, _Handler]]:
    """Those of schema 4, too."""
    return {
        "rollout.begin": (Issuer.CLIENT, _quiet(rollouts.begin)),
        "rollout.advance": (Issuer.NODE, _quiet(rollouts.advance)),
        "rollout.finish": (Issuer.NODE, rollouts.finish),
        "rollout.roll_back": (Issuer.NODE, _quiet(rollouts.roll_back)),
        "rollout.abort": (Issuer.CLIENT, _quiet(rollouts.abort)),
    }


def _noop(args: dict[str, Any], moment: Moment) -> tuple[Any, list[Event]]:
    arguments.only(args, _NO_ARGS)
    return {}, []


def _quiet(operation: Callable[[dict[str, Any], Moment], Any]) -> _Handler:
    def without_events(args: dict[str, Any], moment: Moment) -> tuple[Any, list[Event]]:
        return operation(args, moment), []

    return without_events
