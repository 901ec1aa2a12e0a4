"""Many inferences as one stream: the order, the window, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.client.many import IN_FLIGHT_MAX, Answered, Window, answered, window
from mcp.client.results import Inference
from mcp.clock import Clock
from mcp.errors import Busy, InvalidArgument, McpError


def result_of(number: int) -> Inference:
    return Inference({"y": np.int64([number])}, "m", "1", "n1")


class Desk:
    """Answers when it is told to, and knows how many wait."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[Inference]] = {}
        self.most = 0
        self.cancelled = 0

    async def ask(self, number: int) -> Inference:
        self.waiting[number] = asyncio.get_running_loop().create_future()
        self.most = max(self.most, len(self.waiting))
        try:
            return await self.waiting[number]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            del self.waiting[number]

    def answer(self, number: int, error: McpError | None = None) -> None:
        if error is None:
            self.waiting[number].set_result(result_of(number))
        else:
            self.waiting[number].set_exception(error)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def collected(stream: AsyncIterator[Answered[Any]], into: list[Answered[Any]]) -> None:
    async for each in stream:
        into.append(each)  # noqa: PERF401 (what came before an error stays)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 20))


async def asynchronous(numbers: list[int]) -> AsyncIterator[int]:
    for number in numbers:
        await asyncio.sleep(0)
        yield number


@given(
    st.integers(0, 12),
    st.integers(1, 5),
    st.sampled_from(["inputs", "completion"]),
    st.booleans(),
    st.randoms(use_true_random=False),
    st.sets(st.integers(0, 11)),
)
@settings(deadline=None)
def test_every_input_has_its_result_once_and_the_window_is_kept(
    count: int, size: int, order: str, asynchronously: bool, random: Any, failing: set[int]
) -> None:
    async def main() -> None:
        desk, found, finished = Desk(), list[Answered[Any]](), list[int]()
        source: Any = asynchronous(list(range(count))) if asynchronously else range(count)
        taking = asyncio.ensure_future(
            collected(answered(desk.ask, source, window(size, order, "return")), found)
        )
        while not taking.done():
            await turns()
            if desk.waiting:
                number = random.choice(sorted(desk.waiting))
                finished.append(number)
                desk.answer(number, Busy("full") if number in failing else None)
        await taking
        assert [each.number for each in found] == (list(range(count)) if order == "inputs" else finished)
        assert desk.most <= size
        for each in found:
            if each.number in failing:
                assert type(each.result) is Busy
            else:
                assert each.result.outputs["y"] == [each.number]

    run(main)


def test_results_that_nobody_takes_hold_their_places() -> None:
    async def main() -> None:
        desk, given_out = Desk(), list[int]()

        def source() -> Iterator[int]:
            for number in range(100):
                given_out.append(number)
                yield number

        async with aclosing(answered(desk.ask, source(), Window(3, "inputs", "raise"))) as stream:
            first = asyncio.ensure_future(anext(stream))
            await turns()
            for number in (0, 1, 2):
                desk.answer(number)
            await turns()
            assert (await first).number == 0
            await turns()
            # The third place is free again, two results wait, and one more input may have been taken.
            assert sorted(desk.waiting) == [3]
            assert len(given_out) <= 5

    run(main)


@pytest.mark.parametrize("order", ["inputs", "completion"])
def test_an_error_ends_the_stream_and_what_is_under_way(order: str) -> None:
    async def main() -> None:
        desk, found = Desk(), list[Answered[Any]]()
        taking = asyncio.ensure_future(
            collected(answered(desk.ask, range(50), window(4, order, "raise")), found)
        )
        await turns()
        desk.answer(0)
        await turns()
        desk.answer(1, Busy("full"))
        with pytest.raises(Busy, match="full"):
            await taking
        assert [each.number for each in found] == [0]
        assert desk.waiting == {}
        assert desk.cancelled == 3

    run(main)


def test_who_leaves_cancels_what_is_under_way() -> None:
    async def main() -> None:
        desk, before = Desk(), asyncio.all_tasks()
        async with aclosing(answered(desk.ask, range(50), window(4, "inputs", "raise"))) as stream:
            first = asyncio.ensure_future(anext(stream))
            await turns()
            desk.answer(0)
            assert (await first).number == 0
            await turns()
            assert len(desk.waiting) == 4
        assert desk.waiting == {}
        assert desk.cancelled == 4
        assert asyncio.all_tasks() == before

    run(main)


def test_what_the_source_raises_comes_after_the_results_before_it() -> None:
    async def main() -> None:
        desk, found = Desk(), list[Answered[Any]]()

        def source() -> Iterator[int]:
            yield from range(3)
            raise OSError("the file ended early")

        taking = asyncio.ensure_future(
            collected(answered(desk.ask, source(), window(8, "completion", "raise")), found)
        )
        await turns()
        for number in (2, 0, 1):
            desk.answer(number)
        with pytest.raises(OSError, match="ended early"):
            await taking
        assert sorted(each.number for each in found) == [0, 1, 2]

    run(main)


def test_a_stream_through_a_client(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            scans = [np.float32([[number, number]]) for number in range(200)]
            one_by_one = [await client.infer("m", scan) for scan in scans]
            streamed = [each async for each in client.infer_many("m", scans, in_flight=16)]
            assert [each.number for each in streamed] == list(range(200))
            for alone, each in zip(one_by_one, streamed, strict=True):
                assert alone.outputs.keys() == each.result.outputs.keys()
                assert all(
                    np.array_equal(alone.outputs[name], each.result.outputs[name]) for name in alone.outputs
                )
            mixed: list[Any] = [scans[0], np.zeros(1, complex), scans[1]]
            kinds = [type(each.result) async for each in client.infer_many("m", mixed, errors="return")]
            assert kinds == [Inference, InvalidArgument, Inference]

    virtual(main)


@pytest.mark.parametrize(
    ("inputs", "changed"),
    [
        ("a text", {}),
        ({"x": np.zeros(1)}, {}),
        (3, {}),
        ([], {"in_flight": 0}),
        ([], {"in_flight": IN_FLIGHT_MAX + 1}),
        ([], {"in_flight": True}),
        ([], {"order": "any"}),
        ([], {"errors": "ignore"}),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    cluster_of: Any, virtual: Any, inputs: Any, changed: dict[str, Any]
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            with pytest.raises(InvalidArgument):
                client.infer_many("m", inputs, **changed)

    virtual(main)
