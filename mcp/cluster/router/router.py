"""The decision: from a request's features to a version of a model and nodes that may answer, with reasons.

A decision takes these steps, and every one leaves a reason:

1. The *hint* is resolved to candidates (:mod:`mcp.cluster.router.catalogue`).
2. The first *rule* that holds replaces them by its model, and may say on which nodes. A hint that names a
   version is not led elsewhere: of such rules only those for the same model, and their nodes, count.
3. Each candidate's *route* picks a version: by weights, for an id always the same (the session's, else the
   trace's, else the seed). Without a route, or where no entry of it matches, it is the active version.
4. The *inputs* have to fit that version. If they fit one candidate, that is the model; if they fit none or
   several, the request is refused with their names.
5. The *nodes* that may answer (:mod:`mcp.cluster.router.nodes`), and the *choice* among them.
6. The *mirrors* of the route, of which none can make a decision fail.

Which nodes are there decides nothing before step 5: a node that comes or goes never changes what a hint
means.

A :class:`Router` holds everything but the request, indexed. It is immutable; :meth:`Router.with_view` makes
one for another view at little cost. For several threads it is safe as long as a dictionary is.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mcp.cluster.router.catalogue import CANDIDATES_MAX, Catalogue, Resolution, listed
from mcp.cluster.router.choosing import Choose, least_queue
from mcp.cluster.router.conditions import Test, compiled
from mcp.cluster.router.decision import Decision, Mirrored
from mcp.cluster.router.features import Features
from mcp.cluster.router.hashing import mix, unit
from mcp.cluster.router.matching import Pick, Ready, ReadyRoutes, told_apart
from mcp.cluster.router.models import Candidate
from mcp.cluster.router.nodes import NodeRecord, View
from mcp.cluster.router.reasons import Reason, Step
from mcp.cluster.router.routes import RouteSet
from mcp.cluster.router.rules import Rule, RuleSet
from mcp.cluster.router.selector import Selector
from mcp.errors import InputInvalid, InvalidArgument, McpError, ModelNotFound, ModelNotReady, Unavailable

_MISFITS_MAX: Final = 4
"""So many candidates have what does not fit told in a refusal."""
_MIRROR: Final = 0x9FB21C651E98DF25
_RULE: Final = "rule {0} of version {1} of the rules holds: {2}"


class _ReadyRule(NamedTuple):
    test: Test
    target: Resolution | None
    """``None``: what the rule names is not deployed."""
    selector: Selector | None
    place: int
    rule: Rule
    reason: Reason


class Router:
    """Everything that decisions depend on, but the request."""

    __slots__ = ("_active", "_catalogue", "_routes", "_rules", "_view", "rules_version")

    def __init__(
        self,
        catalogue: Catalogue,
        view: View,
        rules: RuleSet | None = None,
        routes: RouteSet | None = None,
    ) -> None:
        """Index. Rules and routes may name what is not deployed: the requests that they meet are refused."""
        rules, routes = rules or RuleSet(), routes or RouteSet()
        self._catalogue = catalogue
        self._view = view
        self._rules = tuple(
            _ready_rule(rule, place, rules.version, catalogue) for place, rule in enumerate(rules.rules, 1)
        )
        self._routes = ReadyRoutes(routes, catalogue)
        self.rules_version = rules.version
        self._active: dict[str, Pick] = {}

    @property
    def view(self) -> View:
        """The view that decisions are made on."""
        return self._view

    @property
    def routes_version(self) -> int:
        """The version of the routes."""
        return self._routes.version

    def with_view(self, view: View) -> Router:
        """Return a router for another view of the nodes, with the same models, rules and routes."""
        other = Router.__new__(Router)
        other._catalogue, other._view = self._catalogue, view
        other._rules, other._routes = self._rules, self._routes
        other._active, other.rules_version = self._active, self.rules_version
        return other

    def decide(self, features: Features, seed: int, choose: Choose = least_queue) -> Decision:
        """Decide one request. The seed's 64 lowest bits stand for all chance that there is.

        Raises, each with the reasons so far in ``details["reasons"]``:

        * :class:`~mcp.errors.ModelNotFound` for a hint that means nothing, and where a rule or a route leads
          to what is not deployed; :class:`~mcp.errors.InvalidArgument` for a hint that means several models,
          with ``details["candidates"]``;
        * :class:`~mcp.errors.InputInvalid` if the inputs do not fit;
        * :class:`~mcp.errors.ModelNotReady` if no node has the version ready, and
          :class:`~mcp.errors.Unavailable` if none of those that do is eligible. Both may pass.
        """
        reasons: list[Reason] = []
        try:
            return self._decide(features, seed, choose, reasons)
        except McpError as error:
            error.details["reasons"] = [str(reason) for reason in reasons]
            raise

    def _decide(self, features: Features, seed: int, choose: Choose, reasons: list[Reason]) -> Decision:
        meant = self._catalogue.resolve(features.hint)
        reasons.append(meant.reason)
        selector: Selector | None = None
        if self._rules:
            meant, selector = self._ruled(meant, features, reasons)
        if len(meant.models) == 1:
            pick = self._pick(meant, meant.models[0], features, seed)
            reasons.append(pick.reason)
            acceptance = pick.candidate.acceptance
            if not acceptance.fits(features):
                raise InputInvalid(
                    f"the inputs do not fit {pick.candidate.key}: {acceptance.misfit(features)}"
                )
            reasons.append(pick.candidate.fits)
        else:
            pick = self._narrowed(meant, features, seed, reasons)
        candidate, ready, _ = pick
        eligible = self._eligible(candidate, selector, features, reasons)
        nodes = tuple(choose(eligible, features, seed))
        if not nodes:
            raise Unavailable(
                f"none of {len(eligible)} nodes is chosen for {candidate.key} now; try again later"
            )
        reasons.append(Reason(Step.CHOICE, "{0} is asked first, of {1}", (nodes[0].node, len(eligible))))
        entry = None if ready is None else ready.entry
        mirrored = (
            ()
            if ready is None or not ready.mirrors
            else self._mirrored(ready, features, seed, choose, reasons)
        )
        return Decision(
            candidate.model,
            candidate.version,
            nodes,
            eligible,
            mirrored,
            None if entry is None else entry.timeout_s,
            None if entry is None else entry.retries,
            self.rules_version,
            self._routes.version,
            tuple(reasons),
        )

    # -- rules ------------------------------------------------------------------------------------

    def _ruled(
        self, meant: Resolution, features: Features, reasons: list[Reason]
    ) -> tuple[Resolution, Selector | None]:
        for test, target, selector, place, rule, reason in self._rules:
            if not test(features, meant):
                continue
            pinned = meant.pinned
            if pinned is not None and not _leads_to(target, pinned):
                reasons.append(
                    reason._replace(sentence=f"{_RULE}; but the hint names a version, and gets that")
                )
                continue
            reasons.append(reason)
            if target is None:
                raise ModelNotFound(
                    f"rule {place} ({rule!s:.200}) leads to {rule.target:.80}, which is not deployed; deploy "
                    "it, or change the rule",
                    details={"candidates": self._catalogue.names()[:CANDIDATES_MAX], "rule": place},
                )
            return (meant if pinned is not None else target), selector
        return meant, None

    # -- versions ---------------------------------------------------------------------------------

    def _pick(self, meant: Resolution, model: str, features: Features, seed: int) -> Pick:
        found = self._route(meant, model, features)
        return found.pick(features, seed) if isinstance(found, Ready) else found

    def _route(self, meant: Resolution, model: str, features: Features) -> Pick | Ready:
        """The version, or the entry of a route that has it."""
        if meant.pinned is not None:
            reason = Reason(Step.ROUTE, "{0} is named, so no route counts", (meant.hint,))
            return Pick(meant.pinned, None, reason)
        routes = self._routes
        entries = routes.get(meant.asked) or routes.get(model)
        if entries is None:
            return self._active.get(model) or self._without_route(model)
        headers = features.headers
        for ready in entries:
            if ready.holds(headers):
                return ready
        active = self._catalogue.active(model)
        facts = (entries[0].host, active.key)
        reason = Reason(Step.ROUTE, "no entry of the route of {0} matches: {1} is active", facts)
        return Pick(active, None, reason)

    def _without_route(self, model: str) -> Pick:
        active = self._catalogue.active(model)
        reason = Reason(Step.ROUTE, "{0} has no route: {1} is active", (model, active.key))
        self._active[model] = Pick(active, None, reason)
        return self._active[model]

    def _narrowed(self, meant: Resolution, features: Features, seed: int, reasons: list[Reason]) -> Pick:
        """Of several candidates, the one that the inputs fit."""
        models = meant.models
        # So many are never told apart by their inputs, and looking at all of them is what an attacker wants.
        if len(models) > CANDIDATES_MAX:
            raise _ambiguous(meant.hint, list(models))
        told = told_apart(features, seed)
        fitting: list[Pick] = []
        for model in models:
            found = self._route(meant, model, features)
            if isinstance(found, Ready):
                if found.acceptance is not None and not found.acceptance.fits(features):
                    continue
                found = found.pick(features, seed, told)
            if found.candidate.acceptance.fits(features):
                fitting.append(found)
        if len(fitting) > 1:
            raise _ambiguous(meant.hint, [pick.candidate.model for pick in fitting])
        if not fitting:
            some = [self._pick(meant, model, features, seed).candidate for model in models[:_MISFITS_MAX]]
            accounts = "; ".join(f"{each.key}: {each.acceptance.misfit(features)}" for each in some)
            raise InputInvalid(
                f"the inputs fit none of the {len(models)} models that {meant.hint!r:.80} may be: {accounts}",
                details={"candidates": list(models)},
            )
        (pick,) = fitting
        reasons.append(pick.reason)
        facts = (len(models), pick.candidate.key)
        reasons.append(Reason(Step.INPUTS, "of {0} candidates the inputs fit {1} only", facts))
        return pick

    # -- nodes ------------------------------------------------------------------------------------

    def _eligible(
        self, candidate: Candidate, selector: Selector | None, features: Features, reasons: list[Reason]
    ) -> tuple[NodeRecord, ...]:
        need_bytes = (features.size or 0) + candidate.record.run_bytes
        nodes, reason = self._view.eligible(candidate, selector, features.position, need_bytes)
        if reason is None:
            raise self._nobody(candidate, selector, features.position, need_bytes)
        reasons.append(reason)
        return nodes

    def _nobody(
        self, candidate: Candidate, selector: Selector | None, position: int, need_bytes: int
    ) -> McpError:
        obstacles = self._view.obstacles(candidate, selector, position, need_bytes)
        nodes = len(self._view.nodes)
        told = ", ".join(f"{count} {obstacle}" for obstacle, count in sorted(obstacles.items()))
        kind = ModelNotReady if obstacles.get("not ready", 0) == nodes else Unavailable
        return kind(
            f"no node may answer for {candidate.key}; of {nodes}: {told or 'none is known'}. Try again "
            "later, or see that a node has it ready",
            details={"obstacles": obstacles},
        )

    # -- mirrors ----------------------------------------------------------------------------------

    def _mirrored(
        self, ready: Ready, features: Features, seed: int, choose: Choose, reasons: list[Reason]
    ) -> tuple[Mirrored, ...]:
        found: list[Mirrored] = []
        for place, (mirror, candidate, passed) in enumerate(ready.mirrors, 1):
            draw = mix(seed ^ (_MIRROR * place))
            if unit(draw) * 100 >= mirror.percent:
                reasons.append(passed)
                continue
            obstacle, nodes = self._mirror(candidate, features, draw, choose)
            if candidate is None or obstacle:
                reasons.append(Reason(Step.MIRROR, "no copy for {0}: {1}", (mirror, obstacle)))
                continue
            facts = (candidate.key, mirror.percent, nodes[0].node)
            reasons.append(Reason(Step.MIRROR, "a copy for {0}, as {1:g} % get one, goes to {2}", facts))
            found.append(Mirrored(candidate.model, candidate.version, nodes))
        return tuple(found)

    def _mirror(
        self, candidate: Candidate | None, features: Features, seed: int, choose: Choose
    ) -> tuple[str | None, tuple[NodeRecord, ...]]:
        """What keeps a copy from being sent, or the nodes to send it to."""
        if candidate is None:
            return "it is not deployed", ()
        misfit = candidate.acceptance.misfit(features)
        if misfit is not None:
            return f"the inputs do not fit: {misfit}", ()
        need_bytes = (features.size or 0) + candidate.record.run_bytes
        found = self._view.eligible(candidate, None, features.position, need_bytes).nodes
        nodes = tuple(choose(found, features, seed)) if found else ()
        return (None if nodes else "no node may answer"), nodes


def decide(
    features: Features,
    catalogue: Catalogue,
    view: View,
    rules: RuleSet,
    routes: RouteSet,
    seed: int,
    choose: Choose = least_queue,
) -> Decision:
    """Decide one request: :meth:`Router.decide` for those who have one request only, or explain one."""
    return Router(catalogue, view, rules, routes).decide(features, seed, choose)


def _ready_rule(rule: Rule, place: int, version: int, catalogue: Catalogue) -> _ReadyRule:
    reason = Reason(Step.RULE, _RULE, (place, version, str(rule)))
    target = catalogue.target(rule.target)
    return _ReadyRule(compiled(rule.condition), target, rule.selector, place, rule, reason)


def _leads_to(target: Resolution | None, pinned: Candidate) -> bool:
    """Whether a rule's target is the version that a hint names, or its model."""
    return target is not None and target.model == pinned.model and target.pinned in (None, pinned)


def _ambiguous(hint: str, models: list[str]) -> InvalidArgument:
    return InvalidArgument(
        f"{hint!r:.80} may be any of {len(models)} models: {listed(models)}. Name one of them, or say "
        "more in the hint",
        details={"candidates": models[:CANDIDATES_MAX]},
    )
