"""The demo's real input: the digits model, and the scans that its training never saw."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mcp.errors import NotFound

DISTRIBUTION: Final = "message-coordination-protocol"
MODEL_FILE: Final = "digits.onnx"
SCANS_FILE: Final = "held_out.npz"
ACCURACY_MIN: Final = 0.97
"""What the model reached when it was trained, less what chance could take; see examples/digits."""


@dataclass(frozen=True, slots=True)
class Digits:
    """``images`` are FP32 [n, 64] with values 0 to 16, ``labels`` INT64 [n]."""

    model: Path
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def load_digits(folder: Path | None = None) -> Digits:
    """Read the scans from ``folder``, by default from wherever this installation has them."""
    folder = folder or digits_folder()
    with np.load(folder / SCANS_FILE, allow_pickle=False) as scans:
        images: NDArray[Any] = scans["images"]
        labels: NDArray[Any] = scans["labels"]
    return Digits(folder / MODEL_FILE, images.astype(np.float32), labels.astype(np.int64))


def digits_folder() -> Path:
    """Return the folder with the model: the repository's own, otherwise where the wheel put it.

    Raises :class:`~mcp.errors.NotFound` when there is neither.
    """
    in_repository = Path(__file__).resolve().parents[3] / "examples" / "digits"
    if (in_repository / MODEL_FILE).is_file():
        return in_repository
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == MODEL_FILE and (found := Path(str(file.locate())).resolve()).is_file():
            return found.parent
    raise NotFound(
        f"{MODEL_FILE} is neither in {in_repository} nor in the installed package; "
        f"install {DISTRIBUTION} again, or run the demo from a clone of the repository"
    )
