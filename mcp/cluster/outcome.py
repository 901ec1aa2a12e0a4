"""How a request ended at a node, as far as that says something about the node.

The same words wherever nodes are chosen: by clients (:mod:`mcp.client.routing`) and by the scheduler
(:mod:`mcp.cluster.scheduler`). What a limit has to know of a request is less, and said in
:mod:`mcp.flow.outcome`.
"""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """What a request says about the node that it was sent to."""

    ANSWERED = "answered"
    """The node did its part, whatever it answered."""
    FAULTED = "faulted"
    """The node answered with a failure of its own: the same request may well succeed elsewhere. That is
    often fast, so it is no measurement."""
    REFUSED = "refused"
    """The node is well and does not want this request now: busy, or the model is not loaded yet."""
    TIMED_OUT = "timed out"
    """No answer in the time that was given to it: it takes at least that long."""
    FAILED = "failed"
    """Not reached, lost, starting or stopping."""
    ABANDONED = "abandoned"
    """The caller went away first: says nothing about the node."""
