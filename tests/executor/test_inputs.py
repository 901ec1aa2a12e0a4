import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.errors import InputInvalid
from executor.inputs import InputCheck, select_outputs, zeros
from executor.inspection import NUMPY_TYPES, TensorInfo, dtype_of_array, dtype_of_onnx, format_shape

CHECK = InputCheck(
    "m",
    [
        TensorInfo("image", "FP32", ("batch", 3, None)),
        TensorInfo("label", "BYTES", ("batch",)),
        TensorInfo("free", "INT64", None),
    ],
)


def good():
    return {
        "image": np.zeros((2, 3, 5), np.float32),
        "label": np.array(["a", "b"], object),
        "free": np.array(4),
    }


def test_what_fits_is_passed_on_without_a_copy():
    inputs = good()
    for array in inputs.values():
        array.flags.writeable = False
    CHECK.check(inputs)
    assert all(CHECK.feed(inputs)[name] is array for name, array in inputs.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((2, 3, 5))}, "'image': expected FP32 [batch, 3, ?], got FP64 [2, 3, 5]"),
        ({"image": np.zeros((2, 4, 5), np.float32)}, "expected FP32 [batch, 3, ?], got FP32 [2, 4, 5]"),
        ({"image": np.zeros((3, 5), np.float32)}, "expected FP32 [batch, 3, ?], got FP32 [3, 5]"),
        ({"image": np.zeros((2, 3, 5), ">f4")}, "got numpy type '>f4' [2, 3, 5]"),
        ({"image": np.zeros((2, 3, 5), np.complex64)}, "got numpy type '<c8' [2, 3, 5]"),
        ({"image": [[1.0]]}, "expected FP32 [batch, 3, ?] as a numpy.ndarray, got list"),
        ({"image": None}, "as a numpy.ndarray, got NoneType"),
        ({"image": np.ma.zeros((2, 3, 5), np.float32)}, "got MaskedArray"),
        ({"label": np.array([b"a"])}, "'label': expected BYTES [batch], got numpy type '|S1' [1]"),
        ({"label": np.array([1.0])}, "'label': expected BYTES [batch], got FP64 [1]"),
        ({"free": np.array(1, np.int32)}, "'free': expected INT64 [...], got INT32 []"),
        ({"imagE": np.zeros(1)}, "'imagE': not an input of this model, did you mean 'image'?"),
        ({"zzz": np.zeros(1)}, "'zzz': not an input of this model (it has 'image', 'label', 'free')"),
    ],
)
def test_what_does_not_fit_is_shown_as_expected_and_got(change, message):
    with pytest.raises(InputInvalid) as caught:
        CHECK.check(good() | change)
    assert message in str(caught.value)
    assert "model 'm'" in str(caught.value)


def test_every_problem_is_shown_at_once():
    with pytest.raises(InputInvalid) as caught:
        CHECK.check({"image": np.zeros(1), "lable": np.zeros(1)})
    text = str(caught.value)
    assert "'image': expected FP32 [batch, 3, ?], got FP64 [1]" in text
    assert "'label': expected BYTES [batch], got nothing" in text
    assert "'free': expected INT64 [...], got nothing" in text
    assert "'lable': not an input of this model, did you mean 'label'?" in text


def test_a_flood_of_names_makes_a_short_message():
    flood = {f"{'x' * 10_000}{number}": np.zeros(1) for number in range(50)}
    with pytest.raises(InputInvalid, match="and 45 more") as caught:
        CHECK.check(flood)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("element", [1, None, b"a", 1.5, ["a"]])
def test_only_str_counts_as_a_string(element):
    inputs = good()
    inputs["label"][1] = element
    CHECK.check(inputs)
    with pytest.raises(InputInvalid, match=f"got also {type(element).__name__}"):
        CHECK.feed(inputs)


def test_numpy_strings_and_memory_maps_are_taken(tmp_path):
    (tmp_path / "data").write_bytes(bytes(120))
    mapped = np.memmap(tmp_path / "data", np.float32, "r", shape=(2, 3, 5))
    inputs = good() | {"label": np.array(["a", "b"]), "image": mapped}
    CHECK.check(inputs)
    assert CHECK.feed(inputs)["label"].tolist() == ["a", "b"]


@settings(max_examples=60, deadline=None)
@given(offset=st.integers(0, 7), step=st.sampled_from([1, 2, -1]), size=st.integers(0, 4))
def test_odd_memory_is_copied_with_its_values(offset, step, size):
    buffer = memoryview(bytearray(range(200))).toreadonly()
    array = np.frombuffer(buffer, np.int64, 12, offset)[::step][:size]
    check = InputCheck("m", [TensorInfo("free", "INT64", ("n",))])
    check.check({"free": array})
    fed = check.feed({"free": array})["free"]
    assert fed.flags.c_contiguous
    assert fed.flags.aligned
    assert fed.tolist() == array.tolist()


def test_outputs_are_selected_once_each_or_refused_with_a_hint():
    assert select_outputs("m", None, ("a", "b")) == ("a", "b")
    assert select_outputs("m", [], ("a", "b")) == ("a", "b")
    assert select_outputs("m", ["b", "a", "b"], ("a", "b")) == ("b", "a")
    with pytest.raises(InputInvalid, match="no output 'logit', did you mean 'Logits'"):
        select_outputs("m", ["logit"], ("Logits",))


def test_the_smallest_inputs_fit_or_there_are_none():
    infos = [TensorInfo(name, name, (None, "n", 2, 0)) for name in NUMPY_TYPES]
    made = zeros(infos, 10_000)
    InputCheck("m", infos).check(made)
    assert made["FP32"].shape == (1, 1, 2, 0)
    assert zeros([TensorInfo("x", "FP32", None)], 10_000) is None
    assert zeros([TensorInfo("x", "FP32", (2**40, 2**40))], 10_000) is None
    assert zeros([TensorInfo("s", "BYTES", (2,))], 100)["s"].tolist() == ["", ""]


def test_types_have_the_names_of_the_protocol():
    for name, dtype in NUMPY_TYPES.items():
        assert dtype_of_array(np.zeros(1, dtype)) == name
    assert dtype_of_onnx("tensor(uint16)") == "UINT16"
    assert dtype_of_onnx("tensor(bfloat16)") is None
    assert dtype_of_onnx("seq(tensor(float))") is None


def test_a_declaration_as_plain_data():
    assert TensorInfo("x", "FP32", ("n", None, 3)).to_spec() == {
        "name": "x",
        "dtype": "FP32",
        "shape": ["n", None, 3],
    }
    assert format_shape(()) == "[]"
