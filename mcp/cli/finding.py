"""What a check of ``mcpctl doctor`` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its verdict, what was found and, unless all is well, what to do about it."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""
