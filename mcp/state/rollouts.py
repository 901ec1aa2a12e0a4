"""Rollouts: a new version takes a growing share of its model's requests, step by step (schema 4).

A rollout has a plan, a step and a state, and owns the route of its model's name for as long as it goes on. A
change of it and of the weights is one command, so there is one state at each position of the log, the same on
every node. Who decides when is the node that leads (:mod:`mcp.node.rollouts`); here is only what a decision
does, and that none is carried out twice: every change takes the next number of all changes, and a command
names the one that it was made for.

Step 0 is a trial with half of the first share, so that also the share of what is found out at once is well
below the first one; then comes a step for each share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import msgpack

from mcp.errors import Busy, InvalidArgument, ModelNotFound, NotFound, VersionConflict
from mcp.plain import is_number, shown
from mcp.state.arguments import LABEL, NAME, integer, mapping, matching, only, packed, sequence, text
from mcp.state.commands import Moment
from mcp.state.events import Event
from mcp.state.models import Models
from mcp.state.packing import reader
from mcp.state.traffic import Traffic

ROLLOUTS_MAX: Final = 1000
"""Rollouts that are kept, one for each model. Of those that have ended the one that ended first goes."""
STEPS_MAX: Final = 32
"""Steps of a plan."""
PERCENT: Final = 100
WEIGHT_OF_A_PERCENT: Final = 100
INTERVAL_S_MAX: Final = 86_400.0
RATIO_MAX: Final = 1000.0
REQUESTS_MAX: Final = 1_000_000
REASON_BYTES_MAX: Final = 1024
"""Why a rollout ended, in UTF-8."""

GOING: Final = "going"
DONE: Final = "done"
ROLLED_BACK: Final = "rolled back"
ABORTED: Final = "aborted"

_PLAN_BYTES_MAX: Final = 1024
_BEGIN: Final = frozenset({"model", "to", "plan"})
_CHANGE: Final = frozenset({"model", "expected_version"})
_ROLL_BACK: Final = _CHANGE | {"reason"}
_ABORT: Final = frozenset({"model"})
_ABORT_MORE: Final = frozenset({"expected_version", "reason"})
_EXPECTED: Final = frozenset({"expected_version"})
_PLAN: Final = frozenset({"steps", "max_error", "max_p99_ratio", "interval_s", "min_requests"})
_NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One model's latest rollout.

    ``version`` is the number of its last change among those of all rollouts; ``index`` and ``since_s`` (the
    stamp) are where and when that was, ``begun`` the log position of its beginning. ``from_`` is the version
    that was active then. ``plan`` is msgpack.
    """

    model: str
    from_: str
    to: str
    plan: bytes
    step: int
    state: str
    version: int
    index: int
    since_s: float
    begun: int
    reason: str = ""

    @property
    def going(self) -> bool:
        """Whether it has not ended."""
        return self.state == GOING

    @property
    def steps(self) -> list[int]:
        """The shares that were ordered, in percent."""
        steps: list[int] = msgpack.unpackb(self.plan)["steps"]
        return steps

    @property
    def weight(self) -> int:
        """The new version's share now, in hundredths of a percent."""
        if not self.going:
            return PERCENT * WEIGHT_OF_A_PERCENT if self.state == DONE else 0
        steps = self.steps
        if self.step == 0:
            return steps[0] * WEIGHT_OF_A_PERCENT // 2
        return steps[self.step - 1] * WEIGHT_OF_A_PERCENT

    def to_wire(self) -> dict[str, Any]:
        """Return the rollout as a client reads it; ``percent`` is the new version's share now."""
        return {
            "model": self.model,
            "from": self.from_,
            "to": self.to,
            "plan": msgpack.unpackb(self.plan),
            "step": self.step,
            "percent": self.weight / WEIGHT_OF_A_PERCENT,
            "state": self.state,
            "version": self.version,
            "index": self.index,
            "since_s": self.since_s,
            "begun": self.begun,
            "reason": self.reason,
        }


class Rollouts:
    """The latest rollout of each model that ever had one."""

    def __init__(self, traffic: Traffic, models: Models) -> None:
        self.changes = 0
        """How often any of them changed."""
        self._traffic = traffic
        self._models = models
        self._rollouts: dict[str, Rollout] = {}

    def get(self, model: str) -> Rollout | None:
        """Return the model's latest rollout, or ``None``."""
        return self._rollouts.get(model)

    def all(self) -> list[Rollout]:
        """Return all of them, in the order of their models."""
        return [self._rollouts[model] for model in sorted(self._rollouts)]

    @property
    def any_going(self) -> bool:
        """Whether any has not ended."""
        return bool(self._traffic.held)

    # -- commands -----------------------------------------------------------------------------------

    def begin(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{model, to, plan, expected_version?}``: begin with the trial; the rollout.

        Raises :class:`~mcp.errors.ModelNotFound`, :class:`~mcp.errors.InvalidArgument`, also for a version
        that is active, :class:`~mcp.errors.VersionConflict` where one is going on or the model has a route,
        :class:`~mcp.errors.Busy` at ``ROLLOUTS_MAX``, and :class:`~mcp.errors.TooLarge` at that of routes.
        """
        only(args, _BEGIN, _EXPECTED)
        name, to = matching(args["model"], "model", NAME), matching(args["to"], "to", LABEL)
        plan = packed(read_plan(args["plan"]), "the plan", _PLAN_BYTES_MAX)
        active = self._models.get(name)
        if active is None or self._models.get(name, to) is None:
            missing = f"model {name}" if active is None else f"version {to} of {name}"
            raise ModelNotFound(f"there is no {missing}; deploy it first, without making it the active one")
        before = self._rollouts.get(name)
        if before is not None and before.going:
            raise _conflict(before, "is going on: abort it first")
        self._check_expected(args, name)
        if active.version == to:
            raise InvalidArgument(f"version {to} of {name} is the active one: there is nothing to roll out")
        if self._traffic.has_route(name):
            raise VersionConflict(
                f"{name} has a route, which a rollout would replace; remove that first",
                details={"key": name, "version": self._traffic.routes_version},
            )
        self._traffic.check_room()
        self._make_room(name)
        begun = Rollout(name, active.version, to, plan, 0, GOING, 0, 0, 0.0, moment.index)
        return self._change(begun, moment).to_wire()

    def advance(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{model, expected_version}``: on to the next step; the rollout.

        Raises :class:`~mcp.errors.NotFound` and :class:`~mcp.errors.VersionConflict`, as the next do.
        """
        only(args, _CHANGE)
        rollout = self._expected(args)
        if rollout.step >= len(rollout.steps):
            raise InvalidArgument(f"the rollout of {rollout.model} is at its last step; finish it")
        return self._change(replace(rollout, step=rollout.step + 1), moment).to_wire()

    def finish(self, args: dict[str, Any], moment: Moment) -> tuple[dict[str, Any], list[Event]]:
        """``{model, expected_version}``: the new version is the active one, and there is no route."""
        only(args, _CHANGE)
        rollout = self._expected(args)
        if rollout.step < len(rollout.steps):
            raise InvalidArgument(f"the rollout of {rollout.model} has steps left; advance it")
        _, events = self._models.activate({"name": rollout.model, "version": rollout.to}, moment)
        return self._change(replace(rollout, state=DONE), moment).to_wire(), events

    def roll_back(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{model, expected_version, reason}``: the old version answers all again."""
        only(args, _ROLL_BACK)
        reason = text(args["reason"], "reason", REASON_BYTES_MAX)
        rollout = self._expected(args)
        return self._change(replace(rollout, state=ROLLED_BACK, reason=reason), moment).to_wire()

    def abort(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{model, expected_version?, reason?}``: the same because somebody wants it."""
        only(args, _ABORT, _ABORT_MORE)
        reason = text(args.get("reason", "somebody aborted it"), "reason", REASON_BYTES_MAX)
        rollout = self._expected(args)
        return self._change(replace(rollout, state=ABORTED, reason=reason), moment).to_wire()

    def watching(
        self, operation: Callable[[dict[str, Any], Moment], tuple[Any, list[Event]]]
    ) -> Callable[[dict[str, Any], Moment], tuple[Any, list[Event]]]:
        """Let an operation on models be followed by the end of the rollouts that it left without ground.

        That is so where one of the two versions is gone, or another one has been put into service meanwhile.
        """

        def followed(args: dict[str, Any], moment: Moment) -> tuple[Any, list[Event]]:
            given = operation(args, moment)
            for name in sorted(self._traffic.held):
                rollout = self._rollouts[name]
                reason = self._groundless(rollout)
                if reason:
                    self._change(replace(rollout, state=ABORTED, reason=reason), moment)
            return given

        return followed

    def _groundless(self, rollout: Rollout) -> str:
        name = rollout.model
        for version in (rollout.from_, rollout.to):
            if self._models.get(name, version) is None:
                return f"version {version} was undeployed"
        active = self._models.get(name)
        assert active is not None
        return "" if active.version == rollout.from_ else f"version {active.version} was put into service"

    # -- reads --------------------------------------------------------------------------------------

    def read(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        """``{}``: return the latest of each model, in the order of the models."""
        only(args, _NOTHING)
        return [rollout.to_wire() for rollout in self.all()]

    # -- details ------------------------------------------------------------------------------------

    def _change(self, rollout: Rollout, moment: Moment) -> Rollout:
        """Keep what it is now, with the weights that belong to it."""
        self.changes += 1
        kept = replace(rollout, version=self.changes, index=moment.index, since_s=moment.time_s)
        self._rollouts[kept.model] = kept
        self._traffic.hold(kept.model, _route(kept) if kept.going else None, moment)
        return kept

    def _expected(self, args: dict[str, Any]) -> Rollout:
        name = matching(args["model"], "model", NAME)
        rollout = self._rollouts.get(name)
        if rollout is None:
            raise NotFound(f"{name} has no rollout")
        self._check_expected(args, name)
        if not rollout.going:
            raise _conflict(rollout, "has ended")
        return rollout

    def _check_expected(self, args: dict[str, Any], name: str) -> None:
        if "expected_version" not in args:
            return
        expected = integer(args["expected_version"], "expected_version")
        rollout = self._rollouts.get(name)
        version = 0 if rollout is None else rollout.version
        if version != expected:
            raise VersionConflict(
                f"the rollout of {name} is at version {version}, and {expected} was expected: it has changed",
                details={"key": name, "version": version},
            )

    def _make_room(self, name: str) -> None:
        if name in self._rollouts or len(self._rollouts) < ROLLOUTS_MAX:
            return
        ended = [rollout for rollout in self._rollouts.values() if not rollout.going]
        if not ended:
            raise Busy(f"rollouts_max={ROLLOUTS_MAX} are going on; abort one, or wait")
        del self._rollouts[min(ended, key=lambda each: each.version).model]

    # -- snapshots ----------------------------------------------------------------------------------

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal rollouts."""
        return [self.changes, [_values(rollout) for rollout in self.all()]]

    @classmethod
    def from_plain(cls, plain: list[Any], traffic: Traffic, models: Models) -> Rollouts:
        """Rebuild what :meth:`to_plain` wrote; the routes are in the traffic's part."""
        rollouts = cls(traffic, models)
        rollouts.changes, kept = plain
        rollouts._rollouts = {values[0]: Rollout(*values) for values in kept}
        traffic.held = frozenset(each.model for each in rollouts._rollouts.values() if each.going)
        return rollouts


_values: Final = reader(Rollout)


def read_plan(value: object) -> dict[str, Any]:
    """Check a plan, all of whose fields have to be there.

    ``steps`` are whole percents, growing, the last 100; ``max_error`` is 0 to 1. Raises
    :class:`~mcp.errors.InvalidArgument` and :class:`~mcp.errors.TooLarge`.
    """
    given = mapping(value, "the plan")
    only(given, _PLAN)
    steps = sequence(given["steps"], "steps", STEPS_MAX)
    for step in steps:
        integer(step, "a step, in percent,", 1, PERCENT)
    if not steps or steps[-1] != PERCENT or any(a >= b for a, b in pairwise(steps)):
        raise InvalidArgument(f"steps are percents that grow, the last of them 100, not {steps}")
    return {
        "steps": steps,
        "max_error": _number(given["max_error"], "max_error", 1.0),
        "max_p99_ratio": _number(given["max_p99_ratio"], "max_p99_ratio", RATIO_MAX),
        "interval_s": _number(given["interval_s"], "interval_s", INTERVAL_S_MAX),
        "min_requests": integer(given["min_requests"], "min_requests", 1, REQUESTS_MAX),
    }


def _number(value: object, what: str, most: float) -> float:
    if not is_number(value, 0, most):
        raise InvalidArgument(f"{what} is a number in 0..{most:g}, not {shown(value)}")
    return float(value)


def _route(rollout: Rollout) -> dict[str, Any]:
    """The route of a rollout that is going on."""
    weights = ((rollout.from_, PERCENT * WEIGHT_OF_A_PERCENT - rollout.weight), (rollout.to, rollout.weight))
    destinations = [
        {"model": rollout.model, "version": version, "weight": weight} for version, weight in weights
    ]
    return {"host": rollout.model, "entries": [{"destinations": destinations}]}


def _conflict(rollout: Rollout, what: str) -> VersionConflict:
    return VersionConflict(
        f"the rollout of {rollout.model} to version {rollout.to} {what}",
        details={"key": rollout.model, "version": rollout.version},
    )
