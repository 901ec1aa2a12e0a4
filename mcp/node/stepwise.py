"""A model called step by step: what each step is fed, what of it is told, and when it is over.

Pure. A recurrent or autoregressive model (a filter, a controller, a decoder that makes one token at a time)
takes part of its outputs as inputs of its next call. The request says which: ``carry`` maps an output to the
input that takes it. So the state stays on the node, and what travels is what the caller wants of each step.
Inputs that nothing is carried to are the same in every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from executor.inspection import ModelInfo, TensorInfo
from mcp.errors import InputInvalid, InvalidArgument
from mcp.node.payload import integer, mapping, names

Arrays = Mapping[str, NDArray[Any]]

STEPS_MAX: Final = 1_000_000
"""The most steps of one stream."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """How the steps of a stream follow one another.

    ``carry``: output to input. ``told``: the outputs that are sent of each step. ``until``: an output; the
    first step in which none of its elements is zero (or false) is the last one. ``steps_max``: the last one
    in any case.
    """

    carry: dict[str, str]
    told: tuple[str, ...]
    until: str | None
    steps_max: int

    @property
    def wanted(self) -> list[str]:
        """Every output that a run has to give."""
        return list(dict.fromkeys([*self.told, *self.carry, *([self.until] if self.until else [])]))


def read_recurrence(payload: Mapping[str, Any], info: ModelInfo) -> Recurrence:
    """Read what an ``INFER_STREAM`` says of its steps, and compare it with what the model declares.

    Raises :class:`~mcp.errors.InvalidArgument` for what is no such description, and
    :class:`~mcp.errors.InputInvalid` for one that does not fit the model.
    """
    steps_max = integer(payload, "steps")
    if not 1 <= steps_max <= STEPS_MAX:
        raise InvalidArgument(f"payload field 'steps' must be 1 to steps_max={STEPS_MAX}, got {steps_max}")
    carry = mapping(payload, "carry")
    if not all(isinstance(source, str) and isinstance(target, str) for source, target in carry.items()):
        raise InvalidArgument(f"payload field 'carry' must map outputs to inputs, got {carry!r:.80}")
    outputs = {output.name: output for output in info.outputs}
    inputs = {declared.name: declared for declared in info.inputs}
    for source, target in carry.items():
        _check_carried(_declared(source, outputs, "output"), _declared(target, inputs, "input"))
    if len(set(carry.values())) < len(carry):
        raise InputInvalid(f"two outputs are carried to one input: {carry!r:.200}")
    until = payload.get("until")
    if until is not None:
        if not isinstance(until, str):
            raise InvalidArgument(f"payload field 'until' must be the name of an output, got {until!r:.80}")
        if _declared(until, outputs, "output").dtype == "BYTES":
            raise InputInvalid(f"the output {until!r} is a text; 'until' takes numbers or booleans")
    told = names(payload, "outputs")
    if told is None:
        # What is carried is the model's own affair, unless there is nothing else.
        told = [name for name in outputs if name not in carry] or list(outputs)
    for name in told:
        _declared(name, outputs, "output")
    return Recurrence(dict(carry), tuple(dict.fromkeys(told)), until, steps_max)


def _declared(name: str, known: Mapping[str, TensorInfo], what: str) -> TensorInfo:
    found = known.get(name)
    if found is None:
        raise InputInvalid(f"the model has no {what} {name!r:.80}; it has {', '.join(known)}")
    return found


def _check_carried(output: TensorInfo, target: TensorInfo) -> None:
    if output.dtype != target.dtype:
        raise InputInvalid(
            f"the output {output.name!r} is {output.dtype} and cannot be carried to the input "
            f"{target.name!r}, which is {target.dtype}"
        )


class Steps:
    """One stream's steps: feed :attr:`inputs` to the model and give :meth:`took` what comes out."""

    __slots__ = ("_recurrence", "inputs", "number", "reason", "state_bytes")

    def __init__(self, recurrence: Recurrence, inputs: Arrays) -> None:
        self._recurrence = recurrence
        self.inputs = dict(inputs)
        self.number = 0
        """How many steps have been taken."""
        self.reason: str | None = None
        """Why there is no further step: "until" or "steps"; ``None`` while there is one."""
        self.state_bytes = self._carried_bytes()
        """What is kept between two steps."""

    def took(self, outputs: Arrays) -> dict[str, NDArray[Any]]:
        """Take a step's outputs; gives those that are told, by name."""
        recurrence = self._recurrence
        self.number += 1
        for source, target in recurrence.carry.items():
            self.inputs[target] = _own(outputs[source])
        self.state_bytes = self._carried_bytes()
        if recurrence.until is not None and bool(np.all(outputs[recurrence.until])):
            self.reason = "until"
        elif self.number >= recurrence.steps_max:
            self.reason = "steps"
        return {name: outputs[name] for name in recurrence.told}

    def _carried_bytes(self) -> int:
        carried = (self.inputs.get(target) for target in self._recurrence.carry.values())
        return sum([array.nbytes for array in carried if array is not None])


def _own(array: NDArray[Any]) -> NDArray[Any]:
    """The array without what it is only a small part of: results of a batch are views of all its rows."""
    base = array.base
    if isinstance(base, np.ndarray) and base.nbytes > 2 * array.nbytes:
        return array.copy()
    return array
