"""What holds for one run of the command line, whichever command it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Invocation:
    """Set while the options are parsed and the command runs, read when it has failed.

    ``answered``: a JSON value is on standard output already, so that a failure must not add another.
    """

    traceback: bool = False
    as_json: bool = False
    answered: bool = False
