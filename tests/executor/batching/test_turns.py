import pytest

from executor.batching.turns import Turns


def played(turns, callers, requests):
    """So many requests, ``callers`` of them in each turn; whether each was gathered."""
    gathered = []
    while len(gathered) < requests:
        first = None
        for place in range(callers):
            if first is None and turns.gather():
                first = place
            gathered.append(first is not None)
        if first is not None:
            turns.note(callers - first)
    return gathered


def test_a_lone_caller_waits_for_the_end_of_the_turn_once_in_thirty_times():
    assert sum(played(Turns(), 1, 1200)) == 40


@pytest.mark.parametrize("callers", range(2, 101))
def test_several_in_a_turn_are_found_whatever_their_number(callers):
    turns = Turns()
    played(turns, callers, 50 * callers + 500)
    assert all(played(turns, callers, 10 * callers))


def test_a_caller_that_is_left_alone_is_gathered_no_more():
    turns = Turns()
    played(turns, 20, 2000)
    played(turns, 1, 100)
    assert sum(played(turns, 1, 1200)) == 40
