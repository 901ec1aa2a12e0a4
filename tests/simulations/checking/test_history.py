from __future__ import annotations

import io
import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.checking.history import History
from simulations.checking.operations import (
    RESULTS,
    Absent,
    Call,
    CompareAndSet,
    Conflict,
    Delete,
    Deliver,
    Done,
    Failed,
    Fetch,
    Found,
    Get,
    HistoryInvalid,
    Ok,
    Outcome,
    Put,
    Recorded,
    Removed,
    Result,
    Send,
    Submit,
    Unknown,
    Written,
    canonical,
)

TEXTS = st.text(max_size=5).filter(lambda text: text.isprintable())
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats().map(lambda number: math.nan if math.isnan(number) else number)  # text has no sign for it
    | TEXTS
    | st.binary(max_size=5)
    | st.sampled_from(["$bytes", "$map"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS | st.sampled_from(["$bytes", "$float", "$map"]), inner, max_size=3)
    ),
    max_leaves=6,
)
VERSIONS = st.integers(0, 9)
CALLS: st.SearchStrategy[Call] = st.one_of(
    st.builds(Put, TEXTS, VALUES),
    st.builds(Get, TEXTS, st.sampled_from(["session", "linearizable", "stale"])),
    st.builds(CompareAndSet, TEXTS, VALUES, VERSIONS),
    st.builds(Delete, TEXTS, st.none() | VERSIONS),
    st.builds(Submit, TEXTS),
    st.builds(Fetch, TEXTS, st.booleans()),
    st.builds(Send, TEXTS, st.none() | st.lists(TEXTS, max_size=2).map(tuple)),
    st.builds(Deliver, TEXTS),
)
RESULT_OF: dict[type, st.SearchStrategy[Result]] = {
    Written: st.builds(Written, VERSIONS, st.none() | VERSIONS),
    Found: st.builds(Found, VALUES, VERSIONS, st.none() | VERSIONS),
    Absent: st.just(Absent()),
    Removed: st.builds(Removed, VERSIONS),
    Conflict: st.builds(Conflict, VERSIONS, VALUES),
    Recorded: st.builds(Recorded, TEXTS, VERSIONS, st.none() | TEXTS, VALUES),
    Done: st.just(Done()),
}


@st.composite
def histories(draw: st.DrawFn) -> History:
    history = History()
    open_: list[int] = []
    at = 0.0
    for _ in range(draw(st.integers(0, 8))):
        at += draw(st.floats(0, 10))
        if open_ and draw(st.booleans()):
            operation = open_.pop(draw(st.integers(0, len(open_) - 1)))
            kinds = RESULTS[type(history[operation].call)]
            answered = st.one_of([RESULT_OF[kind] for kind in kinds]).map(Ok)
            outcome: Outcome = draw(answered | st.builds(Failed, TEXTS) | st.builds(Unknown, TEXTS))
            history.complete(operation, outcome, at)
        else:
            session = draw(st.none() | TEXTS)
            open_.append(
                history.invoke("p", draw(CALLS), at, session=session, request=draw(st.none() | TEXTS))
            )
    return history


def lines(history: History) -> list[str]:
    stream = io.StringIO()
    history.dump(stream)
    return stream.getvalue().splitlines()


@settings(deadline=None)
@given(histories())
def test_a_kept_history_comes_back_as_it_was(history: History) -> None:
    kept = lines(history)
    again = History.load(kept)
    assert lines(again) == kept
    assert list(map(str, again)) == list(map(str, history))
    for one, other in zip(again, history, strict=True):
        assert type(one.call) is type(other.call)
        assert canonical(getattr(one.call, "value", None)) == canonical(getattr(other.call, "value", None))
        assert (one.invoked, one.completed, one.invoked_at) == (
            other.invoked,
            other.completed,
            other.invoked_at,
        )


@settings(deadline=None, max_examples=50)
@given(histories())
def test_a_sink_gets_what_dump_would_write(history: History) -> None:
    stream = io.StringIO()
    copy = History(sink=stream)
    for event in history.in_order():
        operation = history[event["op"]]
        if event["event"] == "invoke":
            copy.invoke(
                operation.process,
                operation.call,
                event["at"],
                session=operation.session,
                request=operation.request,
            )
        elif operation.outcome is not None:
            copy.complete(operation.id, operation.outcome, event["at"])
    assert stream.getvalue().splitlines() == lines(history)


def test_what_tells_values_apart_survives() -> None:
    history = History()
    for value in (1, 1.0, True, "1", b"1", [1], {"$bytes": "MQ=="}, math.inf, None):
        history.record("p", Put("k", value), Ok(Written(1)), 0.0)
    again = [canonical(o.call.value) for o in History.load(lines(history)) if isinstance(o.call, Put)]
    assert again == [canonical(o.call.value) for o in history if isinstance(o.call, Put)]
    assert len(set(again)) == len(again)


def test_an_operation_tells_what_is_owed_to_it() -> None:
    history = History()
    silent = history[history.invoke("p", Put("k", 1), 1.0)]
    lost = history[history.record("p", Put("k", 2), Unknown("OUTCOME_UNKNOWN"), 2.0, 3.0)]
    failed = history[history.record("p", Put("k", 3), Failed("BUSY"), 4.0, 5.0)]
    ok = history[history.record("p", Put("k", 4), Ok(Written(1)), 6.0, 7.0)]
    assert [o.pending for o in history] == [True, True, False, False]
    assert [o.failed for o in history] == [False, False, True, False]
    assert [o.before(ok) for o in history] == [False, False, True, False]
    assert "no answer" in str(silent)
    assert "unknown OUTCOME_UNKNOWN" in str(lost)
    assert "failed BUSY" in str(failed)
    assert "[   6.000 ..    7.000] put k = 4 -> version 1" in str(ok)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda h: h.invoke("p", Put("k", 1), 0.5), "time goes back"),
        (lambda h: h.invoke("p", Put("k", 1), math.nan), "time goes back"),
        (lambda h: h.complete(7, Failed(), 2.0), "never invoked"),
        (lambda h: h.complete(-1, Failed(), 2.0), "never invoked"),
        (lambda h: (h.complete(0, Failed(), 2.0), h.complete(0, Failed(), 3.0)), "completed twice"),
        (lambda h: h.complete(0, Ok(Done()), 2.0), "has Written as its result"),
        (lambda h: h.record("p", Get("k"), Ok(Found(object(), 1)), 2.0), "a value is plain"),
        (
            lambda h: h.record("p", Fetch("t"), Ok(Recorded("done", 1, "n", object())), 2.0),
            "a value is plain",
        ),
        (lambda h: h.invoke("p", "put k", 2.0), "a call is one of"),
        (lambda h: h.invoke("p", Get("k", "eventual"), 2.0), "consistency is one of"),
        (lambda h: h.invoke("p", Put("k", object()), 2.0), "a value is plain"),
        (lambda h: h.invoke("p", Put("k", 2**70), 2.0), "a value is plain"),
    ],
)
def test_what_no_run_could_have_produced_is_refused(wrong: Callable[[History], object], what: str) -> None:
    history = History()
    history.invoke("p", Put("k", 1), 1.0)
    with pytest.raises(HistoryInvalid, match=what):
        wrong(history)


def test_a_history_has_a_bound() -> None:
    history = History(operations_max=1)
    history.invoke("p", Get("k"), 0.0)
    with pytest.raises(HistoryInvalid, match="operations_max=1"):
        history.invoke("p", Get("k"), 0.0)


HEADER = '{"format":"mcp-history","version":1}'
INVOKE = json.dumps(
    {
        "event": "invoke",
        "op": 0,
        "at": 1.0,
        "process": "p",
        "session": "s",
        "call": {"kind": "Get", "key": "k", "consistency": "session"},
    }
)


@pytest.mark.parametrize(
    "damaged",
    [
        ["{}"],
        ['{"format":"mcp-history","version":2}'],
        [HEADER, "{"],
        [HEADER, "[]"],
        [HEADER, INVOKE, INVOKE],
        [HEADER, INVOKE.replace('"Get"', '"Take"')],
        [HEADER, INVOKE.replace('"key"', '"lock"')],
        [HEADER, INVOKE.replace('"invoke"', '"maybe"')],
        [HEADER, INVOKE, '{"event":"complete","op":0,"at":2.0,"outcome":"perhaps"}'],
        [HEADER, INVOKE, '{"event":"complete","op":0,"at":0.5,"outcome":"failed","reason":""}'],
        [HEADER, INVOKE, '{"event":"complete","op":0,"at":2,"outcome":"ok","result":{"kind":"Done"}}'],
    ],
)
def test_a_damaged_history_is_refused_by_its_line(damaged: list[str]) -> None:
    with pytest.raises(HistoryInvalid, match=f"line {len(damaged)}"):
        History.load(damaged)


def test_merging_puts_events_in_the_order_of_time_and_lets_equal_times_overlap() -> None:
    one, other = History(), History()
    one.record("a", Put("k", 1), Ok(Written(1)), 1.0, 3.0, request="r1")
    one.invoke("a", Put("k", 3), 6.0)
    other.record("b", Put("k", 2), Ok(Written(2)), 3.0, 5.0, session="s")
    merged = History.merged([one, other])
    first, second, third = merged
    assert [o.process for o in merged] == ["a", "b", "a"]
    assert (first.request, second.session) == ("r1", "s")
    assert not first.before(second)
    assert second.before(third)
    assert third.pending
