"""Rollouts on a node: what it counts for them, and, where it leads, how it drives them.

Every node counts, for each version of a model that is being rolled out, the requests that a route has led
there: whether they failed, and how long they took, from where they were let in. A stream counts once its
first step is there, with the time of that, and as failed if it fails in whichever step. The leader asks all
members now and then, adds the answers up, and does what the core decides
(:mod:`mcp.cluster.rollout.deciding`), by a command that names the change which it was decided on. So nothing
has to be handed over when another node leads: it asks in its turn, and what the one before still proposes is
not carried out twice. Only a step's interval begins anew, for every leader measures it by its own clock.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from consensus.interface import Role
from mcp.clock import Clock, new_id
from mcp.cluster.rollout.deciding import QUANTILE, Action, Plan, Verdict, decide
from mcp.cluster.rollout.figures import Figures
from mcp.errors import (
    CircuitOpen,
    DeadlineExceeded,
    InvalidArgument,
    McpError,
    ModelNotReady,
    PermissionDenied,
    Unavailable,
    VersionConflict,
)
from mcp.net.exchange import Exchange
from mcp.node.links import PeerLinks
from mcp.node.order import Order
from mcp.node.tickets import CALLERS
from mcp.state.models import ModelVersion
from mcp.state.rollouts import REASON_BYTES_MAX, WEIGHT_OF_A_PERCENT, Rollout, read_plan
from mcp.state.state import ReplicatedState
from mcp.wire.handshake import Role as PeerRole
from mcp.wire.messages import Message, Ttl

LOOK_S: Final = 0.5
"""So long at least between two looks at the rollouts."""
FIGURES_TIMEOUT_S: Final = 1.0
"""A member that has not told its figures within that is left out of the look."""
ENDED_MAX: Final = 64
"""Of so many rollouts that have ended while this node led, the latest, their last looks are kept."""

_NOT_THE_VERSIONS: Final = (*CALLERS, CircuitOpen, Unavailable)
"""Errors that say nothing about a version: of what was not let in or not understood, or of a lost node."""
_log = logging.getLogger("mcp.node")
_OPS: Final[Mapping[Action, str]] = {
    Action.ADVANCE: "rollout.advance",
    Action.FINISH: "rollout.finish",
    Action.ROLL_BACK: "rollout.roll_back",
}

Propose = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


@dataclass(slots=True)
class _Tally:
    """What this node has seen since a rollout's step (``new``), and since its beginning (``old``), began."""

    begun: int
    version: int
    new: Figures = field(default_factory=Figures)
    old: Figures = field(default_factory=Figures)

    def to_plain(self) -> dict[str, Any]:
        return {"version": self.version, "new": self.new.to_plain(), "old": self.old.to_plain()}


class Counting:
    """One node's figures. All calls on the loop's thread."""

    def __init__(self, state: ReplicatedState) -> None:
        self._state = state
        self._tallies: dict[str, _Tally] = {}
        """Of the rollouts that are going on, and of no other."""

    def watch(self, exchange: Exchange, model: ModelVersion, wait_s: float) -> None:
        """Count a request that begins after ``wait_s``, if its version is one that a rollout gave it."""
        figures = self.figures(model)
        if figures is not None and not self._names_its_version(exchange):
            began_s = asyncio.get_running_loop().time() + wait_s
            exchange.on_end(functools.partial(_ended, figures, began_s))

    def watch_stream(
        self, exchange: Exchange, model: ModelVersion, wait_s: float
    ) -> Callable[[], None] | None:
        """As :meth:`watch`, a stream; gives what is to be called with each step, if anything is."""
        if self.figures(model) is None or self._names_its_version(exchange):
            return None
        stream = _Stream(self, model, asyncio.get_running_loop().time() + wait_s)
        exchange.on_end(stream.ended)
        return stream.stepped

    def _names_its_version(self, exchange: Exchange) -> bool:
        hint = exchange.message.payload.get("model_hint")
        return type(hint) is str and self._state.models.pinned(hint) is not None

    def figures(self, model: ModelVersion) -> Figures | None:
        """Where a request for this version is counted now; ``None``: it is none of a rollout's."""
        rollout = self._state.rollouts.get(model.name)
        if rollout is None or not rollout.going or model.version not in (rollout.from_, rollout.to):
            return None
        tally = self._tally(rollout)
        return tally.new if model.version == rollout.to else tally.old

    def tallies(self) -> dict[str, _Tally]:
        """The figures of the rollouts that are going on, by their models."""
        rollouts = (self._state.rollouts.get(model) for model in sorted(self._state.traffic.held))
        return {each.model: self._tally(each) for each in rollouts if each is not None}

    def seen(self, rollout: Rollout) -> dict[str, tuple[int, int]]:
        """Requests and failures that this node has seen, by version; empty once the rollout has ended."""
        tally = self._tally(rollout) if rollout.going else None
        if tally is None:
            return {}
        figures = {rollout.from_: tally.old, rollout.to: tally.new}
        return {version: (each.requests, each.failures) for version, each in figures.items()}

    def answer(self, exchange: Exchange) -> None:
        """Answer ``ROLLOUT_FIGURES``. Raises :class:`~mcp.errors.PermissionDenied` for who is no node."""
        if exchange.connection.peer.role is not PeerRole.NODE:
            raise PermissionDenied("ROLLOUT_FIGURES is what nodes ask one another; ask for the STATUS")
        figures = {model: tally.to_plain() for model, tally in self.tallies().items()}
        exchange.reply(exchange.message.reply("ROLLOUT_FIGURES_RESULT", {"figures": figures}))

    def _tally(self, rollout: Rollout) -> _Tally:
        tally = self._tallies.get(rollout.model)
        if tally is None or tally.begun != rollout.begun:
            held = self._state.traffic.held
            self._tallies = {model: each for model, each in self._tallies.items() if model in held}
            tally = self._tallies[rollout.model] = _Tally(rollout.begun, rollout.version)
        elif tally.version != rollout.version:
            tally.version, tally.new = rollout.version, Figures()
        return tally


def _ended(figures: Figures, began_s: float, error: McpError | None) -> None:
    if error is None:
        figures.succeeded(max(0.0, asyncio.get_running_loop().time() - began_s))
    elif _is_the_versions(error):
        figures.failed()


def _is_the_versions(error: McpError) -> bool:
    return isinstance(error, ModelNotReady) or not isinstance(error, _NOT_THE_VERSIONS)


class _Stream:
    """A stream that is counted: with its first step, and once more only if it fails after that.

    It may take hours, and where it has failed another step of the rollout may count.
    """

    __slots__ = ("_began_s", "_counted", "_counting", "_model")

    def __init__(self, counting: Counting, model: ModelVersion, began_s: float) -> None:
        self._counting = counting
        self._model = model
        self._began_s = began_s
        self._counted: Figures | None = None

    def stepped(self) -> None:
        """A step is there."""
        if self._counted is None:
            # One that counts nowhere any more has been counted for itself.
            self._counted = self._counting.figures(self._model) or Figures()
            self._counted.succeeded(max(0.0, asyncio.get_running_loop().time() - self._began_s))

    def ended(self, error: McpError | None) -> None:
        """The stream has ended, in whatever way."""
        if error is None or not _is_the_versions(error):
            return
        now = self._counting.figures(self._model)
        if now is None:
            return
        if self._counted is None:
            now.failed()
        elif not isinstance(error, DeadlineExceeded):  # with steps, that says more about who reads them
            if now is self._counted:
                now.failed_after_all()
            else:
                now.failed()


@dataclass(frozen=True, slots=True)
class Look:
    """What the leader saw of one rollout last, and made of it."""

    rollout: Rollout
    verdict: Verdict
    new: Figures
    old: Figures
    left_out: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """Return what a status says of it."""
        return {
            "model": self.rollout.model,
            "from": self.rollout.from_,
            "to": self.rollout.to,
            "step": self.rollout.step,
            "percent": self.rollout.weight / WEIGHT_OF_A_PERCENT,
            "version": self.rollout.version,
            "action": self.verdict.action.value,
            "reason": self.verdict.reason,
            "for_requests": self.verdict.for_requests,
            "new": _summary(self.new),
            "old": _summary(self.old),
            "left_out": list(self.left_out),
        }


def _summary(figures: Figures) -> dict[str, Any]:
    return {
        "requests": figures.requests,
        "failures": figures.failures,
        "p99_s": figures.latencies.quantile_s(QUANTILE),
    }


class RolloutDriver:
    """Drives the rollouts while this node leads. :meth:`look` is called a few times a second."""

    def __init__(
        self,
        node_id: str,
        state: ReplicatedState,
        order: Order,
        links: PeerLinks,
        clock: Clock,
        counting: Counting,
        propose: Propose,
        *,
        caught_up: Callable[[], bool],
    ) -> None:
        self.looks: dict[str, Look] = {}
        """The last look at each rollout that is going on, by its model; none where another node leads."""
        self._ended: dict[str, Look] = {}
        """The last looks at rollouts that have ended while this node led, the latest last."""
        self._node_id = node_id
        self._state = state
        self._order = order
        self._links = links
        self._clock = clock
        self._counting = counting
        self._propose = propose
        self._caught_up = caught_up
        self._looking: asyncio.Task[None] | None = None
        self._looked_s = float("-inf")
        self._seen: dict[str, tuple[int, float]] = {}
        """Of each rollout its version, and since when this node has seen it."""

    async def close(self) -> None:
        """Drive no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def look(self) -> None:
        """Begin a look at the rollouts, where there are any, this node leads, and none is under way."""
        if not self._state.rollouts.any_going or not self._leads():
            if self.looks and self._leads():
                self._keep_ended(self.looks)
            self.looks, self._seen = {}, {}
            return
        now = asyncio.get_running_loop().time()
        if now - self._looked_s >= LOOK_S and (self._looking is None or self._looking.done()):
            self._looked_s = now
            self._looking = asyncio.ensure_future(self._look())

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the last look at each model's latest rollout as a status tells it, ended or not."""
        told = []
        for model, look in sorted({**self._ended, **self.looks}.items()):
            rollout = self._state.rollouts.get(model)
            if rollout is not None and rollout.begun == look.rollout.begun:
                told.append({**look.to_plain(), "ended": not rollout.going})
        return told

    def _keep_ended(self, before: Mapping[str, Look]) -> None:
        """Keep the last looks at what has ended since; the figures are in no node's replicated state."""
        for model, look in before.items():
            rollout = self._state.rollouts.get(model)
            if rollout is not None and not rollout.going and rollout.begun == look.rollout.begun:
                self._ended.pop(model, None)
                self._ended[model] = look
        while len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def _leads(self) -> bool:
        return self._caught_up() and self._order.driver.status().role is Role.LEADER

    async def _look(self) -> None:
        members = [m.node for m in self._state.members.up() if m.node != self._node_id]
        told = await asyncio.gather(*(self._ask(node) for node in members))
        answers = dict(zip(members, told, strict=True))
        rollouts = [each for each in self._state.rollouts.all() if each.going]
        # Since it asked, one may have ended, or another node may lead.
        if self._leads():
            self._keep_ended(self.looks)
        self.looks = (
            {each.model: self._looked_at(each, answers) for each in rollouts} if self._leads() else {}
        )
        self._seen = {model: seen for model, seen in self._seen.items() if model in self.looks}
        for look in list(self.looks.values()):
            if look.verdict.action is not Action.WAIT and (not self._leads() or not await self._act(look)):
                return

    async def _ask(self, node: str) -> dict[str, Any] | None:
        """A member's figures by model; ``None`` where it does not tell them in time."""
        connection = self._links.connection(node)
        if connection is None:
            return None
        ttl = Ttl(1, int(FIGURES_TIMEOUT_S * 1000))
        message = Message("ROLLOUT_FIGURES", {}, new_id(self._clock), ttl=ttl)
        try:
            answer = await connection.request(message, timeout_s=FIGURES_TIMEOUT_S)
        except McpError:
            return None
        figures = answer.message.payload.get("figures")
        return figures if type(figures) is dict else None

    def _looked_at(self, rollout: Rollout, answers: Mapping[str, dict[str, Any] | None]) -> Look:
        now = asyncio.get_running_loop().time()
        version, since_s = self._seen.get(rollout.model, (0, now))
        if version != rollout.version:
            since_s = now
            self._seen[rollout.model] = rollout.version, now
        own = self._counting.tallies()[rollout.model]
        new, old, left_out = Figures(), Figures(), []
        new.merge(own.new)
        old.merge(own.old)
        for node, told in answers.items():
            figures = None if told is None else _figures(told.get(rollout.model), rollout.version)
            if figures is None:
                left_out.append(node)
            else:
                new.merge(figures[0])
                old.merge(figures[1])
        verdict = decide(plan_of(rollout), rollout.step, since_s, now, new, old)
        return Look(rollout, verdict, new, old, tuple(left_out))

    async def _act(self, look: Look) -> bool:
        """Propose what was decided; whether the log could be asked."""
        rollout, verdict = look.rollout, look.verdict
        args: dict[str, Any] = {"model": rollout.model, "expected_version": rollout.version}
        if verdict.action is Action.ROLL_BACK:
            left_out = f" (without {', '.join(look.left_out)})" if look.left_out else ""
            args["reason"] = f"{verdict.reason}{left_out}"[:REASON_BYTES_MAX]
        try:
            await self._propose(_OPS[verdict.action], args)
        except McpError as error:
            return isinstance(error, VersionConflict)  # somebody else was first; else the next look sees
        told = verdict.reason if verdict.action is not Action.ROLL_BACK else args["reason"]
        level = logging.WARNING if verdict.action is Action.ROLL_BACK else logging.INFO
        _log.log(level, "rollout of %s to %s: %s: %s", rollout.model, rollout.to, verdict.action.value, told)
        return True


def plan_of(rollout: Rollout) -> Plan:
    """Return what the core makes of a rollout's plan."""
    fields = msgpack.unpackb(rollout.plan)
    return Plan(**{**fields, "steps": tuple(fields["steps"])})


def _figures(told: object, version: int) -> tuple[Figures, Figures] | None:
    """What a member has seen of the new and the old version, if it is where this node is."""
    if type(told) is not dict or told.get("version") != version:
        return None
    try:
        return Figures.from_plain(told.get("new")), Figures.from_plain(told.get("old"))
    except McpError:
        return None


def check_begin(args: Mapping[str, Any], state: ReplicatedState) -> None:
    """Refuse a rollout that makes no sense, before it is proposed.

    Raises :class:`~mcp.errors.InvalidArgument` for a plan that is none, and for a version that does not take
    what the active one takes: its share of the requests would be refused.
    """
    read_plan(args.get("plan"))
    name, to = args.get("model"), args.get("to")
    if type(name) is not str or type(to) is not str:
        return
    old, new = state.models.get(name), state.models.get(name, to)
    if old is None or new is None:
        return
    problem = _refused_input(old.inputs, new.inputs)
    if problem is not None:
        raise InvalidArgument(
            f"{name}@{to} does not take what {name}@{old.version} takes: {problem}; deploy it under a name "
            "of its own"
        )


def _refused_input(old: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]) -> str | None:
    """The first input that the old version takes and the new one does not, in words."""
    before, after = ({spec["name"]: spec for spec in specs} for specs in (old, new))
    if before.keys() != after.keys():
        return f"its inputs are {', '.join(sorted(after))}, not {', '.join(sorted(before))}"
    for name, spec in before.items():
        was, is_now = spec["shape"], after[name]["shape"]
        if after[name]["dtype"] != spec["dtype"]:
            return f"{name} is of type {after[name]['dtype']}, not {spec['dtype']}"
        if is_now is None:
            continue
        fits = was is not None and len(was) == len(is_now)
        if not fits or any(type(now) is int and now != one for one, now in zip(was, is_now, strict=True)):
            return f"{name} has the shape {is_now}, not {was}"
    return None
