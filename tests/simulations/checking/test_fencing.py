from __future__ import annotations

import pytest

from simulations.checking.fencing import Granted, Reported, Revoked, Step, check_fencing, check_records
from simulations.checking.history import History
from simulations.checking.operations import (
    Absent,
    Done,
    Failed,
    Fetch,
    Ok,
    Outcome,
    Recorded,
    Result,
    Submit,
    Unknown,
)

# -- inside ---------------------------------------------------------------------------------------------


def report(token: int, *, accepted: bool, node: str = "n1", result: object = "r", id_: str = "t") -> Reported:
    return Reported(id_, node, token, result, accepted)


BROKEN_STEPS: dict[str, tuple[str, list[Step]]] = {
    "an old token is recorded": (
        "not the current one",
        [Granted("t", "n1", 1), Granted("t", "n2", 2), report(1, accepted=True)],
    ),
    "an old token of the same node is recorded": (
        "not the current one",
        [Granted("t", "n1", 1), Granted("t", "n1", 2), report(1, accepted=True)],
    ),
    "a result of another node is recorded": (
        "not the current one",
        [Granted("t", "n2", 1), report(1, accepted=True)],
    ),
    "a result that nobody was asked for is recorded": ("not the current one", [report(1, accepted=True)]),
    "a result is recorded after the grant was void": (
        "not the current one",
        [Granted("t", "n1", 1), Revoked("t"), report(1, accepted=True)],
    ),
    "two results are recorded": (
        "two results",
        [Granted("t", "n1", 1), report(1, accepted=True), report(1, accepted=True, result="other")],
    ),
    "the late result replaces the one that counts": (
        "two results",
        [
            Granted("t", "n1", 1),
            Granted("t", "n2", 2),
            report(2, node="n2", accepted=True),
            report(1, accepted=True),
        ],
    ),
    "a token is used again": ("after token 1", [Granted("t", "n1", 1), Granted("t", "n2", 1)]),
    "tokens go back": ("after token 5", [Granted("t", "n1", 5), Granted("u", "n2", 4)]),
    "granted after the end": (
        "after its result was recorded",
        [Granted("t", "n1", 1), report(1, accepted=True), Granted("t", "n2", 2)],
    ),
    "the holder is refused": ("was refused", [Granted("t", "n1", 1), report(1, accepted=False)]),
}


@pytest.mark.parametrize("name", BROKEN_STEPS)
def test_a_fence_with_a_hole_is_told(name: str) -> None:
    what, steps = BROKEN_STEPS[name]
    found = check_fencing(steps)
    assert not found.ok
    assert any(what in violation.what for violation in found.violations), found


def test_a_fence_that_holds_passes() -> None:
    found = check_fencing(
        [
            Granted("t", "n1", 1),
            Granted("u", "n1", 2),
            report(2, accepted=True, id_="u"),
            Granted("t", "n2", 3),
            report(1, accepted=False),
            report(3, node="n2", accepted=True),
            report(3, node="n2", accepted=True),
            report(1, accepted=False),
            Granted("v", "n1", 9),
            Revoked("v"),
            report(9, accepted=False, id_="v"),
            Granted("v", "n1", 10),
        ]
    )
    assert found.ok, found
    assert found.checked == 12


# -- outside --------------------------------------------------------------------------------------------

Row = tuple[str, Submit | Fetch, Result | Outcome]
ASSIGNED, LATER = Recorded("assigned", 1, "n1"), Recorded("assigned", 2, "n2")
ENDED, OTHERWISE = Recorded("done", 2, "n2", "r"), Recorded("done", 2, "n2", "other")
LOOK, WAIT, SUBMIT = Fetch("t", wait=False), Fetch("t"), Submit("t")


def read(*rows: Row) -> History:
    history = History()
    for at, (session, call, told) in enumerate(rows):
        outcome = told if isinstance(told, Ok | Failed | Unknown) else Ok(told)
        history.record(f"p{at}", call, outcome, 2.0 * at, 2.0 * at + 1, session=session)
    return history


BROKEN_READS: dict[str, tuple[str, list[Row]]] = {
    "two results, in two sessions": (
        "ended in two ways",
        [("s", SUBMIT, Done()), ("s", WAIT, ENDED), ("o", WAIT, OTHERWISE)],
    ),
    "done and failed": (
        "ended in two ways",
        [("s", SUBMIT, Done()), ("s", WAIT, ENDED), ("o", WAIT, Recorded("failed", 2, "n2", "r"))],
    ),
    "the result changes its author": (
        "ended in two ways",
        [("s", SUBMIT, Done()), ("s", WAIT, ENDED), ("s", WAIT, Recorded("done", 3, "n1", "r"))],
    ),
    "unfinished again": ("went back", [("s", SUBMIT, Done()), ("s", WAIT, ENDED), ("s", LOOK, LATER)]),
    "the token goes back": ("went back", [("s", SUBMIT, Done()), ("s", LOOK, LATER), ("s", LOOK, ASSIGNED)]),
    "the end has an older token": (
        "went back",
        [("s", SUBMIT, Done()), ("s", LOOK, LATER), ("s", WAIT, Recorded("done", 1, "n1", "r"))],
    ),
    "an acknowledged submission is gone": ("is gone", [("s", SUBMIT, Done()), ("s", LOOK, Absent())]),
    "a finished record is gone": (
        "is gone",
        [("o", SUBMIT, Done()), ("s", WAIT, ENDED), ("s", WAIT, Absent())],
    ),
    "a failed submission is run": ("had failed", [("s", SUBMIT, Failed()), ("s", WAIT, ENDED)]),
    "nobody submitted it": ("nobody had submitted", [("s", WAIT, ENDED)]),
    "it is read before it is submitted": (
        "nobody had submitted",
        [("s", LOOK, ASSIGNED), ("s", SUBMIT, Done())],
    ),
    "an awaited answer that is no end": (
        "not the end of it",
        [("s", SUBMIT, Done()), ("s", WAIT, ASSIGNED)],
    ),
    "a status that does not exist": (
        "unknown status",
        [("s", SUBMIT, Done()), ("s", LOOK, Recorded("asigned", 1))],
    ),
}


@pytest.mark.parametrize("name", BROKEN_READS)
def test_a_record_that_is_not_what_was_promised_is_told(name: str) -> None:
    what, rows = BROKEN_READS[name]
    found = check_records(read(*rows))
    assert not found.ok
    assert any(what in violation.what for violation in found.violations), found
    assert all(violation.story for violation in found.violations)


SOUND_READS: dict[str, list[Row]] = {
    "from the beginning to the end": [
        ("s", SUBMIT, Done()),
        ("s", LOOK, Recorded("waiting", 0)),
        ("s", LOOK, ASSIGNED),
        ("s", LOOK, Recorded("waiting", 1)),
        ("s", LOOK, LATER),
        ("s", WAIT, ENDED),
        ("s", LOOK, ENDED),
        ("o", LOOK, ENDED),
    ],
    "another session is behind": [
        ("s", SUBMIT, Done()),
        ("s", WAIT, ENDED),
        ("o", LOOK, Absent()),
        ("o", LOOK, ASSIGNED),
        ("o", LOOK, ENDED),
    ],
    "an unknown submission is run": [
        ("s", SUBMIT, Unknown()),
        ("s", LOOK, Absent()),
        ("s", LOOK, Absent()),
        ("s", WAIT, ENDED),
    ],
    "failed, and submitted again": [("s", SUBMIT, Failed()), ("s", SUBMIT, Done()), ("s", WAIT, ENDED)],
    "it fails for good": [("s", SUBMIT, Done()), ("s", WAIT, Recorded("failed", 0, None, "gone"))],
}


@pytest.mark.parametrize("name", SOUND_READS)
def test_a_record_that_goes_its_way_passes(name: str) -> None:
    assert check_records(read(*SOUND_READS[name]), settled=True).ok


def test_an_answer_that_comes_late_does_not_make_the_session_forget() -> None:
    history = read(("s", SUBMIT, Done()))
    late = history.invoke("p1", LOOK, 10.0, session="s")
    newest = history.invoke("p2", LOOK, 10.0, session="s")
    history.complete(newest, Ok(LATER), 11.0)
    history.complete(late, Ok(ASSIGNED), 12.0)
    assert check_records(history).ok
    history.record("p1", LOOK, Ok(ASSIGNED), 13.0, session="s")
    assert not check_records(history).ok


def test_old_records_may_be_forgotten_where_that_is_allowed_and_only_then() -> None:
    history = read(("s", SUBMIT, Done()), ("s", WAIT, ENDED), ("s", LOOK, Absent()))
    assert not check_records(history).ok
    assert check_records(history, forgets=True).ok
    unfinished = read(("s", SUBMIT, Done()), ("s", LOOK, Absent()))
    assert not check_records(unfinished, forgets=True).ok


@pytest.mark.parametrize(("told", "passes"), [(Done(), False), (Failed(), True), (Unknown(), True)])
def test_every_acknowledged_submission_ends(told: Result | Outcome, passes: bool) -> None:
    history = read(("s", SUBMIT, told))
    assert check_records(history).ok
    assert check_records(history, settled=True).ok is passes
