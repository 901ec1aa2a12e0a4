import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor import model_file
from executor.errors import ModelInvalid
from executor.model_file import tensors_without_rank


def test_the_tensors_without_rank_are_found(models):
    assert tensors_without_rank((models / "any_rank.onnx").read_bytes()) == {"x", "y"}
    assert tensors_without_rank((models / "slow.onnx").read_bytes()) == frozenset()


@pytest.mark.parametrize("name", ["external", "external_nested"])
def test_tensors_in_other_files_are_refused_wherever_they_hide(models, name):
    with pytest.raises(ModelInvalid, match="outside its file"):
        tensors_without_rank((models / f"{name}.onnx").read_bytes())


@pytest.mark.parametrize("junk", [b"\x0b", b"\x3a\x7f", b"\x80", b"\xff" * 20, b"\x39\x00", b"\x0d\x01"])
def test_what_is_no_message_is_refused(junk):
    with pytest.raises(ModelInvalid, match=re.escape("no ONNX model")):
        tensors_without_rank(junk)


def test_the_number_of_fields_is_bounded(models, monkeypatch):
    monkeypatch.setattr(model_file, "MODEL_FIELDS_MAX", 10)
    with pytest.raises(ModelInvalid, match="model_fields_max = 10"):
        tensors_without_rank((models / "dense.onnx").read_bytes())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_walked_or_refused(junk):
    with contextlib.suppress(ModelInvalid):
        tensors_without_rank(junk)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_models_are_walked_or_refused(models_bytes, data):
    damaged = bytearray(data.draw(st.sampled_from(models_bytes)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ModelInvalid):
        tensors_without_rank(bytes(damaged))


@pytest.fixture(scope="module")
def models_bytes(request):
    folder = request.path.parent / "models"
    return [(folder / f"{name}.onnx").read_bytes() for name in ("slow", "any_rank", "external_nested")]
