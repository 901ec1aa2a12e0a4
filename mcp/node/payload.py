"""Reading a payload's fields: present and of the right type, or an error that names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.errors import InvalidArgument


def text(payload: Mapping[str, Any], field: str) -> str:
    """A string field."""
    value = payload.get(field)
    if not isinstance(value, str):
        raise _wrong(field, "a string", value)
    return value


def integer(payload: Mapping[str, Any], field: str) -> int:
    """An integer field, 0 or more."""
    value = payload.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _wrong(field, "an integer from 0 up", value)
    return value


def mapping(payload: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A map field; absent means empty."""
    value = payload.get(field, {})
    if not isinstance(value, dict):
        raise _wrong(field, "a map", value)
    return value


def names(payload: Mapping[str, Any], field: str) -> list[str] | None:
    """A list of strings; absent means ``None``."""
    value = payload.get(field)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _wrong(field, "a list of strings", value)
    return value


def _wrong(field: str, expected: str, value: object) -> InvalidArgument:
    return InvalidArgument(f"payload field {field!r} must be {expected}, got {value!r:.80}")
