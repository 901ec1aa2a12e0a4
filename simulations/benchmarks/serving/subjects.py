"""What is served: models, the rows that are asked for, and the answers that are right."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mcp.cli.demo.digits import load_digits
from simulations.benchmarks.in_process import InProcess, Outputs
from simulations.benchmarks.needs import lacking, modules

ROWS: Final = 64
"""How many different rows are asked for in turn."""
LAYERS: Final = {
    "tiny": (64, 32, 10),
    "medium": (512, 2048, 2048, 512),
    "large": (1024, 4096, 4096, 1024),
}
CONVOLUTIONS: Final = "convolutions"
CHANNELS, SIDE, DEPTH = 32, 32, 180
"""Of the model with convolutions: every row costs as much as the first, and far more than to ask for it."""
NAMES: Final = ("tiny", "medium", "digits")
OPSET: Final = 17
IR_VERSION: Final = 8


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with one FP32 input [n, width]; ``rows`` are [n, width], one is asked for at a time."""

    name: str
    model: Path
    rows: NDArray[np.float32]

    def save(self) -> dict[str, str]:
        """Write the rows beside the model, for other processes; gives the paths."""
        path = self.model.with_name(f"{self.name}-rows.npy")
        np.save(path, self.rows)
        return {"subject": self.name, "model": str(self.model), "rows": str(path)}


def load(saved: dict[str, str]) -> Subject:
    """What :meth:`Subject.save` wrote, in another process."""
    rows = np.load(saved["rows"], allow_pickle=False)
    return Subject(saved["subject"], Path(saved["model"]), rows)


def expected(subject: Subject) -> list[Outputs]:
    """The right answer to each row, from onnxruntime in this process."""
    own = InProcess(subject.model)
    return [own.infer(row[np.newaxis]) for row in subject.rows]


def subjects(names: tuple[str, ...], folder: Path) -> tuple[list[Subject], list[str]]:
    """Make the models that are asked for in ``folder``; and say what cannot be made here."""
    found, missing = [], []
    for name in names:
        lack = None if name == "digits" else lacking(f"the {name} model", modules("onnx"))
        if lack is None:
            made = {"digits": _digits, CONVOLUTIONS: _convolutions}.get(name, functools.partial(_dense, name))
            found.append(made(folder))
        else:
            missing.append(lack)
    return found, missing


def _digits(folder: Path) -> Subject:
    digits = load_digits()
    model = folder / "digits.onnx"
    model.write_bytes(digits.model.read_bytes())
    return Subject("digits", model, np.ascontiguousarray(digits.images[:ROWS]))


def _dense(name: str, folder: Path) -> Subject:
    """Layers of Gemm and Relu, with weights from a seed; any number of rows in, as many out."""
    onnx: Any = importlib.import_module("onnx")
    make, numpy_helper = onnx.helper, onnx.numpy_helper
    generator, widths = np.random.default_rng(7), LAYERS[name]
    nodes, weights, value = [], [], "x"
    for number, (wide, to) in enumerate(pairwise(widths), start=1):
        last = number == len(widths) - 1
        for label, array in (
            (f"w{number}", generator.standard_normal((wide, to)) / wide**0.5),
            (f"b{number}", generator.standard_normal(to)),
        ):
            weights.append(numpy_helper.from_array(array.astype(np.float32), label))
        out = "y" if last else f"h{number}"
        nodes.append(make.make_node("Gemm", [value, f"w{number}", f"b{number}"], [out]))
        if not last:
            nodes.append(make.make_node("Relu", [out], [f"r{number}"]))
            value = f"r{number}"
    path = _save(name, nodes, weights, (widths[0], widths[-1]), folder)
    return Subject(name, path, generator.standard_normal((ROWS, widths[0])).astype(np.float32))


def _convolutions(folder: Path) -> Subject:
    """Layers of Conv and Relu on pictures of one channel, with weights from a seed; the channels' means."""
    onnx: Any = importlib.import_module("onnx")
    make, from_array, generator = (
        onnx.helper.make_node,
        onnx.numpy_helper.from_array,
        np.random.default_rng(7),
    )
    weights = [from_array(np.array([-1, 1, SIDE, SIDE], np.int64), "shape")]
    nodes, value, channels = [make("Reshape", ["x", "shape"], ["pictures"])], "pictures", 1
    for number in range(DEPTH):
        kernel = generator.standard_normal((CHANNELS, channels, 3, 3)) / (9 * channels) ** 0.5
        weights.append(from_array(kernel.astype(np.float32), f"w{number}"))
        nodes.append(make("Conv", [value, f"w{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(make("Relu", [f"c{number}"], [f"r{number}"]))
        value, channels = f"r{number}", CHANNELS
    nodes += [make("GlobalAveragePool", [value], ["means"]), make("Flatten", ["means"], ["y"])]
    path = _save(CONVOLUTIONS, nodes, weights, (SIDE * SIDE, CHANNELS), folder)
    return Subject(CONVOLUTIONS, path, generator.standard_normal((ROWS, SIDE * SIDE)).astype(np.float32))


def _save(name: str, nodes: list[Any], weights: list[Any], widths: tuple[int, int], folder: Path) -> Path:
    """A model from ``x`` [n, width] to ``y`` [n, width], as a file."""
    onnx: Any = importlib.import_module("onnx")
    make, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = make.make_graph(
        nodes,
        name,
        [make.make_tensor_value_info("x", float32, ["n", widths[0]])],
        [make.make_tensor_value_info("y", float32, ["n", widths[1]])],
        weights,
    )
    path = folder / f"{name}.onnx"
    onnx.save(
        make.make_model(graph, opset_imports=[make.make_opsetid("", OPSET)], ir_version=IR_VERSION), path
    )
    return path
