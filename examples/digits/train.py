"""Train the digits model that the demo serves, and write it and the held-out scans beside this file.

The data are the 1,797 scans of the UCI handwritten digits (Alpaydin and Kaynak, "Optical Recognition of
Handwritten Digits", UCI repository, 1998) as scikit-learn carries them: 8 x 8 pixels with values 0 to 16.
A seeded, stratified half is trained on; the other half is held out and never seen here.

The model is five dense networks whose probabilities are averaged inside one graph. Each sees its own
slightly turned and moved copies of the training scans, so that their mistakes differ.

Run ``python examples/digits/train.py``; it needs the ``dev`` extra and about fifteen seconds.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.ndimage import rotate, shift
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

FOLDER = Path(__file__).resolve().parent
SEED = 0
MEMBERS = 5
HIDDEN_UNITS = 128
COPIES_PER_SCAN = 12
TURN_DEGREES_MAX = 12.0
MOVE_PIXELS_MAX = 0.8
PIXEL_MAX = 16.0
MODEL_BYTES_MAX = 500_000
# Old enough for every onnxruntime since 1.12, and no operator here needs more.
OPSET = 17
IR_VERSION = 8


def augmented(
    images: NDArray[np.float64], labels: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the scans ``[n, 64]`` with ``COPIES_PER_SCAN`` altered copies of each, and all their labels."""
    batches = [images]
    for _ in range(COPIES_PER_SCAN):
        copies = []
        for scan in images.reshape(-1, 8, 8):
            turned = rotate(
                scan, generator.uniform(-TURN_DEGREES_MAX, TURN_DEGREES_MAX), reshape=False, order=1
            )
            copies.append(
                shift(turned, generator.uniform(-MOVE_PIXELS_MAX, MOVE_PIXELS_MAX, 2), order=1).ravel()
            )
        batches.append(np.array(copies))
    return np.clip(np.concatenate(batches), 0, PIXEL_MAX), np.tile(labels, COPIES_PER_SCAN + 1)


def trained_member(images: NDArray[np.float64], labels: NDArray[np.int64], seed: int) -> MLPClassifier:
    """Fit one dense network 64-128-10 to its own augmentation of the training half."""
    more_images, more_labels = augmented(images, labels, np.random.default_rng(seed))
    network = MLPClassifier(
        (HIDDEN_UNITS,), alpha=1e-3, max_iter=40, random_state=seed, batch_size=128, learning_rate_init=2e-3
    )
    with warnings.catch_warnings():
        # Forty passes are the choice, not an accident: more of them only memorise.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(more_images / PIXEL_MAX, more_labels)


def exported(members: list[MLPClassifier]) -> onnx.ModelProto:
    """Join the members in one graph.

    Input ``image`` FP32 [N,64]; outputs ``probabilities`` FP32 [N,10] and ``label`` INT64 [N]. The first
    layers are one wide product; the second layers are a batched product over the members.
    """
    count = len(members)
    weights = {
        "pixel_max": np.array(PIXEL_MAX, np.float32),
        "hidden_weights": np.concatenate([m.coefs_[0] for m in members], axis=1),
        "hidden_bias": np.concatenate([m.intercepts_[0] for m in members]),
        "by_member": np.array([0, count, HIDDEN_UNITS], np.int64),
        "class_weights": np.stack([m.coefs_[1] for m in members]),
        "class_bias": np.stack([m.intercepts_[1] for m in members])[:, None, :],
    }
    nodes = [
        helper.make_node("Div", ["image", "pixel_max"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "hidden_weights", "hidden_bias"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Reshape", ["active", "by_member"], ["active_by_member"]),
        helper.make_node("Transpose", ["active_by_member"], ["member_first"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["member_first", "class_weights"], ["scores"]),
        helper.make_node("Add", ["scores", "class_bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["opinions"], axis=-1),
        helper.make_node("ReduceMean", ["opinions"], ["probabilities"], axes=[0], keepdims=0),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 64])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        ],
        [
            numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    model = helper.make_model(
        graph,
        producer_name="examples/digits/train.py",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, export, and write ``digits.onnx`` and ``held_out.npz``."""
    images, labels = load_digits(return_X_y=True)
    train_images, held_images, train_labels, held_labels = train_test_split(
        images, labels.astype(np.int64), test_size=0.5, random_state=SEED, stratify=labels
    )
    members = [trained_member(train_images, train_labels, SEED + i) for i in range(MEMBERS)]
    model_bytes = exported(members).SerializeToString()
    if len(model_bytes) > MODEL_BYTES_MAX:
        raise SystemExit(f"the model has {len(model_bytes)} bytes, more than {MODEL_BYTES_MAX}")
    (FOLDER / "digits.onnx").write_bytes(model_bytes)
    np.savez_compressed(
        FOLDER / "held_out.npz", images=held_images.astype(np.float32), labels=held_labels.astype(np.int64)
    )
    print(f"trained on {len(train_labels)} scans, held out {len(held_labels)}; {len(model_bytes)} bytes")


if __name__ == "__main__":
    main()
