"""Which errors may be retried, for which call, how often and for how long.

Pure: the time and the randomness are arguments. The rules, in the order in which they are applied:

- A definite answer ends the call: the node understood the request, and asking again would give the
  same.
- A call that changes nothing is repeated after everything that says nothing about the request: nobody
  there, no leader, too busy, not loaded yet, or an answer that was lost.
- A command is repeated in the same cases, always under the same session and sequence number, which
  the replicated state uses to apply it once. From the moment that an answer to it was lost it is *in
  doubt*: then only an answer that comes from the log itself settles it, and when time runs out the
  caller is told :class:`~mcp.errors.OutcomeUnknown` rather than that nothing was written.
- The caller's deadline bounds all of it. Delays double up to a named limit, with jitter. An attempt
  is given only a share of what is left, so that one node that hangs cannot use up the whole deadline.
- Repeating after a refusal for overload, or an inference that was too slow, adds to the overload, so
  these retries are paid from a budget that fills with calls (as in Finagle's ``RetryBudget``). Retries
  after a lost node are not: a node that is gone does no work, and every caller has to move at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mcp.client.kinds import CallKind
from mcp.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    DiskFull,
    FrameTooLarge,
    InvalidArgument,
    McpError,
    MessageExpired,
    ModelNotReady,
    NoLeader,
    OutcomeUnknown,
    ProtocolError,
    RemoteError,
    ResourceExhausted,
    TooLarge,
    Unavailable,
    VersionConflict,
)

_DOUBLINGS_MAX = 10
_ASK_AGAIN = (Unavailable, Busy, OutcomeUnknown, DiskFull, DeadlineExceeded, MessageExpired, Cancelled)
"""Errors that say nothing about the request itself. Subclasses count: NoLeader, ModelNotReady.

Cancelled is among them because a caller who cancels waits for no answer: who gets this one still wants
the result, and it was the node that gave up.
"""

_SETTLES = (VersionConflict, InvalidArgument, TooLarge)
"""Errors that only the log gives, or that depend on the command alone: they answer earlier attempts too.

NotFound and its like are not among them: a node that lags behind may say so of what is there.
"""


def decided_by_log(error: McpError) -> bool:
    """Whether the error is the command's recorded result: nodes put the log index into its details.

    Sending the command again would only give the recorded result again, whatever the code says.
    """
    return "index" in error.details


def retryable(error: McpError) -> bool:
    """Whether a call that got ``error`` may be sent again, while time remains.

    The same errors for every kind of call; what makes it safe differs. Calls without an effect can be
    repeated at will, commands because their session and sequence number make a repetition harmless.
    """
    return isinstance(error, _ASK_AGAIN) and not decided_by_log(error)


def leaves_doubt(kind: CallKind, error: McpError) -> bool:
    """Whether ``error`` leaves open that a command took effect.

    A deadline counts: an attempt can be overtaken by its deadline on either side of the wire. So do a
    node's internal error, a code that this version does not know, an answer that cannot be read, and a
    node that gave up on its own: none of them says how far the command had come.
    """
    if kind.idempotent or decided_by_log(error):
        return False
    if type(error) is McpError or not error.outcome_known:
        return True
    if isinstance(error, FrameTooLarge):
        return False  # The command itself was: it was never sent.
    return isinstance(error, DeadlineExceeded | RemoteError | Cancelled | ProtocolError)


def elsewhere_at_once(error: McpError) -> bool:
    """Whether another node may well do better right now, so that waiting would be pointless."""
    if isinstance(error, ModelNotReady | OutcomeUnknown | DeadlineExceeded | Cancelled):
        return True
    return isinstance(error, Unavailable) and not isinstance(error, NoLeader)


_OF_ONE_NODE = frozenset({"model_rate", "concurrency", "node", "deadline"})
"""What one node has counted. Around a client's limit, and the cluster's, there is no way by other nodes."""


def of_one_node(error: McpError) -> bool:
    """Whether ``error`` refuses by a limit that each node has for itself."""
    return isinstance(error, ResourceExhausted) and error.details.get("reason") in _OF_ONE_NODE


def _asked_s(error: McpError) -> float | None:
    """After how many seconds the node wants to be asked again, if it says so."""
    asked_s = error.details.get("retry_after_s")
    return float(asked_s) if isinstance(asked_s, int | float) and asked_s > 0 else None


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """The limits of one call's attempts, and of the budget that all calls share."""

    delay_first_s: float = 0.01
    delay_max_s: float = 0.25
    attempts_max: int = 1024
    attempt_share: float = 1 / 3
    """The part of the remaining time that one attempt of a command or a read may take."""
    infer_share: float = 1 / 2
    """The same for a direct inference, while there is another node to go to."""
    attempt_min_s: float = 1.0
    """An attempt is given at least this, as far as there is time.

    The first attempt of a command or a read is given no more either, and after each that was overtaken by
    its time twice as much, up to its share: a node that hangs (stopped, cut off, its disk full) is soon
    left for another, and a cluster that is slow is still waited for in the end.
    """
    wait_slice_s: float = 5.0
    """How long one attempt of a waiting call waits at one node."""
    budget_tokens_max: float = 100.0
    budget_tokens_per_call: float = 0.2


class RetryBudget:
    """Retries that add load, as a share of the calls. Starts full."""

    def __init__(self, limits: RetryLimits) -> None:
        self._limits = limits
        self.tokens = limits.budget_tokens_max

    def deposit(self, calls: int = 1) -> None:
        """So many calls begin."""
        limits = self._limits
        self.tokens = min(limits.budget_tokens_max, self.tokens + calls * limits.budget_tokens_per_call)

    def withdraw(self) -> bool:
        """Pay for one retry. ``False``: the budget is spent, and the caller gets the refusal."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Attempts:
    """The attempts of one call: how long each may take, whether there is another, and how it ends."""

    def __init__(
        self,
        kind: CallKind,
        deadline: float,
        *,
        timeout_s: float,
        limits: RetryLimits,
        budget: RetryBudget,
        random_: random.Random,
    ) -> None:
        """``deadline`` is on the clock that is passed as ``now``; ``timeout_s`` is for messages."""
        self.kind = kind
        self.deadline = deadline
        self.in_doubt = False
        self.patient = False
        """Whether it takes long by nature, so that an attempt is given its whole share at once."""
        self.last_error: McpError | None = None
        self._timeout_s = timeout_s
        self._limits = limits
        self._budget = budget
        self._random = random_
        self._delay_s = limits.delay_first_s
        self._failed = 0
        self._overtaken = 0

    def attempt_timeout(self, now: float, *, others: bool = True) -> float:
        """Seconds that the next attempt may take; ``others``: another node could be tried after it.

        Raises when the call's time is up.
        """
        left_s = self.deadline - now
        limits = self._limits
        if left_s <= 0:
            raise self.out_of_time()
        if self.kind is CallKind.WAIT:
            return min(left_s, limits.wait_slice_s)
        if self.kind is CallKind.INFER:
            share = limits.infer_share if others else 1.0
            return min(left_s, max(limits.attempt_min_s, left_s * share))
        share_s = left_s * limits.attempt_share
        patience_s = share_s if self.patient else limits.attempt_min_s * 2.0**self._overtaken
        return min(left_s, max(limits.attempt_min_s, min(patience_s, share_s)))

    def failed(self, error: McpError, now: float, *, others: bool, sent: bool = True) -> float:
        """An attempt ended in ``error``; ``others``: a node that this call has not tried is there.

        ``sent``: whether the request left, so that it may have taken effect; it did not where no node at all
        talks to us, and then none will.

        Returns the seconds to wait before the next attempt. Raises what the caller should see when
        there is to be none: ``error`` itself, or the verdict on a command that is in doubt.
        """
        self._failed += 1
        self._overtaken = min(self._overtaken + isinstance(error, DeadlineExceeded), _DOUBLINGS_MAX)
        error = self._meant(error)
        self.last_error = error
        self.in_doubt = self.in_doubt or (sent and leaves_doubt(self.kind, error))
        if not sent or not retryable(error) or self._failed >= self._limits.attempts_max:
            raise self._verdict(error)
        if self._adds_load(error) and not self._budget.withdraw():
            raise self._verdict(error)
        delay_s = self._next_delay(error, others)
        if now + delay_s < self.deadline:
            return delay_s
        if others and self.kind is CallKind.INFER and of_one_node(error):
            # There is no time to come back to this node, and another one counts by itself.
            return 0.0
        raise self.out_of_time(_asked_s(error))

    def ended(self, reason: McpError, failure: McpError) -> McpError:
        """The error for a call that ends for a ``reason`` of the client's own, after a ``failure``."""
        self.in_doubt = self.in_doubt or leaves_doubt(self.kind, failure)
        return self._verdict(reason)

    def _meant(self, error: McpError) -> McpError:
        """A call that changes nothing leaves nothing unknown: its answer is missing, that is all."""
        if isinstance(error, OutcomeUnknown) and self.kind.idempotent:
            return Unavailable("the connection or the leader was lost before the answer came")
        return error

    def _adds_load(self, error: McpError) -> bool:
        """Whether repeating after ``error`` is more work for nodes that may have too much already."""
        slow = isinstance(error, DeadlineExceeded) and self.kind is CallKind.INFER
        return slow or isinstance(error, Busy)

    def _next_delay(self, error: McpError, others: bool) -> float:
        if others and elsewhere_at_once(error):
            return 0.0
        delay_s = self._delay_s * (0.5 + 0.5 * self._random.random())
        self._delay_s = min(self._limits.delay_max_s, self._delay_s * 2)
        return max(delay_s, _asked_s(error) or 0.0)

    def _verdict(self, error: McpError) -> McpError:
        settled = decided_by_log(error) or isinstance(error, _SETTLES)
        if self.in_doubt and not settled:
            return self._unknown(f"then: {error.code}: {error.message}")
        return error

    def out_of_time(self, come_back_s: float | None = None) -> McpError:
        """The error for a call whose deadline has passed.

        Or will have passed in ``come_back_s`` seconds, when a node has said to come back: nobody waits then.
        """
        last = self.last_error
        story = f"; the last attempt: {last.code}: {last.message.rstrip('.')}" if last else ""
        if self.in_doubt:
            return self._unknown(f"no answer within {self._timeout_s:g} s{story}")
        details: dict[str, object] = {"timeout_s": self._timeout_s, "attempts": self._failed}
        if last is not None:
            details["last_code"] = last.code
            if "retry_after_s" in last.details:
                details["retry_after_s"] = last.details["retry_after_s"]
        if come_back_s is not None:
            return DeadlineExceeded(
                f"the call is given {self._timeout_s:g} s, and there is no use in coming back before "
                f"{come_back_s:.3g} s{story}. Nothing was changed. Call again then, or allow more time "
                "(--timeout, timeout_s).",
                details=details,
            )
        return DeadlineExceeded(
            f"no answer within {self._timeout_s:g} s{story}. Nothing was changed."
            " See which nodes answer (mcpctl status, or Client.status), or allow more time (--timeout,"
            " timeout_s).",
            details=details,
        )

    def _unknown(self, story: str) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"a command was sent and its answer was lost; {story}. It may or may not have taken effect:"
            " read the state before you repeat it.",
            details={"attempts": self._failed},
        )
