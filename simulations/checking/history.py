"""An append-only record of what clients asked and were told, in one total order of events.

Every event, an invocation or a completion, gets the next position when it is appended; its time may be
equal to the one before and not less. An operation that is never completed counts as one whose outcome
is unknown. Recorders in one thread need nothing else; for recorders with a clock in common,
:meth:`History.merged` puts their records in the order of time, and lets equal times overlap, which can
only excuse, never accuse.

As JSON lines: a header, then one object per event. Bytes, floats that are not finite and maps whose keys
could be mistaken for these are tagged.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import IO, Any, Final

from simulations.checking.operations import (
    RESULTS,
    Call,
    Failed,
    Get,
    HistoryInvalid,
    Ok,
    Operation,
    Outcome,
    Result,
    Send,
    Unknown,
    canonical,
)

FORMAT: Final = "mcp-history"
VERSION: Final = 1
OPERATIONS_MAX: Final = 5_000_000
"""How many operations one history holds, unless told otherwise."""

_CALLS: Final = {kind.__name__: kind for kind in RESULTS}
_RESULTS: Final = {kind.__name__: kind for kinds in RESULTS.values() for kind in kinds}
_OUTCOMES: Final = {"ok", "failed", "unknown"}
_TAG: Final = "$"
_CONSISTENCIES: Final = ("session", "linearizable", "stale")


class History:
    """Operations in the order of their invocation. Fill it with :meth:`invoke` and :meth:`complete`.

    ``sink``: a text stream that gets every event as a line at once, so that a run that is killed leaves
    its history behind. Raises :class:`HistoryInvalid` for whatever no run could have produced.
    """

    def __init__(self, *, sink: IO[str] | None = None, operations_max: int = OPERATIONS_MAX) -> None:
        self._operations: list[Operation] = []
        self._operations_max = operations_max
        self._events = 0
        self._at = -math.inf
        self._sink = sink
        if sink is not None:
            sink.write(_header())

    def __len__(self) -> int:
        return len(self._operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._operations)

    def __getitem__(self, operation: int) -> Operation:
        return self._operations[operation]

    @property
    def events(self) -> int:
        """How many events there are."""
        return self._events

    def invoke(
        self, process: str, call: Call, at: float, *, session: str | None = None, request: str | None = None
    ) -> int:
        """Append the beginning of an operation; return its number, which :meth:`complete` wants.

        ``session`` is the process, unless it is named; several processes may share a session.
        """
        _check_call(call)
        if len(self._operations) >= self._operations_max:
            raise HistoryInvalid(f"operations_max={self._operations_max} is reached: check it, begin another")
        position = self._next(at)
        operation = Operation(
            len(self._operations),
            process,
            process if session is None else session,
            call,
            position,
            at,
            request,
        )
        self._operations.append(operation)
        self._tell(_invocation, operation)
        return operation.id

    def complete(self, operation: int, outcome: Outcome, at: float) -> None:
        """Append the end of an operation."""
        found = self._operations[operation] if 0 <= operation < len(self._operations) else None
        if found is None:
            raise HistoryInvalid(f"operation {operation} was completed and never invoked")
        if found.completed is not None:
            raise HistoryInvalid(f"operation {operation} was completed twice: {found}")
        if isinstance(outcome, Ok) and not isinstance(outcome.result, RESULTS[type(found.call)]):
            allowed = " or ".join(kind.__name__ for kind in RESULTS[type(found.call)])
            raise HistoryInvalid(
                f"operation {operation}, {type(found.call).__name__}, has {allowed} as its result, "
                f"not {type(outcome.result).__name__}"
            )
        if isinstance(outcome, Ok):
            _check_value(getattr(outcome.result, "value", None))
            _check_value(getattr(outcome.result, "result", None))
        found.completed = self._next(at)
        found.completed_at, found.outcome = at, outcome
        self._tell(_completion, found)

    def record(
        self,
        process: str,
        call: Call,
        outcome: Outcome,
        invoked_at: float,
        completed_at: float | None = None,
        *,
        session: str | None = None,
        request: str | None = None,
    ) -> int:
        """Append a whole operation that nothing overlaps: :meth:`invoke`, then :meth:`complete`."""
        operation = self.invoke(process, call, invoked_at, session=session, request=request)
        self.complete(operation, outcome, invoked_at if completed_at is None else completed_at)
        return operation

    def _next(self, at: float) -> int:
        if math.isnan(at) or at < self._at:
            raise HistoryInvalid(f"time goes back: an event at {at} after one at {self._at}")
        self._at = at
        self._events += 1
        return self._events - 1

    def _tell(self, form: Any, operation: Operation) -> None:
        if self._sink is not None:
            self._sink.write(_line(form(operation)))

    # -- keeping ------------------------------------------------------------------------------------

    def dump(self, stream: IO[str]) -> None:
        """Write the history as JSON lines, from which :meth:`load` makes an equal one."""
        stream.write(_header())
        for event in self.in_order():
            stream.write(_line(event))

    def in_order(self) -> Iterator[dict[str, Any]]:
        """Every event as plain values, in the total order."""
        events = [(o.invoked, _invocation, o) for o in self]
        events += [(o.completed, _completion, o) for o in self if o.completed is not None]
        for _, form, operation in sorted(events, key=lambda event: event[0]):
            yield form(operation)

    @classmethod
    def load(cls, lines: Iterable[str]) -> History:
        """Read what :meth:`dump` or a ``sink`` wrote. Raises :class:`HistoryInvalid` with the line."""
        history = cls()
        for number, line in enumerate(lines, 1):
            try:
                event = json.loads(line)
                if number == 1:
                    _check_header(event)
                else:
                    history._replay(event)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise HistoryInvalid(f"line {number}: {type(error).__name__}: {error}") from error
        return history

    def _replay(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "complete":
            self.complete(event["op"], _outcome(event), event["at"])
            return
        if event["event"] != "invoke":
            raise HistoryInvalid(f"an event is invoke or complete, not {event['event']!r}")
        call = _made(_CALLS, event["call"])
        operation = self.invoke(
            event["process"], call, event["at"], session=event["session"], request=event.get("request")
        )
        if operation != event["op"]:
            raise HistoryInvalid(f"operation {event['op']} stands where {operation} was expected")

    @classmethod
    def merged(cls, histories: Sequence[History]) -> History:
        """One history of several that were recorded on one clock. Numbers are given anew."""
        events = []
        for which, history in enumerate(histories):
            for operation in history:
                # The second number puts invocations before completions of the same time.
                events.append((operation.invoked_at, 0, which, operation.invoked, operation))
                if operation.completed is not None and operation.completed_at is not None:
                    events.append((operation.completed_at, 1, which, operation.completed, operation))
        merged = cls()
        numbers: dict[tuple[int, int], int] = {}
        for at, kind, which, _, operation in sorted(events, key=lambda event: event[:4]):
            name = which, operation.id
            if kind == 0:
                numbers[name] = merged.invoke(
                    operation.process,
                    operation.call,
                    at,
                    session=operation.session,
                    request=operation.request,
                )
            elif operation.outcome is not None:
                merged.complete(numbers[name], operation.outcome, at)
        return merged


def _check_call(call: Call) -> None:
    if type(call) not in RESULTS:
        raise HistoryInvalid(f"a call is one of {', '.join(_CALLS)}, not {type(call).__name__}")
    if isinstance(call, Get) and call.consistency not in _CONSISTENCIES:
        raise HistoryInvalid(
            f"consistency is one of {', '.join(_CONSISTENCIES)}, not {call.consistency!r:.40}"
        )
    _check_value(getattr(call, "value", None))


def _check_value(value: Any) -> None:
    try:
        canonical(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise HistoryInvalid(f"a value is plain, which {value!r:.60} is not: {error}") from error


# -- the form as JSON -----------------------------------------------------------------------------------


def _header() -> str:
    return _line({"format": FORMAT, "version": VERSION})


def _check_header(header: Mapping[str, Any]) -> None:
    found = header["format"], header["version"]
    if found != (FORMAT, VERSION):
        raise HistoryInvalid(f"this reads {FORMAT} version {VERSION}, not {found[0]!r:.40} {found[1]!r:.40}")


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":"), allow_nan=False) + "\n"


def _invocation(operation: Operation) -> dict[str, Any]:
    event = {
        "event": "invoke",
        "op": operation.id,
        "at": operation.invoked_at,
        "process": operation.process,
        "session": operation.session,
        "call": _plain(operation.call),
    }
    return event if operation.request is None else event | {"request": operation.request}


def _completion(operation: Operation) -> dict[str, Any]:
    event = {"event": "complete", "op": operation.id, "at": operation.completed_at}
    match operation.outcome:
        case Ok(result):
            return event | {"outcome": "ok", "result": _plain(result)}
        case Failed(reason):
            return event | {"outcome": "failed", "reason": reason}
        case Unknown(reason):
            return event | {"outcome": "unknown", "reason": reason}
    raise HistoryInvalid(f"operation {operation.id} was completed without an outcome")


def _outcome(event: Mapping[str, Any]) -> Outcome:
    kind = event["outcome"]
    if kind not in _OUTCOMES:
        raise HistoryInvalid(f"an outcome is one of {', '.join(sorted(_OUTCOMES))}, not {kind!r:.40}")
    if kind == "ok":
        return Ok(_made(_RESULTS, event["result"]))
    return Failed(event["reason"]) if kind == "failed" else Unknown(event["reason"])


def _plain(thing: Call | Result) -> dict[str, Any]:
    return {"kind": type(thing).__name__} | {name: _tagged(value) for name, value in asdict(thing).items()}


def _made(kinds: Mapping[str, type], plain: Mapping[str, Any]) -> Any:
    kind = kinds.get(plain["kind"])
    if kind is None:
        raise HistoryInvalid(f"a kind is one of {', '.join(kinds)}, not {plain['kind']!r:.40}")
    values = {name: _untagged(value) for name, value in plain.items() if name != "kind"}
    unknown = values.keys() - {field.name for field in fields(kind)}
    if unknown:
        raise HistoryInvalid(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    if kind is Send and values.get("to") is not None:
        values["to"] = tuple(values["to"])
    return kind(**values)


def _tagged(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return {_TAG + "bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {_TAG + "float": repr(value)}
    if isinstance(value, list | tuple):
        return [_tagged(item) for item in value]
    if isinstance(value, dict):
        plain = {key: _tagged(item) for key, item in value.items()}
        return {_TAG + "map": plain} if any(key.startswith(_TAG) for key in value) else plain
    return value


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (tag, content), *_ = value.items()
        if tag == _TAG + "bytes":
            return base64.b64decode(content)
        if tag == _TAG + "float":
            return float(content)
        if tag == _TAG + "map":
            return {key: _untagged(item) for key, item in content.items()}
    return {key: _untagged(item) for key, item in value.items()}
