"""Commands take effect once: through lost answers, dead nodes, new leaders and forgotten sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp.clock import Clock
from mcp.errors import (
    Busy,
    DeadlineExceeded,
    McpError,
    NoLeader,
    OutcomeUnknown,
    SessionExpired,
    VersionConflict,
)
from mcp.state.limits import StateLimits


@pytest.mark.parametrize("what", ["lose answer", "lose request", "mute", "hang"])
def test_a_command_whose_answer_is_lost_is_sent_again_and_applied_once(
    what: str, cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("other", 0)
            for node in cluster.nodes.values():
                node.faults.append(fault("COMMAND", what, op="key.cas"))
            assert await client.compare_and_set("k", "mine", expected_version=0, timeout_s=30) == 1
            assert (await client.get("k")).version == 1
            assert cluster.ops().count("key.cas") == 1
            assert cluster.received("key.cas") == 4

    virtual(main)


def test_a_comparison_that_lost_is_told_so_even_when_its_first_answer_was_lost(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("k", "winner")
            cluster.nodes["n1"].faults.append(fault("COMMAND", "lose answer", op="key.cas"))
            with pytest.raises(VersionConflict):
                await client.compare_and_set("k", "loser", expected_version=0)
            assert len(await client.conflicts("k")) == 1

    virtual(main)


def test_the_leader_dies_and_another_takes_over(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("k", 0)
            cluster.nodes["n1"].faults.append(fault("COMMAND", "mute", 99))
            writes = [asyncio.create_task(client.put(f"k{i}", i)) for i in range(300)]
            await asyncio.sleep(0.05)
            cluster.leader = None
            await cluster.nodes["n1"].stop()
            await asyncio.sleep(0.4)
            cluster.leader = "n3"
            elected = clock.monotonic()
            assert await asyncio.gather(*writes) == [1] * 300
            assert clock.monotonic() - elected < 0.3  # the longest pause between two attempts
            assert await client.put("k", 1) == 2
            assert client._exchange.routing.leader == "n3"
            assert len(cluster.ops()) == 302

    virtual(main)


def test_without_a_leader_nothing_was_written_and_the_caller_is_told(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("k", 0)
            cluster.leader = None
            with pytest.raises(DeadlineExceeded, match="NO_LEADER") as certain:
                await client.put("k", 1, timeout_s=3)
            assert certain.value.outcome_known
            cluster.leader = "n2"
            cluster.nodes["n2"].faults.append(fault("COMMAND", "lose answer"))
            cluster.nodes["n1"].faults.append(fault("COMMAND", NoLeader("none"), 10**6))
            cluster.nodes["n3"].faults.append(fault("COMMAND", NoLeader("none"), 10**6))
            attempt = asyncio.create_task(client.put("k", 2, timeout_s=3))
            await cluster.until(lambda: cluster.ops().count("key.put") == 2)
            cluster.leader = None
            with pytest.raises(OutcomeUnknown):
                await attempt

    virtual(main)


def test_the_first_command_waits_for_a_leader(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            cluster.leader = None
            with pytest.raises(DeadlineExceeded, match="NO_LEADER"):
                await client.put("k", 0, timeout_s=1)
            writes = [asyncio.create_task(client.put(f"k{i}", i)) for i in range(50)]
            await asyncio.sleep(1)
            cluster.leader = "n2"
            assert await asyncio.gather(*writes) == [1] * 50
            opened = [session for op, session, _ in cluster.committed if op == "session.open"]
            assert len(set(opened)) == 1

    virtual(main)


def test_a_forgotten_session_is_replaced(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("k", 0)
            cluster.forget_sessions()
            versions = await asyncio.gather(*(client.put("k", i) for i in range(600)))
            assert sorted(versions) == list(range(2, 602))
            assert len(cluster.state.sessions) == 1

    virtual(main)


def test_a_command_in_doubt_is_not_repeated_in_another_session(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("other", 0)
            cluster.nodes["n1"].faults.append(fault("COMMAND", "mute"))
            write = asyncio.create_task(client.put("k", 1, timeout_s=9))
            await asyncio.sleep(0.5)
            cluster.forget_sessions()
            with pytest.raises(OutcomeUnknown, match="SESSION_EXPIRED"):
                await write
            assert (await client.get("k")).version == 1
            assert await client.put("k", 2) == 2

    virtual(main)


def test_a_cluster_that_forgets_every_session_is_not_asked_for_ever(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            for node in cluster.nodes.values():
                error = SessionExpired("unknown session")
                node.faults.append(fault("COMMAND", error, 10**6, op="key.put"))
            with pytest.raises(SessionExpired):
                await client.put("k", 1)
            assert cluster.received("key.put") == 3

    virtual(main)


def test_a_slow_command_holds_back_the_window_and_nothing_is_lost(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            for node in cluster.nodes.values():
                node.faults.append(fault("COMMAND", "delay", op="key.delete", delay_s=2.5))
            slow = asyncio.create_task(client.delete("nothing"))
            await asyncio.sleep(0)
            writes = asyncio.gather(*(client.put(f"k{i}", i) for i in range(2000)))
            await asyncio.sleep(2)
            (session,) = cluster.state.sessions
            assert len(cluster.state.sessions.get(session).kept) <= 512
            assert not writes.done()
            assert await slow == 0
            assert await writes == [1] * 2000
            assert len(cluster.state.sessions.get(session).kept) <= 512

    virtual(main)


def test_results_that_the_cluster_keeps_stay_below_its_limit(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        limits = StateLimits(session_results_max=512)
        async with cluster_of(clock=clock, state_limits=limits) as cluster, cluster.client() as client:
            await asyncio.gather(*(client.put(f"k{i}", i) for i in range(3000)))
            assert len(cluster.ops()) == 3000

    virtual(main)


def test_callers_that_give_up_while_they_wait_for_room_leave_no_hole(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            for node in cluster.nodes.values():
                node.faults.append(fault("COMMAND", "hang", 10**6, op="key.put"))
            writes = [asyncio.create_task(client.put(f"k{i}", i, timeout_s=60)) for i in range(1500)]
            await asyncio.sleep(1)
            for write in writes[200:1400]:
                write.cancel()
            await asyncio.sleep(1)
            for node in cluster.nodes.values():
                node.faults.clear()
            done = await asyncio.gather(*writes, return_exceptions=True)
            assert [version for version in done if isinstance(version, int)] == [1] * 300
            await client.put("last", 1)
            (session,) = cluster.state.sessions
            await client.put("last", 2)
            assert cluster.state.sessions.get(session).ack > 300

    virtual(main)


def test_an_error_of_the_log_is_final_even_if_its_kind_is_retryable(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        limits = StateLimits(keys_max=1)
        async with cluster_of(clock=clock, state_limits=limits) as cluster, cluster.client() as client:
            await client.put("k", 1)
            with pytest.raises(Busy, match="keys_max"):
                await client.put("another", 1)
            assert cluster.received("key.put") == 2

    virtual(main)


# -- any schedule of faults -------------------------------------------------------------------------

_nodes = st.sampled_from(["n1", "n2", "n3"])
_mischief = st.one_of(
    st.tuples(st.just("fault"), _nodes, st.sampled_from(["lose answer", "lose request", "mute", "hang"])),
    st.tuples(st.just("delay"), _nodes, st.floats(0.1, 6.0)),
    st.tuples(st.just("crash"), _nodes, st.floats(0.1, 3.0)),
    st.tuples(st.just("lead"), st.one_of(st.none(), _nodes), st.just(0)),
    st.tuples(st.just("forget"), st.just(""), st.just(0)),
    st.tuples(st.just("cancel"), st.just(""), st.just(0)),
)
_schedule = st.lists(st.tuples(st.floats(0.0, 0.5), _mischief), max_size=25)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedule=_schedule, seed=st.integers(0, 2**32))
def test_whatever_happens_no_command_is_lost_or_doubled(
    schedule: list[Any], seed: int, cluster_of: Any, fault: Any, virtual: Any
) -> None:
    """Each put has a key of its own, so the key's version says how often it took effect."""

    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            verdicts: dict[str, str] = {}
            writes: list[asyncio.Task[None]] = []
            for number, (pause_s, (what, where, detail)) in enumerate(schedule):
                for part in range(8):
                    key = f"{number}.{part}"
                    writes.append(asyncio.create_task(put(client, key, verdicts)))
                await asyncio.sleep(pause_s)
                await mischief(cluster, fault, writes, what, where, detail)
            cluster.leader = "n1"
            await asyncio.gather(*writes, return_exceptions=True)
            for node in cluster.nodes.values():
                node.faults.clear()
                if not node.up:
                    await node.start()
            await asyncio.sleep(10)  # virtual: whatever is still under way in the cluster happens
            for key, verdict in verdicts.items():
                found = await client.get(key, consistency="linearizable")
                times = found.version if found else 0
                allowed = {"done": {1}, "refused": {0}, "unknown": {0, 1}}[verdict]
                assert times in allowed, f"{key} took effect {times} times; its caller was told {verdict}"

    virtual(main, seed=seed)


async def put(client: Any, key: str, verdicts: dict[str, str]) -> None:
    verdicts[key] = "unknown"
    try:
        version = await client.put(key, key, timeout_s=4)
    except McpError as error:
        verdicts[key] = "refused" if error.outcome_known else "unknown"
    else:
        assert version == 1
        verdicts[key] = "done"


async def mischief(
    cluster: Any, fault: Any, writes: list[asyncio.Task[None]], what: str, where: Any, detail: Any
) -> None:
    if what == "fault":
        cluster.nodes[where].faults.append(fault("COMMAND", detail, 3))
    elif what == "delay":
        cluster.nodes[where].faults.append(fault("COMMAND", "delay", 3, delay_s=detail))
    elif what == "lead":
        cluster.leader = where
    elif what == "cancel":
        for write in writes[::3]:
            write.cancel()
    elif what == "forget":
        if cluster.leader and cluster.nodes[cluster.leader].up:
            cluster.forget_sessions()
    else:
        await cluster.nodes[where].stop()
        await asyncio.sleep(detail)
        await cluster.nodes[where].start()
