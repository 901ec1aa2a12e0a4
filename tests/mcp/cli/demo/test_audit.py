"""The audit finds what a node does not hold as promised. A check that finds nothing would prove nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from mcp.cli.demo.audit import Findings, NodeAudit, NodeState, common_digest, quiet_states, recorded_label
from mcp.cli.demo.digits import load_digits
from mcp.cli.demo.workload import Request, Way, Write
from mcp.client.client import Client
from mcp.clock import SystemClock, new_id
from mcp.errors import Busy
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.wire.handshake import Identity, Role

KEY = b"a-key-for-tests-0123456789"
CLOCK = SystemClock()


def audited(
    address: str, prepare: Callable[[Client], Awaitable[tuple[list[Write], list[Request]]]]
) -> Findings:
    """Do something to the node, and audit it for what that claims to have done."""

    async def work() -> Findings:
        findings = Findings()
        async with Client([address], cluster_key=KEY) as client:
            writes, requests = await prepare(client)
        audit = NodeAudit("t1", await connect(address, Identity("mcp", "audit", KEY, Role.CLIENT)), CLOCK)
        try:
            await audit.run(writes, requests, findings)
            assert (await audit.state()).digest
        finally:
            await audit.close()
        return findings

    return asyncio.run(work())


def write(value: str = "v", *, acknowledged: bool = True) -> Write:
    return Write(f"audit/{new_id(CLOCK)}", value, 0.0, 1.0 if acknowledged else None)


def test_what_was_written_once_is_as_promised(node_address: str) -> None:
    async def prepare(client: Client) -> tuple[list[Write], list[Request]]:
        kept, unknown_but_there, unknown_and_not = (
            write(),
            write(acknowledged=False),
            write(acknowledged=False),
        )
        await client.put(kept.key, kept.value)
        await client.put(unknown_but_there.key, unknown_but_there.value)
        return [kept, unknown_but_there, unknown_and_not], []

    assert audited(node_address, prepare) == Findings()


def test_what_was_lost_doubled_or_changed_is_found(node_address: str) -> None:
    lost, doubled, doubled_unknown, changed = write(), write(), write(acknowledged=False), write()

    async def prepare(client: Client) -> tuple[list[Write], list[Request]]:
        for key in (doubled.key, doubled.key, doubled_unknown.key, doubled_unknown.key):
            await client.put(key, "v")
        await client.put(changed.key, "something else")
        return [lost, doubled, doubled_unknown, changed], [Request(0, Way.DURABLE, "never-sent")]

    findings = audited(node_address, prepare)
    assert sorted(findings.lost) == sorted([f"{lost.key} on t1", "never-sent on t1"])
    assert sorted(findings.duplicated) == sorted(
        f"{key} on t1: version 2" for key in (doubled.key, doubled_unknown.key)
    )
    assert findings.differing == [f"{changed.key} on t1"]


def test_a_record_that_differs_from_the_answer_is_found(node_address: str) -> None:
    digits = load_digits()
    right = Request(0, Way.DURABLE, new_id(CLOCK), acknowledged=True)
    wrong = Request(0, Way.REPLICATED, new_id(CLOCK), acknowledged=True)

    async def prepare(client: Client) -> tuple[list[Write], list[Request]]:
        await client.deploy("digits", digits.model, version="1")
        for request in (right, wrong):
            mode = "durable" if request.way is Way.DURABLE else "replicated"
            await client.submit("digits", digits.images[:1], mode=mode, id=request.id)  # type: ignore[arg-type]
            outputs = (await client.result(request.id)).outputs
            assert outputs is not None
            request.label = int(outputs["label"][0])
        wrong.label = (int(wrong.label or 0) + 1) % 10
        return [], [right, wrong]

    findings = audited(node_address, prepare)
    assert findings == Findings(differing=[f"{wrong.id} on t1"])


def test_states_are_equal_only_at_one_position_with_one_digest() -> None:
    state = NodeState("n1", 7, "a")
    assert common_digest([state, NodeState("n2", 7, "a"), NodeState("n3", 7, "a")]) == "a"
    assert common_digest([state, NodeState("n2", 7, "b"), NodeState("n3", 7, "a")]) is None
    assert common_digest([state, NodeState("n2", 8, "a"), NodeState("n3", 7, "a")]) is None


class RestingNode:
    """A node behind a connection: it rests from its last digest for the first so many questions."""

    def __init__(self, rests: int) -> None:
        self.rests = rests
        self.asked = 0

    async def request(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        if self.asked <= self.rests:
            raise Busy("a digest of the whole state was asked for a moment ago")
        return SimpleNamespace(message=SimpleNamespace(payload={"applied_index": 7, "state_digest": "a"}))


def test_a_node_that_rests_from_its_last_digest_is_asked_again() -> None:
    nodes = [RestingNode(0), RestingNode(2)]
    audits = [NodeAudit(f"n{n}", cast(Connection, node), CLOCK) for n, node in enumerate(nodes)]
    assert common_digest(asyncio.run(quiet_states(audits, CLOCK))) == "a"
    assert [node.asked for node in nodes] == [3, 3]


def test_a_record_without_an_answer_has_no_label() -> None:
    assert recorded_label({}) is None
    assert recorded_label({"outputs": None}) is None
    spec = {"name": "label", "dtype": "INT64", "shape": [1], "data": np.array([7]).tobytes()}
    assert recorded_label({"outputs": [spec]}) == 7
