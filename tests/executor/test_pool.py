import asyncio
import contextlib
import gc
import itertools
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from executor.compare import compare_outputs
from executor.errors import (
    DeadlineExceeded,
    ExecutorClosed,
    InferenceFailed,
    InputInvalid,
    ModelNotLoaded,
    QueueFull,
)
from executor.pool import InferencePool

FOR_EVER = {"rounds": np.array(10**12), "x": np.zeros(2, np.float32)}
GUARD_S = 60.0


def rounds(count: int) -> dict[str, np.ndarray]:
    return {"rounds": np.array(count), "x": np.zeros(2, np.float32)}


X = {"x": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)}
PICK_BAD = {"data": np.zeros(2, np.float32), "index": np.array([7])}


@contextlib.contextmanager
def pool_of(runtime, **options):
    pool = InferencePool(runtime, **{"workers": 2, **options})
    try:
        yield pool
    finally:
        pool.close()


async def until(condition) -> None:
    """Let the loop turn until something is so, at most GUARD_S."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + GUARD_S
    while not condition():
        assert loop.time() < end_s
        await asyncio.sleep(0)


def start(pool, key="slow", inputs=FOR_EVER, timeout_s=GUARD_S):
    return asyncio.create_task(pool.run(key, inputs, timeout_s=timeout_s))


async def occupy(pool, workers=1):
    """Runs without an end in ``workers`` threads."""
    tasks = [start(pool) for _ in range(workers)]
    await until(lambda: pool.running == workers)
    return tasks


async def outcome(task):
    return (await asyncio.gather(task, return_exceptions=True))[0]


@pytest.mark.parametrize("inline_s_max", [0.0, 60.0])
def test_many_runs_give_what_the_runtime_gives(runtime, inline_s_max):
    async def main(pool):
        results = await asyncio.gather(*[pool.run("dense", X, timeout_s=GUARD_S) for _ in range(50)])
        results += [await pool.run("dense", X) for _ in range(50)]
        expected = runtime.run("dense", X)
        assert all(compare_outputs(expected, result).equal for result in results)
        assert list(
            await pool.run("add", dict.fromkeys("ab", np.ones((2, 3), np.float32)), outputs=["sum"])
        ) == ["sum"]
        return pool.inline_total, pool.threaded_total

    with pool_of(runtime, inline_s_max=inline_s_max) as pool:
        inline, threaded = asyncio.run(main(pool))
    assert inline + threaded == 101
    assert (inline == 0) == (inline_s_max == 0.0)


def test_errors_come_through_and_leave_the_pool_working(runtime):
    async def main(pool):
        for key, inputs, error in [
            ("pick", PICK_BAD, InferenceFailed),
            ("dense", {"x": np.zeros(1)}, InputInvalid),
            ("nothing", X, ModelNotLoaded),
            ("strings", {"text": np.array([1], object)}, InputInvalid),
        ]:
            for _ in range(5):
                with pytest.raises(error):
                    await pool.run(key, inputs)
        assert (await pool.run("dense", X))["y"].shape == (3, 10)

    with pool_of(runtime) as pool:
        asyncio.run(main(pool))


def test_a_known_short_run_is_inline_and_says_so(runtime):
    async def main(pool):
        assert pool.try_inline("dense", X) is None
        while pool.try_inline("dense", X) is None:
            await pool.run("dense", X)
        before = pool.threaded_total
        assert pool.try_inline("dense", X, ["y"], timeout_s=GUARD_S)["y"].shape == (3, 10)
        await pool.run("dense", X)
        assert pool.threaded_total == before
        with pytest.raises(InputInvalid):
            pool.try_inline("dense", {})
        with pytest.raises(DeadlineExceeded):
            pool.try_inline("dense", X, timeout_s=0)
        pool.forget("dense")
        assert pool.try_inline("dense", X) is None

    with pool_of(runtime, inline_s_max=60.0) as pool:
        asyncio.run(main(pool))


def test_an_inline_run_that_overstays_is_done_again_in_a_thread(runtime):
    async def main(pool):
        while not pool.inline_total:
            await pool.run("slow", rounds(1))
        before = pool.inline_stops_total
        task = start(pool)  # as small as the others, but without an end
        await until(lambda: pool.inline_stops_total == before + 1)
        await until(lambda: pool.running == 1)
        task.cancel()
        assert isinstance(await outcome(task), asyncio.CancelledError)
        assert pool.try_inline("slow", rounds(1)) is None
        assert (await pool.run("slow", rounds(3)))["y"].tolist() == [3.0, 3.0]

    with pool_of(runtime, inline_s_max=60.0, inline_stop_s=0.5) as pool:
        asyncio.run(main(pool))


def test_inline_work_without_a_pause_lets_other_tasks_run(runtime):
    ticks = itertools.count()
    runtime.monotonic = lambda: next(ticks) / 1000  # every run takes a millisecond

    async def main(pool):
        while pool.try_inline("dense", X) is None:
            await pool.run("dense", X)
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        threaded = pool.threaded_total
        for _ in range(30):
            await pool.run("dense", X)
        task.cancel()
        assert pool.threaded_total == threaded
        assert turns >= 10

    with pool_of(runtime, inline_s_max=60.0, inline_stop_s=60.0) as pool:
        asyncio.run(main(pool))


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_no_time_left_means_no_run(runtime, timeout_s):
    async def main(pool):
        with pytest.raises(DeadlineExceeded, match="not started"):
            await pool.run("dense", X, timeout_s=timeout_s)
        assert (pool.threaded_total, pool.queued) == (0, 0)

    with pool_of(runtime) as pool:
        asyncio.run(main(pool))


def test_a_deadline_stops_a_run_and_frees_its_worker(runtime):
    async def main(pool):
        with pytest.raises(DeadlineExceeded):
            await pool.run("slow", FOR_EVER, timeout_s=0.02)
        assert (await pool.run("dense", X, timeout_s=GUARD_S))["y"].shape == (3, 10)

    with pool_of(runtime, workers=1) as pool:
        asyncio.run(main(pool))


def test_a_deadline_in_the_queue_is_answered_while_the_worker_is_busy(runtime):
    async def main(pool):
        (busy,) = await occupy(pool)
        with pytest.raises(DeadlineExceeded, match="not started"):
            await pool.run("dense", X, timeout_s=0.01)
        assert (pool.queued, pool.running, pool.threaded_total) == (0, 1, 0)
        busy.cancel()
        await outcome(busy)
        assert (await pool.run("dense", X))["y"].shape == (3, 10)

    with pool_of(runtime, workers=1) as pool:
        asyncio.run(main(pool))


def test_cancelling_a_task_stops_its_run_or_takes_it_out_of_the_queue(runtime):
    async def main(pool):
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, what: complaints.append(what))
        (busy,) = await occupy(pool)
        waiting = start(pool)
        await until(lambda: pool.queued == 1)
        waiting.cancel()
        assert isinstance(await outcome(waiting), asyncio.CancelledError)
        assert (pool.queued, pool.running) == (0, 1)
        busy.cancel()
        assert isinstance(await outcome(busy), asyncio.CancelledError)
        await until(lambda: pool.running == 0)
        assert pool.threaded_total == 1
        assert (await pool.run("dense", X))["y"].shape == (3, 10)  # answered after the one given up
        assert complaints == []

    with pool_of(runtime, workers=1) as pool:
        asyncio.run(asyncio.wait_for(main(pool), GUARD_S))


def test_a_full_queue_refuses_and_one_model_cannot_fill_it(runtime):
    async def main(pool):
        tasks = await occupy(pool)
        tasks += [start(pool) for _ in range(2)]
        await until(lambda: pool.queued == 2)
        with pytest.raises(QueueFull, match="runs_per_model_max = 2"):
            await pool.run("slow", FOR_EVER)
        tasks.append(start(pool, "dense", X))
        await until(lambda: pool.queued == 3)
        with pytest.raises(QueueFull, match="queue_runs_max = 3"):
            await pool.run("dense", X)
        for task in tasks[:3]:
            task.cancel()
        assert (await tasks[3])["y"].shape == (3, 10)

    with pool_of(runtime, workers=1, queue_runs_max=3, runs_per_model_max=2) as pool:
        asyncio.run(main(pool))


def test_a_model_at_its_share_of_workers_leaves_room_for_others(runtime):
    async def main(pool):
        tasks = [start(pool) for _ in range(4)]
        await until(lambda: pool.running == 1)
        for _ in range(5):
            assert (await pool.run("dense", X, timeout_s=GUARD_S))["y"].shape == (3, 10)
        assert pool.queued == 3
        for number, task in enumerate(tasks):
            task.cancel()
            await until(lambda number=number: pool.threaded_total == 6 + number)
            await until(lambda number=number: pool.running == (1 if number < 3 else 0))

    with pool_of(runtime, workers=2, workers_per_model_max=1, inline_s_max=0) as pool:
        asyncio.run(asyncio.wait_for(main(pool), GUARD_S))


def test_a_model_unloaded_while_its_runs_wait(runtime):
    async def main(pool):
        (busy,) = await occupy(pool)
        waiting = start(pool, "dense", X)
        await until(lambda: pool.queued == 1)
        runtime.unload("dense")
        busy.cancel()
        assert isinstance(await outcome(waiting), ModelNotLoaded)

    with pool_of(runtime, workers=1) as pool:
        asyncio.run(main(pool))


def test_close_answers_everybody_and_leaves_no_thread(runtime):
    async def main(pool):
        tasks = await occupy(pool, workers=2)
        tasks += [start(pool) for _ in range(3)]
        await until(lambda: pool.queued == 3)
        await pool.aclose()
        assert all([isinstance(await outcome(task), ExecutorClosed) for task in tasks])
        with pytest.raises(ExecutorClosed):
            await pool.run("dense", X)

    with pool_of(runtime) as pool:
        asyncio.run(main(pool))
        pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("inference-0")]


def test_a_pool_outlives_its_loops(runtime):
    async def leave_running(pool):
        task = start(pool)
        await until(lambda: pool.running == 1)
        return task  # asyncio.run cancels it

    async def use(pool):
        return (await pool.run("dense", X, timeout_s=GUARD_S))["y"].shape

    with pool_of(runtime, workers=1) as pool:
        for _ in range(5):
            asyncio.run(leave_running(pool))
            assert asyncio.run(use(pool)) == (3, 10)


def test_loops_in_several_threads_share_a_pool(runtime):
    async def many(pool):
        shapes = await asyncio.gather(*[pool.run("dense", X) for _ in range(30)])
        return all(result["y"].shape == (3, 10) for result in shapes)

    with pool_of(runtime) as pool:
        verdicts = []
        threads = [
            threading.Thread(target=lambda: verdicts.append(asyncio.run(many(pool)))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert verdicts == [True] * 3


def test_an_abandoned_run_does_not_keep_its_inputs(runtime):
    """What a worker has finished it must let go: inputs are large."""

    class Tracked(np.ndarray):
        pass

    async def main(pool):
        array = np.zeros((1, 64), np.float32).view(Tracked)
        gone = weakref.ref(array)
        await pool.run("dense", {"x": array})
        return gone, array

    with pool_of(runtime, inline_s_max=0) as pool:
        gone, array = asyncio.run(main(pool))
        del array
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"queue_runs_max": 0}, {"runs_per_model_max": 0}])
def test_limits_without_sense_are_refused(runtime, wrong):
    with pytest.raises(ValueError, match="at least 1"):
        InferencePool(runtime, **wrong)


def test_the_process_ends_in_the_middle_of_a_run(models):
    """Nobody closed anything: the interpreter goes away cleanly all the same."""
    program = """
import asyncio, sys, threading, time
from pathlib import Path
import numpy as np
from executor.onnx import OnnxRuntime
from executor.pool import InferencePool
runtime = OnnxRuntime(monotonic=time.monotonic)
runtime.load("slow", Path(sys.argv[1]))
pool = InferencePool(runtime)
async def main():
    asyncio.ensure_future(pool.run("slow", {"rounds": np.array(10**12), "x": np.zeros(1, np.float32)}))
    while not pool.running:
        await asyncio.sleep(0)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
assert pool.running
"""
    command = [sys.executable, "-c", program, str(models / "slow.onnx")]
    done = subprocess.run(command, check=False, timeout=GUARD_S, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_run_times_come_from_the_runtimes_clock(runtime):
    """On a clock that stands still every run takes no time, so the fourth is inline."""
    runtime.monotonic = lambda: 5.0

    async def main(pool):
        for _ in range(4):
            await pool.run("dense", X)
        assert (pool.threaded_total, pool.inline_total) == (3, 1)

    with pool_of(runtime) as pool:
        asyncio.run(main(pool))
