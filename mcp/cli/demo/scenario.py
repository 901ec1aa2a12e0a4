"""What happens in the demo, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mcp.cli.demo.audit import audits, common_digest, quiet_states, read_back
from mcp.cli.demo.cluster import LocalCluster, NodeProcess
from mcp.cli.demo.digits import Digits
from mcp.cli.demo.display import Display
from mcp.cli.demo.report import Report
from mcp.cli.demo.workload import Inferences, Ledger, planned
from mcp.client.client import Client
from mcp.client.results import ClusterStatus
from mcp.clock import Clock
from mcp.errors import DeadlineExceeded

MODEL: Final = "digits"
KILL_AFTER: Final = 0.35
RESTART_AFTER: Final = 0.65
SETTLE_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.05


@dataclass(slots=True)
class Scenario:
    """One run of the demo on a cluster whose processes are up."""

    cluster: LocalCluster
    client: Client
    digits: Digits
    display: Display
    clock: Clock
    report: Report = field(init=False)

    async def run(self) -> Report:
        """Deploy, load, kill, restart, and judge. Raises only what keeps it from being judged at all."""
        status = await self._settled("a leader", lambda status: status.leader is not None)
        self.display.event(f"{len(self.cluster.nodes)} nodes are up, {status.leader} leads")
        await self._deploy()
        requests = planned(len(self.digits.labels), self.clock.random())
        inferences = Inferences(self.client, self.clock, MODEL, self.digits, requests)
        ledger = Ledger(self.client, self.clock)
        self.display.follow(inferences, ledger)
        async with asyncio.TaskGroup() as group:
            group.create_task(ledger.run())
            load = group.create_task(inferences.run())
            await inferences.reached(KILL_AFTER)
            victim = await self._fail_over(ledger)
            await inferences.reached(RESTART_AFTER)
            await victim.start()
            await self._settled(f"{victim.node} back", lambda status: victim.node in answering(status))
            self.display.event(f"{victim.node} is started again and follows, with what it had on its disk")
            await load
            ledger.close()
        await self._judge(inferences, ledger)
        return self.report

    async def _deploy(self) -> None:
        done = await self.client.deploy(MODEL, self.digits.model)
        self.report = Report(len(self.cluster.nodes), done.name, done.version)
        await self._settled("the model on every node", self._ready_everywhere)
        self.display.event(f"all agree on {done.name} version {done.version} ({done.size / 1000:.0f} kB)")

    def _ready_everywhere(self, status: ClusterStatus) -> bool:
        ready = [node for node in status.reachable if any(m.name == MODEL and m.ready for m in node.models)]
        return len(ready) == len(self.cluster.nodes)

    async def _fail_over(self, ledger: Ledger) -> NodeProcess:
        """Kill whoever leads, and measure how long it takes until a write succeeds again."""
        status = await self._settled("a leader", lambda status: status.leader is not None)
        victim = self.cluster.nodes[str(status.leader)]
        killed_at = self.clock.monotonic()
        await victim.kill()
        self.report.killed = victim.node
        self.display.event(f"{victim.node}, the leader, is killed with SIGKILL")
        await ledger.write()
        first = ledger.first_commit_after(killed_at)
        if first is not None:
            self.report.failover_ms = round((first - killed_at) * 1000, 1)
        status = await self._settled("a new leader", lambda status: status.leader not in {None, victim.node})
        self.report.successor = str(status.leader)
        self.display.event(f"{status.leader} leads, the next write took {self.report.failover_ms} ms")
        return victim

    async def _judge(self, inferences: Inferences, ledger: Ledger) -> None:
        report = self.report
        async with audits(self.cluster, self.clock) as nodes:
            states = await quiet_states(nodes, self.clock)
            self.display.event("reading everything back from every node")
            findings = await read_back(nodes, ledger.writes, inferences.requests)
        report.state_digest = common_digest(states)
        report.states_equal = report.state_digest is not None
        report.applied_index = max(state.applied_index for state in states)
        report.acknowledged = len(ledger.acknowledged) + sum(r.acknowledged for r in inferences.requests)
        report.count_requests(inferences.requests, self.digits)
        report.judge(inferences.requests, findings)

    async def _settled(self, what: str, settled: Callable[[ClusterStatus], bool]) -> ClusterStatus:
        """Ask every node until the answers satisfy ``settled``; the display shows them."""
        deadline = self.clock.monotonic() + SETTLE_TIMEOUT_S
        while True:
            status = await self.client.status()
            self.display.show_nodes(self.cluster, status)
            if settled(status):
                return status
            if self.clock.monotonic() > deadline:
                raise DeadlineExceeded(f"the demo's cluster did not get {what} in {SETTLE_TIMEOUT_S:.0f} s")
            await asyncio.sleep(POLL_S)


def answering(status: ClusterStatus) -> set[str | None]:
    """Return the nodes that answered for themselves."""
    return {node.node for node in status.reachable}
