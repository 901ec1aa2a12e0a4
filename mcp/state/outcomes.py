"""What goes into an inference and what comes out of it, as the log carries it.

Small tensors travel inline, ``{"name", "dtype", "shape", "data"}``. A large result stays with the node
that has it, as a blob that is named by its digest.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgpack

from mcp.errors import InputInvalid, InvalidArgument, TooLarge
from mcp.plain import shown
from mcp.state import arguments
from mcp.state.arguments import DIGEST, LABEL, NODE
from mcp.state.limits import StateLimits
from mcp.wire.tensors import unpack_inline

DETERMINISTIC_ERRORS: Final = frozenset(
    {"INPUT_INVALID", "INVALID_ARGUMENT", "MODEL_INVALID", "MODEL_NOT_FOUND", "TOO_LARGE"}
)
"""Errors that another node would give as well, so that there is no second attempt."""

MESSAGE_CHARS_MAX: Final = 4096
"""A longer message of an error is cut."""
DETAILS_BYTES_MAX: Final = 8192
"""Larger details of an error are left out."""

_SPEC: Final = frozenset({"name", "dtype", "shape", "data"})
_BLOB: Final = frozenset({"digest", "size", "node"})
_AGREEING: Final = frozenset({"max_abs_diff"})
_ERROR: Final = frozenset({"code", "message"})
_DETAILS: Final = frozenset({"details"})


def read_tensors(value: object, what: str, limits: StateLimits) -> list[dict[str, Any]]:
    """Check inline tensors, ``inline_bytes_max`` together.

    Raises :class:`~mcp.errors.InvalidArgument`, :class:`~mcp.errors.TooLarge` and, for a tensor whose bytes
    do not fit what it declares, :class:`~mcp.errors.InputInvalid`.
    """
    specs = arguments.sequence(value, what, limits.inference_tensors_max)
    for spec in specs:
        arguments.only(arguments.mapping(spec, f"an item of {what}"), _SPEC)
        if type(spec["data"]) is not bytes:
            raise InvalidArgument(f"the data of an item of {what} is bytes, not {shown(spec['data'])}")
    size = sum(len(spec["data"]) for spec in specs)
    if size > limits.inline_bytes_max:
        raise TooLarge(
            f"{what} has {size} bytes, over inline_bytes_max={limits.inline_bytes_max}; "
            "keep them as a blob and name its digest"
        )
    for spec in specs:
        unpack_inline(spec)
    if len({spec["name"] for spec in specs}) < len(specs):
        raise InputInvalid(f"two tensors of {what} have one name")
    return [{name: spec[name] for name in ("name", "dtype", "shape", "data")} for spec in specs]


def read_outcome(value: object, limits: StateLimits) -> dict[str, Any]:
    """Check an outcome: ``{"outputs"}``, ``{"digest", "size", "node"}`` or ``{"error"}``.

    A replica that has compared its own large result with the reference, and found it within the
    tolerance, names the reference's blob and adds the ``max_abs_diff`` that it measured.
    Raises as :func:`read_tensors`.
    """
    outcome = arguments.mapping(value, "outcome")
    if outcome.keys() == {"outputs"}:
        return {"outputs": read_tensors(outcome["outputs"], "outputs", limits)}
    if outcome.keys() == {"error"}:
        return {"error": _error(arguments.mapping(outcome["error"], "error"))}
    arguments.only(outcome, _BLOB, _AGREEING)
    blob = {
        "digest": arguments.matching(outcome["digest"], "digest", DIGEST),
        "size": arguments.integer(outcome["size"], "size"),
        "node": arguments.matching(outcome["node"], "node", NODE),
    }
    if "max_abs_diff" in outcome:
        blob["max_abs_diff"] = _difference(outcome["max_abs_diff"])
    return blob


def _difference(value: object) -> float:
    if type(value) is float and math.isfinite(value) and value >= 0:
        return value
    raise InvalidArgument(f"max_abs_diff is a finite number from 0 up, not {shown(value)}")


def _error(error: dict[str, Any]) -> dict[str, Any]:
    """Cut rather than refuse: a node that cannot say how it failed would try for ever."""
    arguments.only(error, _ERROR, _DETAILS)
    message = error["message"]
    if type(message) is not str:
        raise InvalidArgument(f"message is a string, not {shown(message)}")
    details = arguments.mapping(error.get("details", {}), "details")
    try:
        arguments.packed(details, "details", DETAILS_BYTES_MAX)
    except TooLarge:
        details = {}
    return {
        "code": arguments.matching(error["code"], "code", LABEL),
        "message": message[:MESSAGE_CHARS_MAX],
        "details": details,
    }


def pack(value: object) -> bytes:
    """Return what was checked here as msgpack."""
    data: bytes = msgpack.packb(value)
    return data
