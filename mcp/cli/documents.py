"""Files that declare something: rules as text, everything else as JSON or YAML."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

from mcp.errors import DependencyMissing, InvalidArgument
from mcp.plain import shown
from mcp.wire.json_codec import plain_json

DOCUMENT_CHARS_MAX: Final = 4 << 20
"""The longest file that is read."""
DOCUMENTS_MAX: Final = 64
"""The most documents in one file of YAML."""

_RULE: Final = "when "


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
    return text


def is_rules(text: str) -> bool:
    """Say whether a file has rules: its first line that says anything begins with ``when``."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and line[0] != "#"), "").startswith(_RULE)


def documents(text: str, where: str) -> list[Any]:
    """Return the values in a file of JSON (one) or YAML (one or more, without empty ones).

    Raises :class:`~mcp.errors.InvalidArgument` for what is neither, and
    :class:`~mcp.errors.DependencyMissing` for YAML without the package that reads it.
    """
    try:
        return [plain_json(text)]
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] in ("{", "["):
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
        raise InvalidArgument(f"{where} is no YAML: {' '.join(str(error).split())[:200]}") from None
    if not found:
        raise InvalidArgument(
            f"{where} says nothing; give a document, or rules, one a line: when ... use ..."
        )
    return found


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
