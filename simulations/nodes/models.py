"""The digits model in two versions that answer differently, and what each has to answer."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from executor.onnx import OnnxRuntime

Array = np.ndarray[Any, Any]

NAME = "digits"
SAMPLES = 16
_FOLDER = Path(__file__).parents[2] / "examples" / "digits"
_PERTURBED_BYTES = 4096


@functools.cache
def versions() -> Mapping[str, bytes]:
    """Both versions' bytes. In the second some weights are a little different."""
    first = (_FOLDER / "digits.onnx").read_bytes()
    second = bytearray(first)
    start = len(first) // 16 * 4
    for at in range(start, start + _PERTURBED_BYTES):
        second[at] ^= 1
    return {"1": first, "2": bytes(second)}


@functools.cache
def key(version: str) -> str:
    """What a runtime knows a version by: the digest of its bytes."""
    return hashlib.sha256(versions()[version]).hexdigest()


@functools.cache
def samples() -> Array:
    """``SAMPLES`` scans, one a row."""
    images: Array = np.load(_FOLDER / "held_out.npz", allow_pickle=False)["images"][:SAMPLES]
    return images


def inputs(sample: int) -> dict[str, Array]:
    """What one scan is asked with."""
    return {"image": samples()[sample : sample + 1]}


def fixed_answer() -> str:
    """An answer that neither version ever gives, as the text of a fallback."""
    return json.dumps(
        {
            "label": {"dtype": "INT64", "shape": [1], "data": [-1]},
            "probabilities": {"dtype": "FP32", "shape": [1, 10], "data": [0.1] * 10},
        }
    )


def is_fixed(outputs: Mapping[str, Array]) -> bool:
    """Whether these are what :func:`fixed_answer` declares."""
    return bool((outputs["label"] == -1).all())


@functools.cache
def _answers(version: str) -> list[str]:
    with OnnxRuntime(monotonic=lambda: 0.0) as runtime:
        runtime.load(version, versions()[version])
        return [summary(runtime.run(version, inputs(sample))) for sample in range(SAMPLES)]


def answer(version: str, sample: int) -> str:
    """The summary of what ``version`` says about a scan."""
    return _answers(version)[sample]


def summary(outputs: Mapping[str, Array]) -> str:
    """Equal for outputs that are equal, up to rounding: the label, and the probabilities in thousandths."""
    rounded = np.round(outputs["probabilities"], 3).ravel().tolist()
    return f"{int(outputs['label'][0])} {rounded}"
