"""The audit after a soak waits for nodes that are not ready to tell; a pause is no finding."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from mcp.clock import SystemClock
from mcp.errors import Busy
from mcp.net.connection import Connection
from simulations.soak.audit import Findings, OwnAnswers, compare_digests

CLOCK = SystemClock()


class RestingNode:
    """A node behind a connection: it rests from its last digest for the first so many questions."""

    def __init__(self, rests: int) -> None:
        self.rests = rests

    async def request(self, *_: Any, **__: Any) -> Any:
        self.rests -= 1
        if self.rests >= 0:
            raise Busy("a digest of the whole state was asked for a moment ago")
        return SimpleNamespace(message=SimpleNamespace(payload={"applied_index": 7, "state_digest": "a"}))


def test_a_node_that_rests_from_its_last_digest_is_asked_again() -> None:
    findings = Findings()
    nodes = [OwnAnswers(f"n{rests}", cast(Connection, RestingNode(rests)), CLOCK) for rests in (0, 2)]
    asyncio.run(compare_digests(nodes, CLOCK, findings))
    assert (findings.digest, findings.wrong) == ("a", [])
    assert findings.positions == {"n0": 7, "n2": 7}
