"""What a command line gives a model arrives as it was meant, and what cannot be read is refused by name."""

from __future__ import annotations

import base64
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mcp.cli.inputs import Request, Sources, array_from_json, request_from, typed
from mcp.errors import InputInvalid, InvalidArgument, VersionMismatch
from mcp.wire.tensors import pack_inline

REQUEST = {
    "mcp_version": "1.0",
    "type": "INFER_REQUEST",
    "trace_id": "req-7a8b9c0d",
    "payload": {"model_hint": "glm-large", "data_chunk": "用户输入文本分片", "timeout_ms": 3000},
}


def arrays(**options: object) -> dict[str, np.ndarray]:
    request = typed(request_from("m", Sources(**options)), {})  # type: ignore[arg-type]
    assert isinstance(request.inputs, dict)
    return request.inputs


def test_a_npy_file_by_name(tmp_path: Path) -> None:
    scan = np.arange(64, dtype=np.float32).reshape(1, 64)
    np.save(tmp_path / "scan.npy", scan)
    found = arrays(pairs=(f"image=@{tmp_path / 'scan.npy'}",))["image"]
    assert found.dtype == np.float32
    assert (found == scan).all()


def test_one_array_of_a_npz_file_and_some_of_its_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "held.npz", images=np.arange(20.0).reshape(10, 2), labels=np.arange(10))
    pair = f"image=@{tmp_path / 'held.npz'}:images"
    assert arrays(pairs=(pair,), rows="2:4")["image"].tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert arrays(pairs=(pair,), rows="3")["image"].tolist() == [[6.0, 7.0]]
    assert arrays(npz=tmp_path / "held.npz", rows=":1")["labels"].tolist() == [0]
    assert arrays(pairs=(pair,), rows="8:")["image"].tolist() == [[16.0, 17.0], [18.0, 19.0]]


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("x=[[1, 2]]", np.int64, [[1, 2]]),
        ("x=[[1.5, 2]]", np.float32, [[1.5, 2.0]]),
        ("x:FP16=[1]", np.float16, [1.0]),
        ("x:UINT8=7", np.uint8, 7),
        ("x=[true]", np.bool_, [True]),
        ('x=["a", "bc"]', np.object_, ["a", "bc"]),
    ],
)
def test_an_array_as_json(text: str, dtype: type, value: object) -> None:
    found = arrays(pairs=(text,))["x"]
    assert found.dtype == dtype
    assert found.tolist() == value


def test_an_object_of_inputs_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"a": [[0.5]], "b": {"datatype": "INT32", "shape": [2, 2], "data": [1, 2, 3, 4]}}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(described)))
    found = arrays(json_file="-")
    assert found["a"].dtype == np.float32
    assert found["b"].dtype == np.int32
    assert found["b"].tolist() == [[1, 2], [3, 4]]


def test_a_request_file_names_model_input_and_deadline(tmp_path: Path) -> None:
    path = tmp_path / "infer_request.json"
    path.write_text(json.dumps(REQUEST, ensure_ascii=False))
    request = request_from(None, Sources(request=str(path)))
    assert (request.model, request.inputs, request.timeout_s) == ("glm-large", "用户输入文本分片", 3.0)
    assert request_from("other", Sources(request=str(path))).model == "other"


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(REQUEST), encoding="utf-8-sig")
    assert request_from(None, Sources(request=str(file))).model == "glm-large"
    file.write_text('{"x": [[1.5]]}', encoding="utf-8-sig")
    assert arrays(json_file=str(file))["x"].tolist() == [[1.5]]


def test_a_request_file_that_is_no_message_is_named(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    for text, words in (("spec: {}", "no JSON message"), ("{}", '"mcp_version" is missing')):
        file.write_text(text)
        with pytest.raises(InvalidArgument, match=rf"request.json: .*{words}"):
            request_from(None, Sources(request=str(file)))


def test_a_request_file_with_tensors(tmp_path: Path) -> None:
    inputs = [{"name": "image", "dtype": "FP32", "shape": [1, 2], "data": [1, 2]}]
    path = tmp_path / "request.json"
    path.write_text(json.dumps({**REQUEST, "payload": {"model_hint": "digits", "inputs": inputs}}))
    request = request_from(None, Sources(request=str(path)))
    assert isinstance(request.inputs, dict)
    assert request.inputs["image"].dtype == np.float32
    assert request.inputs["image"].shape == (1, 2)


def request_with(tmp_path: Path, **spec: object) -> Request:
    path = tmp_path / "request.json"
    payload = {"model_hint": "m", "inputs": [{"name": "x", **spec}]}
    path.write_text(json.dumps({**REQUEST, "payload": payload}))
    return request_from(None, Sources(request=str(path)))


def bytes_in_json(content: bytes) -> dict[str, str]:
    return {"$bytes": base64.b64encode(content).decode()}


@pytest.mark.parametrize("dtype", ["FP32", "INT64", "BOOL", "BYTES"])
def test_a_request_file_with_a_tensor_s_bytes(tmp_path: Path, dtype: str) -> None:
    values = {"FP32": np.float32([[1, 2]]), "INT64": np.int64([[1, 2]]), "BOOL": np.array([[True, False]])}
    array = values.get(dtype, np.array([["a", "ü"]], dtype=object))
    spec = pack_inline("x", array)
    request = request_with(tmp_path, **{**spec, "data": bytes_in_json(spec["data"])})
    assert isinstance(request.inputs, dict)
    assert request.inputs["x"].tolist() == array.tolist()
    assert request.inputs["x"].dtype == array.dtype
    assert request.untyped == frozenset()


@pytest.mark.parametrize(
    "spec",
    [
        {"dtype": "FP32", "shape": [3], "data": bytes_in_json(b"\xfe\xfd" * 300)},
        {"dtype": "FP32", "data": bytes_in_json(b"\xfe\xfd" * 300)},
        {"shape": [2], "data": bytes_in_json(b"\xfe\xfd" * 300)},
        {"dtype": "FP32", "shape": [1], "data": [bytes_in_json(b"\xfe\xfd" * 300)]},
        {"data": [bytes_in_json(b"\xfe\xfd" * 300)]},
    ],
)
def test_bytes_that_are_no_tensor_are_refused_and_not_shown(tmp_path: Path, spec: dict[str, object]) -> None:
    with pytest.raises((InvalidArgument, InputInvalid)) as error:
        request_with(tmp_path, **spec)
    assert len(error.value.message) < 400


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "STATUS"}, "INFER_REQUEST is expected"),
        ({"payload": {"data_chunk": "x"}}, "model_hint"),
        ({"payload": {"model_hint": "m"}}, "inputs"),
        ({"payload": {"model_hint": "m", "data_chunk": "x", "timeout_ms": -1}}, "timeout_ms"),
        ({"payload": {"model_hint": "m", "inputs": [{"name": "x"}]}}, '"data"'),
        ({"payload": {"model_hint": "m", "inputs": [{"name": "x", "data": [1], "shape": [2]}]}}, "shape"),
    ],
)
def test_a_request_that_lacks_something_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({**REQUEST, **change}))
    with pytest.raises(InvalidArgument, match=words):
        request_from(None, Sources(request=str(path)))


def test_a_request_of_another_major_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({**REQUEST, "mcp_version": "2.0"}))
    with pytest.raises(VersionMismatch):
        request_from(None, Sources(request=str(path)))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (None, {"text": "x"}, "no model is named"),
        ("m", {}, "no input is given"),
        ("m", {"pairs": ("nonsense",)}, "is not one of NAME=@FILE"),
        ("m", {"pairs": ("=1",)}, "is not one of"),
        ("m", {"pairs": ("x=[1,",)}, "not JSON"),
        ("m", {"pairs": ("x=[[1],[2,3]]",)}, "equal lengths"),
        ("m", {"pairs": ('x={"a": 1}',)}, "mixes kinds"),
        ("m", {"pairs": ("x:FLOAT=[1]",)}, "FP32"),
        ("m", {"pairs": ("x:UINT8=[-1]",)}, "UINT8"),
        ("m", {"text": "x", "pairs": ("y=1",)}, "--input and --text each give all inputs"),
        ("m", {"request": "f", "text": "x"}, "--text and --request"),
        ("m", {"pairs": ("x=1",), "npz": Path("f.npz")}, "--input and --npz"),
        ("m", {"json_file": "f", "npz": Path("f.npz")}, "--npz and --json-input"),
        ("m", {"pairs": ("x=1", "y=1", "x:FP32=2")}, "--input x is given twice"),
        ("m", {"pairs": ("x=[1]",), "rows": "a:b"}, "START:STOP"),
        ("m", {"pairs": ("x=[1]",), "rows": ""}, "START:STOP"),
        ("m", {"pairs": ("x=[1]",), "rows": "-1"}, "START:STOP"),
        ("m", {"pairs": ("x=[1, 2]",), "rows": "2"}, "row 2 up to, not including, 3 .* rows 0 to 1"),
        ("m", {"pairs": ("x=[1, 2]",), "rows": "5:9"}, "rows 0 to 1"),
        ("m", {"pairs": ("x=[1, 2]",), "rows": "1:3"}, "rows 0 to 1"),
        ("m", {"pairs": ("x=[1, 2]",), "rows": "1:1"}, "row 1 up to, not including, 1"),
        ("m", {"pairs": ("x=[1, 2]",), "rows": "2:"}, "rows 0 to 1"),
        ("m", {"pairs": ("x=[]",), "rows": ":"}, "no rows"),
        ("m", {"pairs": ("x=1",), "rows": "0"}, "no rows"),
        ("m", {"text": "x", "rows": "0"}, "a text has no rows"),
    ],
)
def test_what_cannot_be_meant_is_refused(model: str | None, options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        request_from(model, Sources(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04broken", b"\x93NUMPY\x01\x00"])
def test_a_file_that_holds_no_array_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InvalidArgument, match="plain arrays") as error:
        arrays(pairs=(f"x=@{tmp_path / 'x.npy'}",))
    assert "pickle" not in error.value.message


def test_a_model_is_no_array_and_nobody_is_told_to_unpickle_it() -> None:
    model = Path(__file__).parents[3] / "examples" / "digits" / "digits.onnx"
    with pytest.raises(InvalidArgument, match="mcpctl deploy") as error:
        arrays(pairs=(f"image=@{model}",))
    assert "pickle" not in error.value.message


def test_a_file_of_python_objects_is_not_unpickled(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (touched,)

    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.npy", "bare.npy"):
        with pytest.raises(InvalidArgument):
            arrays(pairs=(f"x=@{tmp_path / name}",))
    assert not touched.exists()


@pytest.mark.parametrize(
    ("text", "declared", "dtype"),
    [
        ("x=[1, 2]", "FP32", np.float32),
        ("x=[0.5]", "FP64", np.float64),
        ("x=[0.1]", "FP16", np.float16),
        ("x=[1, 2]", "UINT8", np.uint8),
        ("x=[2.0]", "INT32", np.int32),
        ("x=[2.5]", "INT32", np.float32),
        ("x=[300]", "UINT8", np.int64),
        ("x=[true]", "FP32", np.bool_),
        ('x=["a"]', "FP32", np.object_),
        ("x:INT32=[1]", "FP32", np.int32),
        ("x=[1]", "BYTES", np.int64),
    ],
)
def test_bare_numbers_become_what_the_model_declares_if_that_keeps_them(
    text: str, declared: str, dtype: type
) -> None:
    request = typed(request_from("m", Sources(pairs=(text,))), {"x": declared})
    assert isinstance(request.inputs, dict)
    assert request.inputs["x"].dtype == dtype
    assert request.untyped == frozenset()


def test_a_file_s_types_are_never_changed(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(2, np.float64))
    request = typed(request_from("m", Sources(pairs=(f"x=@{tmp_path / 'x.npy'}",))), {"x": "FP32"})
    assert isinstance(request.inputs, dict)
    assert request.inputs["x"].dtype == np.float64


@given(
    hnp.arrays(
        dtype=st.sampled_from([np.float32, np.int64, np.bool_]),
        shape=hnp.array_shapes(max_dims=3, max_side=4),
    )
)
def test_lists_in_json_become_the_array_they_came_from(array: np.ndarray) -> None:
    if array.dtype == np.float32:
        array = np.nan_to_num(array)
    found = array_from_json("x", json.loads(json.dumps(array.tolist())))
    assert found.dtype.kind == array.dtype.kind
    assert found.shape == array.shape
    assert (found == array).all()


@pytest.mark.parametrize("kind", [["FP32"], {}, 7])
def test_a_type_that_is_no_text_is_refused(tmp_path: Path, kind: object) -> None:
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps({"x": {"data": [1.0], "datatype": kind}}))
    with pytest.raises(InvalidArgument, match="x"):
        arrays(json_file=str(file))


def test_no_more_is_read_than_json_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp.cli.inputs.JSON_BYTES_MAX", 1000)
    for options in ({"json_file": "/dev/zero"}, {"request": "/dev/zero"}):
        with pytest.raises(InvalidArgument, match="longer than 1000 characters"):
            request_from("m", Sources(**options))  # type: ignore[arg-type]


def test_a_file_that_claims_more_than_there_is_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_arguments: object, **_more: object) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "load", too_large)
    with pytest.raises(InvalidArgument, match="larger than the memory"):
        arrays(npz=tmp_path / "x.npz")
