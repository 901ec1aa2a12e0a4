import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.batching.rows import Joint, RowsChanged, obstacle
from executor.inspection import TensorInfo
from executor.onnx import OnnxRuntime


def info(name, *shape, dtype="FP32"):
    return TensorInfo(name, dtype, shape)


X, Y = info("x", "batch", 4), info("y", "batch", 2)
TEXT = TensorInfo("text", "BYTES", ("batch", "words"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ([X], [Y], None),
        ([X], [info("y", "other"), info("z", None, 3)], None),
        ([info("x", None, 4), info("z", None)], [Y], None),
        ([X, info("z", "batch")], [Y], None),
        ([X, info("z", "time")], [Y], "inputs differ: batch, time"),
        ([X, info("z", None)], [Y], "inputs differ: None, batch"),
        ([info("x", 1, 4)], [Y], "of the input 'x' has the fixed size 1"),
        ([X], [info("y", 8)], "of the output 'y' has the fixed size 8"),
        ([X, info("z")], [Y], "the input 'z' has no first axis"),
        ([TensorInfo("x", "FP32", None)], [Y], "the input 'x' has no first axis"),
        ([], [Y], "it has no input"),
    ],
)
def test_which_shapes_can_be_joined(inputs, outputs, why):
    reason = obstacle(inputs, outputs)
    assert reason is None if why is None else why in reason


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_everybody_gets_its_own_rows_as_views(counts):
    joint = Joint([X, info("z", "batch")], [Y])
    requests = [
        {"x": np.full((rows, 4), number, np.float32), "z": np.full(rows, number, np.float32)}
        for number, rows in enumerate(counts)
    ]
    whole = joint.joined(requests)
    outputs = {"y": whole["x"][:, :2] * 2, "s": whole["x"][:, 0] + whole["z"]}
    for number, part in enumerate(joint.parted(outputs, requests)):
        assert part["y"].shape == (counts[number], 2)
        assert np.all(part["y"] == 2 * number)
        assert np.all(part["s"] == 2 * number)
        assert all(np.shares_memory(part[name], outputs[name]) for name in part)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.zeros(()), np.zeros((4, 3))])
def test_another_number_of_rows_cannot_be_parted(wrong):
    with pytest.raises(RowsChanged, match="of 3 rows, output 'y'"):
        Joint([X], [Y]).parted({"y": wrong}, [{"x": np.zeros((1, 4))}, {"x": np.zeros((2, 4))}])


def kind(joint, inputs, outputs=("y",)):
    found = joint.kind(inputs, outputs)
    return None if found is None else found[1]


def test_only_requests_of_one_shape_and_the_same_outputs_are_alike():
    joint = Joint([info("x", "batch", "length")], [Y])
    two, three = {"x": np.zeros((1, 2))}, {"x": np.zeros((5, 3))}
    assert joint.kind(three, ("y",))[0] == 5
    assert kind(joint, two) == kind(joint, {"x": np.ones((9, 2))})
    assert kind(joint, two) != kind(joint, three)
    assert kind(joint, two) != kind(joint, two, ("y", "z"))


def test_what_has_no_rows_or_unequal_ones_runs_alone():
    joint = Joint([X, info("z", "batch")], [Y])
    assert kind(joint, {"x": np.zeros((0, 4)), "z": np.zeros(0)}) is None
    assert kind(joint, {"x": np.zeros((2, 4)), "z": np.zeros(1)}) is None
    assert kind(joint, {"x": np.zeros((2, 4)), "z": np.zeros(2)}) is not None


MASKED = (
    [info("x", "batch", "length", 3), info("mask", "batch", "length")],
    [info("sum", "batch", 3), info("twice", "batch", "length")],
)


def test_padded_lengths_are_alike_by_their_power_of_two():
    joint = Joint(*MASKED, [("x", 0), ("mask", 0)])
    kinds = {
        length: kind(joint, {"x": np.zeros((1, length, 3)), "mask": np.zeros((1, length))})
        for length in range(1, 17)
    }
    assert kinds[4] == kinds[7] != kinds[8] == kinds[15] != kinds[16]


def test_padding_fills_up_and_is_cut_off_again():
    joint = Joint(*MASKED, [("x", 7), ("mask", 0)])
    requests = [
        {"x": np.ones((rows, length, 3), np.float32), "mask": np.ones((rows, length), np.float32)}
        for rows, length in [(1, 2), (2, 3)]
    ]
    whole = joint.joined(requests)
    assert whole["x"].shape == (3, 3, 3)
    assert whole["mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    assert whole["x"][0, 2].tolist() == [7, 7, 7]
    first, second = joint.parted({"sum": np.zeros((3, 3)), "twice": whole["mask"] * 2}, requests)
    assert first["twice"].tolist() == [[2, 2]]
    assert second["twice"].shape == (2, 3)
    assert first["sum"].shape == (1, 3)


@pytest.mark.parametrize(
    ("pad", "why"),
    [
        (("none", 0), "no input 'none' to pad; there are x, mask, text"),
        (("text", 0), "or is text"),
        (("mask", 0), None),
    ],
)
def test_only_inputs_with_open_sizes_are_padded(pad, why):
    inputs = [*MASKED[0], TEXT]
    if why is None:
        Joint(inputs, MASKED[1], [pad])
    else:
        with pytest.raises(ValueError, match=why):
            Joint(inputs, MASKED[1], [pad])


def test_strings_are_joined_whatever_their_length():
    joint = Joint([TEXT], [Y])
    whole = joint.joined([{"text": np.array([["a"]])}, {"text": np.array([["longer"]], object)}])
    assert whole["text"].tolist() == [["a"], ["longer"]]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dense", None),
        ("strings", None),
        ("types", None),
        ("element", None),
        ("masked", None),
        ("count", None),
        ("running_sum", "a row's result depends on the other rows"),
        ("pick", "the first axes of its inputs differ"),
        ("add", "has the fixed size 2"),
        ("any_rank", "has no first axis"),
    ],
)
def test_rows_are_tried_on_real_models(models, name, why):
    with OnnxRuntime(monotonic=time.monotonic) as runtime:
        runtime.load(name, models / f"{name}.onnx")
        reason = runtime.try_rows(name)
    assert reason is None if why is None else why in reason
