"""The parameters of requests and tensors that mean something here, and those that cannot be honoured.

Unknown parameters are ignored, as the protocol allows. One that asks for another result (a sequence, shared
memory, a classification) is refused by name instead: to ignore it would be to answer something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp.errors import InvalidArgument
from mcp.gateway.limits import INFER_TIMEOUT_S, PARAMETERS_MAX, TIMEOUT_S_MAX

_UINT64_MAX: Final = 2**64 - 1
_MICROSECONDS: Final = 1e-6
_SEQUENCES: Final = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request's parameters say.

    ``timeout_s`` bounds the whole inference. ``priority``: 0 is the default, 1 the most urgent
    (:func:`mcp.gateway.context.urgency`). ``binary``: whether outputs are sent as binary data if nothing
    else is said of them.
    """

    timeout_s: float = INFER_TIMEOUT_S
    priority: int = 0
    binary: bool = False


def read_parameters(where: str, value: object) -> Mapping[str, Any]:
    """Check that these are parameters: texts, numbers and booleans by name. Raises ``InvalidArgument``."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > PARAMETERS_MAX:
        raise InvalidArgument(
            f'{where}: "parameters" must be an object of at most {PARAMETERS_MAX} entries, got {value!r:.80}'
        )
    for name, each in value.items():
        if type(each) not in (str, int, float, bool):
            raise InvalidArgument(
                f'{where}: the parameter "{name:.80}" must be a text, a number or a boolean, got {each!r:.80}'
            )
    return value


def read_wishes(where: str, parameters: Mapping[str, Any]) -> Wishes:
    """What a request's parameters say. Raises :class:`~mcp.errors.InvalidArgument` naming the parameter."""
    for name in _SEQUENCES:
        if parameters.get(name):
            raise InvalidArgument(
                f'{where}: the parameter "{name}" cannot be honoured: no model here keeps state between'
                " requests; leave it out"
            )
    timeout_us = unsigned(where, parameters, "timeout")
    timeout_s = min(timeout_us * _MICROSECONDS, TIMEOUT_S_MAX) if timeout_us else INFER_TIMEOUT_S
    return Wishes(
        timeout_s, unsigned(where, parameters, "priority"), flag(where, parameters, "binary_data_output")
    )


def unsigned(where: str, parameters: Mapping[str, Any], name: str) -> int:
    """A parameter that is an integer of 64 bits from 0 on; 0 where it is not given."""
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value <= _UINT64_MAX:
        raise InvalidArgument(
            f'{where}: the parameter "{name}" must be an integer from 0 to 2^64-1, got {value!r:.80}'
        )
    return value


def flag(where: str, parameters: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """A parameter that is true or false."""
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise InvalidArgument(f'{where}: the parameter "{name}" must be true or false, got {value!r:.80}')
    return value


def refuse_tensor_parameters(where: str, parameters: Mapping[str, Any]) -> None:
    """Refuse what no tensor can have here. Raises :class:`~mcp.errors.InvalidArgument`."""
    for name in ("shared_memory_region", "classification"):
        if parameters.get(name):
            raise InvalidArgument(
                f'{where}: the parameter "{name}" is not supported; send and take the tensor itself'
            )
