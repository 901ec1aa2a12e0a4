"""Options that several commands have: read alike, and refused alike."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Final

import click

SECONDS_MAX: Final = 7 * 86_400.0
"""A week: whoever asks for more, by a slip or by ``inf``, would never see the end."""


class Seconds(click.ParamType[float]):
    """A length of time in seconds, from ``least`` to :data:`SECONDS_MAX`."""

    name = "seconds"

    def __init__(self, least: float) -> None:
        self._least = least

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """See :class:`click.ParamType`."""
        return "SECONDS"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See :class:`click.ParamType`."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        # Not a number compares as false with everything, so it is refused as well.
        if not self._least <= seconds <= SECONDS_MAX:
            self.fail(f"{value!r:.40} is not from {self._least:g} to {SECONDS_MAX:,.0f} seconds", param, ctx)
        return seconds


REPORT = click.option(
    "--report",
    "page_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a page of the run, a timeline with everything that it did to the clients, into this folder.",
)


def writable(option: str, folder: Path | None) -> None:
    """Make the folder that an option names, and see that it takes files: before a run, not after it.

    Raises :class:`click.BadParameter`.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = f"{folder}: nothing can be written there: {error.strerror or error}"
        raise click.BadParameter(why, param_hint=f"'{option}'") from None
