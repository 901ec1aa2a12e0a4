"""The lines that a node writes to standard error: for people, or as JSON for whatever collects them.

Every line in JSON says where the node was when it was written (term and log position), and to which trace it
belongs, if to any.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from mcp.client.tracing import current_trace

FORMATS: Final = ("text", "json")
TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

Position = Callable[[], tuple[int, int]]
"""Gives a node's term and the last log position that was executed there."""


class JsonLines(logging.Formatter):
    """One JSON object a line. Until :attr:`position` is set there is no node to tell of."""

    def __init__(self, node: str = "") -> None:
        super().__init__()
        self.node = node
        self.position: Position | None = None

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end: ``time`` is UTC, RFC 3339."""
        written = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": written.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self.node:
            line["node"] = self.node
        if self.position is not None:
            line["term"], line["log_position"] = self.position()
        if trace_id := current_trace():
            line["trace_id"] = trace_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def begin_logging(level: str, form: str) -> JsonLines | None:
    """Have the log written to standard error from ``level`` on; gives what writes it, if that is JSON."""
    lines = JsonLines() if form == "json" else None
    handler = logging.StreamHandler()
    handler.setFormatter(lines or logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    return lines
