"""What a command line gives a model: files of arrays, JSON, text, or a whole request as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mcp.cli.documents import named, read_text
from mcp.clock import SystemClock, new_id
from mcp.errors import InvalidArgument
from mcp.wire.json_codec import JSON_BYTES_MAX, message_from_json
from mcp.wire.messages import Message
from mcp.wire.tensors import BYTES_DTYPE, DTYPES, unpack_inline

Array = NDArray[Any]

NAMED_DTYPES: Final = {**DTYPES, BYTES_DTYPE: np.dtype(object)}

_ROWS: Final = re.compile(r"(?P<only>[0-9]{1,15})|(?P<start>[0-9]{0,15}):(?P<stop>[0-9]{0,15})")
REASON_CHARS_MAX: Final = 120
"""How much of NumPy's own words a message carries: they may repeat the whole input."""

INPUT_FORMS: Final = "NAME=@FILE.npy, NAME=@FILE.npz:ARRAY, NAME=JSON or NAME:DTYPE=JSON"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of which model. ``inputs`` are arrays by name, or a text.

    ``untyped`` are the inputs that came as bare numbers, whose element type nobody named.
    """

    model: str
    inputs: dict[str, Array] | str
    timeout_s: float | None = None
    untyped: frozenset[str] = frozenset()
    session: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Sources:
    """The input options of a command, as they were given."""

    pairs: Sequence[str] = ()
    npz: Path | None = None
    json_file: str | None = None
    text: str | None = None
    request: str | None = None
    rows: str | None = None


def request_from(model: str | None, sources: Sources) -> Request:
    """Read the inputs from wherever the options point.

    Raises :class:`~mcp.errors.InvalidArgument` when they point nowhere, at several places, or at what
    cannot be read.
    """
    _check_one(sources)
    if sources.request is not None:
        return _from_request_file(model, sources)
    if model is None:
        raise InvalidArgument(
            "no model is named: give its name, an alias, or a --request file that names one"
        )
    if sources.text is not None:
        return Request(model, sources.text)
    arrays: dict[str, Array] = {}
    untyped: set[str] = set()
    if sources.npz is not None:
        arrays |= _npz_arrays(sources.npz)
    if sources.json_file is not None:
        _add_described(_json_object(sources.json_file), arrays, untyped)
    for pair in sources.pairs:
        _add_pair(pair, arrays, untyped)
    if not arrays:
        raise InvalidArgument(
            f"no input is given: use --input ({INPUT_FORMS}), --npz, --json-input, --text or --request"
        )
    return Request(model, _cut(arrays, sources.rows), untyped=frozenset(untyped))


def _check_one(sources: Sources) -> None:
    given = {
        "--input": sources.pairs,
        "--npz": sources.npz,
        "--json-input": sources.json_file,
        "--text": sources.text is not None,
        "--request": sources.request,
    }
    named = [option for option, value in given.items() if value]
    if len(named) > 1:
        raise InvalidArgument(
            f"{' and '.join(named)} each give all inputs: use one of them, leave out the rest"
        )
    if sources.rows is not None and sources.text is not None:
        raise InvalidArgument("a text has no rows: leave out --rows")


def typed(request: Request, declared: Mapping[str, str]) -> Request:
    """Give bare numbers the element types that the model declares, by input name.

    Where it declares none, or one that would change a value, numbers with a point become FP32 and whole
    ones INT64; the model then says what it expected.
    """
    if isinstance(request.inputs, str):
        return request
    arrays = dict(request.inputs)
    for name in request.untyped & arrays.keys():
        arrays[name] = _fitted(arrays[name], declared.get(name))
    return replace(request, inputs=arrays, untyped=frozenset())


def _fitted(array: Array, dtype: str | None) -> Array:
    wanted = DTYPES.get(dtype or "")
    if wanted is not None and array.dtype.kind in "iuf":
        with np.errstate(over="ignore", invalid="ignore"):
            fitted = array.astype(wanted)
        # A point that is cut off or a number that wraps is a mistake; a rounded fraction is not.
        if wanted.kind == "f" or np.array_equal(fitted, array):
            return fitted
    return array.astype(np.float32) if array.dtype == np.float64 else array


def array_from_json(name: str, value: Any, dtype: str | None = None) -> Array:
    """Return nested lists as an array, of the named type or of the one that holds the numbers exactly.

    Raises :class:`~mcp.errors.InvalidArgument` for ragged lists, mixed types and unknown types.
    """
    if dtype is not None and (not isinstance(dtype, str) or dtype not in NAMED_DTYPES):
        raise InvalidArgument(
            f"input {name!r}: {dtype!r} is no type; one of {', '.join(NAMED_DTYPES)} is expected"
        )
    try:
        array: Array = np.array(value) if dtype is None else np.array(value, dtype=NAMED_DTYPES[dtype])
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidArgument(
            f"input {name!r} is no array of {dtype or 'numbers or texts'}: {str(error)[:REASON_CHARS_MAX]}; "
            "lists of one level must have equal lengths and one kind of value"
        ) from error
    if array.dtype.kind == "U":
        return array.astype(object)
    if dtype is None and array.dtype.kind in "OSV":
        raise InvalidArgument(
            f"input {name!r} mixes kinds of values; numbers, texts or booleans are expected"
        )
    return array


def _add_pair(text: str, arrays: dict[str, Array], untyped: set[str]) -> None:
    name, separator, value = text.partition("=")
    name, _, dtype = name.partition(":")
    if not separator or not name:
        raise InvalidArgument(f"--input {text!r} is not one of {INPUT_FORMS}")
    if name in arrays:
        raise InvalidArgument(f"--input {name} is given twice; each input has one value")
    if value.startswith("@"):
        array = _array_file(value[1:])
        arrays[name] = array_from_json(name, array, dtype) if dtype else array
        return
    arrays[name] = array_from_json(name, _parsed(value, f"--input {name}"), dtype or None)
    if not dtype:
        untyped.add(name)


def _array_file(where: str) -> Array:
    path, separator, member = where.rpartition(":")
    if separator and path.endswith(".npz"):
        arrays = _npz_arrays(Path(path))
        if member not in arrays:
            raise InvalidArgument(f"{path} has no array {member!r}; it has {', '.join(arrays) or 'none'}")
        return arrays[member]
    array = _load(Path(where))
    if isinstance(array, dict):
        raise InvalidArgument(f"{where} holds several arrays; name one: {where}:{next(iter(array), 'ARRAY')}")
    return array


def _npz_arrays(path: Path) -> dict[str, Array]:
    arrays = _load(path)
    if not isinstance(arrays, dict):
        raise InvalidArgument(f"{path} holds one array without a name; use --input NAME=@{path}")
    return arrays


def _load(path: Path) -> Array | dict[str, Array]:
    try:
        # Never unpickled: an array of Python objects is refused, whoever made the file.
        found = np.load(path, allow_pickle=False)
        return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except (ValueError, EOFError, BadZipFile) as error:
        # NumPy's own message would advise to unpickle.
        hint = "a model is deployed: mcpctl deploy" if path.suffix == ".onnx" else "numpy.save makes one"
        raise InvalidArgument(f"{path} is no .npy or .npz file of plain arrays ({hint})") from error
    except MemoryError as error:
        raise InvalidArgument(f"{path} has, or says it has, arrays larger than the memory here") from error


def _json_object(where: str) -> Mapping[str, Any]:
    value = _parsed(_text(where), where)
    if not isinstance(value, dict) or not value:
        raise InvalidArgument(f'{where}: an object of inputs is expected, such as {{"image": [[0.5, 1.0]]}}')
    return value


def _add_described(described: Mapping[str, Any], arrays: dict[str, Array], untyped: set[str]) -> None:
    """Add inputs in JSON: bare lists, or objects with ``data`` and possibly ``datatype`` and ``shape``."""
    for name, item in described.items():
        if not isinstance(item, Mapping):
            arrays[name] = array_from_json(name, item)
            untyped.add(name)
            continue
        arrays[name] = _described_array(name, item)
        if "dtype" not in item and "datatype" not in item:
            untyped.add(name)


def _described_array(name: str, item: Mapping[str, Any]) -> Array:
    if "data" not in item:
        raise InvalidArgument(f'input {name!r} has no "data"')
    if isinstance(item["data"], bytes):
        return unpack_inline({"dtype": item.get("datatype"), **item, "name": name}, text=True)
    array = array_from_json(name, item["data"], item.get("dtype", item.get("datatype")))
    shape = item.get("shape")
    if shape is None:
        return array
    try:
        return array.reshape(shape)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"input {name!r}: {array.size} values do not fill the shape {shape}") from error


def request_message(where: str) -> Message:
    """Read an INFER_REQUEST from a file of JSON. Raises :class:`~mcp.errors.InvalidArgument`."""
    text = _text(where)
    with named(where):
        message = message_from_json(text, new_id=new_id(SystemClock()))
    if message.type != "INFER_REQUEST":
        raise InvalidArgument(f"{where} is a {message.type!r}; an INFER_REQUEST is expected")
    return message


def _from_request_file(model: str | None, sources: Sources) -> Request:
    payload = request_message(str(sources.request)).payload
    hint = model or payload.get("model_hint")
    if not isinstance(hint, str) or not hint:
        raise InvalidArgument(f'{sources.request} names no model: its payload lacks "model_hint"')
    timeout_ms = payload.get("timeout_ms")
    if timeout_ms is not None and (not isinstance(timeout_ms, int | float) or timeout_ms <= 0):
        raise InvalidArgument(
            f'{sources.request}: "timeout_ms" is {timeout_ms!r}; a number above 0 is expected'
        )
    timeout_s = timeout_ms / 1000 if timeout_ms else None
    if isinstance(payload.get("data_chunk"), str):
        if sources.rows is not None:
            raise InvalidArgument("a text has no rows: leave out --rows")
        return Request(hint, str(payload["data_chunk"]), timeout_s, **_routed_by(payload, sources))
    arrays, untyped = described_inputs(payload, str(sources.request))
    routed_by = _routed_by(payload, sources)
    return Request(hint, _cut(arrays, sources.rows), timeout_s, untyped, **routed_by)


def _routed_by(payload: Mapping[str, Any], sources: Sources) -> dict[str, Any]:
    """What routes, rules and queues look at, beside the inputs."""
    session, headers = payload.get("session"), payload.get("headers") or {}
    priority = payload.get("priority", 0)
    if not (session is None or isinstance(session, str)) or not isinstance(headers, Mapping):
        raise InvalidArgument(f'{sources.request}: "session" is a text, and "headers" an object of texts')
    if type(priority) is not int:
        raise InvalidArgument(f'{sources.request}: "priority" is an integer, the larger the more urgent')
    return {"session": session, "headers": headers, "priority": priority}


def header_of(text: str) -> tuple[str, str]:
    """Read ``NAME=VALUE``. Raises :class:`~mcp.errors.InvalidArgument`."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InvalidArgument(f"--header takes NAME=VALUE, not {text!r:.80}")
    return name, value


def described_inputs(payload: Mapping[str, Any], where: str) -> tuple[dict[str, Array], frozenset[str]]:
    """Return the arrays that a request in JSON lists, and the names of those without an element type.

    Raises :class:`~mcp.errors.InvalidArgument`; ``where`` names the request in it.
    """
    arrays: dict[str, Array] = {}
    untyped: set[str] = set()
    _add_described(_listed_inputs(payload, where), arrays, untyped)
    return arrays, frozenset(untyped)


def _listed_inputs(payload: Mapping[str, Any], where: str) -> dict[str, Any]:
    listed = payload.get("inputs")
    if not isinstance(listed, list) or not all(
        isinstance(item, Mapping) and "name" in item for item in listed
    ):
        raise InvalidArgument(
            f'{where} has neither "data_chunk" (a text) nor "inputs" (a list of objects with a name)'
        )
    return {str(item["name"]): item for item in listed}


def _cut(arrays: dict[str, Array], rows: str | None) -> dict[str, Array]:
    if rows is None:
        return arrays
    found = _ROWS.fullmatch(rows)
    if found is None:
        raise InvalidArgument(
            f"--rows {rows!r} is no range; START:STOP or one number is expected, counted from 0"
        )
    first = int(found["only"] or found["start"] or 0)
    last = first + 1 if found["only"] else int(found["stop"]) if found["stop"] else None
    return {name: _rows(name, array, first, last) for name, array in arrays.items()}


def _rows(name: str, array: Array, first: int, last: int | None) -> Array:
    """Rows ``first`` up to, not including, ``last``; all of them must be there."""
    count = len(array) if array.ndim else 0
    stop = count if last is None else last
    if not first < stop <= count:
        there = f"it has rows 0 to {count - 1}" if count else "it has no rows"
        raise InvalidArgument(
            f"--rows asks for row {first} up to, not including, {stop} of input {name}, and {there}"
        )
    return array[first:stop]


def _text(where: str) -> str:
    advice = ", which is the most in JSON; use --npz or --input NAME=@FILE.npy"
    return read_text(where, JSON_BYTES_MAX, advice)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{where} is not JSON: {error}") from error
