"""The published description: it is what the routes are made of, and who fuzzes with it finds nothing broken.

The fuzzer is schemathesis, which is no dependency of ours. To have that test run::

    python -m venv DIR && DIR/bin/pip install schemathesis
    SCHEMATHESIS_PYTHON=DIR/bin/python pytest tests/mcp/gateway/test_openapi.py
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_node import Gateway, serving

from mcp.gateway.application import application
from mcp.gateway.description import COORDINATION, OBSERVATION, OPEN_INFERENCE, OPERATIONS
from mcp.gateway.openapi import openapi
from mcp.gateway.schemas import SCHEMAS
from simulations.in_process import until

VARIABLE = "SCHEMATHESIS_PYTHON"
EXAMPLES_EACH = 25
DESCRIPTION = openapi(OPERATIONS)


def nested(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from nested(child)
    elif isinstance(value, list):
        for child in value:
            yield from nested(child)


def test_every_reference_resolves_and_every_schema_is_used() -> None:
    named = {each["$ref"].rpartition("/")[2] for each in nested(DESCRIPTION) if "$ref" in each}
    told = {each.schema for operation in OPERATIONS for each in operation.answers.values()}
    assert named == SCHEMAS.keys() - {"Text"}
    assert told | {operation.body for operation in OPERATIONS if operation.body} | {"Error"} == SCHEMAS.keys()


def test_operations_have_names_of_their_own_and_documented_parameters() -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)
    for path, methods in DESCRIPTION["paths"].items():
        for told in methods.values():
            placed = {each["name"] for each in told["parameters"] if each["in"] == "path"}
            assert placed == set(re.findall(r"\{(\w+)\}", path))
            assert told["summary"].endswith(".")
            assert "500" not in told["responses"]


def test_there_is_no_route_that_is_not_described(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            routes = application(gateway.operations).routes
            paths = {re.sub(r":path\}", "}", route.path) for route in routes}
            assert paths == {operation.path for operation in OPERATIONS} | {"/v2/"}

    asyncio.run(scenario())


def test_what_is_published_is_that_and_each_operation_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            assert (await gateway.get("/openapi.json")).value == json.loads(json.dumps(DESCRIPTION))
            for operation in (*OPEN_INFERENCE, *COORDINATION, *OBSERVATION):
                path = re.sub(r"\{(\w+)\}", "nothing", operation.path)
                answer = await (gateway.get if operation.method == "GET" else gateway.post)(path)
                assert answer.status in operation.status_codes, (operation.name, answer.status)
                media = answer.headers["content-type"].partition(";")[0]
                told = operation.answers.get(answer.status)
                assert media in (("application/json",) if told is None else told.media)
                other = await (gateway.post if operation.method == "GET" else gateway.get)(path)
                assert other.status == 405, operation.name
                assert operation.method in other.headers["allow"]
            tensor = {"name": "x", "datatype": "BOOL", "shape": [0], "data": []}
            for operation in OPEN_INFERENCE:
                if operation.body == "Inference":
                    path = re.sub(r"\{(\w+)\}", "nothing", operation.path)
                    assert (await gateway.post(path, {"inputs": [tensor]})).status == 404
                    assert 404 in operation.status_codes
            head = await asyncio.to_thread(_head, gateway.address, "/v2/health/live")
            assert head == (200, str(len('{"live":true}')), b"")

    asyncio.run(scenario())


def test_a_defect_is_told_as_one_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The only way to 500: no input leads there, so the defect is put in."""

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:

            async def broken() -> None:
                raise ZeroDivisionError

            gateway.operations.cluster = broken  # type: ignore[method-assign, assignment]
            answer = await gateway.get("/mcp/v1/cluster")
            assert (answer.status, answer.headers["mcp-error-code"]) == (500, "INTERNAL")
            assert "ZeroDivisionError" in answer.error

    asyncio.run(scenario())
    assert [record.exc_info is not None for record in caplog.records if record.levelname == "ERROR"] == [True]


def _head(address: str, path: str) -> tuple[int, str | None, bytes]:
    import http.client

    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request("HEAD", path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-length"), answer.read()
    finally:
        connection.close()


def with_names(description: dict[str, Any], models: list[str]) -> dict[str, Any]:
    """The same, where models and versions are mostly such that there are: the fuzzer would not guess them."""
    told: dict[str, Any] = json.loads(json.dumps(description))
    for each in nested(told["paths"]):
        if each.get("in") == "path" and each["name"] in ("model", "version"):
            names = [*models, "nothing"] if each["name"] == "model" else ["1", "2", "9"]
            each["schema"] = {"enum": names}
    for name in ("Message", "Submission"):
        told["components"]["schemas"][name]["properties"]["payload"]["properties"]["model_hint"] = {
            "enum": models
        }
    submitted = told["paths"]["/mcp/v1/inferences"]["post"]["requestBody"]["content"]
    submitted["application/json"]["example"] = SUBMISSION
    return told


SUBMISSION = {
    "mcp_version": "1.0",
    "type": "INFER_REQUEST",
    "payload": {
        "model_hint": "dense",
        "inputs": [{"name": "x", "dtype": "FP32", "shape": [1, 64], "data": [0.5] * 64}],
    },
}
"""Fits its model. Hardly any that the schema allows does, and what does not is refused, not logged."""


CONFIGURATION = """\
[checks]
# What is broken in the cluster, or not had in time, has a status of its own: 500 is what may never come.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501, 503, 504]
"""


# No schema says that a tensor's data have to fit its shape, so not all that it allows is accepted.
async def fuzzed(gateway: Gateway, folder: Path, models: list[str]) -> str:
    (folder / "openapi.json").write_text(json.dumps(with_names(DESCRIPTION, models)))
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    process = await asyncio.create_subprocess_exec(
        *(os.environ[VARIABLE], "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
        *("run", "openapi.json", "--url", f"http://{gateway.address}", "--no-color", "--seed", "1"),
        *(
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
            "--max-examples",
            str(EXAMPLES_EACH),
            "--request-timeout",
            "30",
        ),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.mark.skipif(
    shutil.which(os.environ.get(VARIABLE, "")) is None,
    reason=f"{VARIABLE} names no Python that has schemathesis; see {Path(__file__).name} for how to make one",
)
def test_a_fuzzer_that_reads_the_description_finds_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            models = ["dense", "strings", "types", "add"]
            await gateway.deploy(*models)
            parts = gateway.node._parts
            assert parts is not None
            await gateway.get("/v2/health/ready")
            tasks, threads = len(asyncio.all_tasks()), parts.dispatch._active
            out = await fuzzed(gateway, tmp_path, models)
            assert f"Tested: {len(OPERATIONS)}" in out, out
            # Nothing is left of what was begun.
            await until(lambda: gateway.room.requests == gateway.room.bytes == 0)
            await until(lambda: not threads)
            await until(lambda: not parts.streamed.streams)
            gc.collect()
            await until(lambda: len(asyncio.all_tasks()) <= tasks + 1)
            statuses = {key[2] for key in gateway.observer.figures._requests}
            assert "500" not in statuses
            assert {"200", "202", "400", "404", "405"} <= statuses
            assert (await gateway.get("/v2/health/ready")).status == 200

    asyncio.run(scenario())
