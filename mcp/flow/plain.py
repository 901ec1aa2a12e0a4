"""Configurations from plain maps and back: what is not known is refused by name, with what there is.

A configuration is a frozen dataclass whose fields are numbers, texts, booleans, choices (``Literal``), other
such dataclasses, tuples and maps of these, or one of these or nothing. That is all that is read, and all that
the replicated state and a file have to carry.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mcp.errors import ConfigInvalid
from mcp.plain import is_number, is_whole, meant, shown

ENTRIES_MAX: Final = 4096
"""Entries of one list or map of a configuration."""
TEXT_LETTERS_MAX: Final = 65_536
"""The longest text in a configuration."""
NUMBER_MAX: Final = 1 << 53
"""The largest number, which every codec carries unchanged."""

T = TypeVar("T")


def record(kind: type[T], plain: object, where: str) -> T:
    """The dataclass ``kind`` from a map; ``where`` is its path, as who wrote it knows it: empty at the top.

    Raises :class:`~mcp.errors.ConfigInvalid` for a field that is unknown, missing or of another type, and
    for values that the dataclass itself refuses.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(plain, Mapping):
        said = f"{where} is a map" if where else "a map is expected,"
        raise ConfigInvalid(f"{said} with fields of {', '.join(known)}, not {shown(plain)}")
    unknown = sorted(
        name[:80] if isinstance(name, str) else shown(name) for name in plain if name not in known
    )
    if unknown:
        told = f"{_path(where, unknown[0])}: unknown field{meant(unknown[0], known)}"
        raise ConfigInvalid(f"{told}; there are: {', '.join(known)}")
    missing = [
        name
        for name, field in known.items()
        if name not in plain and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise ConfigInvalid(f"{where or 'the configuration'} lacks {', '.join(missing)}")
    hints = get_type_hints(kind)
    values = {name: _value(hints[name], value, _path(where, name)) for name, value in plain.items()}
    try:
        return kind(**values)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{where}: {error.message}" if where else error.message) from None


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _value(hint: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _value(hint, value, where)
    if origin is Literal:
        if value not in arguments:
            told = meant(value, arguments) if isinstance(value, str) else ""
            raise ConfigInvalid(f"{where} is one of {', '.join(arguments)}, not {shown(value)}{told}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) > ENTRIES_MAX:
            raise ConfigInvalid(f"{where} is a list of at most {ENTRIES_MAX} entries, not {shown(value)}")
        return tuple(_value(arguments[0], item, f"{where}[{place}]") for place, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _map(arguments[1], value, where)
    if is_dataclass(hint):
        return record(hint, value, where)  # type: ignore[arg-type]
    return _SCALARS[hint](value, where)


def _map(hint: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or len(value) > ENTRIES_MAX:
        raise ConfigInvalid(f"{where} is a map of at most {ENTRIES_MAX} entries, not {shown(value)}")
    return {
        _text(name, f"a name in {where}"): _value(hint, item, f"{where}.{name:.80}")
        for name, item in value.items()
    }


def _text(value: object, where: str) -> str:
    if isinstance(value, str) and len(value) > TEXT_LETTERS_MAX:
        raise ConfigInvalid(
            f"{where} has {len(value)} letters, over the limit of {TEXT_LETTERS_MAX}: shorten it"
        )
    if isinstance(value, Mapping | list):
        raise ConfigInvalid(
            f'{where} is a text, not {shown(value)}; write it in quotes, and those within as \\"'
        )
    if not isinstance(value, str) or not 1 <= len(value) <= TEXT_LETTERS_MAX:
        raise ConfigInvalid(f"{where} is a text of 1 to {TEXT_LETTERS_MAX} letters, not {shown(value)}")
    return value


def _truth(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigInvalid(f"{where} is true or false, not {shown(value)}")
    return value


def _whole(value: object, where: str) -> int:
    if not is_whole(value, -NUMBER_MAX, NUMBER_MAX):
        raise ConfigInvalid(f"{where} is a whole number, not {shown(value)}")
    return value


def _number(value: object, where: str) -> float:
    if not is_number(value, -NUMBER_MAX, NUMBER_MAX):
        raise ConfigInvalid(f"{where} is a number, not {shown(value)}")
    return float(value)


_SCALARS: Final[dict[type, Callable[[object, str], Any]]] = {
    str: _text,
    bool: _truth,
    int: _whole,
    float: _number,
}


def plain(value: Any) -> Any:
    """The plain maps and lists from which :func:`record` makes ``value`` again."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(value[name]) for name in sorted(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value
