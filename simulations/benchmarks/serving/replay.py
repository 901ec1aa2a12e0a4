"""A worker that replays requests to a node: ``python -m simulations.benchmarks.serving.replay SPEC``.

The others are driven by programs in C, which send bytes that were made beforehand and hardly look at what
comes back. This does the same to a node, so that the node and its client can be told apart: a connection for
each caller, the handshake made by the product, and from then on frames that are ready, one under way on each.
Answers are looked at when the time is over. It is Python all the same, but only a few lines for a request.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from mcp.clock import SystemClock, new_id
from mcp.errors import McpError
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.net.loop import loop_factory
from mcp.wire.codec import decode_message, encode_message
from mcp.wire.frame import HEADER_BYTES, OPEN_KINDS, FrameKind, FrameReader, encode_frame
from mcp.wire.handshake import Identity, Role
from mcp.wire.messages import Message
from mcp.wire.tensors import pack_all, unpack_all
from simulations.benchmarks.asking import KEPT_MAX
from simulations.benchmarks.in_process import Outputs, equal
from simulations.benchmarks.serving.subjects import Subject, expected, load
from simulations.benchmarks.windows import Latency, Window
from simulations.benchmarks.workers import obey

STREAM: Final = 1
"""It is free again as soon as its answer is there."""
READ_BYTES: Final = 64 * 1024
ANSWER_WITHIN_S: Final = 10.0


class Caller:
    """One connection, with at most one request under way."""

    def __init__(self, connection: Connection, number: int) -> None:
        assert connection._transport is not None
        own = connection._transport.get_extra_info("socket")
        self.connection = connection
        self.socket = socket.socket(fileno=os.dup(own.fileno()))
        self.number = number
        self.since = 0.0
        self._held = b""

    def answer(self) -> bytes | None:
        """The frame that has come; ``None``: not all of it has."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError("the node has closed the connection")
        held = self._held + data if self._held else data
        if len(held) < HEADER_BYTES or len(held) < HEADER_BYTES + int.from_bytes(held[:4], "little"):
            self._held = held
            return None
        self._held = b""
        return held

    def close(self) -> None:
        """Close both."""
        self.socket.close()
        self.connection.abort()


def frames(subject: Subject) -> list[bytes]:
    """A request for each row, as the product's client would send it."""
    clock, made = SystemClock(), []
    for row in subject.rows:
        specs, segments = pack_all({"": row[np.newaxis]})
        payload = {"model_hint": subject.name, "inputs": specs}
        body = encode_message(Message("INFER_REQUEST", payload, new_id(clock), new_id(clock)))
        made.append(b"".join(encode_frame(FrameKind.REQUEST, STREAM, body, segments)))
    return made


def drive(callers: Sequence[Caller], requests: Sequence[bytes], seconds: float) -> tuple[Window, list[Any]]:
    """A closed loop; gives also the first answers, with the numbers of their rows."""
    count, durations, failed = len(requests), list[float](), Counter[str]()
    kept: list[tuple[int, bytes]] = []
    by_file = {caller.socket.fileno(): caller for caller in callers}
    with select.epoll() as epoll:
        for file in by_file:
            epoll.register(file, select.EPOLLIN)
        begun, worked = time.perf_counter(), time.process_time()
        ends, under_way = begun + seconds, len(callers)
        for caller in callers:
            caller.since = begun
            caller.socket.send(requests[caller.number % count])
        while under_way:
            ready = epoll.poll(ANSWER_WITHIN_S)
            if not ready:
                failed["no answer came"] += under_way
                break
            for file, _ in ready:
                caller = by_file[file]
                answer = caller.answer()
                if answer is None:
                    continue
                now = time.perf_counter()
                if answer[4] == FrameKind.RESPONSE:
                    durations.append(now - caller.since)
                    if len(kept) < KEPT_MAX:
                        kept.append((caller.number % count, answer))
                else:
                    failed[f"a frame of kind {answer[4]}"] += 1
                if now >= ends:
                    under_way -= 1
                    continue
                caller.number += len(callers)
                caller.since = now
                caller.socket.send(requests[caller.number % count])
        took, spent = time.perf_counter() - begun, time.process_time() - worked
    return Window(took, len(durations), Latency.of(durations), spent, failed=dict(failed)), kept


def outputs_of(frame: bytes) -> Outputs:
    """What an answer says. Raises :class:`~mcp.errors.McpError`."""
    reader = FrameReader(kinds=OPEN_KINDS)
    while not (found := reader.next_frame()):
        room = reader.get_buffer()
        part = frame[: len(room)]
        room[: len(part)] = part
        reader.received(len(part))
        frame = frame[len(part) :]
    return unpack_all(decode_message(found.body).payload["outputs"], found.segments)


def wrong(name: str, kept: Sequence[tuple[int, bytes]], right: Sequence[Outputs]) -> tuple[str, ...]:
    """Which answers are others than in process."""
    found = []
    for row, frame in kept:
        try:
            if equal(outputs_of(frame), right[row]):
                continue
        except McpError as error:
            found.append(f"{name}: the answer to row {row} cannot be read: {error}")
        else:
            found.append(f"{name}: the answer to row {row} is another than in process")
    return tuple(found[:10])


async def work(spec: Mapping[str, Any]) -> None:
    """Carry out orders until standard input ends."""
    subject = load(spec["subject"])
    right, requests = expected(subject), frames(subject)

    async def carry_out(order: Mapping[str, Any]) -> Mapping[str, Any]:
        who = Identity("mcp", f"client-{new_id(SystemClock())}", b"", Role.CLIENT)
        made = [await connect(spec["target"], who) for _ in range(order["callers"])]
        callers = [Caller(connection, number) for number, connection in enumerate(made)]
        try:
            window, kept = drive(callers, requests, order["seconds"])
        finally:
            for caller in callers:
                caller.close()
        return {**window.to_plain(), "wrong": wrong(subject.name, kept, right)}

    await obey(carry_out)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work(json.loads(sys.argv[1])))
