"""The pillars' errors as the errors that users see, by code."""

from __future__ import annotations

import consensus.errors as c
import executor.errors as x
from consensus.storage import StorageLocked
from mcp import errors as m

_BY_PILLAR: dict[type[Exception], type[m.McpError]] = {
    c.NotLeader: m.NoLeader,
    c.Busy: m.Busy,
    c.EntryTooLarge: m.TooLarge,
    c.OutcomeUnknown: m.OutcomeUnknown,
    c.ReadUnconfirmed: m.NoLeader,
    c.NotCaughtUp: m.NotCaughtUp,
    c.MembershipRefused: m.MembershipRefused,
    c.DiskFull: m.DiskFull,
    c.StorageCorrupt: m.StorageCorrupt,
    StorageLocked: m.StorageLocked,
    c.StorageError: m.StorageError,
    c.InvariantViolated: m.InvariantViolated,
    c.ConsensusError: m.McpError,
    x.QueueFull: m.Busy,
    x.ModelNotLoaded: m.ModelNotReady,
    x.ModelInvalid: m.ModelInvalid,
    x.ProviderUnavailable: m.ProviderUnavailable,
    x.InputInvalid: m.InputInvalid,
    x.DeadlineExceeded: m.DeadlineExceeded,
    x.InferenceFailed: m.InferenceFailed,
    x.LimitExceeded: m.TooLarge,
    x.RunCancelled: m.Cancelled,
    x.ExecutorClosed: m.Unavailable,
    x.ExecutorError: m.McpError,
}


def translated(error: BaseException) -> m.McpError:
    """``error`` as an error of the users' tree; one that is already is given back as it is."""
    if isinstance(error, m.McpError):
        return error
    for kind in type(error).__mro__:
        if kind in _BY_PILLAR:
            return _BY_PILLAR[kind](str(error))
    return m.McpError(
        f"{type(error).__name__}: {error}; this is a defect of this library, "
        "please report it with the log of the node"
    )
