import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.onnx import OnnxRuntime
from executor.options import RuntimeOptions

MODELS = Path(__file__).parent / "models"


@pytest.fixture
def models() -> Path:
    """The folder of tiny models; make_models.py beside them made them."""
    return MODELS


@pytest.fixture
def runtime() -> Iterator[OnnxRuntime]:
    with OnnxRuntime(RuntimeOptions(), monotonic=time.monotonic) as made:
        for name in ("add", "dense", "strings", "slow", "pick"):
            made.load(name, MODELS / f"{name}.onnx")
        yield made
