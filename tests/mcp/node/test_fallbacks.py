"""What is done instead of a request that is refused or fails, and what limits mean for streams and the log.

On whole nodes: kept and declared answers, other models, streams, submissions to the log.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from mcp.client.client import Client
from mcp.client.exchange import Answer, Request
from mcp.client.kinds import CallKind
from mcp.client.tensors import packed, unpacked
from mcp.errors import (
    CircuitOpen,
    ConfigInvalid,
    DeadlineExceeded,
    InferenceFailed,
    McpError,
    ResourceExhausted,
    Unsupported,
)
from mcp.flow.outcome import Outcome
from mcp.node.admitting import Admitting
from mcp.node.tickets import StreamPlace
from simulations.in_process import InProcessCluster, in_process_cluster, until
from simulations.nodes import models

MODELS = Path(__file__).parents[2] / "executor" / "models"
NOTHING = {"concurrency": None, "breaker": None}
"""Of a model: so that only what a test is about says no."""
DIGIT, OTHER = models.inputs(0), models.inputs(1)
UNKNOWN_DIGIT = json.dumps(
    {
        "label": {"dtype": "INT64", "shape": [1], "data": [-1]},
        "probabilities": {"dtype": "FP32", "shape": [1, 10], "data": [0.1] * 10},
    }
)
CACHED = {"kind": "cached", "max_age_s": 600}
FIXED = {"kind": "fixed", "answer": UNKNOWN_DIGIT}
ELEMENT = {"data": np.arange(4, dtype=np.float32)[None], "index": np.array([[1]])}
OUT_OF_RANGE = {**ELEMENT, "index": np.array([[9]])}
START = {"state": np.array([[0, 1]]), "limit": np.array([[10**18]])}


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


@asynccontextmanager
async def serving(path: Path, size: int = 1, *more: str) -> AsyncIterator[tuple[InProcessCluster, Client]]:
    async with in_process_cluster(path, size) as cluster, cluster.client() as client:
        await client.deploy("digits", models.versions()["1"], timeout_s=30)
        for name in more:
            await client.deploy(name, MODELS / f"{name}.onnx", timeout_s=30)
        yield cluster, client


async def asked(client: Client, inputs: Any = DIGIT, hint: str = "digits", **more: Any) -> Answer | McpError:
    """Ask one node once."""
    fields, segments = packed(inputs)
    request = Request(CallKind.INFER, "INFER_REQUEST", {**fields, "model_hint": hint, **more}, segments)
    (address,) = client._exchange.routing.addresses[:1]
    try:
        return await client._exchange.attempt(request, address, 5.0)
    except McpError as error:
        return error


def said(answer: Answer | McpError) -> tuple[Any, ...]:
    """Which fallback it is, the model, the version and the label; or the error's code and reason."""
    if isinstance(answer, McpError):
        return answer.code, answer.details.get("reason")
    payload = answer.payload
    outputs = unpacked(payload["outputs"], answer.segments)
    label = outputs["label"].tolist() if "label" in outputs else None
    return payload.get("fallback"), payload["model"], payload["version"], label


def admitting(cluster: InProcessCluster, name: str = "n1") -> Admitting:
    return cluster.running[name]._running().admitting


def limited(amount: int, *fallbacks: dict[str, Any], **more: Any) -> dict[str, Any]:
    limit = {"kind": "sliding_window", "amount": amount, "per_s": 3600}
    return {**NOTHING, "limit": limit, "fallbacks": list(fallbacks), **more}


def test_an_answer_that_was_given_before_is_given_again_with_its_age(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            await client.set_limits({"default_model": NOTHING, "models": {"digits": limited(2, CACHED)}})
            fresh = await client.infer("digits", DIGIT)
            assert (fresh.fallback, fresh.age_s) == (None, None)
            assert said(await asked(client, DIGIT, outputs=["label"]))[0] is None
            again = await client.infer("digits", DIGIT)
            assert again.fallback == "cached"
            assert again.age_s is not None
            assert 0 <= again.age_s < 60
            assert (again.model, again.version, again.node) == ("digits", "1", "n1")
            assert models.summary(again.outputs) == models.summary(fresh.outputs) == models.answer("1", 0)
            only = await asked(client, DIGIT, outputs=["label"])
            assert isinstance(only, Answer)
            assert list(unpacked(only.payload["outputs"], only.segments)) == ["label"]
            refused = ("RESOURCE_EXHAUSTED", "model_rate")
            assert said(await asked(client, OTHER)) == refused
            assert said(await asked(client, DIGIT, outputs=["probabilities"])) == refused
            figures = cluster.running["n1"].status()["metrics"]["admission"]
            assert (figures["fallbacks"], figures["kept"], figures["in_flight"]) == ({"cached": 2}, 2, 0)

    run(scenario)


def test_joined_inferences_are_kept_and_given_one_by_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            await client.infer("digits", DIGIT)
            await client.set_limits({"default_model": NOTHING, "models": {"digits": limited(40, CACHED)}})
            samples = [models.inputs(number % 8) for number in range(64)]
            for _ in range(3):
                told = await asyncio.gather(*(client.infer("digits", each) for each in samples[:16]))
            admission = admitting(cluster)
            assert admission.fallbacks.kept is not None
            assert len(admission.fallbacks.kept) == 8
            told = await asyncio.gather(*(client.infer("digits", each) for each in samples))
            assert sum(each.fallback == "cached" for each in told) >= 64 - 40
            asked_for = cluster.running["n1"]._running().dispatch.counts["INFER_REQUEST"]
            assert asked_for < 1 + 3 * 16 + 64
            for number, each in enumerate(told):
                assert models.summary(each.outputs) == models.answer("1", number % 8)

    run(scenario)


def test_what_is_kept_goes_with_its_version_and_with_what_was_declared(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            await client.set_limits({"models": {"digits": limited(2, CACHED)}})
            await client.infer("digits", DIGIT)
            kept = admitting(cluster).fallbacks.kept
            assert kept is not None
            await client.deploy("digits", models.versions()["2"], version="2", timeout_s=30)
            assert said(await asked(client))[2] == "2"
            assert len(kept) == 2
            # Each version has its own.
            assert said(await asked(client))[:3] == ("cached", "digits", "2")
            assert said(await asked(client, hint="digits@1"))[:3] == ("cached", "digits", "1")
            await client.undeploy("digits", "1")
            await until(lambda: len(kept) == 1)
            await client.undeploy("digits")
            await until(lambda: len(kept) == 0)
            await client.set_limits({"models": {"digits": limited(1)}})
            await until(lambda: admitting(cluster).fallbacks.kept is None)

    run(scenario)


def test_a_declared_answer_is_given_as_such(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            await client.set_limits({"models": {"digits": limited(1, CACHED, FIXED)}})
            assert said(await asked(client))[0] is None
            assert said(await asked(client))[0] == "cached"
            assert said(await asked(client, OTHER)) == ("fixed", "digits", "1", [-1])
            answer = await client.infer("digits", OTHER, outputs=["label"])
            assert (answer.fallback, answer.age_s, answer.output.tolist()) == ("fixed", None, [-1])
            told = await asyncio.gather(*(client.infer("digits", OTHER) for _ in range(20)))
            assert {each.fallback for each in told} == {"fixed"}
            # Two rows are more than the answer has.
            two = {"image": models.samples()[:2]}
            stacked = await asked(client, two, stacked=[2])
            assert said(stacked) == ("RESOURCE_EXHAUSTED", "model_rate")

    run(scenario)


def test_a_declared_answer_that_the_model_could_not_give_is_refused_by_its_path(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            wrong = {"label": {"dtype": "FP32", "shape": [1], "data": [1.0]}}
            for fallbacks, says in [
                (
                    [{"kind": "fixed", "answer": "sorry"}],
                    r"models.digits.fallbacks\[0\].answer: it is no",
                ),
                (
                    [CACHED, {"kind": "fixed", "answer": json.dumps(wrong)}],
                    r"fallbacks\[1\].answer is no answer",
                ),
            ]:
                with pytest.raises(ConfigInvalid, match=says):
                    await client.set_limits({"models": {"digits": {"fallbacks": fallbacks}}})
            assert (await client.limits()).version == 0
            # Of a model that is not there yet, only the form can be looked at; what does not fit is not used.
            limits = limited(1, {"kind": "fixed", "answer": json.dumps(wrong)})
            await client.set_limits({"models": {"later": limits}})
            await client.deploy("later", models.versions()["1"], timeout_s=30)
            assert said(await asked(client, hint="later"))[0] is None
            assert said(await asked(client, hint="later")) == ("RESOURCE_EXHAUSTED", "model_rate")

    run(scenario)


def test_the_example_does_what_is_said_of_it(tmp_path: Path) -> None:
    example = json.loads((MODELS.parents[2] / "examples" / "fallbacks.json").read_text())

    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            await client.set_limits(example)
            told = [await asked(client, inputs) for inputs in (DIGIT, DIGIT, OTHER)]
            assert [said(each)[0] for each in told] == [None, "cached", "fixed"]

    run(scenario)


def test_a_client_that_asks_too_much_has_a_fallback_only_if_that_is_declared(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            clients = {"default": {"kind": "sliding_window", "amount": 1, "per_s": 3600}}
            await client.set_limits(
                {"clients": clients, "models": {"digits": {**NOTHING, "fallbacks": [FIXED]}}}
            )
            assert said(await asked(client))[0] is None
            assert said(await asked(client)) == ("RESOURCE_EXHAUSTED", "client_rate")
            also = {**FIXED, "when": ["client_rate"]}
            await client.set_limits(
                {"clients": clients, "models": {"digits": {**NOTHING, "fallbacks": [also]}}}
            )
            assert said(await asked(client))[0] == "fixed"

    run(scenario)


def test_a_run_that_fails_has_a_fallback_once(tmp_path: Path) -> None:
    picked = json.dumps({"picked": {"dtype": "FP32", "shape": [1, 1], "data": [7]}})

    async def scenario() -> None:
        async with serving(tmp_path, 1, "element") as (cluster, client):
            fixed = {"kind": "fixed", "answer": picked}

            async def declared(*fallbacks: dict[str, Any]) -> Answer | McpError:
                await client.set_limits({"models": {"element": {**NOTHING, "fallbacks": list(fallbacks)}}})
                return await asked(client, OUT_OF_RANGE, "element")

            assert isinstance(await declared(), InferenceFailed)
            answer = await declared(fixed)
            assert said(answer)[:3] == ("fixed", "element", "1")
            assert said(await asked(client, ELEMENT, "element"))[0] is None
            assert isinstance(await declared({**fixed, "when": ["model_rate"]}), InferenceFailed)
            # What the caller has got wrong stays wrong.
            await declared(fixed)
            assert said(await asked(client, DIGIT, "element"))[0] == "INPUT_INVALID"
            # Another model fails as well: that is the end of it.
            await client.deploy("twin", MODELS / "element.onnx", timeout_s=30)
            assert isinstance(await declared({"kind": "model", "model": "twin"}, fixed), InferenceFailed)
            admission = admitting(cluster)
            assert admission.fallbacks.instead == {"fixed": 2, "model": 1}
            assert admission.fallbacks.by_others == set()
            assert admission.admission is not None
            assert admission.admission.in_flight == 0

    run(scenario)


def test_the_breaker_learns_of_the_failure_and_not_of_what_was_done_instead(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 1, "slow") as (_, client):
            instead = {"kind": "model", "model": "digits"}
            slow = {"concurrency": None, "breaker": {"calls_min": 3}}
            when = {**instead, "when": ["failed"]}
            limits = {
                "in_flight_max": 1,
                "default_model": NOTHING,
                "models": {"slow": {**slow, "fallbacks": [when]}},
            }
            await client.set_limits(limits)
            await client.deploy("wrong", MODELS / "element.onnx", timeout_s=30)
            model = {"element": {**slow, "fallbacks": [when]}, "wrong": {**slow, "fallbacks": [when]}}
            await client.set_limits({**limits, "models": model})
            told = [await asked(client, OUT_OF_RANGE, "wrong") for _ in range(4)]
            # The other model takes other inputs: it is not asked, and nobody is told that his are wrong.
            assert [said(each)[0] for each in told] == ["INFERENCE_FAILED"] * 3 + ["CIRCUIT_OPEN"]

    run(scenario)


def test_a_request_that_is_cancelled_has_no_fallback(tmp_path: Path) -> None:
    long = {"rounds": np.array(2**40), "x": np.ones(8, np.float32)}

    async def scenario() -> None:
        async with serving(tmp_path, 1, "slow") as (cluster, client):
            fixed = {"kind": "model", "model": "digits"}
            await client.set_limits({"models": {"slow": {**NOTHING, "fallbacks": [fixed]}}})
            task = asyncio.ensure_future(asked(client, long, "slow"))
            admission = admitting(cluster)
            await until(lambda: admission.admission is not None and admission.admission.in_flight == 1)
            task.cancel()
            await until(lambda: admission.admission is not None and admission.admission.in_flight == 0)
            assert admission.fallbacks.instead == {}
            late = await asked(client, long, "slow", timeout_ms=50)
            assert isinstance(late, DeadlineExceeded)

    run(scenario)


def test_what_a_node_does_not_do_says_nothing_about_the_model(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 1, "pick") as (_, client):
            breaker = {"concurrency": None, "breaker": {"calls_min": 3}}
            await client.set_limits({"default_model": breaker})
            pick = {"data": np.arange(4, dtype=np.float32), "index": np.array([1])}
            for _ in range(6):
                assert isinstance(await asked(client, pick, "pick", stacked=[1]), Unsupported)
            assert said(await asked(client, pick, "pick"))[1] == "pick"
            for _ in range(3):
                wrong = await asked(client, {**pick, "index": np.array([9])}, "pick")
                assert isinstance(wrong, InferenceFailed | CircuitOpen)
            for _ in range(3):
                assert isinstance(await asked(client, pick, "pick"), CircuitOpen)

    run(scenario)


def test_an_answer_that_another_node_gave_is_kept_where_it_was_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3) as (cluster, client), cluster.client("n1") as one:
            await client.set_rules(["when model == digits use digits on node:n2"])
            await client.set_limits({"default_model": NOTHING, "models": {"digits": limited(1, CACHED)}})
            await one.get("nothing", consistency="linearizable")
            fresh, again = await asked(one), await asked(one)
            assert isinstance(fresh, Answer)
            assert isinstance(again, Answer)
            assert (fresh.payload["node"], again.payload["node"]) == ("n2", "n1")
            assert said(fresh)[1:] == said(again)[1:]
            assert (said(fresh)[0], said(again)[0]) == (None, "cached")


# -- streams ------------------------------------------------------------------------------------------------


def test_a_stream_is_let_in_once_and_holds_its_place_to_its_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 1, "fibonacci") as (cluster, client):
            await client.set_limits({"in_flight_max": 1, "default_model": NOTHING})

            def stream(who: Client = client, steps: int = 10**6, **more: Any) -> Any:
                return who.stream("fibonacci", START, carry={"next": "state"}, steps=steps, **more)

            def in_flight() -> int:
                admission = admitting(cluster).admission
                return 0 if admission is None else admission.in_flight

            first = stream()
            assert (await anext(first)).fallback is None
            assert in_flight() == 1
            assert said(await asked(client)) == ("RESOURCE_EXHAUSTED", "node")
            with pytest.raises((ResourceExhausted, DeadlineExceeded)):
                await anext(stream(timeout_s=0.3))
            await first.aclose()
            await until(lambda: in_flight() == 0)
            assert len([step async for step in stream(steps=20)]) == 20
            assert in_flight() == 0
            async with aclosing(stream(timeout_s=0.2)) as overdue:
                with pytest.raises(DeadlineExceeded):
                    async for _ in overdue:
                        pass
            await until(lambda: in_flight() == 0)
            async with cluster.client() as gone:
                lost = stream(gone)
                await anext(lost)
                assert in_flight() == 1
            await until(lambda: in_flight() == 0)
            await lost.aclose()

    run(scenario)


def test_a_stream_of_another_model_says_so_and_has_no_other_fallback(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 1, "fibonacci") as (_, client):
            await client.deploy("twin", MODELS / "fibonacci.onnx", timeout_s=30)

            async def steps() -> list[Any]:
                stream = client.stream("fibonacci", START, carry={"next": "state"}, steps=3, timeout_s=1)
                return [(step.model, step.fallback) async for step in stream]

            await client.set_limits(
                {"models": {"fibonacci": limited(1, CACHED, {"kind": "model", "model": "twin"})}}
            )
            assert await steps() == [("fibonacci", None)] * 3
            assert await steps() == [("twin", "model")] * 3
            await client.set_limits({"models": {"fibonacci": limited(1, CACHED)}})
            with pytest.raises((ResourceExhausted, DeadlineExceeded)):
                await steps()

    run(scenario)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.SUCCEEDED),
        (InferenceFailed("no"), Outcome.FAILED),
        (DeadlineExceeded("all of it took too long"), Outcome.ABANDONED),
    ],
)
def test_of_a_stream_the_first_step_tells_how_long_a_request_takes(
    monkeypatch: pytest.MonkeyPatch, error: McpError | None, outcome: Outcome
) -> None:
    class Held:
        done = staticmethod(lambda *told: seen.append(told))

    seen: list[Any] = []
    at = [10.0]
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: SimpleNamespace(time=lambda: at[0]))
    exchange = cast(Any, SimpleNamespace(waited_s=0.125))
    place = StreamPlace(cast(Any, Held), exchange, 10.0)
    for at[0] in (10.5, 70.0, 500.0):
        place.stepped()
    place.ended(error)
    late = StreamPlace(cast(Any, Held), cast(Any, SimpleNamespace(waited_s=None)), 400.0)
    late.ended(DeadlineExceeded("not even one step"))
    assert seen == [(outcome, 0.5, 500.0, 0.125), (Outcome.TIMED_OUT, 100.0, 500.0, None)]


# -- submissions to the log ---------------------------------------------------------------------------------


def test_a_submission_is_refused_before_it_is_proposed_and_never_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            await client.set_limits({"default_model": limited(3, FIXED)})
            for number in range(3):
                await client.submit("digits", DIGIT, id=f"task-{number}")
            before = cluster.running["n1"].status()["last_index"]
            many = [client.submit("digits", DIGIT, id=f"more-{n}", timeout_s=0.3) for n in range(3)]
            one = client.submit("digits", DIGIT, id="task-3", timeout_s=0.3)
            for told in await asyncio.gather(one, *many, return_exceptions=True):
                assert isinstance(told, ResourceExhausted | DeadlineExceeded)
                assert "RESOURCE_EXHAUSTED" in (told.code, told.details.get("last_code"))
            # What was acknowledged is asked for again, and is done.
            assert await client.submit("digits", DIGIT, id="task-0") == "task-0"
            for number in range(3):
                record = await client.result(f"task-{number}", timeout_s=20)
                assert record.status == "done"
            log = cluster.running["n1"].status()["last_index"]
            assert log - before <= 1 + 3 + 4  # the one that was there, the results, and what nodes say

    run(scenario)


def test_submissions_of_a_leaky_queue_wait_for_their_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            limit = {"kind": "leaky_queue", "amount": 10, "burst": 3}
            await client.set_limits({"models": {"digits": {**NOTHING, "limit": limit}}})
            ids = await asyncio.gather(*(client.submit("digits", DIGIT, id=f"t{n}") for n in range(3)))
            for each in ids:
                assert (await client.result(each, timeout_s=20)).status == "done"
            assert admitting(cluster).figures()["admitted"] == 3

    run(scenario)
