"""Tensors as JSON and as raw bytes: what goes in comes out, bit for bit, or is refused with its name."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mcp.errors import InputInvalid, InvalidArgument
from mcp.gateway.limits import ELEMENTS_PER_PIECE
from mcp.gateway.tensors import Array, datatype_of, from_raw, json_pieces, read_name, to_raw
from mcp.wire.json_tensors import from_json, read_datatype, read_shape
from mcp.wire.tensors import DTYPES

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NUMERIC = st.sampled_from(sorted(DTYPES)).flatmap(lambda name: arrays.arrays(DTYPES[name], SHAPES))


@st.composite
def of_strings(draw: st.DrawFn, elements: st.SearchStrategy[Any]) -> Array:
    shape = draw(SHAPES)
    count = math.prod(shape)
    array = np.empty(count, object)
    array[:] = draw(st.lists(elements, min_size=count, max_size=count))
    return array.reshape(shape)


def same(left: Array, right: Array) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype and left.tolist() == right.tolist()


def written(array: Array) -> Any:
    return json.loads("".join(json_pieces("y", array)))


@given(NUMERIC)
def test_numbers_survive_json_flat_and_nested(array: Array) -> None:
    if array.dtype.kind == "f":
        array = np.nan_to_num(array)
    data = written(array)
    assert data == array.reshape(-1).tolist()
    flat = from_json("x", datatype_of(array), array.shape, data)
    assert same(flat, array)
    assert flat.tobytes() == array.tobytes() or array.dtype.kind == "f"
    if array.ndim and array.size:
        assert same(
            from_json("x", datatype_of(array), array.shape, json.loads(json.dumps(array.tolist()))), flat
        )


@given(arrays.arrays(np.float32, 7, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_floats_survive_json_bit_for_bit(array: Array) -> None:
    assert from_json("x", "FP32", (7,), written(array)).tobytes() == array.tobytes()


@given(NUMERIC | of_strings(st.binary(max_size=9)))
def test_everything_survives_as_raw_bytes(array: Array) -> None:
    raw = to_raw("y", array)
    back = from_raw("x", "y", datatype_of(array), array.shape, raw)
    if array.dtype.kind == "O":
        assert same(back, array)
    else:
        assert (back.tobytes(), back.dtype, back.shape) == (array.tobytes(), array.dtype, array.shape)


@given(of_strings(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)))
def test_texts_survive_json_as_utf_8(array: Array) -> None:
    back = from_json("x", "BYTES", array.shape, written(array))
    assert back.shape == array.shape
    assert [each.decode() for each in back.reshape(-1)] == array.reshape(-1).tolist()


@pytest.mark.parametrize("size", [0, 1, ELEMENTS_PER_PIECE, ELEMENTS_PER_PIECE + 1, 3 * ELEMENTS_PER_PIECE])
def test_a_long_list_comes_in_pieces_that_make_the_list(size: int) -> None:
    array = np.arange(size)
    pieces = list(json_pieces("y", array))
    assert json.loads("".join(pieces)) == array.tolist()
    assert len(pieces) == 2 + -(-size // ELEMENTS_PER_PIECE)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("INT64", (2,), [1, 1.5], "must hold integers, got 1.5"),
        ("INT64", (1,), [True], "must hold integers, got True"),
        ("INT64", (1,), ["1"], "must hold integers, got '1'"),
        ("INT8", (1,), [128], "no INT8"),
        ("UINT8", (1,), [-1], "no UINT8"),
        ("UINT64", (1,), [2**64], "no UINT64"),
        ("BOOL", (2,), [True, 1], "must hold true or false, got 1"),
        ("FP32", (1,), [True], "must hold numbers, got True"),
        ("FP32", (1,), [None], "must hold numbers, got None"),
        ("FP32", (1,), [{}], "must hold numbers"),
        ("FP16", (1,), [70000.0], "too large for FP16"),
        ("FP32", (1,), [1e39], "too large for FP32"),
        ("FP64", (1,), [10**400], "no FP64"),
        ("BYTES", (1,), [5], "must hold texts, got 5"),
        ("BYTES", (1,), ["\ud800"], "no valid Unicode"),
        ("FP32", (2,), [1.0], "must hold 2 elements"),
        ("FP32", (2,), [1.0, 2.0, 3.0], "must hold 2 elements"),
        ("FP32", (2,), None, "must be a list, got NoneType"),
        ("FP32", (2,), {"0": 1}, "must be a list, got dict"),
        ("FP32", (2, 2), [[1.0, 2.0], [3.0]], "lists of 2 at level 1"),
        ("FP32", (2, 2), [[1.0, 2.0], 3.0], "nested in 2 levels"),
        ("FP32", (2, 2), [[1.0, 2.0, 3.0, 4.0]], "lists of 2 at level 0"),
        ("FP32", (2, 2, 1), [[1.0, 2.0], [3.0, 4.0]], "nested in 3 levels"),
        ("FP32", (2,), [[1.0], [2.0]], "nested deeper"),
        ("FP32", (1,), [[[[[1.0]]]]], "nested deeper"),
        ("FP32", (), [[1.0]], "nested deeper"),
        ("FP32", (0,), [1.0], "must hold 0 elements"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_its_place(
    datatype: str, shape: tuple[int, ...], data: Any, words: str
) -> None:
    with pytest.raises(InputInvalid, match=r'^inputs.0. "x": "data" ') as refused:
        from_json('inputs[0] "x"', datatype, shape, data)
    assert words in refused.value.message


def test_raw_bytes_that_do_not_fit_are_refused_with_their_place() -> None:
    with pytest.raises(InputInvalid, match=r"^inputs.3.: .* takes 8 bytes, got 7"):
        from_raw("inputs[3]", "x", "FP32", (2,), bytes(7))
    with pytest.raises(InputInvalid, match=r"^inputs.3.: .* BYTES element 0 of 1 ends at byte 9"):
        from_raw("inputs[3]", "x", "BYTES", (1,), b"\x05\0\0\0abc")
    with pytest.raises(InputInvalid, match="byte of 0 or 1"):
        from_raw("inputs[3]", "x", "BOOL", (1,), b"\x02")


def test_bf16_is_refused_by_name() -> None:
    with pytest.raises(InputInvalid, match="BF16 cannot be carried"):
        read_datatype("inputs[0]", "BF16")
    for strange in ("FP8", "fp32", "", None, 7, ["FP32"], {}):
        with pytest.raises(InputInvalid, match='"datatype" must be one of BOOL'):
            read_datatype("inputs[0]", strange)


@pytest.mark.parametrize(
    "shape", [None, 3, "2", [-1], [1.0], [True], ["2"], [None], [1] * 17, [2**41], [2**30, 2**30], [10**300]]
)
def test_a_shape_that_no_message_has_is_refused(shape: Any) -> None:
    with pytest.raises(InputInvalid, match='"shape"'):
        read_shape("inputs[0]", shape)


def test_names_are_texts_of_bounded_length() -> None:
    assert read_name("inputs[0]", "x") == "x"
    for strange in ("", None, 5, "x" * 1025, ["x"]):
        with pytest.raises(InputInvalid, match='"name"'):
            read_name("inputs[0]", strange)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_form_for_is_refused_with_the_way_out(value: float) -> None:
    with pytest.raises(InvalidArgument, match=r'output "y" .* "binary_data"'):
        list(json_pieces("y", np.array([1.0, value])))
    with pytest.raises(InvalidArgument, match=r'output "y" .* "binary_data"'):
        list(json_pieces("y", np.array([b"\xff"], object)))
