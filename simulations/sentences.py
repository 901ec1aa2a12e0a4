"""Sentences on a terminal: broken between words, and nowhere else."""

from __future__ import annotations

import re
import textwrap

from mcp.cli.output import console

_AFTER_A_NUMBER = re.compile(r"(?<=\d) (?=\S)")
_TOGETHER = "\N{NO-BREAK SPACE}"


def broken(sentence: str, width: int) -> str:
    """Lines of at most ``width``, where words allow it; a number stays with its unit, or what it counts."""
    kept = _AFTER_A_NUMBER.sub(_TOGETHER, sentence)
    lines = textwrap.wrap(kept, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(_TOGETHER, " ")


def shown(sentence: str) -> str:
    """A sentence for standard output: as wide as the terminal, and elsewhere in one line, for ``grep``."""
    out = console()
    return broken(sentence, out.width) if out.is_terminal else sentence
