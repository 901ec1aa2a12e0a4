"""A strategy declared for a model: the shell around the scheduler by itself, and on three whole nodes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcp.cluster.outcome import Outcome
from mcp.cluster.router.decision import Decision
from mcp.cluster.router.features import Features
from mcp.cluster.router.nodes import NodeRecord, View
from mcp.cluster.scheduler.interface import Request
from mcp.cluster.scheduler.strategies import STRATEGIES
from mcp.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    InferenceFailed,
    InputInvalid,
    InvalidArgument,
    McpError,
    ModelNotFound,
    ModelNotReady,
    OutcomeUnknown,
    ResourceExhausted,
    Unavailable,
    Unsupported,
    VersionConflict,
)
from mcp.net.exchange import Exchange
from mcp.node.scheduling import GOSSIP_AGE_S, Place, Scheduling, outcome
from mcp.state.state import ReplicatedState
from mcp.wire.handshake import Role
from simulations.in_process import InProcessCluster, in_process_cluster, until
from simulations.nodes import models
from tests.mcp.node.test_routing import DIGIT, caught_up, metric, serving

NODES = ("n1", "n2", "n3")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


class FakeClock:
    """Time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def random(self) -> random.Random:
        return random.Random(1)


class Shell:
    """A scheduler's shell of the node n1 of three, with the state, view and queue that a test says."""

    def __init__(self, strategy: str, workers: int = 1) -> None:
        self.clock = FakeClock()
        self.strategies = {"digits": strategy}
        self.traffic = SimpleNamespace(
            scheduled=True, strategies=self.strategies, strategies_version=1, strategies_index=1
        )
        self.depth = (0, 0, workers)
        self.view = View([self.node(name) for name in NODES])
        self.scheduling = Scheduling(
            "n1",
            cast(ReplicatedState, SimpleNamespace(traffic=self.traffic)),
            cast(Any, self.clock),
            view=lambda: self.view,
            depth=lambda: self.depth,
        )

    @staticmethod
    def node(name: str, queue: int = 0, **load: float) -> NodeRecord:
        return NodeRecord(name, name, queue=queue, load={"run": 0.0, "workers": 1.0, **load})

    def decision(self, *names: str) -> Decision:
        nodes = tuple(self.node(name) for name in names or NODES)
        return Decision("digits", "1", nodes[:1], nodes, (), None, None, 0, 0, ())

    def place(self, *names: str, timeout_s: float = 5.0, size: int = 0, **features: Any) -> Place:
        """A request that goes to its node at once, if it has one."""
        exchange = cast(Exchange, SimpleNamespace(segments=(b"0" * size,)))
        place = self.scheduling.place(
            exchange, self.decision(*names), Features("digits", **features), timeout_s
        )
        if place.node is not None:
            place.begin()
        return place

    def in_flight(self) -> dict[str, int]:
        account = self.scheduling._strategies.account
        return {name: account.in_flight(name) for name in NODES}


async def all_see_all(cluster: InProcessCluster) -> None:
    """Wait until every node may answer, as each of them sees it."""

    def seen(name: str) -> list[tuple[str, bool]]:
        view = cluster.running[name]._running().routing.view()
        keys = ("digits@1", "digits@2")
        return [(node.node, all(key in node.ready for key in keys)) for node in view.nodes if node.load]

    await until(lambda: all(seen(name) == [(node, True) for node in NODES] for name in cluster.running))


def asked_by(role: Role) -> Exchange:
    return cast(Exchange, SimpleNamespace(connection=SimpleNamespace(peer=SimpleNamespace(role=role))))


# -- the shell by itself ------------------------------------------------------------------------------------


def test_only_a_client_s_request_is_scheduled_and_only_by_what_is_declared_now() -> None:
    shell = Shell("round_robin")
    ask = shell.scheduling.strategy
    assert ask(asked_by(Role.CLIENT), "digits") == "round_robin"
    assert ask(asked_by(Role.NODE), "digits") is None
    assert ask(asked_by(Role.CLIENT), "words") is None
    shell.strategies |= {"digits": "a strategy of a later version", "words": "least_loaded"}
    shell.traffic.strategies_version += 1
    assert ask(asked_by(Role.CLIENT), "digits") is None
    assert ask(asked_by(Role.CLIENT), "words") == "least_loaded"
    shell.traffic.scheduled = False
    assert ask(asked_by(Role.CLIENT), "words") is None


def test_a_choice_counts_at_once_and_until_its_request_has_ended() -> None:
    shell = Shell("least_loaded")
    places = [shell.place() for _ in range(6)]
    assert shell.in_flight() == {"n1": 2, "n2": 2, "n3": 2}
    for place in places:
        place.end(None)
        place.end(Cancelled("a second time"))
    assert shell.in_flight() == {"n1": 0, "n2": 0, "n3": 0}
    assert sum(shell.scheduling.totals[name] for name in ("here", "passed_on")) == 6


def test_the_slow_node_is_found_out_and_spared() -> None:
    shell = Shell("predicted_completion")
    seen: Counter[str] = Counter()
    for _ in range(200):
        place = shell.place(size=8)
        assert place.node is not None
        seen[place.node] += 1
        shell.clock.now += 0.04 if place.node == "n2" else 0.01
        place.end(None)
    assert seen["n2"] < 20
    assert min(seen["n1"], seen["n3"]) > 40


def test_what_cannot_be_in_time_is_refused_before_it_costs_a_run() -> None:
    shell = Shell("predicted_completion")
    for _ in range(20):
        place = shell.place("n1")
        shell.clock.now += 1.0
        place.end(None)
    with pytest.raises(DeadlineExceeded, match=r"not started: n1 would be first.*after the deadline"):
        shell.place("n1", timeout_s=0.05)
    assert shell.scheduling.figures()["too_late"] == 1
    assert shell.in_flight()["n1"] == 0
    shell.place("n1", timeout_s=5.0).end(None)


def test_a_node_that_fails_is_left_for_the_others_until_there_are_none() -> None:
    shell = Shell("least_loaded")
    place = shell.place("n2", "n3")
    first = place.node
    assert place.again(Unavailable("gone"))
    assert {first, place.node} == {"n2", "n3"}
    assert shell.in_flight()[str(first)] == 0
    assert not place.again(Unavailable("gone, too"))
    assert set(shell.in_flight().values()) == {0}
    # Both are left alone for a while now: n1 has no failure.
    assert shell.place().node == "n1"


def test_a_stream_holds_its_place_to_its_end_and_is_measured_by_its_first_step() -> None:
    shell = Shell("least_loaded")
    account = shell.scheduling._strategies.account
    ends = (None, Cancelled("its reader left"), DeadlineExceeded("it was over"), Unavailable("it was lost"))
    for number, error in enumerate(ends, 1):
        place = shell.place("n2")
        for _ in range(3):
            shell.clock.now += 0.5
            place.stepped()
        shell.clock.now += 3600.0
        assert shell.in_flight()["n2"] == 1
        place.end(error)
        assert shell.in_flight()["n2"] == 0
        assert account.service_s("n2", "digits", 1.0) == pytest.approx(0.5)
        known = account.node("n2")
        assert known is not None
        # Only one that was lost says anything against the node.
        assert known.failures == (error is ends[-1]), number
    # Without a first step it is as for any request: it takes at least so long.
    place = shell.place("n3", timeout_s=2.0)
    shell.clock.now += 2.0
    place.end(Cancelled("no step came in time"))
    assert account.service_s("n3", "digits", 1.0) > 1.0


def test_requests_wait_for_a_free_place_in_the_order_of_their_priorities() -> None:
    async def scenario() -> None:
        shell = Shell("priority_queue")
        running = [shell.place() for _ in range(3)]
        assert shell.in_flight() == {"n1": 1, "n2": 1, "n3": 1}
        waiting = {priority: shell.place(priority=priority, size=10) for priority in (0, 9, 4)}
        assert {place.node for place in waiting.values()} == {None}
        assert shell.scheduling.figures()["waiting_bytes"] == 30
        order = []
        for place in running:
            shell.clock.now += 0.1
            place.end(None)
            (turned,) = [
                p for p, each in waiting.items() if each.turn and each.turn.done() and p not in order
            ]
            assert waiting[turned].node == place.node
            order.append(turned)
        assert order == [9, 4, 0]
        await asyncio.gather(*(place.turned() for place in waiting.values()))
        assert shell.scheduling.figures()["waiting"] == shell.scheduling.figures()["waiting_bytes"] == 0
        shell.scheduling.close()

    run(scenario)


def test_who_waits_is_refused_at_its_deadline_and_forgotten_when_it_goes() -> None:
    async def scenario() -> None:
        shell = Shell("priority_queue")
        running = shell.place("n1")
        late, gone, last = (shell.place("n1", timeout_s=timeout_s) for timeout_s in (1.0, 9.0, 9.0))
        gone.end(Cancelled("nobody waits any more"))
        shell.clock.now += 2.0
        shell.scheduling._look()
        with pytest.raises(DeadlineExceeded, match="no node had a free place before the deadline"):
            await late.turned()
        late.end(DeadlineExceeded("as it was told"))
        assert shell.scheduling.figures()["waiting"] == 1
        running.end(None)
        await last.turned()
        assert (last.node, gone.node) == ("n1", None)
        # It is cancelled between its turn and the next of the loop: the place is free again.
        last.end(Cancelled("nobody waits any more"))
        assert shell.in_flight()["n1"] == 0
        shell.scheduling.close()

    run(scenario)


def test_a_full_queue_refuses_and_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        shell = Shell("priority_queue")
        shell.place("n1")
        monkeypatch.setattr("mcp.node.scheduling.WAITING_BYTES_MAX", 100)
        shell.place("n1", size=60)
        with pytest.raises(Busy, match="waiting_bytes_max=100 of requests wait already; retry after") as full:
            shell.place("n1", size=60)
        assert 0.01 <= full.value.details["retry_after_s"] <= 60.0
        assert shell.scheduling.figures()["waiting"] == 1
        monkeypatch.setattr(shell.scheduling._strategies._waiting, "_waiting_max", 0)
        shell.scheduling._strategies._waiting._queues.clear()
        with pytest.raises(Busy, match=r"waiting_max=0 requests wait for a node already; retry") as many:
            shell.place("n1")
        assert "retry_after_s" in many.value.details
        assert shell.scheduling.figures()["busy"] == 2
        shell.scheduling.close()

    run(scenario)


def test_what_is_seen_and_said_of_queues_is_put_down_once() -> None:
    shell = Shell("least_loaded")
    shell.view = View([shell.node("n1"), shell.node("n2", queue=7, cpu=50.0), shell.node("n3")])
    account = shell.scheduling._strategies.account
    assert {shell.place().node for _ in range(2)} == {"n1", "n3"}
    known = account.node("n2")
    assert known is not None
    assert known.report is not None
    assert (known.report.cpu, known.report.in_system) == (0.5, 7)
    assert known.reported_at == shell.clock.now - GOSSIP_AGE_S
    # The same again, in another view, is no news.
    shell.clock.now += 1.0
    shell.view = View(shell.view.nodes)
    shell.place().end(None)
    assert known.reported_at == shell.clock.now - 1.0 - GOSSIP_AGE_S
    # An answer says more, and of now; not too often, and no nonsense.
    for said in (2, 9, -1, "many"):
        shell.scheduling.told("n2", said)
    assert known.report.in_system == 2
    assert known.reported_at == shell.clock.now
    # What waits at this node itself, whoever has sent it.
    shell.depth = (40, 1, 1)
    shell.clock.now += 1.0
    assert "n1" not in {shell.place().node for _ in range(2)}


OUTCOMES: Mapping[type[McpError], Outcome] = {
    DeadlineExceeded: Outcome.TIMED_OUT,
    Busy: Outcome.REFUSED,
    ResourceExhausted: Outcome.REFUSED,
    Cancelled: Outcome.ABANDONED,
    InputInvalid: Outcome.ABANDONED,
    InferenceFailed: Outcome.FAULTED,
    ModelNotReady: Outcome.FAULTED,
    Unavailable: Outcome.FAILED,
    OutcomeUnknown: Outcome.FAILED,
}


def test_an_error_says_of_a_node_what_it_does_and_no_more() -> None:
    assert outcome(None, overdue=True) is Outcome.ANSWERED
    for error, says in OUTCOMES.items():
        assert outcome(error("so it was"), overdue=False) is says, error
    assert outcome(Cancelled("the caller's time was over"), overdue=True) is Outcome.TIMED_OUT


# -- three nodes --------------------------------------------------------------------------------------------


def test_the_node_that_is_asked_answers_or_passes_on_and_nobody_does_so_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3) as (cluster, client):
            await all_see_all(cluster)
            async with cluster.client("n1") as one:
                assert await client.set_strategy("digits", "round_robin") == 1
                await caught_up(one)
                told = []
                for hint in ("digits", "digits@2", "zip"):
                    # One after the other, and many at once: each is given to a node by itself.
                    told += [await one.infer(hint, DIGIT) for _ in range(6)]
                    told += await asyncio.gather(*(one.infer(hint, DIGIT) for _ in range(12)))
                right = models.answer("2", 0)
                assert all(models.summary(answer.outputs) == right for answer in told)
                spread = Counter(answer.node for answer in told)
                assert min(spread[node] for node in NODES) >= len(told) // 4
                figures = metric(cluster, "scheduling")
                forwarded = metric(cluster, "inference_forwarded_total")
                assert [each["passed_on"] for each in figures] == forwarded
                assert sum(each["here"] + each["passed_on"] for each in figures) == len(told)
                # Who got one that was passed on has answered it.
                asked = [each["INFER_REQUEST"] for each in metric(cluster, "requests")]
                assert sum(asked) == len(told) + sum(forwarded)
                assert sum(forwarded) >= len(told) // 2
                # Its inputs are refused in the words of whoever looked at them.
                with pytest.raises(InputInvalid):
                    await one.infer("digits", {"image": DIGIT["image"][:, :5]})
                assert await client.set_strategy("digits", None) == 2
                await caught_up(one)
                before = metric(cluster, "inference_forwarded_total")
                await asyncio.gather(*(one.infer("digits", DIGIT) for _ in range(6)))
                assert metric(cluster, "inference_forwarded_total") == before

    run(scenario)


def test_every_strategy_answers_also_when_a_node_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3) as (cluster, client):
            await all_see_all(cluster)
            async with cluster.client("n1") as one:
                for name in STRATEGIES:
                    await client.set_strategy("digits", name)
                    await caught_up(one)
                    asked = (one.infer("digits", DIGIT, priority=n % 3) for n in range(24))
                    told = await asyncio.gather(*asked)
                    assert {answer.version for answer in told} == {"2"}
                    # One that tries everybody has measured everybody.
                    assert len({answer.node for answer in told}) > 1, name
                await client.set_strategy("digits", "round_robin")
                await caught_up(one)
                asked = (one.infer("digits", DIGIT, timeout_s=10) for _ in range(40))
                *answers, _ = await asyncio.gather(*asked, cluster.stop("n3"))
                assert len(answers) == 40
                told = await asyncio.gather(*(one.infer("digits", DIGIT) for _ in range(8)))
                assert {answer.node for answer in told} == {"n1", "n2"}

            def idle(name: str) -> bool:
                account = cluster.running[name]._running().scheduling._strategies.account
                return not any(account.in_flight(node) for node in NODES)

            assert all(idle(name) for name in cluster.running)

    run(scenario)


def test_what_is_not_let_in_and_answered_by_another_model_waits_for_no_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            await client.deploy("other", models.versions()["1"], timeout_s=30)
            scheduling = cluster.running["n1"]._running().scheduling
            await client.set_strategy("digits", "priority_queue")
            # The only place is taken, as far as the scheduler knows.
            busy = Place(scheduling, Request("taken", "digits"), ["n1"], 0)
            busy.node = "n1"
            busy.begin()
            fallbacks = [{"kind": "model", "model": "other"}]
            limit = {"amount": 1, "per_s": 3600.0, "burst": 1}
            await client.set_limits({"models": {"digits": {"limit": limit, "fallbacks": fallbacks}}})
            first = asyncio.ensure_future(client.infer("digits", DIGIT, timeout_s=20))
            await until(lambda: scheduling.figures()["waiting"] == 1)
            ended = []
            end = Place.end

            def noted(place: Place, error: McpError | None) -> None:
                ended.append((type(error), place.began))
                end(place, error)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Place, "end", noted)
                assert (await client.infer("digits", DIGIT)).model == "other"
            # Given up before anything was begun for it, and not again when it was answered.
            assert ended == [(Cancelled, None), (type(None), None)]
            assert scheduling.figures()["waiting"] == 1
            busy.end(None)
            assert (await first).model == "digits"
            assert scheduling.held() == 0

    run(scenario)


def test_an_explanation_names_the_strategy_and_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            asked = {"model_hint": "digits", "inputs": [{"name": "image", "dtype": "FP32", "shape": [1, 64]}]}
            assert (await client.explain(asked))["strategy"] is None
            for name in STRATEGIES:
                await client.set_strategy("digits", name)
                decision = await client.explain(asked)
                assert (decision["strategy"], decision["nodes"]) == (name, ["n1"])
                (choice,) = [each["reason"] for each in decision["reasons"] if each["step"] == "choice"]
                assert choice.startswith(f"the strategy {name} of digits chooses, of 1, n1: ")
            before = metric(cluster, "scheduling")
            assert not any(before[total] for total in ("here", "passed_on", "queued", "waiting"))
            assert (await client.strategies()).strategies == {"digits": "predicted_completion"}

    run(scenario)


def test_what_is_no_strategy_or_no_model_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            wrong: list[tuple[Awaitable[object], type[McpError], str]] = [
                (
                    client.set_strategy("digits", "fastest"),
                    InvalidArgument,
                    "no strategy 'fastest'; choose one of round_robin, least_loaded",
                ),
                (client.set_strategy("zip", STRATEGIES[0]), InvalidArgument, "zip is an alias of digits"),
                (client.set_strategy("dogs", STRATEGIES[0]), ModelNotFound, "'dogs'; there are digits"),
            ]
            for call, error, says in wrong:
                with pytest.raises(error, match=says):
                    await call
            assert (await client.strategies()).version == 0
            with pytest.raises(VersionConflict):
                await client.set_strategy("digits", STRATEGIES[0], expected_version=3)
            # What was undeployed keeps its strategy until somebody removes that.
            await client.set_strategy("digits", STRATEGIES[0])
            await client.undeploy("digits")
            assert (await client.strategies()).strategies == {"digits": STRATEGIES[0]}
            await client.set_strategy("digits", None)
            assert (await client.strategies()).strategies == {}

    run(scenario)


def test_until_all_nodes_are_upgraded_there_is_no_strategy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path, 1, schema_max=3) as cluster, cluster.client() as client:
            with pytest.raises(Unsupported, match="needs schema 4"):
                await client.set_strategy("digits", None)
            assert (await client.strategies()).strategies == {}

    run(scenario)
