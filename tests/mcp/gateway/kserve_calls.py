"""What a program does that knows KServe and not us. Run by the Python that has ``kserve``.

``python kserve_calls.py HTTP_HOST:PORT GRPC_HOST:PORT INPUTS.npz OUTPUTS.npz``; prints the rest as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput

http, grpc, inputs_path, outputs_path = sys.argv[1:]
given = dict(np.load(inputs_path, allow_pickle=False))
found: dict[str, np.ndarray] = {}
told: dict[str, Any] = {}


def request(
    model: str, name: str, datatype: str, *, binary: bool = True, output: str = "y", binary_out: bool = True
) -> Any:
    made = InferInput(name, list(given[name].shape), datatype)
    made.set_data_from_numpy(given[name], binary_data=binary)
    wanted = RequestedOutput(output, parameters=None if binary_out is None else {"binary_data": binary_out})
    return InferRequest(model, [made], request_id="seven", request_outputs=[wanted])


async def refused(work: Any) -> str:
    try:
        await work
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


async def over_http() -> None:
    url = f"http://{http}"
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        told["live"] = await client.is_server_live(url)
        told["ready"] = await client.is_server_ready(url)
        told["model_ready"] = await client.is_model_ready(url, "dense")
        told["no_model_ready"] = await client.is_model_ready(url, "nope")
        for binary in (True, False):
            for binary_out in (True, False):
                asked = request("dense", "x", "FP32", binary=binary, binary_out=binary_out)
                answer = await client.infer(url, asked, model_name="dense")
                found[f"http_{binary}_{binary_out}"] = answer.outputs[0].as_numpy()
        told["id"] = answer.id
        told["no_model"] = await refused(client.infer(url, asked, model_name="nope"))


async def over_grpc() -> None:
    async with InferenceGRPCClient(grpc) as client:
        told["grpc_live"] = await client.is_server_live()
        told["grpc_ready"] = await client.is_server_ready()
        told["grpc_model_ready"] = await client.is_model_ready("dense")
        for binary in (True, False):
            answer = await client.infer(request("dense", "x", "FP32", binary=binary))
            found[f"grpc_{binary}"] = answer.outputs[0].as_numpy()
        told["grpc_no_model"] = await refused(client.infer(request("nope", "x", "FP32")))


asyncio.run(over_http())
asyncio.run(over_grpc())
np.savez(outputs_path, **found)
print(json.dumps(told))
