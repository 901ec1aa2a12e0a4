"""What a program does that knows Triton and not us. Run by the Python that has ``tritonclient``.

``python triton_calls.py http|grpc HOST:PORT INPUTS.npz OUTPUTS.npz``; prints what is no array as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

kind, address, inputs_path, outputs_path = sys.argv[1:]
if kind == "http":
    import tritonclient.http as triton
else:
    import tritonclient.grpc as triton

from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

client = triton.InferenceServerClient(address)
given = dict(np.load(inputs_path, allow_pickle=False))
for name in ("texts", "in_STRING"):
    given[name] = np.char.encode(given[name], "utf-8").astype(object)
given["bytes"] = np.array([b"\x00\n\x7f", b"", b"a" * 70000], object)
found: dict[str, np.ndarray] = {}
told: dict[str, Any] = {}


def tensor(name: str, array: np.ndarray, **how: Any) -> Any:
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, **how)
    return made


def as_dict(value: Any) -> Any:
    if kind == "http":
        return value
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(value, preserving_proto_field_name=True)


def refused(call: Any) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    return ["nothing", "was refused"]


told["live"] = client.is_server_live()
told["ready"] = client.is_server_ready()
told["model_ready"] = client.is_model_ready("dense")
told["version_ready"] = client.is_model_ready("dense", "1")
told["server"] = as_dict(client.get_server_metadata())
told["dense"] = as_dict(client.get_model_metadata("dense"))
told["index"] = as_dict(client.get_model_repository_index())

dense = [tensor("x", given["x"])]
found["dense"] = client.infer("dense", dense).as_numpy("y")
found["dense_version"] = client.infer("dense", dense, model_version="1").as_numpy("y")
found["dense_large"] = client.infer("dense", [tensor("x", given["large"])]).as_numpy("y")
found["dense_priority"] = client.infer(
    "dense", dense, request_id="seven", priority=3, timeout=20_000_000, parameters={"colour": "red"}
).as_numpy("y")
told["id"] = as_dict(client.infer("dense", dense, request_id="seven").get_response())["id"]
wanted = [triton.InferRequestedOutput("difference"), triton.InferRequestedOutput("sum")]
both = client.infer("add", [tensor("a", given["a"]), tensor("b", given["b"])], outputs=wanted)
found["sum"], found["difference"] = both.as_numpy("sum"), both.as_numpy("difference")
for name in ("texts", "bytes"):
    same = client.infer("strings", [tensor("text", given[name])]).as_numpy("same")
    found[name] = np.array([len(each) for each in same])
    told[name] = [each.hex() for each in same]
typed = [tensor(name, given[name]) for name in given if name.startswith("in_")]
every = client.infer("types", typed)
for name in (each.replace("in_", "out_") for each in given if each.startswith("in_")):
    found[name] = every.as_numpy(name)
    if name == "out_STRING":
        told[name] = [each.hex() for each in found.pop(name).reshape(-1)]

if kind == "http":
    plain = [triton.InferRequestedOutput("y", binary_data=False)]
    json_input = [tensor("x", given["x"], binary_data=False)]
    found["dense_json"] = client.infer("dense", json_input, outputs=plain).as_numpy("y")
    found["dense_json_in"] = client.infer("dense", json_input).as_numpy("y")
    found["dense_gzip"] = client.infer("dense", dense, request_compression_algorithm="gzip").as_numpy("y")
    found["dense_deflate"] = client.infer(
        "dense", dense, request_compression_algorithm="deflate", response_compression_algorithm="gzip"
    ).as_numpy("y")
    found["dense_async"] = client.async_infer("dense", dense).get_result().as_numpy("y")
    every = client.infer(
        "types",
        [
            tensor(each.name(), given[each.name()], binary_data=False)
            for each in typed
            if "16" not in each.name()[-7:]
        ]
        + [each for each in typed if "16" in each.name()[-7:]],
        outputs=[
            triton.InferRequestedOutput(n.name().replace("in_", "out_"), binary_data=False) for n in typed
        ],
    )
    for name in (each.name().replace("in_", "out_") for each in typed if each.name() != "in_STRING"):
        found[f"{name}_json"] = every.as_numpy(name)
    texts = [tensor("text", given["texts"], binary_data=False)]
    plain = [triton.InferRequestedOutput("same", binary_data=False)]
    told["texts_json"] = client.infer("strings", texts, outputs=plain).as_numpy("same").tolist()

if kind == "grpc":
    import queue

    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in ("one", "two"):
        client.async_stream_infer("dense", dense, request_id=number)
    streamed = [answers.get(timeout=30) for _ in range(2)]
    client.stop_stream()
    told["stream"] = [result.get_response().id for result, _ in streamed]
    found["dense_stream"] = streamed[1][0].as_numpy("y")

told["statistics"] = as_dict(client.get_inference_statistics("dense"))
told["no_model"] = refused(lambda: client.infer("nope", dense))
told["no_model_metadata"] = refused(lambda: client.get_model_metadata("nope"))
told["bad_input"] = refused(lambda: client.infer("dense", [tensor("x", given["x"].astype(np.int64))]))
no_text = np.array([b"\xff"], object)
told["no_text"] = refused(lambda: client.infer("strings", [tensor("text", no_text)]))
told["deadline"] = refused(lambda: client.infer("count", [tensor("x", given["for_ever"])], timeout=1000))
told["sequence"] = refused(lambda: client.infer("dense", dense, sequence_id=5))
told["unload"] = refused(lambda: client.unload_model("dense"))
told["not_ready"] = client.is_model_ready("nope") if kind == "http" else False
np.savez(outputs_path, **found)
print(json.dumps(told))
