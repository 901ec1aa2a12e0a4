"""How results are printed: one JSON value for programs, or tables for people."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mcp.cli.invocation import Invocation
from mcp.errors import McpError


def console(*, stderr: bool = False) -> Console:
    """Return a console that colours only on a terminal and honours ``NO_COLOR``.

    Output that is not for a terminal is never wrapped, so that ``grep`` finds whole lines.
    """
    out = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not out.is_terminal:
        out.width = 400
    return out


def print_parts(*parts: RenderableType) -> None:
    """Print tables and texts on standard output, without the blanks that a table ends its lines with."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n")
        return
    with out.capture() as capture:
        out.print(*parts, sep="\n")
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def plain(value: Any) -> Any:
    """Return ``value`` as what JSON knows: dataclasses as objects, arrays as nested lists.

    A number that is not finite becomes ``null``, for JSON has none; bytes become hexadecimal digits.
    """
    if isinstance(value, McpError):
        return plain(value.to_wire())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return value


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON value on standard output: the command's whole answer, or with ``indent=None`` a line."""
    context = click.get_current_context(silent=True)
    invocation = context.find_object(Invocation) if context is not None else None
    if invocation is not None:
        invocation.answered = True
    written = functools.partial(json.dumps, plain(value), allow_nan=False, indent=indent, default=str)
    text = written(ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A name of a file or an argument that is no UTF-8: written as it is, it would be no JSON.
        text = written(ensure_ascii=True)
    click.echo(text)


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table in the house's look; a column whose name ends in ``#`` is a number's.

    What does not fit goes on in the next line: nothing is cut.
    """
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(
            column.removesuffix("#"),
            justify="right" if column.endswith("#") else "left",
            header_style="bold",
            overflow="fold",
        )
    return made


def narrower(
    columns: Sequence[str], rows: Sequence[Mapping[str, str | Text]], dispensable: Sequence[str]
) -> Iterator[Table]:
    """Give the table of ``rows`` with all columns, then with one less of the dispensable ones each time."""
    for count in range(len(dispensable) + 1):
        kept = [column for column in columns if column not in dispensable[:count]]
        made = table(*kept)
        for row in rows:
            made.add_row(*(row.get(column.removesuffix("#"), "") for column in kept))
        yield made


def fitting(tables: Iterable[Table], out: Console | None = None) -> Table:
    """Return the first of the tables that is not wider than the terminal; where none is, the last."""
    out = out or console()
    unbounded = out.options.update(max_width=10_000)
    made = Table()
    for made in tables:
        if out.measure(made, options=unbounded).maximum <= out.width:
            break
    return made


def duration(seconds: float) -> str:
    """Return a duration for reading: ``350 us``, ``1.2 ms``, ``3.4 s``, ``5 min``, ``2.0 h``."""
    for limit, factor, unit, digits in ((1e-3, 1e6, "us", 0), (1.0, 1e3, "ms", 1), (120.0, 1.0, "s", 1)):
        if seconds < limit:
            return f"{seconds * factor:.{digits}f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Return a number of bytes for reading, in powers of 1000: ``512 B``, ``193.0 kB``, ``1.2 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
