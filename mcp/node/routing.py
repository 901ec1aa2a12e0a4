"""Which version answers a request, where its hint alone does not say, and on which nodes, and why.

Most requests name a model, and nothing else is declared for it: :meth:`Routing.named` finds its version with
a few look-ups. All others are for the router (:mod:`mcp.cluster.router`), which is made from the replicated
state, and made anew when what it was made of has changed there. So every node decides by the rules, routes
and models of its own log position.

The nodes that may answer are, without anything better, those that the log has as up, each with the models
that the log says it holds, and no load. A node that may answer itself does: whoever sent the request has
chosen it. Where a strategy is declared for the model, that chooses among all of them afterwards
(:mod:`mcp.node.scheduling`).
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgpack

from mcp.cluster.router.catalogue import Catalogue
from mcp.cluster.router.choosing import least_queue
from mcp.cluster.router.decision import Decision
from mcp.cluster.router.features import Features
from mcp.cluster.router.matching import problems
from mcp.cluster.router.models import ModelRecord, TensorSpec, VersionRecord, model_key
from mcp.cluster.router.nodes import NodeRecord, View
from mcp.cluster.router.reasons import Reason, Step
from mcp.cluster.router.requests import SESSION_CHARS_MAX, features_of
from mcp.cluster.router.router import Router
from mcp.cluster.router.routes import RouteSet
from mcp.cluster.router.rules import RuleSet
from mcp.cluster.scheduler.interface import Choice
from mcp.errors import InvalidArgument, McpError, TooLarge, Unavailable, Unsupported
from mcp.flow.config import from_plain as flow_config
from mcp.net.exchange import Exchange
from mcp.node.admitting import check as check_limits
from mcp.node.rollouts import check_begin
from mcp.node.scheduling import check_strategy
from mcp.state.models import Model, ModelVersion
from mcp.state.requirements import requirements_of
from mcp.state.state import ReplicatedState
from mcp.state.traffic import LIMITS_BYTES_MAX
from mcp.wire.handshake import Role

PROBLEMS_TOLD_MAX: Final = 5
"""So much of what is not deployed is told in a refusal's message; all of it is in the details."""
ANY_POSITION: Final = 2**63 - 1
"""A node whose log position is not known: it waits until it is where the request's session has been."""

_log = logging.getLogger("mcp.node")


class Routing:
    """One node's router. All calls on the loop's thread.

    The log says who is in the cluster and has which model, from the position of its deployment on. ``seen``
    is what the gossip adds: who does not answer any more, labels, memory and load; the same object as long
    as nothing better is known.
    """

    def __init__(
        self,
        node_id: str,
        state: ReplicatedState,
        generator: random.Random,
        *,
        seen: Callable[[], View] | None = None,
    ) -> None:
        self.seen = seen
        self.preview: Callable[[Decision, Features, int], tuple[str, Choice] | None] = lambda *_: None
        """The strategy of a decision's model, and what it would choose (:meth:`.Scheduling.preview`)."""
        self.decided_total = 0
        """Requests that were decided by the router."""
        self._node_id = node_id
        self._state = state
        self._random = generator
        self._router: Router | None = None
        self._refusal = ""
        """Why there is no router: what is declared cannot be read by this version."""
        self._catalogue = Catalogue(())
        self._catalogue_of: tuple[object, ...] = ()
        self._router_of: tuple[object, ...] = ()
        self._view_of: tuple[object, ...] = ()
        self._view = View(())
        self._records: dict[tuple[str, str, int], VersionRecord] = {}

    # -- requests -----------------------------------------------------------------------------------

    def named(self, hint: object) -> ModelVersion | None:
        """Return the version that a hint means by itself; ``None``: the router is to decide.

        That is so for an exact name, a version and an alias, as long as nobody has declared anything that
        could make a difference.
        """
        state = self._state
        traffic, models = state.traffic, state.models
        if traffic.ruled or type(hint) is not str:
            return None
        found = models.get(hint)
        if found is not None:
            if traffic.names(hint):
                return None
        else:
            found = models.pinned(hint)
            if found is None:
                found = None if traffic.routed else models.active(hint)
            elif traffic.scheduled and traffic.strategy(found.name) is not None:
                return None  # no route changes a version that is named; who runs it is another matter
        return found if found is not None and found.requirements is None else None

    def decide(self, features: Features) -> Decision:
        """Have the router decide a request.

        Raises what :meth:`mcp.cluster.router.router.Router.decide` does.
        """
        self.decided_total += 1
        return self._current().decide(features, self._random.getrandbits(64), self._here_first)

    def explain(self, exchange: Exchange) -> dict[str, Any]:
        """Decide a request that is not to be answered: the decision with its reasons, as plain values."""
        seed = exchange.message.payload.get("seed", 0)
        if type(seed) is not int:
            raise InvalidArgument("seed is an integer, which stands for all chance that a decision takes")
        features = self.features(exchange)
        decision = self._current().decide(features, seed, self._here_first)
        found = self.preview(decision, features, seed)
        if found is not None:
            decision = _scheduled(decision, *found)
        strategy = None if found is None else found[0]
        return {**decision.to_plain(), "decided_by": self._node_id, "strategy": strategy}

    def version(self, decision: Decision) -> ModelVersion:
        """Return the version that was decided for."""
        found = self._state.models.get(decision.model, decision.version)
        assert found is not None, "a decision is made on the models of this very position"
        return found

    def answers_for(self, exchange: Exchange) -> ModelVersion | None:
        """Return the version that another node, which has decided, asks for here; ``None`` for a client."""
        if exchange.connection.peer.role is not Role.NODE:
            return None
        hint = exchange.message.payload.get("model_hint")
        return self._state.models.pinned(hint) if type(hint) is str else None

    def features(self, exchange: Exchange) -> Features:
        """What a request says of itself.

        Raises :class:`~mcp.errors.InvalidArgument` for fields that are wrong.
        """
        message, segments = exchange.message, exchange.segments
        session = message.payload.get("session", "")
        if type(session) is not str or len(session) > SESSION_CHARS_MAX:
            raise InvalidArgument(f"session: a text of at most {SESSION_CHARS_MAX} characters is expected")
        return features_of(
            message,
            client=exchange.connection.peer.node_id,
            session=session,
            segment_bytes={number: len(segment) for number, segment in enumerate(segments)},
        )

    def _here_first(self, nodes: Sequence[NodeRecord], features: Features, seed: int) -> Sequence[NodeRecord]:
        for node in nodes:
            if node.node == self._node_id:
                return (node,)
        return least_queue(nodes, features, seed)

    # -- what clients declare -----------------------------------------------------------------------

    def check(self, op: str, args: Mapping[str, Any]) -> None:
        """Refuse a declaration that makes no sense here and now, before it is proposed.

        Raises :class:`~mcp.errors.InvalidArgument`, :class:`~mcp.errors.TooLarge` and
        :class:`~mcp.errors.ConfigInvalid`, with what is wrong by its path, and
        :class:`~mcp.errors.ModelNotFound`.
        """
        if op == "rules.set":
            rules = RuleSet.from_plain({"version": 0, "rules": args.get("rules")})
            catalogue = self._current_catalogue()
            _refuse(
                [
                    f"rule {place} ({rule!s:.80}): {rule.target:.80} is not deployed"
                    for place, rule in enumerate(rules.rules, 1)
                    if catalogue.target(rule.target) is None
                ]
            )
        elif op == "routes.apply":
            routes = RouteSet.from_plain({"version": 0, "routes": args.get("routes")})
            _refuse(problems(routes, self._current_catalogue()))
        elif op == "limits.set" and args.get("limits") is not None:
            config = flow_config(args["limits"])
            size = len(msgpack.packb(args["limits"]))
            if size > LIMITS_BYTES_MAX:
                raise TooLarge(
                    f"limits of {size} bytes as msgpack are over limits_bytes_max={LIMITS_BYTES_MAX}: "
                    "declare fewer fixed answers, or shorter ones"
                )
            check_limits(config, self._state.models)
        elif op == "rollout.begin":
            check_begin(args, self._state)
        elif op == "strategy.set":
            check_strategy(args, self._state)

    # -- the router, as of now ----------------------------------------------------------------------

    def _current(self) -> Router:
        state = self._state
        traffic, catalogue = state.traffic, self._current_catalogue()
        of = (catalogue, traffic, traffic.revision)
        if not _same(of, self._router_of):
            self._router_of = of
            self._make_router(catalogue)
        if self._router is None:
            raise Unsupported(self._refusal)
        view = self._current_view()
        if self._router.view is not view:
            self._router = self._router.with_view(view)
        return self._router

    def _make_router(self, catalogue: Catalogue) -> None:
        traffic = self._state.traffic
        try:
            rules = RuleSet.from_plain({"version": traffic.rules.version, "rules": traffic.rules.value or []})
            routes = RouteSet.from_plain({"version": traffic.routes_version, "routes": traffic.routes})
            self._router = Router(catalogue, self._current_view(), rules, routes)
        except McpError as error:
            self._router = None
            self._refusal = (
                f"node {self._node_id} cannot read the rules and routes that the cluster has, so it does not "
                f"answer by them: {error.message}; upgrade it, or ask another node"
            )
            _log.error("routing: %s", self._refusal)

    def _current_catalogue(self) -> Catalogue:
        models = self._state.models
        of = (models, models.revision)
        if not _same(of, self._catalogue_of):
            records = self._records
            self._records = {}
            self._catalogue = Catalogue([self._model(model, records) for model in models.all()])
            self._catalogue_of = of
        return self._catalogue

    def _model(self, model: Model, before: Mapping[tuple[str, str, int], VersionRecord]) -> ModelRecord:
        versions = []
        for version in model.versions.values():
            # A version never changes, but for its holders.
            key = (version.name, version.version, version.index)
            record = self._records[key] = before.get(key) or _version(version)
            versions.append(record)
        return ModelRecord(model.name, model.active, tuple(versions), model.aliases)

    def view(self) -> View:
        """The nodes as decisions are made on them now; the same object as long as nothing has changed."""
        return self._current_view()

    def _current_view(self) -> View:
        members, models = self._state.members, self._state.models
        seen = None
        if self.seen is not None:
            with contextlib.suppress(Unavailable):  # it has not begun to look
                seen = self.seen()
        of = (members, members.revision, models, models.revision, models.holders_revision, seen)
        if not _same(of, self._view_of):
            self._view_of = of
            records = self._log_records()
            self._view = View(records if seen is None else self._with_what_is_seen(records, seen))
        return self._view

    def _with_what_is_seen(self, records: Iterable[NodeRecord], seen: View) -> Iterator[NodeRecord]:
        """The log knows a model's holders before the gossip does; who is gone, the gossip knows first."""
        told = {record.node: record for record in seen.nodes}
        for record in records:
            other = told.get(record.node)
            if other is not None:
                yield replace(
                    record,
                    state=other.state if record.node != self._node_id else record.state,
                    memory_free_bytes=other.memory_free_bytes,
                    labels=other.labels,
                    queue=other.queue,
                    load=other.load,
                )
            elif record.node == self._node_id or len(told) <= 1:
                yield record  # nobody is seen while a node has just begun to look

    def _log_records(self) -> list[NodeRecord]:
        ready: dict[str, dict[str, int]] = {self._node_id: {}}
        for model in self._state.models.all():
            for version in model.versions.values():
                key = model_key(version.name, version.version)
                # This node brings here whatever it lacks.
                for holder in {*version.holders, self._node_id}:
                    ready.setdefault(holder, {})[key] = ANY_POSITION
        up = {member.node: member for member in self._state.members.up()}
        me = self._state.members.get(self._node_id)
        if me is not None:
            up[self._node_id] = me
        return [
            NodeRecord(node, member.address, ready=ready.get(node, {}), providers=member.providers)
            for node, member in up.items()
        ]


def _scheduled(decision: Decision, strategy: str, choice: Choice) -> Decision:
    """The decision as a strategy changes it, with the reason in place of that for the node that was first."""
    eligible = decision.eligible
    first = tuple(node for node in eligible if node.node == choice.node)
    told = "none now" if choice.node is None else choice.node
    facts = (strategy, decision.model, told, len(eligible), choice.reason)
    reason = Reason(Step.CHOICE, "the strategy {0} of {1} chooses, of {3}, {2}: {4}", facts)
    reasons = tuple(reason if each.step is Step.CHOICE else each for each in decision.reasons)
    return decision._replace(nodes=first or eligible, reasons=reasons)


def _version(version: ModelVersion) -> VersionRecord:
    required = requirements_of(version.requirements)
    return VersionRecord(
        version=version.version,
        index=version.index,
        family=version.family,
        task=version.task,
        tags=version.tags,
        inputs=tuple(
            TensorSpec(spec["name"], spec["dtype"], None if spec["shape"] is None else tuple(spec["shape"]))
            for spec in version.inputs
        ),
        length_max=required.length_max,
        batch_max=required.batch_max,
        size_max=required.size_max,
        run_bytes=required.run_bytes,
        providers=required.providers,
    )


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Whether both are of the very same things in the same revisions."""
    return len(one) == len(other) and all(
        mine is theirs or (type(mine) is int and mine == theirs)
        for mine, theirs in zip(one, other, strict=True)
    )


def _refuse(found: list[str]) -> None:
    if found:
        more = len(found) - PROBLEMS_TOLD_MAX
        told = "; ".join(found[:PROBLEMS_TOLD_MAX]) + (f"; and {more} more" if more > 0 else "")
        raise InvalidArgument(f"{told}. Deploy it first, or change that", details={"problems": found[:100]})
