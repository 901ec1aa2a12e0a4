from executor.scheduling import Company, RunTimes


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


def test_a_size_that_was_not_seen_is_as_quick_as_a_larger_one():
    known = feed_threaded(times(), 1e-5, 1e-5, 1e-5)
    assert known.inline("m", 20)
    assert not known.inline("m", 200)
    known.overran("m", 100, 0.02)
    assert not known.inline("m", 20)
    known.inlined("m", 20, 1e-5)
    assert known.inline("m", 20)


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


def test_runs_are_counted_by_model_with_the_time_that_they_took():
    known = feed_threaded(times(), 0.5, 0.25)
    known.inlined("m", 100, 0.125)
    known.inlined("m", 10_000, 1.0)
    known.threaded("other", 1, 2.0)
    assert known.totals() == {"m": (4, 1.875), "other": (1, 2.0)}
    known.overran("m", 100, 0.02)  # not a run that ended: it is done again
    assert known.totals()["m"] == (4, 1.875)
    known.forget("m")
    assert known.totals() == {"other": (1, 2.0)}


def test_a_limit_of_ones_own_lets_longer_runs_be_inline_and_zero_still_turns_it_off():
    known = times()
    feed_threaded(known, 0.0006, 0.0006, 0.0006)
    known.inlined("m", 100, 0.0006)
    assert not known.inline("m", 100)
    assert known.inline("m", 100, 0.001)
    assert not known.inline("m", 100, 0.0005)
    off = feed_threaded(RunTimes(inline_s_max=0), 0.0, 0.0, 0.0)
    assert not off.inline("m", 100, 0.001)


def test_a_client_that_asks_one_after_the_other_is_alone():
    company = Company()
    for number in range(100):
        assert company.alone("a", number * 0.001)
        company.turn_begins()
        company.turn_over()


def test_two_in_one_turn_are_company_for_a_while():
    company = Company()
    assert company.alone("a", 1.0)
    company.turn_begins()
    assert not company.alone("a", 1.001)
    company.turn_over()
    assert not company.alone("a", 1.001 + Company.KEPT_S / 2)
    assert company.alone("a", 1.001 + Company.KEPT_S * 1.01)


def test_another_client_is_company_if_it_asked_just_before():
    company = Company()
    assert company.alone("a", 1.0)
    assert company.alone("b", 1.0 + Company.RECENT_S)
    assert not company.alone("a", 1.0 + Company.RECENT_S * 1.5)
    assert not company.alone("a", 1.0 + Company.RECENT_S * 3)
    assert company.alone("a", 1.0 + Company.RECENT_S * 1.5 + Company.KEPT_S)
