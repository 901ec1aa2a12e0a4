"""Requests that share runs, with the real onnxruntime and real threads."""

import asyncio
import contextlib
import gc
import time
import weakref

import numpy as np
import pytest

from executor.batching.jobs import BatchRun
from executor.batching.options import BatchOptions
from executor.compare import compare_outputs
from executor.errors import (
    DeadlineExceeded,
    ExecutorClosed,
    InferenceFailed,
    InputInvalid,
    ModelNotLoaded,
    QueueFull,
)
from executor.onnx import OnnxRuntime
from executor.pool import InferencePool

MODELS = ("dense", "count", "element", "masked", "positive", "running_sum", "strings")
GUARD_S = 60.0
FOR_EVER = {"x": np.array([[10**12]])}
OFF = BatchOptions(mode="off")


@pytest.fixture
def runtime(models):
    with OnnxRuntime(monotonic=time.monotonic) as made:
        for name in MODELS:
            made.load(name, models / f"{name}.onnx")
            made.try_rows(name)
        yield made


@contextlib.contextmanager
def pool_of(runtime, **options):
    pool = InferencePool(runtime, **{"workers": 1, "inline_s_max": 0, **options})
    try:
        yield pool
    finally:
        pool.close()


def play(runtime, main, **options):
    with pool_of(runtime, **options) as pool:
        return asyncio.run(asyncio.wait_for(main(pool), GUARD_S))


class Caller:
    """One request, and what came of it."""

    def __init__(self, pool, key, inputs, **how):
        self.answered = asyncio.get_running_loop().create_future()
        self.calls = 0
        self.pool = pool
        self.ticket = pool.submit(key, inputs, self._done, **{"timeout_s": GUARD_S, **how})
        if isinstance(self.ticket, dict):
            self.answered.set_result(self.ticket)

    def _done(self, value, error):
        self.calls += 1
        if error is not None:
            self.answered.set_exception(error)
        else:
            self.answered.set_result(value)

    def cancel(self):
        self.pool.cancel(self.ticket)


async def until(condition):
    """Let the loop turn until something is so; ``play`` bounds it."""
    while not condition():  # noqa: ASYNC110 (what is waited for happens in a thread)
        await asyncio.sleep(0)


async def occupied(pool, key="count"):
    """A run without an end in the only worker, whatever else waits."""
    busy = Caller(pool, key, FOR_EVER)
    await until(lambda: pool.running == 1)
    return busy


async def answers(callers):
    return await asyncio.gather(*[caller.answered for caller in callers], return_exceptions=True)


def rows(number, count=1, key="x"):
    return {key: np.random.default_rng(number).standard_normal((count, 64)).astype(np.float32)}


def batches(pool, key="dense"):
    return pool.figures(key)["batch_rows"]


def test_requests_that_gathered_run_as_one_and_get_their_own_rows(runtime):
    async def main(pool):
        busy = await occupied(pool)
        sizes = [1, 3, 1, 2, 1]
        callers = [Caller(pool, "dense", rows(n, size), client=n) for n, size in enumerate(sizes)]
        assert (pool.queued, pool.running) == (5, 1)
        busy.cancel()
        results = await answers(callers)
        for number, (size, result) in enumerate(zip(sizes, results, strict=True)):
            expected = runtime.run("dense", rows(number, size))
            assert compare_outputs(expected, result).equal
        owners = {id(result["y"].base) for result in results}
        assert len(owners) == 1  # views of one array, not copies
        assert batches(pool) == {"8": 1}
        assert pool.figures("dense")["requests_total"] == 5

    play(runtime, main)


def test_batched_and_single_results_agree_for_every_model(runtime):
    requests = {
        "dense": [rows(n) for n in range(9)],
        "count": [{"x": np.array([[n]])} for n in range(9)],
        "element": [
            {"data": np.arange(4, dtype=np.float32)[None] * n, "index": np.array([[n % 4]])} for n in range(9)
        ],
        "strings": [{"text": np.array([f"text {n}"], object)} for n in range(9)],
    }

    async def main(pool):
        for key, inputs in requests.items():
            busy = await occupied(pool)
            callers = [Caller(pool, key, each) for each in inputs]
            busy.cancel()
            together = await answers(callers)
            apart = [await Caller(pool, key, each, options=OFF).answered for each in inputs]
            assert all(compare_outputs(a, b).equal for a, b in zip(apart, together, strict=True)), key
            assert batches(pool, key)["16"] == 1, key

    play(runtime, main)


def test_outputs_that_differ_are_not_run_together_nor_are_models_that_mix_rows(runtime):
    async def main(pool):
        busy = await occupied(pool)
        x = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
        callers = [Caller(pool, "running_sum", x) for _ in range(3)]
        callers += [Caller(pool, "dense", rows(1), options=OFF) for _ in range(2)]
        busy.cancel()
        results = await answers(callers)
        assert all(result["y"].tolist() == [[0, 1, 2, 3], [4, 6, 8, 10]] for result in results[:3])
        assert batches(pool, "running_sum") == {"1": 3}
        assert batches(pool, "dense") == {"1": 2}

    play(runtime, main)


def test_one_bad_request_fails_alone(runtime):
    async def main(pool):
        data = np.arange(4, dtype=np.float32)[None]
        busy = await occupied(pool)
        callers = [
            Caller(pool, "element", {"data": data, "index": np.array([[index]])}) for index in (0, 1, 77, 3)
        ]
        busy.cancel()
        results = await answers(callers)
        assert isinstance(results[2], InferenceFailed)
        assert [result["picked"].item() for result in (*results[:2], results[3])] == [0, 1, 3]
        assert [caller.calls for caller in callers] == [1, 1, 1, 1]
        await until(lambda: pool.running == 0)
        assert pool.figures("element")["batches_failed_total"] == 1

    play(runtime, main)


def test_what_does_not_fit_the_model_never_enters(runtime):
    async def main(pool):
        for key, inputs in [
            ("dense", {"x": np.zeros((1, 63), np.float32)}),
            ("dense", {"x": np.zeros((1, 64))}),
            ("strings", {"text": np.array([1], object)}),
        ]:
            with pytest.raises(InputInvalid):
                Caller(pool, key, inputs)
        with pytest.raises(ModelNotLoaded):
            Caller(pool, "nothing", {})
        assert pool.queued == 0

    play(runtime, main)


def test_a_model_that_drops_rows_is_found_out_and_never_batched_again(runtime):
    """It passed the trial, for nothing had to be dropped then."""
    good, bad = np.ones((1, 4), np.float32), -np.ones((1, 4), np.float32)

    async def main(pool):
        assert runtime.not_joined("positive", BatchOptions()) is None
        busy = await occupied(pool)
        callers = [Caller(pool, "positive", {"x": x}) for x in (good, bad, good)]
        busy.cancel()
        assert [len(result["y"]) for result in await answers(callers)] == [1, 0, 1]
        for mode in ("auto", "dynamic"):
            reason = runtime.not_joined("positive", BatchOptions(mode=mode))
            assert "does not give a row for each row: of 3 rows" in reason
        busy = await occupied(pool)
        callers = [Caller(pool, "positive", {"x": x}) for x in (good, bad)]
        busy.cancel()
        assert [len(result["y"]) for result in await answers(callers)] == [1, 0]
        assert batches(pool, "positive") == {"1": 2, "4": 1}

    play(runtime, main)


def test_padded_requests_of_unequal_lengths_run_together(runtime):
    options = BatchOptions(mode="dynamic", pad=(("mask", 0), ("x", 0)))
    random = np.random.default_rng(3)
    requests = [
        {
            "x": random.standard_normal((1, length, 3)).astype(np.float32),
            "mask": np.ones((1, length), np.float32),
        }
        for length in (4, 7, 5, 6)
    ]

    async def main(pool):
        busy = await occupied(pool)
        callers = [Caller(pool, "masked", each, options=options) for each in requests]
        busy.cancel()
        for inputs, result in zip(requests, await answers(callers), strict=True):
            assert compare_outputs(runtime.run("masked", inputs), result).equal
        assert batches(pool, "masked") == {"4": 1}
        busy = await occupied(pool)
        callers = [Caller(pool, "masked", each) for each in requests]  # padding was not declared here
        busy.cancel()
        await answers(callers)
        assert batches(pool, "masked") == {"1": 4, "4": 1}

    play(runtime, main)


def test_a_cancelled_request_leaves_the_others_in_the_queue_and_in_the_run(runtime):
    async def main(pool):
        busy = await occupied(pool)
        callers = [Caller(pool, "count", {"x": np.array([[rounds]])}) for rounds in (2, 10**12, 3)]
        gone = Caller(pool, "count", {"x": np.array([[4]])})
        gone.cancel()
        gone.cancel()
        busy.cancel()
        await until(lambda: pool.queued == 0)  # the three are in one run, which has no end
        callers[0].cancel()
        callers[2].cancel()
        assert pool.running == 1
        callers[1].cancel()  # the last who wanted it
        await until(lambda: pool.running == 0)
        assert [caller.calls for caller in (gone, busy, *callers)] == [0] * 5
        assert pool.figures("count")["cancelled_total"] == 5
        assert (await Caller(pool, "count", {"x": np.array([[5]])}).answered)["y"].item() == 5

    play(runtime, main)


def test_a_request_that_is_cancelled_in_a_run_does_not_stop_it_for_the_others(runtime):
    async def main(pool):
        busy = await occupied(pool)
        wanted = Caller(pool, "count", {"x": np.array([[20_000]])})
        gone = Caller(pool, "count", {"x": np.array([[1]])})
        busy.cancel()
        await until(lambda: pool.queued == 0)
        gone.cancel()
        assert (await wanted.answered)["y"].item() == 20_000
        assert gone.calls == 0
        assert batches(pool, "count") == {"1": 1, "2": 1}

    play(runtime, main)


class FailingTogether(OnnxRuntime):
    """Every run of more than one row fails."""

    def execute(self, prepared, **how):
        if prepared.inputs["x"].shape[0] > 1:
            raise InferenceFailed("injected")
        return super().execute(prepared, **how)


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
def test_a_run_of_one_after_its_batch_failed_can_be_stopped(models, how):
    async def main(pool):
        busy = await occupied(pool)
        first = Caller(pool, "count", {"x": np.array([[1]])})
        endless = Caller(pool, "count", FOR_EVER, timeout_s=1.0 if how == "deadline" else GUARD_S)
        last = Caller(pool, "count", {"x": np.array([[2]])})
        busy.cancel()
        assert (await first.answered)["y"].item() == 1
        await until(lambda: endless.ticket.signal is not None)  # its own run has begun
        if how == "cancel":
            endless.cancel()
        elif how == "close":
            await pool.aclose()
        results = await answers([last] if how == "cancel" else [last, endless])
        if how == "close":
            assert [type(result) for result in results] == [ExecutorClosed] * 2
            return
        assert results[0]["y"].item() == 2
        assert all(isinstance(result, DeadlineExceeded) for result in results[1:])

    with FailingTogether(monotonic=time.monotonic) as runtime:
        runtime.load("count", models / "count.onnx")
        runtime._model("count").tried(None)
        play(runtime, main)


def test_who_was_cancelled_is_not_run_again_when_the_batch_fails(runtime):
    """The batch is made and run by hand, so that it fails between two known moments."""
    ran = []

    async def main(pool):
        data = np.arange(4, dtype=np.float32)[None]
        busy = await occupied(pool)
        callers = [Caller(pool, "element", {"data": data, "index": np.array([[n]])}) for n in (0, 9, 2)]
        batch = pool._batcher.take_here(callers[0].ticket.lane, 0.0)
        pool._batcher.cancel(callers[2].ticket)
        ran.extend(outcome for part in BatchRun(runtime, batch).run() for outcome in part)
        busy.cancel()
        assert [outcome.job for outcome in ran] == [caller.ticket for caller in callers[:2]]
        assert isinstance(ran[1].error, InferenceFailed)
        pool._batcher.finished(batch, None)

    play(runtime, main)


# -- workers ------------------------------------------------------------------------------------------


def test_the_worker_that_is_woken_wakes_the_next_when_there_is_more_to_do(runtime):
    async def main(pool):
        for _ in range(2):  # the first time the threads are started, the second time they sleep
            callers = [Caller(pool, "count", FOR_EVER, options=OFF) for _ in range(3)]
            await until(lambda: pool.running == 3)
            for caller in callers:
                caller.cancel()
            await until(lambda: pool._workers._asleep == 3)

    play(runtime, main, workers=3)


def test_what_is_held_is_run_when_its_time_has_come_though_nothing_else_happens(runtime):
    options = BatchOptions(latency_bound_s=0.2)

    async def main(pool):
        first = Caller(pool, "dense", rows(0), options=options)
        await first.answered
        await until(lambda: pool._workers._asleep)
        lane, now = pool._batcher._lanes[first.ticket.lane], runtime.monotonic()
        for size in (1, 8, 64, 1, 8, 64):
            lane.ran(size, 1.0 + 0.001 * size)
        for number in range(40):
            lane.arrivals.note(now + (number - 40) * 0.05)
        caller = Caller(pool, "dense", rows(1), options=options)
        assert pool._batcher.next_due(runtime.monotonic()) > runtime.monotonic()
        assert (await caller.answered)["y"].shape == (1, 10)

    play(runtime, main)


def test_a_deadline_in_a_batch_answers_one_and_the_run_goes_on_for_the_others(runtime):
    async def main(pool):
        busy = await occupied(pool)
        hasty = Caller(pool, "count", {"x": np.array([[1]])}, timeout_s=0.2)
        patient = Caller(pool, "count", FOR_EVER)
        busy.cancel()
        await until(lambda: pool.queued == 0)
        with pytest.raises(DeadlineExceeded, match=r"was stopped after 0\.200 s"):
            await hasty.answered
        assert (pool.running, patient.calls) == (1, 0)
        patient.cancel()
        await until(lambda: pool.running == 0)
        assert pool.figures("count")["expired_total"] == 1

    play(runtime, main)


def test_a_deadline_in_the_queue_is_answered_while_the_worker_is_busy(runtime):
    async def main(pool):
        busy = await occupied(pool)
        caller = Caller(pool, "dense", rows(1), timeout_s=0.01)
        with pytest.raises(DeadlineExceeded, match="not started"):
            await caller.answered
        assert (pool.queued, pool.running) == (0, 1)
        busy.cancel()

    play(runtime, main)


def test_a_flood_on_one_model_is_refused_and_another_goes_on(runtime):
    async def main(pool):
        busy = await occupied(pool)
        flood = [Caller(pool, "count", FOR_EVER, options=OFF) for _ in range(4)]
        with pytest.raises(QueueFull, match="runs_per_model_max = 4"):
            Caller(pool, "count", FOR_EVER)
        mine = [Caller(pool, "dense", rows(n)) for n in range(4)]
        assert len(await answers(mine)) == 4  # on the worker that the flood may not have
        assert (pool.queued, pool.running) == (4, 1)
        for caller in (*flood, busy):
            caller.cancel()
        await until(lambda: pool.running == 0)

    play(runtime, main, workers=2, workers_per_model_max=1, queue_runs_max=8)


def test_two_models_share_the_workers_and_keep_their_batches_apart(runtime):
    async def main(pool):
        callers = []
        for number in range(120):
            callers.append((Caller(pool, "dense", rows(number), client=number % 7), "dense", rows(number)))
            inputs = {"x": np.array([[number % 5]])}
            callers.append((Caller(pool, "count", inputs, client=number % 3), "count", inputs))
            if number % 10 == 0:
                await asyncio.sleep(0)
        for caller, key, inputs in callers:
            assert compare_outputs(runtime.run(key, inputs), await caller.answered).equal
            assert caller.calls == 1
        assert pool.figures("dense")["requests_total"] == pool.figures("count")["requests_total"] == 120
        assert (pool.queued, pool.running) == (0, 0)

    play(runtime, main, workers=3, workers_per_model_max=2)


# -- on the loop --------------------------------------------------------------------------------------


async def known_to_be_quick(pool):
    for size in range(7):  # each power of two of the inputs' bytes
        while pool.try_inline("dense", rows(0, 2**size)) is None:
            await pool.run("dense", rows(0, 2**size))


def test_quick_requests_of_one_turn_run_on_the_spot_as_one(runtime):
    async def main(pool):
        await known_to_be_quick(pool)
        threaded = pool.threaded_total
        sizes = []
        for turn in range(20):
            callers = [Caller(pool, "dense", rows(turn * 20 + n)) for n in range(16)]
            results = await answers(callers)
            sizes.append(len({id(result["y"].base) for result in results}))
            for number, result in enumerate(results):
                assert compare_outputs(runtime.run("dense", rows(turn * 20 + number)), result).equal
        assert pool.threaded_total == threaded
        assert sizes[-1] == 1

    play(runtime, main, inline_s_max=60.0, inline_stop_s=60.0)


def test_a_lone_quick_request_is_answered_at_once_but_for_one_in_many(runtime):
    async def main(pool):
        await known_to_be_quick(pool)
        at_once = 0
        for number in range(120):
            caller = Caller(pool, "dense", rows(number))
            at_once += isinstance(caller.ticket, dict)
            await caller.answered
        assert at_once == 116

    play(runtime, main, inline_s_max=60.0, inline_stop_s=60.0)


LONG_FOR_THE_LOOP = {"inline_s_max": 1e-9, "lone_inline_s_max": 60.0, "inline_stop_s": 60.0}
"""Every run is longer than what may always be inline, and none than what may be when it is alone."""


def test_a_longer_run_is_inline_while_its_request_is_the_only_one_about(runtime):
    async def main(pool):
        await known_to_be_quick(pool)
        threaded = pool.threaded_total
        for number in range(20):
            caller = Caller(pool, "dense", rows(number), client="a")
            assert isinstance(caller.ticket, dict)
            assert compare_outputs(runtime.run("dense", rows(number)), await caller.answered).equal
            await asyncio.sleep(0)
        assert pool.threaded_total == threaded

    play(runtime, main, **LONG_FOR_THE_LOOP)


def test_longer_runs_of_several_callers_go_to_the_threads_and_share_runs(runtime):
    async def main(pool):
        await known_to_be_quick(pool)
        together = [Caller(pool, "dense", rows(number), client="a") for number in range(4)]
        assert [isinstance(caller.ticket, dict) for caller in together] == [True, False, False, False]
        await answers(together)
        alone_again = Caller(pool, "dense", rows(9), client="a")
        assert not isinstance(alone_again.ticket, dict)  # company is expected to last a little
        await alone_again.answered

    play(runtime, main, **LONG_FOR_THE_LOOP)


def test_a_longer_run_goes_to_a_thread_while_another_is_in_one(runtime):
    async def main(pool):
        await known_to_be_quick(pool)
        busy = await occupied(pool)
        caller = Caller(pool, "dense", rows(1))
        assert not isinstance(caller.ticket, dict)
        busy.cancel()
        await caller.answered

    play(runtime, main, **LONG_FOR_THE_LOOP)


def test_a_batch_that_overstays_on_the_loop_is_done_again_in_a_thread(runtime):
    async def main(pool):
        for _ in range(40):  # until three at a time are known to be quick, and are gathered
            await answers([Caller(pool, "count", {"x": np.array([[1]])}) for _ in range(3)])
        before = pool.inline_stops_total
        callers = [Caller(pool, "count", {"x": np.array([[n]])}) for n in (1, 10**12, 3)]
        await until(lambda: pool.inline_stops_total == before + 1)
        await until(lambda: pool.running == 1)
        assert [caller.calls for caller in callers] == [0, 0, 0]
        for caller in callers:
            caller.cancel()

    play(runtime, main, inline_s_max=60.0, inline_stop_s=0.5)


# -- the end --------------------------------------------------------------------------------------------


def test_close_answers_everybody_once(runtime):
    async def main(pool):
        busy = await occupied(pool)
        callers = [busy, *[Caller(pool, "dense", rows(n)) for n in range(5)]]
        await pool.aclose()
        assert all(isinstance(result, ExecutorClosed) for result in await answers(callers))
        with pytest.raises(ExecutorClosed):
            Caller(pool, "dense", rows(1))
        await asyncio.sleep(0)
        assert [caller.calls for caller in callers] == [1] * 6

    play(runtime, main)


def test_a_model_unloaded_while_its_requests_wait_says_so_to_each(runtime):
    async def main(pool):
        busy = await occupied(pool)
        callers = [Caller(pool, "dense", rows(n)) for n in range(3)]
        runtime.unload("dense")
        busy.cancel()
        assert all(isinstance(result, ModelNotLoaded) for result in await answers(callers))

    play(runtime, main)


def test_what_is_answered_is_not_kept(runtime):
    class Tracked(np.ndarray):
        pass

    async def main(pool):
        arrays = [rows(n)["x"].view(Tracked) for n in range(3)]
        gone = [weakref.ref(array) for array in arrays]
        busy = await occupied(pool)
        callers = [Caller(pool, "dense", {"x": array}) for array in arrays]
        busy.cancel()
        await answers(callers)
        await until(lambda: pool._workers._asleep)  # it lets go before it sleeps
        return gone

    with pool_of(runtime) as pool:
        gone = asyncio.run(main(pool))
        gc.collect()
        assert [reference() is None for reference in gone] == [True] * 3
