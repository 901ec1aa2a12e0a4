"""Measure the digits model on the scans that it was not trained on.

Run ``python examples/digits/evaluate.py``; it needs numpy and onnxruntime only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Print the accuracy on the held-out half, and which digits were confused."""
    with np.load(FOLDER / "held_out.npz", allow_pickle=False) as held_out:
        images, labels = held_out["images"], held_out["labels"]
    session = onnxruntime.InferenceSession(FOLDER / "digits.onnx", providers=["CPUExecutionProvider"])
    (answers,) = session.run(["label"], {"image": images})
    right = int((answers == labels).sum())
    print(f"accuracy {right / len(labels):.4f} ({right} of {len(labels)} held-out scans)")
    for truth, answer in sorted(zip(labels[answers != labels], answers[answers != labels], strict=True)):
        print(f"  a {truth} was read as {answer}")


if __name__ == "__main__":
    main()
