"""The rows of a batch: whether inputs may be joined, joining them, and parting what came of it.

A model's inputs can be joined along their first axis if that is open on every input and output and the
inputs' names for it, where they have names, are one. What else a request's shapes are goes into its
*kind*: only requests of one kind run together. Parts of the outputs are views, never copies.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from executor.batching.options import Pad
from executor.inspection import TensorInfo

Array = np.ndarray[Any, Any]
Inputs = Mapping[str, Array]


class RowsChanged(Exception):
    """A run gave another number of rows than it got, so that nobody can tell whose they are."""


def obstacle(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str | None:
    """Why inputs of these shapes cannot be joined, for people; ``None`` if they can."""
    for what, tensors in (("input", inputs), ("output", outputs)):
        if not tensors:
            return f"it has no {what}"
        for info in tensors:
            if not info.shape:
                return f"the {what} {info.name!r:.80} has no first axis"
            if isinstance(info.shape[0], int):
                return f"the first axis of the {what} {info.name!r:.80} has the fixed size {info.shape[0]}"
    firsts = {info.shape[0] for info in inputs if info.shape}
    if len(firsts) > 1:
        return f"the first axes of its inputs differ: {', '.join(sorted(map(str, firsts)))}"
    return None


class Joint:
    """How requests for one model are joined and parted. ``pad``: see ``BatchOptions``.

    Raises ``ValueError`` for inputs to pad that the model has not, or that cannot be padded.
    """

    def __init__(
        self,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        pad: Sequence[tuple[str, Pad]] = (),
    ) -> None:
        self._open: dict[str, tuple[int, ...]] = {}
        known = {info.name: info for info in inputs}
        self._names = tuple(known)
        for name, _ in pad:
            if name not in known:
                raise ValueError(f"there is no input {name!r:.80} to pad; there are {', '.join(known)}")
            info = known[name]
            axes = tuple(
                axis for axis, size in enumerate(info.shape or ()) if axis and not isinstance(size, int)
            )
            if not axes or info.dtype == "BYTES":
                raise ValueError(f"the input {name!r:.80} has no open size after the first, or is text")
            self._open[name] = axes
        self._pad = dict(pad)
        self._cuts = _cuts(self._open, known, outputs)

    def kind(self, inputs: Inputs, outputs: tuple[str, ...]) -> tuple[int, Hashable] | None:
        """A request's rows, and what it must have in common with others; ``None``: it has to run alone.

        Open sizes that are padded count by their power of two, so that little is filled up.
        """
        rows = -1
        shapes: list[Hashable] = [outputs]
        for name in self._names:
            shape = inputs[name].shape
            if rows != shape[0]:
                if rows >= 0:
                    return None
                rows = shape[0]
            axes = self._open.get(name)
            shapes.append(shape[1:] if axes is None else _rounded(shape, axes))
        return (rows, tuple(shapes)) if rows > 0 else None

    def joined(self, requests: Sequence[Inputs]) -> dict[str, Array]:
        """The inputs of one run for all, in their order."""
        return {name: self._concatenated(name, [each[name] for each in requests]) for name in requests[0]}

    def parted(self, outputs: Mapping[str, Array], requests: Sequence[Inputs]) -> list[dict[str, Array]]:
        """Each request's outputs, as views. Raises :class:`RowsChanged`."""
        counts = [len(next(iter(each.values()))) for each in requests]
        total = sum(counts)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != total:
                raise RowsChanged(f"of {total} rows, output {name!r:.80} has the shape {array.shape}")
        parts, start = [], 0
        for count, inputs in zip(counts, requests, strict=True):
            stop = start + count
            part = {name: array[start:stop] for name, array in outputs.items()}
            parts.append(self._cut(part, inputs) if self._cuts else part)
            start = stop
        return parts

    def _concatenated(self, name: str, arrays: list[Array]) -> Array:
        axes = self._open.get(name)
        if axes is None or all(array.shape[1:] == arrays[0].shape[1:] for array in arrays):
            return np.concatenate(arrays)
        sizes = [max(array.shape[axis] for array in arrays) for axis in range(1, arrays[0].ndim)]
        whole = np.full((sum(map(len, arrays)), *sizes), self._pad[name], arrays[0].dtype)
        start = 0
        for array in arrays:
            stop = start + len(array)
            whole[(slice(start, stop), *(slice(size) for size in array.shape[1:]))] = array
            start = stop
        return whole

    def _cut(self, part: dict[str, Array], inputs: Inputs) -> dict[str, Array]:
        """Undo the padding: an output's open size with the name of a padded one is the request's own."""
        for output, axis, source, source_axis in self._cuts:
            if output in part:
                index = (*(slice(None),) * axis, slice(inputs[source].shape[source_axis]))
                part[output] = part[output][index]
        return part


def _rounded(shape: tuple[int, ...], padded: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size.bit_length() if axis in padded else size for axis, size in enumerate(shape) if axis)


def _cuts(
    padded: Mapping[str, tuple[int, ...]], inputs: Mapping[str, TensorInfo], outputs: Sequence[TensorInfo]
) -> list[tuple[str, int, str, int]]:
    """``(output, axis, input, axis)`` for each output's axis that has the name of a padded input's."""
    sources: dict[str, tuple[str, int]] = {}
    for name, axes in padded.items():
        shape = inputs[name].shape or ()
        for axis in axes:
            symbol = shape[axis]
            if isinstance(symbol, str):
                sources.setdefault(symbol, (name, axis))
    return [
        (info.name, axis, *sources[symbol])
        for info in outputs
        for axis, symbol in enumerate(info.shape or ())
        if axis and isinstance(symbol, str) and symbol in sources
    ]
