"""Files that declare something: rules as text, everything else as JSON or YAML."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mcp.errors import ConfigInvalid, DependencyMissing, InvalidArgument, ModelNotFound, TooLarge
from mcp.plain import near, shown
from mcp.wire.json_codec import plain_json

DOCUMENT_CHARS_MAX: Final = 4 << 20
"""The longest file that is read."""
DOCUMENTS_MAX: Final = 64
"""The most documents in one file of YAML."""

_RULE: Final = "when "
_BRACKETS: Final = ("{", "[")


def read_text(where: str, chars_max: int = DOCUMENT_CHARS_MAX, advice: str = "") -> str:
    """Return what a file has, or with ``-`` standard input.

    Raises :class:`~mcp.errors.InvalidArgument`, with ``advice`` where it is too long.
    """
    try:
        if where == "-":
            text = sys.stdin.read(chars_max + 1)
        else:
            with Path(where).open(encoding="utf-8") as file:
                text = file.read(chars_max + 1)
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{where} is not text in UTF-8") from error
    if len(text) > chars_max:
        raise InvalidArgument(f"{where} is longer than {chars_max} characters{advice}")
    return text.removeprefix("\ufeff")  # some editors begin every file with this mark


def is_rules(text: str) -> bool:
    """Say whether a file has rules, maybe with mistakes: a line begins with ``when``, or nearly so.

    No document is like that: its lines begin with a field's name and a colon, or with a bracket.
    """
    lines = [line for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    if not lines or text.lstrip()[:1] in _BRACKETS:
        return False
    if any(line.startswith(_RULE) for line in lines) or lines[0].lstrip().startswith(_RULE):
        return True
    first, *others = lines[0].split()
    # Of a rule whose first word is misspelt the reader of rules says more than one of YAML.
    return first.isalpha() and ("use" in others or near(first, [_RULE.strip()]) is not None)


def documents(text: str, where: str) -> list[Any]:
    """Return the values in a file of JSON (one) or YAML (one or more, without empty ones).

    Raises :class:`~mcp.errors.InvalidArgument` for what is neither, and
    :class:`~mcp.errors.DependencyMissing` for YAML without the package that reads it.
    """
    try:
        return [plain_json(text)]
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] in _BRACKETS:
            raise InvalidArgument(f"{where} is no JSON: {error}") from None
    yaml = _yaml(where)
    found: list[Any] = []
    try:
        for document in yaml.safe_load_all(text):
            if len(found) >= DOCUMENTS_MAX:
                raise InvalidArgument(f"{where} has more than {DOCUMENTS_MAX} documents; give them in parts")
            if document is not None:
                found.append(document)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{where}: {_wrong_in_yaml(error)}") from None
    if not found:
        raise InvalidArgument(
            f"{where} says nothing; give a document, or rules, one a line: when ... use ..."
        )
    return found


def _wrong_in_yaml(error: Exception) -> str:
    """Return what is wrong with a text that is no YAML, with the line, where the parser names one."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return f"it is no YAML: {' '.join(str(error).split())[:200]}"
    return f"line {mark.line + 1}, column {mark.column + 1}: it is no YAML: {problem:.200}"


@contextmanager
def named(where: str) -> Iterator[None]:
    """Put the file's name before what is wrong with what it declares, whether this end or a node finds it."""
    try:
        yield
    except (InvalidArgument, ConfigInvalid, TooLarge, ModelNotFound) as error:
        raise type(error)(f"{where}: {error.message}", details=error.details) from None


def mapping(document: object, where: str) -> dict[str, Any]:
    """Return a document that is a map. Raises :class:`~mcp.errors.InvalidArgument`."""
    if not isinstance(document, dict) or not all(isinstance(name, str) for name in document):
        raise InvalidArgument(f"{where}: a map is expected, not {shown(document)}")
    return document


def _yaml(where: str) -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError as error:
        raise DependencyMissing(
            f"{where} is no JSON, and for YAML the package PyYAML is needed, which is not installed:"
            " pip install 'message-coordination-protocol[yaml]'"
        ) from error
