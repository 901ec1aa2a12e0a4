"""A fixed piece of Python work of the kind that nodes and clients do: how fast this machine's Python is now.

Small messages packed, sent through a socket, read and unpacked, dictionaries and a heap kept meanwhile. What
it costs is processor time, which other programs on the machine hardly change; whatever does (a slower core, a
colder cache, another version of Python) changes the work that is measured beside it as well.
"""

from __future__ import annotations

import heapq
import socket
import time
from typing import Final

import msgpack

STEPS: Final = 8000
KEPT: Final = 64


def unit_s(steps: int = STEPS) -> float:
    """Processor seconds of one step."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        begun = time.process_time()
        _work(ours, theirs, steps)
        return (time.process_time() - begun) / steps


def _work(ours: socket.socket, theirs: socket.socket, steps: int) -> None:
    seen: dict[str, dict[str, object]] = {}
    due: list[tuple[int, str]] = []
    for number in range(steps):
        message = {"id": str(number), "type": "WORK", "payload": {"n": number, "data": b"0" * 64}, "ttl": 8}
        ours.send(msgpack.packb(message))
        read = msgpack.unpackb(theirs.recv(4096))
        seen[read["id"]] = read
        heapq.heappush(due, (-number % 97, read["id"]))
        if len(due) > KEPT:
            seen.pop(heapq.heappop(due)[1], None)
