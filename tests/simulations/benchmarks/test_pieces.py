"""The small parts that comparisons rest on: encodings, what other programs print, knees, what is missing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.benchmarks import guard
from simulations.benchmarks.boundary.knee import P99_FACTOR_MAX, Knee, Step, knee
from simulations.benchmarks.boundary.picture import NEEDS, draw
from simulations.benchmarks.boundary.suite import Size, raised
from simulations.benchmarks.commit.callers import misfits
from simulations.benchmarks.needs import BENCH, Need, lacking, modules
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.protobuf import blob, fields, integer, varint
from simulations.benchmarks.serving.clients.http import Connection, JsonAsker, ServerError, content_length
from simulations.benchmarks.serving.loaders import h2load_window, wrk_window
from simulations.benchmarks.serving.mlserver import settings
from simulations.benchmarks.serving.subjects import Subject
from simulations.benchmarks.windows import Latency, Window

# -- protobuf -----------------------------------------------------------------------------------------


def test_the_documentation_of_protobuf_has_these_bytes() -> None:
    assert varint(150) == b"\x96\x01"
    assert integer(1, 150) == b"\x08\x96\x01"
    assert blob(2, b"testing") == b"\x12\x07testing"


NUMBERS = st.integers(1, 2**29 - 1)
VALUES = st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300))


@given(st.lists(st.tuples(NUMBERS, VALUES)))
def test_fields_come_back_as_they_were_written(written: list[tuple[int, int | bytes]]) -> None:
    message = b"".join(blob(n, v) if isinstance(v, bytes) else integer(n, v) for n, v in written)
    assert list(fields(message)) == written


def test_fixed_fields_are_passed_over_and_what_is_cut_short_is_refused() -> None:
    fixed = varint(3 << 3 | 1) + b"12345678" + varint(4 << 3 | 5) + b"1234"
    assert list(fields(fixed + integer(5, 7))) == [(3, b"12345678"), (4, b"1234"), (5, 7)]
    for damaged in (blob(1, b"abc")[:-1], b"\x08\x96", varint(1 << 3 | 3)):
        with pytest.raises(ValueError, match="protobuf"):
            list(fields(damaged))


# -- programs -----------------------------------------------------------------------------------------


def test_what_wrk_says_is_a_window() -> None:
    out = 'Running 1s test\n\n{"us":2000000,"done":100,"status":3,"socket":1,"latency":[1,2,3,4,5,6000]}\n'
    window = wrk_window(out, client_s=0.5)
    assert (window.done, window.seconds, window.client_s) == (97, 2.0, 0.5)
    assert window.failed == {"another status than 2xx": 3, "socket errors": 1}
    assert window.latency == Latency(1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 6e-3)


def test_what_h2load_logs_is_a_window() -> None:
    window = h2load_window("1000000\t200\t500\n1000500\t200\t1500\n1002000\t503\t10\n", client_s=0.5)
    assert (window.done, window.failed) == (2, {"another status than 200": 1})
    assert window.seconds == pytest.approx(0.002)
    assert window.latency is not None
    assert window.latency.max == pytest.approx(0.0015)
    assert h2load_window("1000000\t-1\t500\n", 0.5).done == 0


def test_what_is_missing_is_told_with_what_to_install() -> None:
    missing = Need("no_such_module_anywhere", BENCH)
    told = lacking("FastAPI", [*modules("sys"), missing])
    assert told is not None
    assert all(part in told for part in ("FastAPI was not measured", "no_such_module_anywhere", BENCH))
    assert lacking("Python", modules("sys", "json")) is None
    assert Need(sys.executable, "", is_program=True).met
    assert not Need("no-such-program-anywhere", "", is_program=True).met


def test_mlserver_is_told_to_batch_in_one_process_on_loopback(tmp_path: Path) -> None:
    subject = Subject("tiny", tmp_path / "tiny.onnx", np.zeros((1, 4), np.float32))
    place = settings(subject, (1, 2, 3), tmp_path)
    server, model = ((place / name).read_text() for name in ("settings.json", "model-settings.json"))
    assert '"parallel_workers": 0' in server
    assert '"host": "127.0.0.1"' in server
    assert '"max_batch_size": 64' in model
    assert str(subject.model) in model


# -- HTTP ---------------------------------------------------------------------------------------------

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


async def answered(*pieces: bytes) -> bytes:
    connection = Connection()
    connection.connection_made(_Sink())
    answer = connection.send(b"question")
    for piece in pieces:
        connection.data_received(piece)
    return await answer


class _Sink(asyncio.Transport):
    def write(self, data: Any) -> None:
        assert data == b"question"


@given(st.integers(1, len(ANSWER) - 1))
def test_an_answer_may_come_in_pieces(at: int) -> None:
    assert asyncio.run(answered(ANSWER[:at], ANSWER[at:])) == b"hello"


def test_another_status_and_a_length_that_is_not_told_are_errors() -> None:
    with pytest.raises(ServerError, match="503"):
        asyncio.run(answered(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(ServerError, match="content-length"):
        content_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async def scenario() -> list[bytes]:
        served: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(writer)
            while await reader.readuntil(b"}"):
                writer.write(ANSWER)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        subject = Subject("s", Path("s.onnx"), np.zeros((1, 2), np.float32))
        port = server.sockets[0].getsockname()[1]
        asker = JsonAsker(subject, {"host": "127.0.0.1", "port": port, "path": "/", "dialect": "plain"})
        answers = [await asker.ask(0), await asker.ask(0)]
        assert len(served) == 1
        served[0].close()
        await served[0].wait_closed()
        (idle,) = asker._free
        async with asyncio.timeout(30.0):
            while not idle.lost:  # noqa: ASYNC110 (it has no event, and needs none)
                await asyncio.sleep(0)
        async with asyncio.timeout(30.0):
            answers.append(await asker.ask(0))
        assert len(served) == 2
        await asker.close()
        for writer in served:
            writer.close()
        server.close()
        return answers

    assert asyncio.run(scenario()) == [b"hello"] * 3


# -- knees --------------------------------------------------------------------------------------------


def step(offered: float, answered_share: float = 1.0, p99: float = 0.01, failed: int = 0) -> Step:
    done = int(offered * answered_share)
    latency = Latency(p99 / 4, p99 / 2, p99 / 2, p99, p99, p99)
    return Step(offered, Window(1.0, done, latency, 0.1, failed={"lost": failed} if failed else {}))


LIGHT = [step(100), step(200), step(400)]


@pytest.mark.parametrize(
    ("beyond", "why"),
    [
        (step(800, answered_share=0.8), "only 640 of 800"),
        (step(800, p99=0.01 * P99_FACTOR_MAX * 1.01), "99th percentile was 101.0 ms, 10.0 ms under"),
        (step(800, failed=8), "8 of 808 requests failed"),
    ],
)
def test_the_knee_is_the_last_load_before_latency_or_errors_break(beyond: Step, why: str) -> None:
    found = knee([*LIGHT, beyond, step(1600)])
    assert found is not None
    assert found.offered == 400
    assert found.broke is not None
    assert why in found.broke


def test_without_a_break_there_is_no_cliff_and_without_a_start_no_knee() -> None:
    assert knee(LIGHT) == Knee(400, None)
    assert knee([step(100, failed=1), step(200)]) is None


STALL = step(400, p99=0.3)


@pytest.mark.parametrize(
    ("answers", "loads", "at"),
    [
        ([STALL, step(400), step(800)], [400, 400, 800], 800),
        ([STALL, STALL], [400, 400], 200),
        ([step(400, failed=1)], [400], 200),
    ],
)
def test_one_stall_is_no_knee(answers: list[Step], loads: list[float], at: float) -> None:
    """What was not carried is offered once more, unless requests failed, and the second time counts."""
    coming = iter([step(100), step(200), *answers])
    offered: list[float] = []

    async def offer(rate: float) -> Window:
        offered.append(rate)
        return next(coming).window

    size = Size(first=100.0, factor=2.0, steps_max=4, seconds=1.0, beyond=0)
    found = knee(asyncio.run(raised(offer, size, Steps(quiet=True))))
    assert offered == [100, 200, *loads]
    assert found is not None
    assert found.offered == at


@pytest.mark.skipif(lacking("pictures", NEEDS) is not None, reason="matplotlib is not installed")
def test_the_picture_is_a_png(tmp_path: Path) -> None:
    steps = [*LIGHT, step(800, answered_share=0.5)]
    path = draw({"inferences": steps, "commands": steps}, tmp_path / "boundary.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")


# -- audits and guards --------------------------------------------------------------------------------


def test_a_key_that_was_written_too_rarely_or_too_often_is_found() -> None:
    acknowledged = {"good": 3, "lost": 3, "twice": 3, "doubt": 3}
    versions = {"good": 3, "lost": 2, "twice": 4, "doubt": 4}
    told = misfits(versions, acknowledged, {"doubt": 1})
    assert [line.split()[0] for line in told] == ["lost", "twice"]
    assert misfits({}, {"gone": 1}, {}) != []


def results(factor: float) -> guard.Results:
    made = guard.Results()
    for name, measured in guard.MEASURED.items():
        made.ratios[name] = [measured * factor * noise for noise in (0.8, 0.95, 1.0, 1.1, 1.4)]
    return made


def test_twice_the_work_fails_the_guard_and_noise_does_not() -> None:
    assert guard.report(results(1.0)).passed
    assert guard.report(results(1.25)).passed
    doubled = guard.report(results(2.0))
    assert not doubled.passed
    assert not any(bar.met for bar in doubled.bars)


def test_one_thing_that_doubled_is_enough() -> None:
    for name in guard.MEASURED:
        made = results(1.0)
        made.ratios[name] = [2 * value for value in made.ratios[name]]
        assert [bar.figure.name for bar in guard.report(made).bars if not bar.met] == [name]
