"""What kinds of calls there are: the one thing that routing and retries both ask about a call."""

from __future__ import annotations

import enum


class CallKind(enum.StrEnum):
    """Why a request is sent: decides which node suits it and what a lost answer means."""

    COMMAND = "command"
    """Changes the replicated state. Its session and sequence number make a repetition harmless."""
    READ = "read"
    """Reads replicated state, or asks a node for its own: repeating it changes nothing."""
    INFER = "infer"
    """Direct inference: repeating it costs work and changes nothing."""
    WAIT = "wait"
    """Waits at a node for something to finish. Sent in slices, so that a dead node costs only one."""
    TRANSFER = "transfer"
    """Moves a chunk of an artefact, which is named by its digest: repeating it changes nothing."""

    @property
    def idempotent(self) -> bool:
        """Whether losing an answer leaves no doubt about the state."""
        return self is not CallKind.COMMAND
