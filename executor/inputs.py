"""Checking what a caller wants to feed a model against what the model declares.

onnxruntime itself is not strict: it reads foreign byte order as if it were native, turns ``None`` and
numbers into strings, and reads past the end of fixed-width byte strings. Nothing that is not
exactly what the model declares gets through here, and nothing is cast.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from executor.errors import InputInvalid
from executor.inspection import (
    NUMPY_TYPES,
    Shape,
    TensorInfo,
    dtype_of_array,
    format_shape,
)

Array = np.ndarray[Any, Any]

PROBLEMS_SHOWN_MAX = 8
NAME_SHOWN_CHARS_MAX = 64


class InputCheck:
    """One model's declared inputs, compiled for checking."""

    def __init__(self, model: str, inputs: Sequence[TensorInfo]) -> None:
        self._model = model
        self._inputs = {info.name: info for info in inputs}
        self._compiled = [
            (
                info.name,
                NUMPY_TYPES[info.dtype],
                -1 if info.shape is None else len(info.shape),
                tuple((axis, size) for axis, size in enumerate(info.shape or ()) if isinstance(size, int)),
            )
            for info in inputs
        ]
        self._text = tuple(info.name for info in inputs if info.dtype == "BYTES")

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Raise :class:`InputInvalid`, showing expected and got for each input, unless all fit.

        Names, types, number of dimensions and fixed sizes are checked; a size of 0 is fine where
        the model does not fix another. Not checked: what only the run can tell (whether dynamic sizes
        suit each other), and each string, which :meth:`feed` does.
        """
        if not (len(inputs) == len(self._compiled) and self._fits(inputs)):
            problems = list(self._problems(inputs))
            if problems:
                self._refuse(problems)

    def feed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What onnxruntime can read of checked inputs: contiguous, aligned, strings only.

        Arrays that are so already, read-only ones too, are passed on without a copy.
        """
        feed: dict[str, Array] = {}
        for name in self._inputs:
            array = inputs[name]
            flags = array.flags
            feed[name] = array if flags.c_contiguous and flags.aligned else np.array(array, order="C")
        self.check_text(feed)
        return feed

    def check_text(self, inputs: Mapping[str, Array]) -> None:
        """Raise :class:`InputInvalid` unless every element of every text is a string that can be written."""
        for name in self._text:
            foreign = set(map(type, inputs[name].flat)) - {str, np.str_}
            if foreign:
                got = ", ".join(sorted(kind.__name__ for kind in foreign))
                self._refuse([f"{_show(name)}: expected only str elements, got also {got}"])

    def _fits(self, inputs: Mapping[str, Array]) -> bool:
        for name, dtype, rank, fixed in self._compiled:
            array = inputs.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype:
                return False
            shape = array.shape
            if rank != len(shape) and rank >= 0:
                return False
            for axis, size in fixed:
                if shape[axis] != size:
                    return False
        return True

    def _problems(self, inputs: Mapping[str, Array]) -> Iterator[str]:
        unexpected = [name for name in inputs if name not in self._inputs]
        for name, info in self._inputs.items():
            if name in inputs:
                problem = _misfit(info, inputs[name])
                if problem:
                    yield f"{_show(name)}: {problem}"
            else:
                yield f"{_show(name)}: expected {_declared(info)}, got nothing"
        for name in unexpected:
            yield f"{_show(name)}: not an input of this model{nearest(name, self._inputs)}"

    def _refuse(self, problems: list[str]) -> None:
        shown = problems[:PROBLEMS_SHOWN_MAX]
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        raise InputInvalid(
            f"the inputs do not fit model {_show(self._model)}: {'; '.join(shown)}. "
            "Nothing is cast: send exactly the declared types and shapes."
        )


def _misfit(info: TensorInfo, array: object) -> str | None:
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        return f"expected {_declared(info)} as a numpy.ndarray, got {type(array).__name__}"
    dtype = dtype_of_array(array)
    if dtype != info.dtype or not _shape_fits(info.shape, array.shape):
        got = dtype or f"numpy type {array.dtype.str!r}"
        return f"expected {_declared(info)}, got {got} {format_shape(array.shape)}"
    return None


def _shape_fits(declared: Shape, shape: tuple[int, ...]) -> bool:
    if declared is None:
        return True
    return len(declared) == len(shape) and all(
        not isinstance(want, int) or want == size for want, size in zip(declared, shape, strict=True)
    )


def _declared(info: TensorInfo) -> str:
    return f"{info.dtype} {format_shape(info.shape)}"


def _show(name: object) -> str:
    text = repr(name)
    return text if len(text) <= NAME_SHOWN_CHARS_MAX else text[: NAME_SHOWN_CHARS_MAX - 3] + "..."


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint at the known name that is closest to ``name``, or which ones there are."""
    folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(str(name)[:NAME_SHOWN_CHARS_MAX].casefold(), folded, n=1)
    if close:
        return f", did you mean {_show(folded[close[0]])}?"
    shown = [_show(each) for each in folded.values()][:PROBLEMS_SHOWN_MAX]
    return f" (it has {', '.join(shown) or 'none'})"


def select_outputs(model: str, wanted: Sequence[str] | None, declared: tuple[str, ...]) -> tuple[str, ...]:
    """The outputs to compute: those wanted, each once; all if none are named.

    Raises :class:`InputInvalid` for a name that the model does not have.
    """
    if not wanted:
        return declared
    names = tuple(dict.fromkeys(wanted))
    for name in names:
        if name not in declared:
            raise InputInvalid(f"model {_show(model)} has no output {_show(name)}{nearest(name, declared)}")
    return names


def zeros(inputs: Sequence[TensorInfo], bytes_max: int) -> dict[str, Array] | None:
    """The smallest inputs that fit: zeros, empty strings, 1 for every dynamic size.

    ``None`` if a shape is not determinable or if they would take more than ``bytes_max``.
    """
    made: dict[str, Array] = {}
    for info in inputs:
        if info.shape is None:
            return None
        shape = tuple(size if isinstance(size, int) else 1 for size in info.shape)
        dtype = NUMPY_TYPES[info.dtype]
        bytes_max -= math.prod(shape) * dtype.itemsize
        if bytes_max < 0:
            return None
        made[info.name] = np.full(shape, "", object) if info.dtype == "BYTES" else np.zeros(shape, dtype)
    return made
