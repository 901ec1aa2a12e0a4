import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.errors import QueueFull
from executor.scheduling import FairQueue, RunTimes


def always(_key: str) -> bool:
    return True


def test_models_take_turns_and_each_keeps_its_order():
    queue = FairQueue[str](queue_runs_max=10, runs_per_model_max=9)
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        queue.put(item[0], item)
    assert [queue.take(always) for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", None]


def test_a_model_that_may_not_run_is_passed_over_and_not_forgotten():
    queue = FairQueue[str](queue_runs_max=10, runs_per_model_max=9)
    queue.put("a", "a1")
    queue.put("b", "b1")
    assert queue.take(lambda key: key != "a") == "b1"
    assert queue.take(lambda key: key != "a") is None
    assert queue.take(always) == "a1"


def test_one_model_cannot_fill_the_queue():
    queue = FairQueue[int](queue_runs_max=3, runs_per_model_max=2)
    queue.put("a", 1)
    queue.put("a", 2)
    with pytest.raises(QueueFull, match="runs_per_model_max = 2"):
        queue.put("a", 3)
    queue.put("b", 4)
    with pytest.raises(QueueFull, match="queue_runs_max = 3"):
        queue.put("c", 5)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "take", "remove"]), st.sampled_from("abc"), st.integers(0, 20)),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_nothing_is_lost_doubled_or_over_the_limits(operations):
    queue = FairQueue[tuple[str, int]](queue_runs_max=6, runs_per_model_max=4)
    held: list[tuple[str, int]] = []
    for number, (operation, key, pick) in enumerate(operations):
        mine = [item for item in held if item[0] == key]
        if operation == "put":
            if len(held) >= 6 or len(mine) >= 4:
                with pytest.raises(QueueFull):
                    queue.put(key, (key, number))
            else:
                queue.put(key, (key, number))
                held.append((key, number))
        elif operation == "take":
            item = queue.take(lambda each, key=key: each == key)
            assert item == (mine[0] if mine else None)
            if item:
                held.remove(item)
        elif mine:
            item = mine[pick % len(mine)]
            assert queue.remove(key, item)
            assert not queue.remove(key, item)
            held.remove(item)
        assert len(queue) == len(held)
        assert queue.waiting(key) == sum(item[0] == key for item in held)
    assert sorted(queue.clear()) == sorted(held)
    assert len(queue) == 0


def times(**options) -> RunTimes:
    return RunTimes(inline_s_max=0.0003, **options)


def feed_threaded(known: RunTimes, *elapsed_s: float) -> RunTimes:
    for each in elapsed_s:
        known.threaded("m", 100, each)
    return known


def test_nothing_is_inline_before_it_is_known():
    known = times()
    for _ in range(RunTimes.SAMPLES_MIN):
        assert not known.inline("m", 100)
        known.threaded("m", 100, 1e-5)
    assert known.inline("m", 100)
    assert not known.inline("m", 10_000_000)
    assert not known.inline("other", 100)


def test_a_time_that_may_be_waiting_for_the_interpreter_is_tried_inline_once():
    known = feed_threaded(times(), 0.005, 0.006, 0.005)
    assert known.inline("m", 100)
    known.inlined("m", 100, 0.004)
    assert not known.inline("m", 100)
    assert not feed_threaded(times(), 0.05, 0.05, 0.05).inline("m", 100)


def test_one_interruption_changes_nothing_and_a_real_change_does():
    known = feed_threaded(times(), 1e-5, 1e-5, 1e-5)
    known.inlined("m", 100, 1e-5)
    known.inlined("m", 100, 0.5)
    assert known.inline("m", 100)
    for _ in range(12):
        known.inlined("m", 100, 0.5)
    assert not known.inline("m", 100)


def test_a_model_that_is_fast_again_comes_back_inline():
    known = feed_threaded(times(), 1e-5, 1e-5, 1e-5)
    known.overran("m", 100, 0.02)
    assert not known.inline("m", 100)
    feed_threaded(known, *[1e-5] * 20)
    assert known.inline("m", 100)


def test_zero_turns_inline_off_and_forget_forgets():
    off = RunTimes(inline_s_max=0)
    assert not feed_threaded(off, 0.0, 0.0, 0.0).inline("m", 100)
    known = feed_threaded(times(), 1e-5, 1e-5, 1e-5)
    known.forget("m")
    assert not known.inline("m", 100)


def test_what_is_remembered_is_bounded():
    known = times(entries_max=10)
    for number in range(100):
        known.threaded(f"m{number}", 1, 1e-5)
    assert len(known._entries) == 10
