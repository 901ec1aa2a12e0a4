"""Whether a request's inputs are what a version takes: its declared inputs and its limits, compiled once.

Only what can be told without running is compared: names, types, ranks, fixed sizes, and how much it is.
Whether open sizes suit each other, also those that share a symbol, is the run's to say, as it is when a node
checks the real tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcp.cluster.router.features import Features, Tensor

TensorShape = tuple[int | str | None, ...] | None


class _Input:
    __slots__ = ("dtype", "fixed", "rank", "shape")

    def __init__(self, dtype: str, shape: TensorShape) -> None:
        self.dtype = dtype
        self.shape = shape
        self.rank = -1 if shape is None else len(shape)
        self.fixed = tuple(
            (axis, size) for axis, size in enumerate(shape or ()) if isinstance(size, int) and size >= 0
        )

    def fits(self, tensor: Tensor) -> bool:
        if tensor.dtype != self.dtype:
            return False
        shape = tensor.shape
        if shape is None:
            return all(size == 1 for _, size in self.fixed)
        if len(shape) != self.rank and self.rank >= 0:
            return False
        for axis, size in self.fixed:  # noqa: SIM110 (a generator costs three times as much)
            if shape[axis] != size:
                return False
        return True

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any rank"
        return f"{self.dtype}[{', '.join('?' if s in (None, -1) else str(s) for s in self.shape)}]"


class Acceptance:
    """What one version takes. ``inputs`` are ``(name, dtype, shape)``; with none, nothing is declared."""

    __slots__ = ("_batch_max", "_inputs", "_length_max", "_size_max")

    def __init__(
        self,
        inputs: Sequence[tuple[str, str, TensorShape]],
        *,
        length_max: int | None = None,
        batch_max: int | None = None,
        size_max: int | None = None,
    ) -> None:
        self._inputs = {name: _Input(dtype, shape) for name, dtype, shape in inputs}
        self._length_max = math.inf if length_max is None else length_max
        self._batch_max = math.inf if batch_max is None else batch_max
        self._size_max = math.inf if size_max is None else size_max

    def fits(self, features: Features) -> bool:
        """Say whether nothing that is known of the request speaks against it."""
        if (
            (features.length or 0) > self._length_max
            or (features.batch or 0) > self._batch_max
            or (features.size or 0) > self._size_max
        ):
            return False
        tensors, inputs = features.tensors, self._inputs
        if tensors is None or not inputs:
            return True
        count = len(tensors)
        if count != len(inputs):
            return False
        for tensor in tensors:
            declared = inputs.get(tensor.name)
            if declared is None and count == 1 and not tensor.name:
                (declared,) = inputs.values()
            if declared is None or not declared.fits(tensor):
                return False
        return count == 1 or len({tensor.name for tensor in tensors}) == count

    def misfit(self, features: Features) -> str | None:
        """Return what does not fit, for a message, or ``None`` if :meth:`fits`."""
        if self.fits(features):
            return None
        over = self._over(features)
        if over is None:
            return self._account(features.tensors or ())
        what, value, limit, unit = over
        return f"a {what} of {value} {unit} is over its {what}_max={limit}"

    def _over(self, features: Features) -> tuple[str, int, float, str] | None:
        """The first limit that is passed: of what, the value, the limit and their unit."""
        for what, value, limit, unit in (
            ("length", features.length, self._length_max, "elements"),
            ("batch", features.batch, self._batch_max, "rows"),
            ("size", features.size, self._size_max, "bytes"),
        ):
            if value is not None and value > limit:
                return what, value, limit, unit
        return None

    def _account(self, tensors: tuple[Tensor, ...]) -> str:
        got = ", ".join(f"{tensor.name[:40] or 'the only input'} {_shown(tensor)}" for tensor in tensors[:4])
        more = f" and {len(tensors) - 4} more" if len(tensors) > 4 else ""
        declared = ", ".join(f"{name[:40]} {spec}" for name, spec in list(self._inputs.items())[:4])
        rest = f" and {len(self._inputs) - 4} more" if len(self._inputs) > 4 else ""
        return f"it takes {declared}{rest}, and got {got or 'no inputs'}{more}"


def _shown(tensor: Tensor) -> str:
    if tensor.shape is None:
        return f"{tensor.dtype[:10]} (a text)"
    return f"{tensor.dtype[:10]}[{', '.join(map(str, tensor.shape))}]"
