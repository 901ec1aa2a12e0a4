"""Tensors: arrays as specs and bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.errors import InputInvalid, InvalidArgument, McpError
from mcp.wire.tensors import (
    DTYPES,
    RANK_MAX,
    STRINGS_MAX,
    TENSORS_MAX,
    pack,
    pack_all,
    pack_inline,
    unpack,
    unpack_all,
    unpack_inline,
)

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def arrays(draw):
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(shapes)
    count = int(np.prod(shape))
    raw = np.frombuffer(
        draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)), np.uint8
    )
    array = (raw & 1 if dtype.kind == "b" else raw).view(dtype).reshape(shape)
    variant = draw(st.sampled_from(["as is", "big endian", "transposed", "strided"]))
    if variant == "big endian":
        return array.astype(dtype.newbyteorder(">"))
    if variant == "strided" and shape:
        return array[::-1]
    return array.T if variant == "transposed" else array


def same(got, sent):
    return (
        got.dtype == sent.dtype.newbyteorder("<")
        and got.shape == sent.shape
        and got.tobytes() == sent.astype(got.dtype).tobytes()
    )


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), arrays(), max_size=4))
def test_arrays_arrive_as_they_were_sent(sent):
    specs, segments = pack_all(sent)
    got = unpack_all(specs, segments)
    assert list(got) == list(sent)
    assert all(same(got[name], array) for name, array in sent.items())
    inline = [pack_inline(name, array) for name, array in sent.items()]
    assert all(same(array, sent[name]) for name, array in unpack_all(inline, []).items())


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8) | st.binary(max_size=8), max_size=6))
def test_strings_arrive_as_their_bytes(elements):
    sent = np.empty(len(elements), object)
    sent[:] = elements
    spec, data = pack("s", sent, 0)
    assert spec["dtype"] == "BYTES"
    assert unpack(spec, [data]).tolist() == [e.encode() if isinstance(e, str) else e for e in elements]


def test_strings_are_text_where_text_is_asked_for():
    spec, data = pack("s", np.array([["añ", ""], ["日本", "d"]]), 0)
    assert unpack(spec, [data], text=True).tolist() == [["añ", ""], ["日本", "d"]]
    assert bytes(data)[:7] == b"\x03\0\0\0a\xc3\xb1"
    with pytest.raises(InputInvalid, match="element 1 is no UTF-8"):
        unpack_inline(
            {"name": "s", "dtype": "BYTES", "shape": [2], "data": b"\x01\0\0\0a\x01\0\0\0\xff"}, text=True
        )


@pytest.mark.parametrize(
    "array", [np.array("one"), np.array(b"one"), np.array(["a", "bc"]), np.array([b"a", b"bc"])]
)
def test_numpys_own_string_types_are_sent_too(array):
    got = unpack_inline(pack_inline("s", array), text=True)
    assert got.shape == array.shape
    assert got.astype("U").tolist() == array.astype("U").tolist()


def test_nothing_is_copied():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    spec, data = pack("x", array, 0)
    assert spec == {"name": "x", "dtype": "FP32", "shape": [3, 4], "segment": 0}
    assert np.shares_memory(np.frombuffer(data, np.uint8), array)
    got = unpack(spec, [data])
    assert np.shares_memory(got, array)
    assert not got.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 1


def test_a_view_of_writable_memory_is_read_only_too():
    assert not unpack(
        {"name": "x", "dtype": "UINT8", "shape": [3], "segment": 0}, [bytearray(3)]
    ).flags.writeable
    assert not unpack_inline(pack_inline("s", np.array(["a"]))).flags.writeable


def test_a_scalar_keeps_its_rank():
    spec, data = pack("x", np.float16(2.5), 0)
    assert spec["shape"] == []
    assert unpack(spec, [data]) == np.float16(2.5)
    assert unpack(spec, [data]).shape == ()


def test_an_empty_name_stands_for_the_only_input():
    assert unpack_all([pack_inline("", np.ones(1))], [])[""].tolist() == [1.0]


def test_half_precision_is_sent():
    array = np.array([1.5, -2.0], np.float16)
    assert unpack_inline(pack_inline("h", array)).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(1, np.complex64),
        np.zeros(1, "datetime64[s]"),
        np.zeros(1, [("a", "i4")]),
        np.array([1, None], object),
        np.array(["\ud800"], object),
        np.zeros((1,) * (RANK_MAX + 1)),
    ],
)
def test_what_cannot_be_sent_is_refused(array):
    with pytest.raises(InvalidArgument, match=r'"bad"|arrays of'):
        pack("bad", array, 0)


@pytest.mark.parametrize("name", [None, 5, "x" * 1025])
def test_a_tensor_needs_a_name(name):
    with pytest.raises(InvalidArgument, match="name"):
        pack(name, np.zeros(1), 0)


def spec(**changes):
    return {"name": "x", "dtype": "INT32", "shape": [2], "segment": 0, **changes}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (None, "a map"),
        ([], "a map"),
        (spec(name="x" * 1025), "name"),
        (spec(name=b"x"), "name"),
        (spec(dtype="FLOAT"), "got 'FLOAT'"),
        (spec(dtype=[]), "dtype"),
        (spec(shape=None), "shape"),
        (spec(shape=2), "shape"),
        (spec(shape=[-1]), "got -1"),
        (spec(shape=[True]), "got True"),
        (spec(shape=[2.0]), "got 2.0"),
        (spec(shape=[1] * (RANK_MAX + 1)), "rank_max"),
        (spec(shape=[2**62, 2**62, 0]), "larger than any"),
        (spec(shape=[3]), "takes 12 bytes, got 8"),
        (spec(shape=[]), "takes 4 bytes, got 8"),
        (spec(dtype="FP64"), "takes 16 bytes, got 8"),
        (spec(segment=1), "got 1"),
        (spec(segment=-1), "got -1"),
        (spec(segment=False), "got False"),
        (spec(segment="0"), "got '0'"),
        (spec(dtype="BYTES", shape=[3]), "at least 12 bytes, got 8"),
        (spec(dtype="BYTES", shape=[1]), "ends at byte"),
        (spec(dtype="BYTES", shape=[0]), "take 0 bytes, got 8"),
        (spec(dtype="BYTES", shape=[STRINGS_MAX + 1]), "strings_max"),
        (spec(dtype="BOOL", shape=[8]), "0 or 1, got 255"),
        ({"name": "x", "dtype": "INT32", "shape": [2]}, '"segment"'),
    ],
)
def test_a_spec_that_is_wrong_is_refused_and_says_why(bad, says):
    with pytest.raises(InputInvalid, match=says):
        unpack(bad, [b"\xff\x00\x00\x00\x00\x00\x00\x00"])


@pytest.mark.parametrize("bad", [spec(), {**spec(), "data": "text"}, {**spec(), "data": b"1234567"}])
def test_an_inline_spec_that_is_wrong_is_refused(bad):
    with pytest.raises(InputInvalid, match=r"data|takes 8 bytes, got 7"):
        unpack_inline(bad)


def test_names_must_differ_and_lists_are_bounded():
    inline = pack_inline("x", np.zeros(1))
    with pytest.raises(InputInvalid, match="twice"):
        unpack_all([inline, inline], [])
    with pytest.raises(InputInvalid, match=str(TENSORS_MAX)):
        unpack_all([inline] * (TENSORS_MAX + 1), [])
    with pytest.raises(InputInvalid, match="list"):
        unpack_all({"x": inline}, [])
    with pytest.raises(InvalidArgument, match="tensors_max"):
        pack_all({str(n): np.zeros(1) for n in range(TENSORS_MAX + 1)})


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.lists(st.integers(-2, 2**40), max_size=4)
)


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "name": st.just("x") | anything,
            "dtype": st.sampled_from([*DTYPES, "BYTES"]) | anything,
            "shape": anything,
        },
        optional={"segment": anything, "data": st.binary(max_size=20) | anything},
    ),
    st.binary(max_size=24),
)
def test_arbitrary_specs_give_an_array_or_an_error_of_ours(wild, data):
    try:
        assert all(isinstance(array, np.ndarray) for array in unpack_all([wild], [data, data]).values())
    except McpError as error:
        assert isinstance(error, InputInvalid)  # noqa: PT017
