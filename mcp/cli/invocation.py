"""What holds for one run of the command line, whichever command it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Invocation:
    """Set while the options are parsed, read when the command has failed."""

    traceback: bool = False
