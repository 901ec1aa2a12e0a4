"""Which trace a request belongs to, by the header ``traceparent``. Pure.

Source: W3C Trace Context, section 3.2. Of a later version of the header the fields of this one are read.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final

TRACEPARENT: Final = "traceparent"
"""The header of HTTP and the key of gRPC's metadata."""

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_CHARS_MAX: Final = 512
_VERSION: Final = "00"
_FORBIDDEN: Final = "ff"
_NOT_SAMPLED: Final = "00"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A trace, and the part of it that a request is: hexadecimal digits, 32, 16 and 2."""

    trace_id: str
    span_id: str
    flags: str = _NOT_SAMPLED

    @property
    def traceparent(self) -> str:
        """As the header has it."""
        return f"{_VERSION}-{self.trace_id}-{self.span_id}-{self.flags}"


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
    return TraceContext(parent.trace_id, span_id, parent.flags)
