"""Whether two replicas of an inference gave the same result.

Results of one model are not equal bit by bit across batch sizes, instruction sets and providers, so
floating-point outputs are compared within a tolerance, ``|b - a| <= atol + rtol * |a|`` with the
reference ``a``. Everything else has to be equal. The arithmetic is element by element in IEEE double
precision, without reductions but the maximum, so every node comes to the same verdict.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mcp.wire.tensors import unpack_inline

RTOL: Final = 1e-4
ATOL: Final = 1e-5

Verdict = tuple[bool, float | None]
"""Equal; and the largest absolute difference, ``None`` where there is no finite one."""


def compare(reference: dict[str, Any], outcome: dict[str, Any]) -> Verdict:
    """Compare two outcomes that :func:`~mcp.state.outcomes.read_outcome` has checked.

    Two errors are equal if their codes are, two blobs if their digests are: a replica whose own blob
    differs from the reference, but lies within the tolerance, says so by naming the reference's.
    """
    if "outputs" in reference and "outputs" in outcome:
        return _compare_outputs(reference["outputs"], outcome["outputs"])
    if "digest" in reference and "digest" in outcome:
        equal = reference["digest"] == outcome["digest"]
        return equal, outcome.get("max_abs_diff", 0.0) if equal else None
    if "error" in reference and "error" in outcome:
        return reference["error"]["code"] == outcome["error"]["code"], None
    return False, None


def _compare_outputs(reference: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> Verdict:
    others = {spec["name"]: spec for spec in outputs}
    if {spec["name"] for spec in reference} != others.keys():
        return False, None
    verdicts = [_compare_tensors(spec, others[spec["name"]]) for spec in reference]
    differences = [difference for _, difference in verdicts if difference is not None]
    comparable = len(differences) == len(verdicts)
    return all(equal for equal, _ in verdicts), max(differences, default=0.0) if comparable else None


def _compare_tensors(reference: dict[str, Any], other: dict[str, Any]) -> Verdict:
    if (reference["dtype"], reference["shape"]) != (other["dtype"], other["shape"]):
        return False, None
    if reference["data"] == other["data"]:
        return True, 0.0
    if reference["dtype"] == "BYTES":
        return False, None
    a, b = unpack_inline(reference), unpack_inline(other)
    return _compare_numbers(a, b, exact=not np.issubdtype(a.dtype, np.floating))


def _compare_numbers(a: npt.NDArray[Any], b: npt.NDArray[Any], *, exact: bool) -> Verdict:
    if exact:
        return False, float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    alike = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(over="ignore", invalid="ignore"):
        difference = np.abs(b - a)
        close = difference <= ATOL + RTOL * np.abs(a)
    largest = float(difference[finite].max(initial=0.0))
    comparable = bool(np.isfinite(largest)) and bool(alike[~finite].all())
    return bool(np.where(finite, close, alike).all()), largest if comparable else None
