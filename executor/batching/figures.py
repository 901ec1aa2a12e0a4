"""What happened to the requests of one model: totals since it was first asked."""

from __future__ import annotations

from collections import Counter


class Figures:
    """Counts for one model; :meth:`to_plain` gives them by the names under which they are published."""

    __slots__ = (
        "batch_rows",
        "batches_failed",
        "cancelled",
        "deadline_refused",
        "expired",
        "full_refused",
        "late_refused",
        "requests",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.full_refused = 0
        self.deadline_refused = 0
        self.late_refused = 0
        self.expired = 0
        self.cancelled = 0
        self.batches_failed = 0
        self.batch_rows: Counter[int] = Counter()
        """Runs by their rows, rounded up to a power of two."""

    def ran(self, rows: int, requests: int) -> None:
        """A run was begun."""
        self.requests += requests
        self.batch_rows[1 << max(0, rows - 1).bit_length()] += 1

    def to_plain(self) -> dict[str, object]:
        """Return the counts: requests that were run, runs by rows, and what was not run and why."""
        return {
            "requests_total": self.requests,
            "runs_total": self.batch_rows.total(),
            "batch_rows": {str(rows): runs for rows, runs in sorted(self.batch_rows.items())},
            "refused_total": {
                "full": self.full_refused,
                "deadline": self.deadline_refused + self.late_refused,
            },
            "expired_total": self.expired,
            "cancelled_total": self.cancelled,
            "batches_failed_total": self.batches_failed,
        }
