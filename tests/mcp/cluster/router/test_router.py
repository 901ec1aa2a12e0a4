"""Decisions: the steps together, and what each of them says."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from router_worlds import IDS, NAMES, features, model, models, node, nodes, request

from mcp.cluster.router.catalogue import CANDIDATES_MAX, Catalogue
from mcp.cluster.router.choosing import least_queue
from mcp.cluster.router.decision import Decision
from mcp.cluster.router.features import Features, Hint, Tensor
from mcp.cluster.router.models import ModelRecord, TensorSpec, VersionRecord
from mcp.cluster.router.nodes import NodeRecord, NodeState, View
from mcp.cluster.router.requests import features_of
from mcp.cluster.router.router import Router, decide
from mcp.cluster.router.routes import Destination, Entry, Match, Mirror, Retries, Route, RouteSet, TextMatch
from mcp.cluster.router.rules import Rule, RuleSet
from mcp.cluster.router.virtual_service import routes_from_virtual_service
from mcp.errors import InputInvalid, InvalidArgument, McpError, ModelNotFound, ModelNotReady, Unavailable
from mcp.wire.json_codec import message_from_json

EXAMPLES = Path(__file__).resolve().parents[4] / "examples"


def ready(name: str, records: Sequence[ModelRecord], **said: Any) -> NodeRecord:
    return node(name, *(f"{m.name}@{v.version}" for m in records for v in m.versions), **said)


def router(
    records: Sequence[ModelRecord], *rules: str, routes: Sequence[Route] = (), view: View | None = None
) -> Router:
    known = View([ready("n1", records), ready("n2", records)]) if view is None else view
    return Router(
        Catalogue(records), known, RuleSet(3, tuple(map(Rule.parse, rules))), RouteSet(4).apply(routes)
    )


def said(decision: Decision) -> list[str]:
    return [str(reason) for reason in decision.reasons]


GLM = [
    model("glm-4", "1", "2", active="1", family="glm", task="chat", inputs=IDS, length_max=2048),
    model("glm-large-130b", aliases=("glm-large",), family="glm", task="chat", inputs=IDS),
    model("resnet", task="vision", inputs=(TensorSpec("image", "FP32", (None, 3, 224, 224)),)),
]


def ids(hint: str | Hint = "glm-4", length: int = 8, **more: Any) -> Features:
    return request(hint, Tensor("ids", "INT64", (1, length), 8 * length), **more)


# -- the example ----------------------------------------------------------------------------------------


def test_the_example_request_gets_a_decision_once_a_model_has_the_alias() -> None:
    message = message_from_json((EXAMPLES / "infer_request.json").read_text(), new_id="fresh")
    wanted = features_of(message)
    text = (TensorSpec("text", "BYTES", (None,)),)
    without, having = [model("glm", inputs=text)], [model("glm", inputs=text, aliases=("glm-large",))]
    with pytest.raises(ModelNotFound) as caught:
        router(without).decide(wanted, 1)
    assert caught.value.details["candidates"] == ["glm"]
    decision = router(having).decide(wanted, 1)
    assert (decision.model, decision.version) == ("glm", "1")
    assert said(decision) == [
        "glm-large is an alias of glm",
        "glm has no route: glm@1 is active",
        "the inputs fit glm@1",
        "2 of 2 nodes may answer for glm@1",
        f"{decision.nodes[0].node} is asked first, of 2",
    ]
    assert json.loads(json.dumps(decision.to_plain()))["reasons"][0] == {
        "step": "hint",
        "reason": "glm-large is an alias of glm",
    }


def test_the_example_route_shares_sessions_out() -> None:
    records = [model("product-service", "v1", "v2")]
    routes = routes_from_virtual_service(yaml.safe_load((EXAMPLES / "virtual_service.yaml").read_text()))
    found = router(records, routes=routes)
    counted = Counter(
        found.decide(Features("product-service", session=f"s{number}"), 0).version for number in range(5000)
    )
    assert 0.17 < counted["v2"] / 5000 < 0.23
    decision = found.decide(Features("product-service", session="s1"), 0)
    assert decision.routes_version == 5
    assert said(decision)[1] == (
        "entry 1 of the route of product-service: product-service@v1 by weight 80 of 100, "
        "the same for this session"
    )


# -- rules ----------------------------------------------------------------------------------------------


def test_the_rule_of_the_specification() -> None:
    view = View([ready("n1", GLM), ready("n2", GLM, labels={"gpu": ""})])
    found = router(GLM, 'when family == "glm" and length > 2048 use glm-large on label:gpu', view=view)
    long, short = found.decide(ids(length=4096), 0), found.decide(ids(length=64), 0)
    assert (long.model, [each.node for each in long.eligible]) == ("glm-large-130b", ["n2"])
    assert (short.model, len(short.eligible)) == ("glm-4", 2)
    assert said(long)[1] == (
        "rule 1 of version 3 of the rules holds: "
        'when family == "glm" and length > 2048 use glm-large on label:gpu'
    )
    assert "1 of 2 nodes may answer for glm-large-130b@1 on label:gpu" in said(long)


def test_the_first_rule_that_holds_decides() -> None:
    found = router(GLM, "when length > 10 use glm-4@2", "when length > 5 use glm-large")
    assert found.decide(ids(length=11), 0).version == "2"
    assert found.decide(ids(length=6), 0).model == "glm-large-130b"
    assert found.decide(ids(length=5), 0).model == "glm-4"


def test_a_version_that_is_named_is_not_led_elsewhere() -> None:
    view = View([ready("n1", GLM), ready("n2", GLM, labels={"gpu": ""})])
    found = router(GLM, "when length > 5 use glm-large", "when length > 5 use glm-4 on label:gpu", view=view)
    decision = found.decide(ids("glm-4@2", length=6), 0)
    assert (decision.model, decision.version, len(decision.eligible)) == ("glm-4", "2", 1)
    assert said(decision)[1].endswith("use glm-large; but the hint names a version, and gets that")
    assert said(decision)[3] == "glm-4@2 is named, so no route counts"


def test_a_rule_decides_between_candidates() -> None:
    assert router(GLM, 'when task == "chat" use glm-4').decide(ids("glm"), 0).model == "glm-4"


def test_a_rule_to_what_is_not_deployed_is_an_error_that_names_it() -> None:
    with pytest.raises(
        ModelNotFound, match=r"rule 1 \(when length > 1 use nobody\) leads to nobody"
    ) as caught:
        router(GLM, "when length > 1 use nobody").decide(ids(), 0)
    assert caught.value.details["rule"] == 1
    assert len(caught.value.details["reasons"]) == 2


# -- candidates and inputs ------------------------------------------------------------------------------


def test_the_inputs_decide_between_candidates() -> None:
    found = router(GLM)
    decision = found.decide(ids("chat", length=4096), 0)
    assert decision.model == "glm-large-130b"
    assert said(decision)[2] == "of 2 candidates the inputs fit glm-large-130b@1 only"
    with pytest.raises(
        InvalidArgument, match="'chat' may be any of 2 models: glm-4, glm-large-130b"
    ) as caught:
        found.decide(ids("chat"), 0)
    assert caught.value.details["candidates"] == ["glm-4", "glm-large-130b"]
    with pytest.raises(InputInvalid, match="the inputs fit none of the 2 models") as refused:
        found.decide(request("chat", Tensor("image", "FP32", (1, 3, 224, 224), 1)), 0)
    assert refused.value.details["candidates"] == ["glm-4", "glm-large-130b"]


def test_the_version_that_the_route_gives_is_what_the_inputs_have_to_fit() -> None:
    """Of one candidate only the new version takes longer inputs, and only some sessions get it."""
    old, new = (
        VersionRecord(version=v, family="glm", length_max=limit) for v, limit in (("1", 10), ("2", 99))
    )
    records = [ModelRecord("a", "1", (old, new)), model("b", family="glm", length_max=99)]
    half = Entry((Destination("a", "1", 50), Destination("a", "2", 50)))
    found = router(records, routes=[Route("a", (half,))])
    for number in range(40):
        version = found.decide(Features("a", length=5, session=f"s{number}"), 0).version
        long = Features("glm", length=50, session=f"s{number}")
        if version == "1":
            assert found.decide(long, 0).model == "b"
        else:
            with pytest.raises(InvalidArgument, match="may be any of 2 models: a, b"):
                found.decide(long, 0)
    with pytest.raises(InputInvalid, match=r"a@[12]: a length of 100 elements is over its length_max"):
        found.decide(Features("glm", length=100, session="s"), 0)


def test_which_nodes_are_there_never_changes_what_a_hint_means() -> None:
    only_large = View([node("n1", "glm-large-130b@1")])
    with pytest.raises(InvalidArgument, match="may be any of 2 models"):
        router(GLM, view=only_large).decide(ids("chat"), 0)


def test_too_many_candidates_are_not_told_apart() -> None:
    many = [model(f"m{number:03}", family="f", length_max=number) for number in range(CANDIDATES_MAX + 1)]
    with pytest.raises(InvalidArgument, match="may be any of 101 models") as caught:
        router(many).decide(Features("f", length=CANDIDATES_MAX), 0)
    assert len(caught.value.details["candidates"]) == CANDIDATES_MAX


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        InputInvalid, match="the inputs do not fit glm-4@1: a length of 4096 elements is over"
    ) as e:
        router(GLM).decide(ids(length=4096), 0)
    assert e.value.details["reasons"] == [
        "glm-4 is the name of a model",
        "glm-4 has no route: glm-4@1 is active",
    ]


# -- routes ---------------------------------------------------------------------------------------------

CANARY = Entry((Destination("glm-4", "1", 80), Destination("glm-4", "2", 20)))
TESTERS = Entry(
    (Destination("glm-4", "2"),),
    (Match((("x-tester", TextMatch("regex", "yes|true")),)),),
    timeout_s=2.0,
    retries=Retries(2, 0.5),
)


def test_the_first_entry_that_matches_decides() -> None:
    found = router(GLM, routes=[Route("glm-4", (TESTERS, CANARY))])
    tester = found.decide(ids(headers={"x-tester": "yes"}), 0)
    assert (tester.version, tester.timeout_s, tester.retries) == ("2", 2.0, Retries(2, 0.5))
    assert said(tester)[1] == "entry 1 of the route of glm-4: glm-4@2, and no other"
    other = found.decide(ids(headers={"x-tester": "no"}), 0)
    assert "entry 2 of the route of glm-4" in said(other)[1]
    assert (other.timeout_s, other.retries) == (None, None)


def test_without_an_entry_that_matches_it_is_the_active_version() -> None:
    decision = router(GLM, routes=[Route("glm-4", (TESTERS,))]).decide(ids(), 0)
    assert decision.version == "1"
    assert said(decision)[1] == "no entry of the route of glm-4 matches: glm-4@1 is active"


def test_an_alias_has_a_route_of_its_own_before_that_of_its_model() -> None:
    to_4 = Route("glm-large", (Entry((Destination("glm-4", "2"),)),))
    to_self = Route("glm-large-130b", (Entry((Destination("glm-large-130b", "1"),)),))
    both = router(GLM, routes=[to_4, to_self])
    assert both.decide(ids("glm-large"), 0).model == "glm-4"
    assert both.decide(ids(Hint(alias="glm-large")), 0).model == "glm-4"
    assert both.decide(ids("glm-large-130b"), 0).model == "glm-large-130b"
    one = router(GLM, routes=[to_self])
    assert "entry 1 of the route of glm-large-130b" in said(one.decide(ids("glm-large"), 0))[1]


def test_a_session_sticks_before_a_trace_and_a_trace_before_the_seed() -> None:
    found = router(GLM, routes=[Route("glm-4", (CANARY,))])

    def versions(**who: str) -> set[str]:
        return {found.decide(ids(**who), seed).version for seed in range(200)}

    for number in range(20):
        assert len(versions(session=f"s{number}")) == len(versions(trace_id=f"t{number}")) == 1
        of_session = found.decide(ids(session=f"s{number}"), 0).version
        traced = {found.decide(ids(session=f"s{number}", trace_id=f"t{t}"), 0).version for t in range(50)}
        assert traced == {of_session}
    assert versions() == {"1", "2"}
    told = [said(found.decide(ids(**who), 0))[1] for who in ({"session": "s"}, {"trace_id": "t"}, {})]
    assert [sentence.rpartition(", ")[2] for sentence in told] == [
        "the same for this session",
        "the same for this trace",
        "drawn for want of an id",
    ]


def test_a_destination_that_is_not_deployed_is_an_error_that_names_it() -> None:
    entry = Entry((Destination("glm-4", "9"), Destination("glm-4", "1", 0)))
    with pytest.raises(ModelNotFound, match="entry 1 of the route of glm-4 leads to glm-4@9") as caught:
        router(GLM, routes=[Route("glm-4", (entry,))]).decide(ids(), 0)
    assert caught.value.details["candidates"] == ["glm-4@1"]


# -- mirrors --------------------------------------------------------------------------------------------


def mirrored(percent: float, **more: Any) -> Router:
    entry = Entry((Destination("glm-4", "1"),), mirrors=(Mirror("glm-4", "2", percent),))
    return router(GLM, routes=[Route("glm-4", (entry,))], **more)


def test_a_share_of_the_requests_is_mirrored() -> None:
    found = mirrored(10.0)
    decisions = [found.decide(ids(session="s"), seed) for seed in range(5000)]
    copies = [decision for decision in decisions if decision.mirrored]
    assert 0.08 < len(copies) / 5000 < 0.12
    assert all(copy.version == "1" and copy.mirrored[0].version == "2" for copy in copies)
    assert said(copies[0])[-1].startswith("a copy for glm-4@2, as 10 % get one, goes to n")
    without = next(decision for decision in decisions if not decision.mirrored)
    assert said(without)[-1] == "no copy for glm-4@2: 10 % get one"


def test_all_or_none_is_exact() -> None:
    assert all(mirrored(100.0).decide(ids(), seed).mirrored for seed in range(300))
    assert not any(mirrored(0.0).decide(ids(), seed).mirrored for seed in range(300))


def test_two_mirrors_are_drawn_by_themselves() -> None:
    mirrors = (Mirror("glm-4", "2", 50.0), Mirror("glm-large", None, 50.0))
    found = router(GLM, routes=[Route("glm-4", (Entry((Destination("glm-4", "1"),), mirrors=mirrors),))])
    counted = Counter(
        tuple(copy.model for copy in found.decide(ids(), seed).mirrored) for seed in range(4000)
    )
    assert all(800 < count < 1200 for count in counted.values())
    assert len(counted) == 4


@pytest.mark.parametrize(
    ("mirror", "why"),
    [
        (Mirror("glm-4", "9"), "it is not deployed"),
        (Mirror("resnet"), "the inputs do not fit"),
        (Mirror("glm-4", "2"), "no node may answer"),
    ],
)
def test_a_mirror_never_makes_a_decision_fail(mirror: Mirror, why: str) -> None:
    entry = Entry((Destination("glm-4", "1"),), mirrors=(mirror,))
    view = View([node("n1", "glm-4@1", "resnet@1")])
    decision = router(GLM, routes=[Route("glm-4", (entry,))], view=view).decide(ids(), 0)
    assert decision.mirrored == ()
    assert said(decision)[-1].startswith(f"no copy for {mirror}: {why}")


# -- nodes ----------------------------------------------------------------------------------------------


def test_a_node_has_to_be_where_the_session_was() -> None:
    view = View([ready("n1", GLM, at=7), ready("n2", GLM, at=9)])
    found = router(GLM, view=view)
    assert {each.node for each in found.decide(ids(position=7), 0).eligible} == {"n1", "n2"}
    assert {each.node for each in found.decide(ids(position=8), 0).eligible} == {"n2"}
    with pytest.raises(Unavailable, match="2 not at log position 10") as caught:
        found.decide(ids(position=10), 0)
    assert caught.value.details["obstacles"] == {"not at log position 10": 2}


def test_no_node_that_is_ready_is_another_error_than_none_that_is_free() -> None:
    with pytest.raises(ModelNotReady, match="2 not ready"):
        router(GLM, view=View([node("n1"), node("n2")])).decide(ids(), 0)
    with pytest.raises(ModelNotReady, match="none is known"):
        router(GLM, view=View([])).decide(ids(), 0)
    full = View([node("n1"), ready("n2", GLM, memory_free_bytes=1)])
    with pytest.raises(Unavailable, match="1 not ready, 1 without 64 bytes of free memory") as caught:
        router(GLM, view=full).decide(ids(), 0)
    assert not isinstance(caught.value, ModelNotReady)
    assert caught.value.retryable


def test_suspected_nodes_are_the_last_resort() -> None:
    alive, suspect = ready("n2", GLM), ready("n1", GLM, state=NodeState.SUSPECT)
    assert router(GLM, view=View([suspect, alive])).decide(ids(), 0).eligible == (alive,)
    decision = router(GLM, view=View([suspect])).decide(ids(), 0)
    assert decision.eligible == (suspect,)
    assert said(decision)[3].endswith("and they are suspected to be gone")


def test_another_view_is_another_router_with_the_same_rules() -> None:
    first = router(GLM, "when length > 5 use glm-large", routes=[Route("glm-4", (CANARY,))])
    second = first.with_view(View([ready("n9", GLM)]))
    assert {each.node for each in second.decide(ids(), 0).eligible} == {"n9"}
    assert second.decide(ids(length=6), 0).model == "glm-large-130b"
    assert (second.rules_version, second.routes_version) == (3, 5)
    assert {each.node for each in first.decide(ids(), 0).eligible} == {"n1", "n2"}
    assert len(second.view.nodes) == 1


def test_a_scheduler_chooses() -> None:
    asked: list[tuple[list[str], Features, int]] = []

    def last(eligible: Sequence[NodeRecord], wanted: Features, seed: int) -> list[NodeRecord]:
        asked.append(([each.node for each in eligible], wanted, seed))
        return list(eligible)[::-1]

    wanted = ids()
    decision = router(GLM).decide(wanted, 17, last)
    assert [each.node for each in decision.nodes] == ["n2", "n1"]
    assert asked == [(["n1", "n2"], wanted, 17)]
    with pytest.raises(Unavailable, match="none of 2 nodes is chosen"):
        router(GLM).decide(wanted, 17, lambda *_: [])


def test_the_shorter_of_two_queues_is_chosen() -> None:
    eligible = [node(f"n{number}", queue=number) for number in range(10)]
    first = Counter(least_queue(eligible, Features("a"), seed)[0].node for seed in range(9000))
    # Of all pairs of ten, number k is the better one in 9 - k of 45.
    for number in range(10):
        assert abs(first[f"n{number}"] - 200 * (9 - number)) < 150
    assert all(len({each.node for each in least_queue(eligible, Features("a"), s)}) == 2 for s in range(500))
    assert least_queue(eligible[:1], Features("a"), 3) == eligible[:1]


def test_equal_queues_share_evenly() -> None:
    eligible = [node(f"n{number}") for number in range(5)]
    first = Counter(least_queue(eligible, Features("a"), seed)[0].node for seed in range(5000))
    assert all(850 < count < 1150 for count in first.values())


# -- all of it, drawn -----------------------------------------------------------------------------------

HINTS = NAMES | st.sampled_from(["a@1", "b@2", "c:1", "a,b"])
DRAWN_RULES = st.lists(
    st.sampled_from(
        [
            "when length > 1 use a",
            "when model == a use b on label:gpu",
            "when family == b use c@1 on provider:cpu",
            "when not batch > 0 use d on node:n0, label:zone=eu",
        ]
    ).map(Rule.parse),
    max_size=3,
)
DRAWN_ENTRIES = st.builds(
    Entry,
    st.lists(
        st.builds(Destination, NAMES, st.none() | st.sampled_from("12"), st.integers(1, 3)),
        min_size=1,
        max_size=3,
        unique_by=lambda each: (each.model, each.version),
    ).map(tuple),
    st.just(()) | st.just((Match((("x", TextMatch("exact", "y")),)),)),
    st.lists(st.builds(Mirror, NAMES, st.none(), st.sampled_from([0.0, 50.0, 100.0])), max_size=1).map(tuple),
)
DRAWN_ROUTES = st.lists(
    st.builds(Route, NAMES, st.lists(DRAWN_ENTRIES, min_size=1, max_size=2).map(tuple)),
    max_size=2,
    unique_by=lambda route: route.host,
)


def outcome(make: Any, wanted: Features, seed: int) -> Any:
    try:
        return make().decide(wanted, seed)
    except McpError as error:
        return error.to_wire()


@settings(max_examples=40)
@given(models(), st.data(), DRAWN_RULES, DRAWN_ROUTES, st.integers(0, 2**64))
def test_a_decision_is_a_function_of_what_it_is_given(
    records: list[ModelRecord], data: st.DataObject, rules: list[Rule], routes: list[Route], seed: int
) -> None:
    """The same again is the same, in any order of what is given, and whatever else was decided before."""
    keys = [f"{m.name}@{v.version}" for m in records for v in m.versions]
    known = data.draw(nodes(keys))
    wanted = data.draw(features(data.draw(HINTS)))
    ruled, routed = RuleSet(1, tuple(rules)), RouteSet(1).apply(routes)
    first = Router(Catalogue(records), View(known), ruled, routed)
    once = outcome(lambda: first, wanted, seed)
    for other in (*keys, "a", "b", "nobody"):
        outcome(lambda: first, Features(other), seed + 1)
    assert outcome(lambda: first, wanted, seed) == once
    shuffled = random.Random(seed)
    shuffled.shuffle(records)
    shuffled.shuffle(known)
    assert outcome(lambda: Router(Catalogue(records), View(known), ruled, routed), wanted, seed) == once
    again = (RuleSet.from_plain(ruled.to_plain()), RouteSet.from_plain(routed.to_plain()))
    try:
        assert decide(wanted, Catalogue(records), View(known), *again, seed) == once
    except McpError as error:
        assert error.to_wire() == once  # noqa: PT017


@settings(max_examples=40)
@given(models(), st.data(), DRAWN_RULES, DRAWN_ROUTES, st.integers(0, 2**64))
def test_whoever_is_asked_may_answer(
    records: list[ModelRecord], data: st.DataObject, rules: list[Rule], routes: list[Route], seed: int
) -> None:
    """Whatever the rules and the routes are: the version exists, takes the inputs, and the nodes have it."""
    keys = [f"{m.name}@{v.version}" for m in records for v in m.versions]
    known = [ready(f"m{number}", records) for number in range(2)] + data.draw(nodes(keys))
    wanted = data.draw(features(data.draw(HINTS)))
    catalogue = Catalogue(records)
    found = outcome(
        lambda: Router(catalogue, View(known), RuleSet(1, tuple(rules)), RouteSet(1).apply(routes)),
        wanted,
        seed,
    )
    if not isinstance(found, Decision):
        assert found["details"]["reasons"] == [str(reason) for reason in found["details"]["reasons"]]
        return
    parts = [(found.model, found.version, found.nodes), *[tuple(copy) for copy in found.mirrored]]
    for name, version, chosen in parts:
        candidate = catalogue.version(name, version)
        assert candidate is not None
        assert candidate.acceptance.misfit(wanted) is None
        assert chosen
        assert all(each.ready[candidate.key] >= wanted.position for each in chosen)
    assert {each.node for each in found.nodes} <= {each.node for each in found.eligible}
    assert all("{" not in str(reason) for reason in found.reasons)
