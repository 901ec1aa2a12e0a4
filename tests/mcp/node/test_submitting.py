"""What is submitted to the log and does not fit its model: refused before it is proposed, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp.errors import InputInvalid, InvalidArgument, ModelNotFound, NoLeader
from mcp.node import submitting
from mcp.node.assembly import Assembly
from mcp.node.node import Node
from simulations.in_process import in_process_cluster as nodes

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"
MODELS = ROOT / "tests" / "executor" / "models"
FITS = np.zeros((1, 64), np.float32)

WRONG: Mapping[str, Any] = {
    "name": {"imgae": FITS},
    "dtype": FITS.astype(np.float64),
    "rank": {"image": FITS[0]},
    "size": FITS[:, :63],
    "one more": {"image": FITS, "other": FITS},
}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def _parts(node: Node) -> Assembly:
    assert node._parts is not None
    return node._parts


def test_inputs_that_do_not_fit_are_refused_as_a_run_refuses_them_and_nothing_is_recorded(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.deploy("digits", DIGITS, aliases=["numbers"], timeout_s=30)
            await client.deploy("words", MODELS / "strings.onnx", timeout_s=30)
            for number, (what, inputs) in enumerate(WRONG.items()):
                with pytest.raises(InputInvalid) as direct:
                    await client.infer("digits", inputs)
                for name in ("digits", "numbers", "digits@1"):
                    with pytest.raises(InputInvalid) as recorded:
                        await client.submit(name, inputs, id=f"bad-{number}")
                    assert recorded.value.message == direct.value.message, what
            with pytest.raises(InputInvalid, match="words version 1"):
                await client.submit("words", FITS)
            with pytest.raises(ModelNotFound):
                await client.submit("digitz", FITS)
            several = [client.submit("digits", FITS, id="good"), client.submit("digits", WRONG["size"])]
            good, bad = await asyncio.gather(*several, return_exceptions=True)
            assert good == "good"
            assert isinstance(bad, InputInvalid)
            assert (await client.result("good", timeout_s=10)).outputs["label"].shape == (1,)
            text = await client.submit("words", np.array(["a"], object))
            assert (await client.result(text, timeout_s=10)).error is None
            for node in cluster.running.values():
                assert not [
                    r for n in range(len(WRONG)) if (r := _parts(node).state.inferences.get(f"bad-{n}"))
                ]

    run(scenario)


def test_an_id_that_the_log_has_is_answered_by_it_also_when_the_model_takes_other_inputs_by_now(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.deploy("m", DIGITS, timeout_s=30)
            await client.submit("m", FITS, id="the-one")
            await client.deploy("m", MODELS / "strings.onnx", timeout_s=30)
            assert await client.submit("m", FITS, id="the-one") == "the-one"
            with pytest.raises(InvalidArgument, match="submitted with other content"):
                await client.submit("m", FITS + 1, id="the-one")
            with pytest.raises(InputInvalid):
                await client.submit("m", FITS, id="another")

    run(scenario)


def test_a_node_that_is_behind_refuses_nothing_that_fits_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it knew when it was asked says that the inputs do not fit; the barrier brings the next version."""

    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client, cluster.client() as other:
            await client.deploy("m", MODELS / "strings.onnx", timeout_s=30)
            order = _parts(cluster.running[cluster.names[0]]).order
            barrier, looks = order.barrier, []

            async def meanwhile(timeout_s: float) -> int:
                looks.append(timeout_s)
                await other.deploy("m", DIGITS, timeout_s=30)
                return await barrier(timeout_s)

            monkeypatch.setattr(order, "barrier", meanwhile)
            inference = await client.submit("m", FITS)
            assert (await client.result(inference, timeout_s=10)).error is None
            assert len(looks) == 1
            await client.submit("m", FITS)
            assert len(looks) == 1  # what fits waits for nothing

    run(scenario)


def test_where_this_node_cannot_be_sure_the_log_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            await client.deploy("m", DIGITS, timeout_s=30)
            order = _parts(cluster.running[cluster.names[0]]).order
            whole = order.barrier

            async def none(timeout_s: float) -> int:
                raise NoLeader("nobody leads")

            monkeypatch.setattr(order, "barrier", none)
            inference = await client.submit("m", WRONG["size"])
            assert isinstance((await client.result(inference, timeout_s=10)).error, InputInvalid)
            monkeypatch.setattr(order, "barrier", whole)
            monkeypatch.setattr(submitting, "LOOKS_MAX", 0)
            inference = await client.submit("m", WRONG["size"])
            assert isinstance((await client.result(inference, timeout_s=10)).error, InputInvalid)

    run(scenario)
