import threading

from executor.errors import DeadlineExceeded, RunCancelled
from executor.runs import RunsInFlight, StopSignal, Watchdog


class Options:
    """Stands where onnxruntime's RunOptions do: one flag."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    @property
    def terminate(self) -> bool:
        return self.stopped.is_set()

    @terminate.setter
    def terminate(self, value: bool) -> None:
        assert value
        self.stopped.set()


def test_a_signal_stops_a_run_whether_it_comes_before_or_during():
    for before in (True, False):
        signal, options = StopSignal(), Options()
        steps = [lambda s=signal: s.stop(RunCancelled("a")), lambda s=signal, o=options: s.bind(o)]
        for step in steps if before else reversed(steps):
            assert not options.terminate
            step()
        assert options.terminate
        signal.stop(DeadlineExceeded("b"))
        assert isinstance(signal.error, RunCancelled)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def armed(watchdog: Watchdog, timeout_s: float):
    signal, options = StopSignal(), Options()
    signal.bind(options)
    return watchdog.arm(signal, timeout_s), signal, options


def test_only_what_is_due_is_stopped():
    clock = Clock()
    watchdog = Watchdog(clock)
    _late, _, later = armed(watchdog, 1000.0)
    disarmed, _, done = armed(watchdog, 1.0)
    watchdog.disarm(disarmed)
    clock.now = 2.0
    _due, signal, now = armed(watchdog, 0.0)
    assert now.stopped.wait(30)
    assert isinstance(signal.error, DeadlineExceeded)
    watchdog.close()
    assert not later.terminate
    assert not done.terminate


def test_a_nearer_deadline_is_kept_although_a_farther_one_came_first():
    clock = Clock()
    watchdog = Watchdog(clock)
    armed(watchdog, 1e12)
    _, _, near = armed(watchdog, -1.0)
    assert near.stopped.wait(30)
    watchdog.close()


def test_timers_that_are_not_needed_any_more_do_not_pile_up():
    watchdog = Watchdog(Clock())
    keep, _, _ = armed(watchdog, 5000.0)
    for _ in range(4 * Watchdog.TIMERS_IDLE_MAX):
        timer, _, _ = armed(watchdog, 1000.0)
        watchdog.disarm(timer)
        watchdog.disarm(timer)
    assert len(watchdog._timers) <= Watchdog.TIMERS_IDLE_MAX + 2
    assert keep in watchdog._timers
    watchdog.close()


def test_nothing_is_woken_for_a_timer_that_is_not_needed_any_more():
    clock = Clock()
    watchdog = Watchdog(clock)
    for number in range(100):
        timer, _, _ = armed(watchdog, 1000.0 + number)
        watchdog.disarm(timer)
    keep, _, _ = armed(watchdog, 5000.0)
    for _ in range(2):
        # The second is stopped after the thread has looked at what is left once more.
        _, _, due = armed(watchdog, -1.0)
        assert due.stopped.wait(30)
    assert watchdog._timers == [keep]
    watchdog.close()


def test_close_ends_the_thread_and_may_come_twice():
    before = set(threading.enumerate())
    watchdog = Watchdog(Clock())
    armed(watchdog, 1000.0)
    assert set(threading.enumerate()) > before
    watchdog.close()
    watchdog.close()
    assert set(threading.enumerate()) == before
    armed(watchdog, 1000.0)
    assert set(threading.enumerate()) == before


def test_runs_are_counted_and_closing_lets_none_in():
    runs = RunsInFlight()
    signals = [StopSignal(), StopSignal()]
    assert all(runs.enter(signal) for signal in signals)
    runs.close()
    assert not runs.enter(StopSignal())
    assert not runs.drain(0)
    runs.stop_all(RunCancelled("x"))
    assert all(signal.error is not None for signal in signals)
    drained = threading.Event()
    thread = threading.Thread(target=lambda: (runs.drain(None), drained.set()))
    thread.start()
    runs.leave(signals[0])
    assert not drained.is_set()
    runs.leave(signals[1])
    assert drained.wait(30)
    thread.join()
    assert len(runs) == 0
