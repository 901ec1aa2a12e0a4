"""Which trace a request belongs to, by the headers ``traceparent`` and ``tracestate``. Pure.

What others say of a trace (``tracestate``) is handed on as it came, or not at all where it is malformed or
larger than everybody has to take.

Source: W3C Trace Context, sections 3.2 and 3.3. Of a later version of the first header the fields of this one
are read.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

TRACEPARENT: Final = "traceparent"
"""The header of HTTP and the key of gRPC's metadata."""
TRACESTATE: Final = "tracestate"
"""Its companion."""
STATE_CHARS_MAX: Final = 512
_KEY: Final = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_VALUE: Final = r"[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_MEMBER: Final = re.compile(rf"({_KEY})={_VALUE}", re.ASCII)
STATE_MEMBERS_MAX: Final = 32

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_CHARS_MAX: Final = 512
_VERSION: Final = "00"
_FORBIDDEN: Final = "ff"
_NOT_SAMPLED: Final = "00"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A trace, and the part of it that a request is: hexadecimal digits, 32, 16 and 2.

    ``state`` is what others say of it, as its header has it.
    """

    trace_id: str
    span_id: str
    flags: str = _NOT_SAMPLED
    state: str = ""

    @property
    def traceparent(self) -> str:
        """As the header has it."""
        return f"{_VERSION}-{self.trace_id}-{self.span_id}-{self.flags}"

    @property
    def headers(self) -> dict[str, str]:
        """Both headers; the second only where there is anything in it."""
        state = {TRACESTATE: self.state} if self.state else {}
        return {TRACEPARENT: self.traceparent, **state}


def carrier(headers: Iterable[tuple[str, object]]) -> dict[str, str]:
    """Of headers, or of gRPC's metadata, those of a trace; one that is there several times is put together.

    A trace has one parent: two of them together are none that is valid.
    """
    found: dict[str, str] = {}
    for key, value in headers:
        name = key.lower()
        if name in (TRACEPARENT, TRACESTATE) and isinstance(value, str):
            found[name] = f"{found[name]},{value}" if name in found else value
    return found


def read_trace(parent: str | None, state: str | None) -> TraceContext | None:
    """What both headers say. Without a valid ``traceparent`` the other one means nothing."""
    found = read_traceparent(parent)
    return found if found is None or not state else replace(found, state=read_tracestate(state))


def read_tracestate(text: str) -> str:
    """The members of a ``tracestate``, without what is optional between them.

    "" for one that is malformed, that has two members of one key, or is over ``STATE_CHARS_MAX`` or
    ``STATE_MEMBERS_MAX``.
    """
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    if len(text) > STATE_CHARS_MAX or len(members) > STATE_MEMBERS_MAX:
        return ""
    read = [_MEMBER.fullmatch(member) for member in members]
    keys = {found.group(1) for found in read if found is not None}
    return ",".join(members) if len(keys) == len(members) else ""


def read_traceparent(text: str | None) -> TraceContext | None:
    """What the header says; ``None`` for none, and for one that is not valid, which counts as none."""
    found = None if text is None or len(text) > _CHARS_MAX else _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if (
        version == _FORBIDDEN
        or (version == _VERSION and rest)
        or not int(trace_id, 16)
        or not int(span_id, 16)
    ):
        return None
    return TraceContext(trace_id, span_id, flags)


def continued(parent: TraceContext | None, generator: random.Random) -> TraceContext:
    """A part of the parent's trace, or of a new one."""
    span_id = f"{generator.getrandbits(64) or 1:016x}"
    if parent is None:
        return TraceContext(f"{generator.getrandbits(128) or 1:032x}", span_id)
    return TraceContext(parent.trace_id, span_id, parent.flags, parent.state)
