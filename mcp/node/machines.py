"""Users' executors as machines of the replicated state, and what is made of their mistakes.

Whatever an executor does, every node has to make the same of it, to the byte: so of an exception only its
type's name becomes part of the outcome (a text may have an address in it, or a path), and texts are cut.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from executor.interface import Command, Executor, Result
from mcp.errors import ConfigInvalid, McpError, from_wire
from mcp.state.arguments import LABEL
from mcp.state.commands import Moment
from mcp.state.members import EXECUTORS_MAX

CODE_CHARS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 2000
"""So much of an executor's own error is kept: it is part of the replicated state for a while."""

_METHODS: Final = ("execute", "snapshot", "restore")
_log = logging.getLogger("mcp.node")


class UserMachine:
    """A user's :class:`~executor.interface.Executor` as a machine of the replicated state."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def execute(self, data: bytes, moment: Moment) -> Any:
        """Execute one command; an error of the executor's result becomes the command's outcome."""
        command = Command(moment.index, moment.position, moment.term, moment.time_s, moment.seed, data)
        try:
            result: Any = self._executor.execute(command)
        except (MemoryError, KeyboardInterrupt):
            raise
        except BaseException as defect:  # also what would end a task: the order must not notice
            _log.error("entry %d: the executor raised", moment.index, exc_info=defect)
            self._defect(f"raised {type(defect).__name__}")
        if not isinstance(result, Result):
            self._defect(f"returned {type(result).__name__} instead of a Result")
        if result.error is not None:
            self._refused(result.error)
        return result.value

    def _refused(self, error: Any) -> NoReturn:
        match error:
            case [str(code), str(message)]:
                raise from_wire(
                    {"code": _cut(code, CODE_CHARS_MAX), "message": _cut(message, TEXT_CHARS_MAX)}
                )
        self._defect("returned a Result whose error is not a code and a message")

    def _defect(self, what: str) -> NoReturn:
        raise McpError(f"the executor {what}; the nodes' logs have the details")

    def snapshot(self) -> bytes:
        """The executor's whole state."""
        return self._executor.snapshot()

    def restore(self, snapshot: bytes) -> None:
        """Replace the executor's whole state."""
        self._executor.restore(snapshot)


def _cut(text: str, most: int) -> str:
    """At most so much of it, and only what can be written down."""
    return text[:most].encode("utf-8", "replace").decode()


def checked_executors(executors: object) -> dict[str, Executor]:
    """The users' executors by name, if they are that. Raises :class:`~mcp.errors.ConfigInvalid`."""
    if executors is None:
        return {}
    if not isinstance(executors, Mapping) or len(executors) > EXECUTORS_MAX:
        raise ConfigInvalid(
            f"executors are a mapping of at most {EXECUTORS_MAX} executors by name, like "
            f'{{"accounts": Accounts()}}, not {executors!r:.80}'
        )
    for name, executor in executors.items():
        if not isinstance(name, str) or not LABEL.fullmatch(name):
            raise ConfigInvalid(f"an executor's name matches {LABEL.pattern}, and {name!r:.80} does not")
        if isinstance(executor, type):
            raise ConfigInvalid(f"executor {name!r} is a class: give an object of it, {executor.__name__}()")
        missing = [each for each in _METHODS if not callable(getattr(executor, each, None))]
        if missing:
            raise ConfigInvalid(
                f"executor {name!r} is a {type(executor).__name__} without {', '.join(missing)}"
            )
    return dict(executors)
