import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from executor.errors import OutOfOrder, QueueFull
from executor.interface import Command, Result
from executor.queue import EXECUTOR_DEFECT, CommandQueue

LIMIT = 8


class Recorder:
    """An executor that notes what it is given; the command b"raise" raises, b"none" returns nothing."""

    def __init__(self) -> None:
        self.seen: list[Command] = []

    def execute(self, command: Command) -> Result:
        self.seen.append(command)
        if command.data == b"raise":
            raise RuntimeError(f"an object at {id(command)}")
        if command.data == b"none":
            return None  # type: ignore[return-value]
        return Result(value=(command.index, command.position))

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        raise NotImplementedError


def test_a_whole_entry_comes_out_in_order_with_its_stamps():
    queue, executor = CommandQueue(4), Recorder()
    assert queue.push_entry(1, 7, 10.5, 99, [b"a", b"b"])
    assert queue.drain(executor) == [
        (Command(1, 0, 7, 10.5, 99, b"a"), Result((1, 0))),
        (Command(1, 1, 7, 10.5, 99, b"b"), Result((1, 1))),
    ]
    assert (queue.applied_index, queue.last_time_s, queue.free, len(queue)) == (1, 10.5, 4, 0)
    assert queue.pop(executor) is None


@pytest.mark.parametrize("index", [1, 2, 4, 100])
def test_a_gap_and_a_repeat_are_refused_and_change_nothing(index):
    queue, executor = CommandQueue(8), Recorder()
    queue.push_entry(1, 1, 0.0, 0, [b"a"])
    queue.pop(executor)
    queue.push_entry(2, 1, 0.0, 0, [b"b"])
    with pytest.raises(OutOfOrder, match="3 is next"):
        queue.push_entry(index, 1, 50.0, 0, [b"x"])
    assert queue.push_entry(3, 1, 1.0, 0, [b"c"])
    assert [command.data for command, _ in queue.drain(executor)] == [b"b", b"c"]
    assert queue.last_time_s == 1.0


def test_what_the_restored_state_contains_is_skipped_and_changes_nothing():
    queue, executor = CommandQueue(8, applied_index=5, last_time_s=9.0), Recorder()
    assert [queue.push_entry(index, 1, 1e9, 0, [b"old"]) for index in (1, 4, 5)] == [False] * 3
    assert queue.skipped_total == 3
    assert queue.push_entry(6, 1, 8.0, 0, [b"new"])
    assert [(c.index, c.time_s) for c, _ in queue.drain(executor)] == [(6, 9.0)]


def test_a_full_queue_takes_nothing_of_an_entry():
    queue = CommandQueue(3)
    queue.push_entry(1, 1, 0.0, 0, [b"a", b"b"])
    with pytest.raises(QueueFull, match="2 commands and 1 of 3"):
        queue.push_entry(2, 1, 5.0, 0, [b"c", b"d"])
    assert (len(queue), queue.last_index) == (2, 1)
    queue.drain(Recorder())
    assert queue.last_time_s == 0.0
    assert queue.push_entry(2, 1, 0.0, 0, [b"c", b"d"])


def test_an_entry_larger_than_the_queue_does_not_block_the_log_for_ever():
    queue = CommandQueue(2)
    assert queue.push_entry(1, 1, 0.0, 0, [b"x"] * 5)
    assert queue.free == 0
    assert len(queue.drain(Recorder())) == 5


def test_empty_entries_wait_their_turn():
    queue, executor = CommandQueue(4), Recorder()
    queue.push_entry(1, 1, 1.0, 0, [])
    assert (queue.applied_index, queue.last_time_s) == (1, 1.0)
    queue.push_entry(2, 1, 2.0, 0, [b"a", b"b"])
    queue.push_entry(3, 1, 3.0, 0, [])
    queue.push_entry(4, 1, 4.0, 0, [])
    queue.pop(executor)
    assert (queue.applied_index, queue.last_time_s, queue.mid_entry) == (1, 1.0, True)
    queue.pop(executor)
    assert (queue.applied_index, queue.last_time_s, queue.mid_entry) == (4, 4.0, False)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 4.9])
def test_a_stamp_that_goes_back_or_is_no_time_becomes_the_last_one(bad):
    queue, executor = CommandQueue(4, last_time_s=5.0), Recorder()
    queue.push_entry(1, 1, bad, 0, [b"a"])
    queue.push_entry(2, 1, 6.0, 0, [b"b"])
    assert [c.time_s for c, _ in queue.drain(executor)] == [5.0, 6.0]


def test_the_saved_stamp_is_that_of_the_applied_index_whatever_waits():
    """Two nodes that saved at index 1 agree, although one had already queued a later stamp."""
    ahead, behind = CommandQueue(4), CommandQueue(4)
    for queue in (ahead, behind):
        queue.push_entry(1, 1, 1.0, 0, [b"a"])
    ahead.push_entry(2, 1, 99.0, 0, [b"b"])
    ahead.pop(Recorder())
    behind.pop(Recorder())
    assert (ahead.applied_index, ahead.last_time_s) == (behind.applied_index, behind.last_time_s)


@pytest.mark.parametrize("data", [b"raise", b"none"])
def test_a_defect_is_a_result_equal_on_every_node_and_the_order_goes_on(data):
    results = []
    for _node in range(2):
        queue, executor = CommandQueue(4), Recorder()
        queue.push_entry(1, 1, 0.0, 0, [data, b"next"])
        results.append([result for _, result in queue.drain(executor)])
        assert queue.defects_total == 1
        assert queue.last_defect
    assert results[0] == results[1]
    assert results[0][0].error[0] == EXECUTOR_DEFECT
    assert results[0][1] == Result((1, 1))


def test_a_machine_without_memory_is_no_result():
    class Exhausted(Recorder):
        def execute(self, command: Command) -> Result:
            raise MemoryError

    queue = CommandQueue(4)
    queue.push_entry(1, 1, 0.0, 0, [b"a"])
    with pytest.raises(MemoryError):
        queue.pop(Exhausted())
    assert (queue.applied_index, len(queue)) == (0, 1)


def test_reset_drops_what_waits_and_goes_on_behind_the_snapshot():
    queue, executor = CommandQueue(4), Recorder()
    queue.push_entry(1, 1, 1.0, 0, [b"a", b"b"])
    queue.pop(executor)
    queue.reset(10, 20.0)
    assert (len(queue), queue.applied_index, queue.last_time_s, queue.mid_entry) == (0, 10, 20.0, False)
    assert queue.push_entry(10, 1, 0.0, 0, [b"old"]) is False
    assert queue.push_entry(11, 1, 0.0, 0, [b"new"])
    assert [c.data for c, _ in queue.drain(executor)] == [b"new"]


@pytest.mark.parametrize("arguments", [(0,), (4, -1), (4, 0, math.nan), (4, 0, math.inf)])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="must"):
        CommandQueue(*arguments)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 100)), max_size=15),
    st.lists(st.integers(1, 5), min_size=1, max_size=30),
    st.data(),
)
def test_a_restart_at_any_boundary_gives_the_same_commands(entries, steps, data):
    """Save applied_index and last_time_s, start anew, deliver the whole log again: nothing differs."""

    def replay(queue: CommandQueue, stop_at: int | None) -> list[Command]:
        executor = Recorder()
        for index, (count, time_s) in enumerate(entries, start=1):
            queue.push_entry(index, 1, time_s, index, [b"c"] * count)
            for step in steps:
                queue.drain(executor, step)
            queue.drain(executor)
            if index == stop_at:
                break
        return executor.seen

    whole = replay(CommandQueue(LIMIT), None)
    cut = data.draw(st.integers(0, len(entries)))
    first = CommandQueue(LIMIT)
    before = replay(first, cut) if cut else []
    after = replay(CommandQueue(LIMIT, first.applied_index, first.last_time_s), None)
    assert before + after == whole


class QueueMachine(RuleBasedStateMachine):
    """The queue against a list that remembers everything."""

    @initialize(applied=st.integers(0, 5), time_s=st.floats(0, 50))
    def start(self, applied, time_s):
        self.queue = CommandQueue(LIMIT, applied, time_s)
        self.executor = Recorder()
        self.resumed = self.last = self.applied = applied
        self.applied_time = self.time = time_s
        self.expected: list[tuple[int, int, float, bytes]] = []
        self.ends: list[tuple[int, int, float]] = []  # (commands executed by then, index, stamp)
        self.executed = 0

    @rule(count=st.integers(0, 10), time_s=st.floats(-10, 100), data=st.sampled_from([b"a", b"raise"]))
    def push_next(self, count, time_s, data):
        waiting = len(self.expected) - self.executed
        commands = [data] * count
        if waiting and count > max(0, LIMIT - waiting):
            with pytest.raises(QueueFull):
                self.queue.push_entry(self.last + 1, 1, time_s, 0, commands)
            return
        assert self.queue.push_entry(self.last + 1, 1, time_s, 0, commands) is True
        self.last += 1
        self.time = max(self.time, time_s)
        self.expected += [(self.last, position, self.time, data) for position in range(count)]
        self.ends.append((len(self.expected), self.last, self.time))

    @rule(offset=st.integers(-8, 8).filter(lambda offset: offset != 1))
    def push_wrong(self, offset):
        index = self.last + offset
        if index <= self.resumed:
            assert self.queue.push_entry(index, 1, 1e6, 0, [b"x"]) is False
        else:
            with pytest.raises(OutOfOrder):
                self.queue.push_entry(index, 1, 1e6, 0, [b"x"])

    @rule(count=st.integers(0, 12))
    def drain(self, count):
        done = self.queue.drain(self.executor, count)
        assert len(done) == min(count, len(self.expected) - self.executed)
        for command, result in done:
            assert (result.error is not None) == (command.data == b"raise")
        self.executed += len(done)

    @precondition(lambda self: not self.queue.mid_entry)
    @rule()
    def restart(self):
        """A crash: what was not applied is forgotten; the log will deliver it again, as other entries."""
        self.queue = CommandQueue(LIMIT, self.queue.applied_index, self.queue.last_time_s)
        del self.expected[self.executed :]
        self.ends = [end for end in self.ends if end[0] <= self.executed]
        self.resumed = self.last = self.queue.applied_index
        self.time = self.queue.last_time_s

    @invariant()
    def agrees(self):
        if not hasattr(self, "queue"):
            return
        for reached, index, time_s in self.ends:
            if reached <= self.executed:
                self.applied, self.applied_time = index, time_s
        assert self.queue.applied_index == self.applied
        assert self.queue.last_time_s == self.applied_time
        assert self.queue.last_index == self.last
        assert len(self.queue) == len(self.expected) - self.executed
        assert self.queue.free == max(0, LIMIT - len(self.queue))
        seen = [(c.index, c.position, c.time_s, c.data) for c in self.executor.seen]
        assert seen == self.expected[: self.executed]


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueueMachine = QueueMachine.TestCase
