"""Which errors are retried, for how long, and how a call ends."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp import errors as e
from mcp.client.kinds import CallKind
from mcp.client.retry import (
    Attempts,
    RetryBudget,
    RetryLimits,
    decided_by_log,
    elsewhere_at_once,
    leaves_doubt,
    retryable,
)

COMMAND, READ, INFER, WAIT = CallKind.COMMAND, CallKind.READ, CallKind.INFER, CallKind.WAIT

# Every code of the tree: whether it is asked again, and whether a command that got it is in doubt.
TABLE: dict[type[e.McpError], tuple[bool, bool]] = {
    e.McpError: (False, True),
    e.RemoteError: (False, True),
    e.InvalidArgument: (False, False),
    e.ConfigInvalid: (False, False),
    e.ProtocolError: (False, True),
    e.FrameTooLarge: (False, False),
    e.VersionMismatch: (False, True),
    e.AuthenticationFailed: (False, False),
    e.PermissionDenied: (False, False),
    e.Unsupported: (False, False),
    e.Unavailable: (True, False),
    e.NoLeader: (True, False),
    e.Busy: (True, False),
    e.ResourceExhausted: (True, False),
    e.CircuitOpen: (True, False),
    e.DeadlineExceeded: (True, True),
    e.OutcomeUnknown: (True, True),
    e.Cancelled: (True, True),
    e.MessageExpired: (True, False),
    e.FrameDamaged: (True, False),
    e.SessionExpired: (False, False),
    e.VersionConflict: (False, False),
    e.NotFound: (False, False),
    e.ModelNotFound: (False, False),
    e.ModelNotReady: (True, False),
    e.ModelInvalid: (False, False),
    e.InputInvalid: (False, False),
    e.InferenceFailed: (False, False),
    e.ProviderUnavailable: (False, False),
    e.Fenced: (False, False),
    e.MembershipRefused: (False, False),
    e.NameTaken: (False, False),
    e.NotCaughtUp: (False, False),
    e.TooLarge: (False, False),
    e.StorageError: (False, False),
    e.StorageCorrupt: (False, False),
    e.StorageLocked: (False, False),
    e.DiskFull: (True, False),
    e.DependencyMissing: (False, False),
    e.InvariantViolated: (False, True),
}


def every_error(root: type[e.McpError] = e.McpError) -> list[type[e.McpError]]:
    children = [kind for child in root.__subclasses__() for kind in every_error(child)]
    return [root, *children] if root.__module__ == "mcp.errors" else []


def attempts(kind: CallKind = READ, timeout_s: float = 10.0, **limits: Any) -> Attempts:
    made = RetryLimits(**limits)
    return Attempts(
        kind,
        100.0 + timeout_s,
        timeout_s=timeout_s,
        limits=made,
        budget=RetryBudget(made),
        random_=random.Random(3),
    )


def test_the_table_has_every_error_that_there_is() -> None:
    assert set(TABLE) == set(every_error())


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.code)
def test_the_table_of_errors(kind: type[e.McpError]) -> None:
    again, doubt = TABLE[kind]
    error = kind("m")
    assert retryable(error) is again
    assert leaves_doubt(COMMAND, error) is doubt
    for harmless in (READ, INFER, WAIT, CallKind.TRANSFER):
        assert not leaves_doubt(harmless, error)


@pytest.mark.parametrize("kind", TABLE, ids=lambda kind: kind.code)
def test_what_the_log_decided_is_final(kind: type[e.McpError]) -> None:
    error = kind("m", details={"index": 7})
    assert decided_by_log(error)
    assert not retryable(error)
    assert not leaves_doubt(COMMAND, error)
    call = attempts(COMMAND)
    call.failed(e.OutcomeUnknown("lost"), 100.0, others=True)
    with pytest.raises(kind) as final:
        call.failed(error, 100.0, others=True)
    assert final.value is error


def test_elsewhere_is_tried_at_once_where_that_can_help() -> None:
    for error in (e.Unavailable("m"), e.ModelNotReady("m"), e.OutcomeUnknown("m"), e.DeadlineExceeded("m")):
        assert elsewhere_at_once(error)
        assert attempts().failed(error, 100.0, others=True) == 0.0
        assert attempts().failed(error, 100.0, others=False) > 0.0
    for pointless in (e.NoLeader("m"), e.Busy("m"), e.DiskFull("m")):
        assert not elsewhere_at_once(pointless)
        assert attempts().failed(pointless, 100.0, others=True) > 0.0


@pytest.mark.parametrize("kind", [k for k, (again, _) in TABLE.items() if not again], ids=lambda k: k.code)
def test_a_definite_answer_ends_the_call(kind: type[e.McpError]) -> None:
    error = kind("m")
    for call_kind in (READ, INFER, WAIT):
        with pytest.raises(kind) as final:
            attempts(call_kind).failed(error, 100.0, others=True)
        assert final.value is error


SETTLING = {e.VersionConflict, e.InvalidArgument, e.TooLarge}


@pytest.mark.parametrize("kind", [k for k, (again, _) in TABLE.items() if not again], ids=lambda k: k.code)
def test_a_command_in_doubt_is_settled_only_by_what_cannot_depend_on_the_node(kind: type[e.McpError]) -> None:
    call = attempts(COMMAND)
    call.failed(e.OutcomeUnknown("lost"), 100.0, others=True)
    assert call.in_doubt
    with pytest.raises(e.McpError) as final:
        call.failed(kind("m"), 100.0, others=True)
    assert type(final.value) is (kind if kind in SETTLING else e.OutcomeUnknown)
    assert kind in SETTLING or kind.code in final.value.message


def test_out_of_time_says_whether_something_may_have_been_written() -> None:
    for kind, error, verdict, told in [
        (COMMAND, e.NoLeader("none"), e.DeadlineExceeded, "NO_LEADER: none"),
        (COMMAND, e.OutcomeUnknown("lost"), e.OutcomeUnknown, "OUTCOME_UNKNOWN: lost"),
        (COMMAND, e.DeadlineExceeded("slow"), e.OutcomeUnknown, "DEADLINE_EXCEEDED: slow"),
        (READ, e.OutcomeUnknown("lost"), e.DeadlineExceeded, "UNAVAILABLE: the connection"),
        (INFER, e.OutcomeUnknown("lost"), e.DeadlineExceeded, "UNAVAILABLE: the connection"),
    ]:
        call = attempts(kind)
        call.failed(error, 100.0, others=True)
        with pytest.raises(verdict, match=told) as final:
            call.attempt_timeout(110.0)
        assert type(final.value) is verdict


def test_out_of_time_hands_on_when_to_come_back() -> None:
    """A node that says "in five seconds" ends a call of one second at once, and the caller learns why."""
    call = attempts(INFER, 1.0)
    with pytest.raises(e.DeadlineExceeded) as final:
        call.failed(e.ResourceExhausted("rate", details={"retry_after_s": 5.0}), 100.0, others=True)
    assert final.value.details["last_code"] == "RESOURCE_EXHAUSTED"
    assert final.value.details["retry_after_s"] == 5.0
    call = attempts(INFER, 1.0)
    call.failed(e.Busy("full"), 100.0, others=True)
    assert "retry_after_s" not in call.out_of_time().details


def refused(reason: str) -> e.McpError:
    return e.ResourceExhausted("rate", details={"retry_after_s": 5.0, "reason": reason})


@pytest.mark.parametrize("reason", ["model_rate", "concurrency", "node", "deadline"])
def test_what_one_node_has_counted_is_asked_of_another_where_there_is_no_time_to_come_back(
    reason: str,
) -> None:
    call = attempts(INFER, 1.0)
    assert call.failed(refused(reason), 100.0, others=True) == 0.0
    with pytest.raises(
        e.DeadlineExceeded, match=r"no use in coming back before 5 s.*RESOURCE_EXHAUSTED: rate"
    ):
        call.failed(refused(reason), 100.0, others=False)
    assert attempts(INFER, 10.0).failed(refused(reason), 100.0, others=True) == 5.0


@pytest.mark.parametrize(
    ("kind", "reason"), [(INFER, "client_rate"), (INFER, "cluster_rate"), (COMMAND, "model_rate")]
)
def test_who_asks_too_much_has_no_way_around_it(kind: CallKind, reason: str) -> None:
    with pytest.raises(e.DeadlineExceeded) as final:
        attempts(kind, 1.0).failed(refused(reason), 100.0, others=True)
    assert "no answer within" not in str(final.value)


def test_the_end_of_a_client_does_not_hide_a_doubt() -> None:
    reason = e.Unavailable("closed")
    assert attempts(COMMAND).ended(reason, e.NoLeader("none")) is reason
    assert type(attempts(COMMAND).ended(reason, e.OutcomeUnknown("lost"))) is e.OutcomeUnknown
    assert attempts(READ).ended(reason, e.OutcomeUnknown("lost")) is reason


def test_an_attempt_gets_a_share_of_the_time() -> None:
    assert attempts(READ, 9.0).attempt_timeout(100.0) == pytest.approx(1.0)
    deploy = attempts(COMMAND, 9.0)
    deploy.patient = True
    assert deploy.attempt_timeout(100.0) == pytest.approx(3.0)
    assert attempts(COMMAND, 1.5).attempt_timeout(100.0) == pytest.approx(1.0)
    assert attempts(COMMAND, 0.5).attempt_timeout(100.0) == pytest.approx(0.5)
    assert attempts(INFER, 8.0).attempt_timeout(100.0, others=True) == pytest.approx(4.0)
    assert attempts(INFER, 8.0).attempt_timeout(100.0, others=False) == pytest.approx(8.0)
    assert attempts(WAIT, 60.0).attempt_timeout(100.0) == pytest.approx(5.0)
    assert attempts(WAIT, 2.0).attempt_timeout(100.0) == pytest.approx(2.0)


def test_a_node_that_hangs_is_left_soon_and_a_slow_cluster_is_waited_for() -> None:
    """A command to a leader that was stopped must not wait for a third of its time."""
    call, now, allowed = attempts(COMMAND, 30.0), 100.0, []
    for _ in range(4):
        allowed.append(call.attempt_timeout(now))
        now += allowed[-1]
        now += call.failed(e.DeadlineExceeded("no answer"), now, others=True)
    assert allowed[:3] == pytest.approx([1.0, 2.0, 4.0])
    assert allowed[3] == pytest.approx((130.0 - now + allowed[3]) / 3, rel=0.05)
    refused = attempts(COMMAND, 30.0)
    for _ in range(5):
        refused.failed(e.NoLeader("an election"), 100.0, others=True)
    assert refused.attempt_timeout(100.0) == pytest.approx(1.0)


_errors = st.sampled_from([k for k, (again, _) in TABLE.items() if again])


@given(
    kind=st.sampled_from(CallKind),
    timeout_s=st.floats(0.01, 100),
    steps=st.lists(st.tuples(_errors, st.booleans(), st.floats(0, 0.5)), min_size=1, max_size=60),
)
def test_no_attempt_and_no_pause_goes_past_the_deadline(
    kind: CallKind, timeout_s: float, steps: list[tuple[type[e.McpError], bool, float]]
) -> None:
    call = attempts(kind, timeout_s)
    now, doubt, verdict = 100.0, False, None
    for error_kind, others, took in steps:
        try:
            allowed = call.attempt_timeout(now, others=others)
            assert 0 < allowed <= call.deadline - now
            now += min(took, allowed)
            doubt = doubt or (kind is COMMAND and TABLE[error_kind][1])
            delay = call.failed(error_kind("m"), now, others=others)
        except e.McpError as error:
            verdict = error
            break
        assert 0 <= delay <= 0.25
        now += delay
        assert now < call.deadline
    assert verdict is None or isinstance(verdict, e.OutcomeUnknown) is doubt


def test_the_pauses_double_up_to_a_limit() -> None:
    call = attempts(timeout_s=1000.0)
    delays = [call.failed(e.NoLeader("m"), 100.0, others=True) for _ in range(12)]
    for index, delay in enumerate(delays):
        ceiling = min(0.25, 0.01 * 2**index)
        assert ceiling / 2 <= delay <= ceiling
    assert len(set(delays)) == 12


def test_a_node_that_says_when_to_come_back_is_believed() -> None:
    busy = e.Busy("m", details={"retry_after_s": 1.5})
    assert attempts().failed(busy, 100.0, others=True) == 1.5
    for nonsense in ("soon", -1, None, True):
        assert attempts().failed(e.Busy("m", details={"retry_after_s": nonsense}), 100.0, others=True) < 1.1


def test_there_is_a_limit_to_the_attempts() -> None:
    call = attempts(timeout_s=1e9, attempts_max=5)
    for _ in range(4):
        call.failed(e.NoLeader("m"), 100.0, others=True)
    with pytest.raises(e.NoLeader):
        call.failed(e.NoLeader("m"), 100.0, others=True)


def test_retries_that_add_load_are_paid_from_a_budget_that_calls_fill() -> None:
    limits = RetryLimits(budget_tokens_max=2.0, budget_tokens_per_call=0.125)
    budget = RetryBudget(limits)

    def call(kind: CallKind) -> Attempts:
        budget.deposit()
        return Attempts(kind, 110.0, timeout_s=10, limits=limits, budget=budget, random_=random.Random(1))

    for _ in range(2):
        call(READ).failed(e.Busy("m"), 100.0, others=True)
    with pytest.raises(e.Busy):
        call(READ).failed(e.Busy("m"), 100.0, others=True)
    call(READ).failed(e.NoLeader("m"), 100.0, others=True)  # costs nothing
    call(READ).failed(e.DeadlineExceeded("m"), 100.0, others=True)
    with pytest.raises(e.DeadlineExceeded):
        call(INFER).failed(e.DeadlineExceeded("m"), 100.0, others=True)
    for _ in range(4):
        call(READ)
    call(INFER).failed(e.DeadlineExceeded("m"), 100.0, others=True)
