"""PySyncObj's defects, by number: each on the bare library, and gone behind the guards.

When a test of the first kind fails after an upgrade, PySyncObj has repaired the defect: good news, and
the guard may go. When one of the second kind fails, an acknowledged command can be lost.
"""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable
from typing import Any

import pysyncobj
import pytest
from raft_script import PATIENT, Bare, Guarded, Scripted

from consensus.errors import EntryTooLarge, NotLeader
from consensus.interface import EntryKind, HardState, SnapshotMeta
from consensus.raft import RaftConfig
from consensus.raft.config import ENTRY_OVERHEAD_BYTES_MAX, MESSAGE_OVERHEAD_BYTES_MAX
from consensus.raft.messages import Ack, Append, Codec, SnapshotPending, Vote

CODEC = Codec(PATIENT)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bare]:
    return lambda names, **conf: Bare(names, monkeypatch, **conf)


# -- 1: a follower forgets a suffix that matches ------------------------------------------------------


def script_overtaken_append(cluster: Scripted) -> list[str]:
    """b acknowledges five commands, then meets a copy of the first append again; a dies. What is left?"""
    cluster.elect("a")
    cluster.propose("a", "1")
    [first, *_] = [m for s, t, m in cluster.wire if (s, t) == ("a", "b")]
    cluster.flush("a", "b")
    cluster.propose("a", "2", "3", "4", "5")
    cluster.flush("a", "b")
    cluster.take("a", "c")
    cluster.heartbeat("a")
    cluster.flush("a", "b")
    assert cluster.applied("a") == ["1", "2", "3", "4", "5"]
    cluster.deliver("a", "b", first)
    cluster.wire.clear()
    cluster.expire("b")
    cluster.flush("b", "c")
    if not cluster.is_leader("b"):
        cluster.expire("c")
        cluster.flush("b", "c")
    survivor = "b" if cluster.is_leader("b") else "c"
    for _ in range(5):
        cluster.heartbeat(survivor)
        cluster.flush("b", "c")
    return cluster.applied("c")


def test_1_bare_loses_acknowledged_commands(bare: Callable[..., Bare]) -> None:
    assert script_overtaken_append(bare("abc")) == ["1"]


def test_1_guarded_keeps_them() -> None:
    assert script_overtaken_append(Guarded("abc")) == ["1", "2", "3", "4", "5"]


def script_unverified_suffix(cluster: Scripted) -> tuple[list[str], list[str]]:
    """a holds entries that only it has; the new leader's heartbeat speaks of less, and has committed more."""
    cluster.elect("a")
    cluster.flush()
    cluster.propose("a", "lost 1", "lost 2", "lost 3")
    cluster.wire.clear()
    cluster.elect("b", "c")
    cluster.propose("b", "kept 1", "kept 2")
    cluster.flush("b", "c")
    return cluster.applied("a"), cluster.applied("b")


def test_1_a_heartbeat_acknowledges_and_commits_only_what_it_verifies() -> None:
    cluster = Guarded("abc")
    script_unverified_suffix(cluster)
    before = cluster.nodes["a"].status()
    heartbeat = Append(2, 9, before.last_index, 2, 1, ())
    cluster.deliver("b", "a", CODEC.encode_append(heartbeat, b"\x90"))
    answer = CODEC.decode(cluster.take("a", "b")[-1])
    assert answer == Ack(2, 9, 3, success=True, reset=False)
    after = cluster.nodes["a"].status()
    assert after.commit_index == 2
    assert after.last_index == before.last_index
    assert cluster.applied("a") == []


# -- 2: an acknowledgement has no term ----------------------------------------------------------------


def script_stale_acknowledgement(cluster: Scripted) -> tuple[int, int]:
    """An acknowledgement from term 1 arrives in term 3. How many hold what the leader takes for committed?"""
    cluster.elect("a")
    cluster.flush()
    cluster.propose("a", "1", "2", "3", "4")
    for message in cluster.take("a", "b"):
        cluster.deliver("a", "b", message)
    late = cluster.take("b", "a")
    cluster.wire.clear()
    cluster.elect("c", "d", "e")
    cluster.heartbeat("c")
    for _ in range(8):
        cluster.flush("a", "c", "d", "e")
        cluster.heartbeat("c")
    cluster.wire.clear()
    cluster.elect("a", "c", "d")
    cluster.wire.clear()
    cluster.propose("a", "5", "6")
    cluster.flush("a", "c")
    cluster.wire.clear()
    assert cluster.log("a")[-1] == cluster.log("c")[-1]
    for message in late:
        cluster.deliver("b", "a", message)
    index, term = cluster.log("a")[-1]
    holders = sum((index, term) in cluster.log(name) for name in "abcde")
    return holders, cluster.commit_index("a") >= index


def test_2_bare_commits_what_two_of_five_hold(bare: Callable[..., Bare]) -> None:
    assert script_stale_acknowledgement(bare("abcde")) == (2, True)


def test_2_guarded_does_not() -> None:
    cluster = Guarded("abcde")
    assert script_stale_acknowledgement(cluster) == (2, False)
    assert cluster.nodes["a"].dropped["stale_ack"] >= 1


# -- 3: votes are counted, not voters -----------------------------------------------------------------


def script_one_voter(cluster: Scripted) -> bool:
    """One of four others votes, and the network delivers it three times."""
    cluster.expire("a")
    [request] = cluster.take("a", "b")
    cluster.deliver("a", "b", request)
    [vote] = cluster.take("b", "a")
    for _ in range(3):
        cluster.deliver("b", "a", vote)
    return cluster.is_leader("a")


def test_3_bare_leads_with_two_of_five_votes(bare: Callable[..., Bare]) -> None:
    assert script_one_voter(bare("abcde")) is True


def test_3_guarded_does_not() -> None:
    cluster = Guarded("abcde")
    assert script_one_voter(cluster) is False
    assert cluster.nodes["a"].dropped["second_vote"] == 2


def test_3_votes_of_strangers_and_of_oneself_do_not_count() -> None:
    cluster = Guarded("abc")
    cluster.expire("a")
    for sender in ("x", "a", ""):
        cluster.deliver(sender, "a", CODEC.encode(Vote(1)))
    assert not cluster.is_leader("a")
    assert cluster.nodes["a"].dropped == {"vote_of_a_stranger": 2, "unknown_peer": 1}


# -- 4 and 15: snapshots ------------------------------------------------------------------------------


def test_4_bare_acknowledges_a_snapshot_that_it_could_not_load(bare: Callable[..., Bare]) -> None:
    cluster = bare("abc")
    snapshot = {
        "type": "append_entries",
        "term": 1,
        "commit_index": 1,
        "serialized": (b"damaged", True, True),
    }
    cluster.deliver("a", "b", snapshot)
    [answer] = cluster.take("b", "a")
    assert answer["success"] is True


def test_4_guarded_never_acknowledges_on_behalf_of_a_snapshot() -> None:
    cluster = Guarded("abc")
    cluster.deliver("a", "b", CODEC.encode(SnapshotPending(1, 7)))
    assert CODEC.decode(cluster.take("b", "a")[0]) == Ack(1, 7, 2, success=False, reset=True)


def test_15_bare_pickles_the_whole_object(bare: Callable[..., Bare]) -> None:
    cluster = bare("a")
    cluster.elect("a")
    cluster.propose("a", "1")
    node = cluster.nodes["a"]
    node.unpicklable = lambda: None
    node.forceLogCompaction()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        node.doTick()


def test_14_15_guarded_neither_pickles_nor_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("pickle or fork was reached")

    for name in ("loads", "load", "dumps", "dump", "Pickler", "Unpickler", "_loads", "_load", "_Unpickler"):
        monkeypatch.setattr(pickle, name, explode)
    monkeypatch.setattr(os, "fork", explode)
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.take("a", "c")
    for n in range(20):
        cluster.propose("a", str(n))
        cluster.flush("a", "b")
        cluster.take("a", "c")
    meta = SnapshotMeta(20, 1, 1, 0, "")
    cluster.nodes["a"].compact(meta, 0)
    for _ in range(3):
        cluster.now += 1.0
        for name in "abc":
            cluster.tick(name)
        cluster.flush()
    assert cluster.nodes["c"].install_snapshot("a", 1, meta, cluster.now)
    cluster.perform("c")
    cluster.nodes["a"].snapshot_delivered("c", 1, 20, cluster.now)
    cluster.perform("a")
    cluster.flush()
    assert cluster.log("c") == [(index, 1) for index in range(20, 23)]


# -- 7 and 8: users' code inside the engine -----------------------------------------------------------


def test_7_bare_stops_at_a_command_that_raises(bare: Callable[..., Bare]) -> None:
    cluster = bare("a")
    cluster.elect("a")
    tries = []

    def refuse(item: str) -> None:
        tries.append(item)
        if item == "poison":
            raise ValueError(item)

    cluster.nodes["a"].on_append = refuse
    cluster.nodes["a"].append("poison")
    cluster.nodes["a"].append("after")
    for _ in range(10):
        try:
            cluster.heartbeat("a")
        except ValueError:
            continue
    assert tries.count("poison") > 5
    assert cluster.applied("a") == []


def test_8_bare_applies_twice_when_a_callback_raises(bare: Callable[..., Bare]) -> None:
    cluster = bare("a")
    cluster.elect("a")

    def callback(_result: object, _error: object) -> None:
        raise ValueError("the user's mistake")

    cluster.nodes["a"].append("once", callback=callback)
    cluster.heartbeat("a")
    with pytest.raises(ValueError, match="mistake"):
        cluster.heartbeat("a")
    cluster.heartbeat("a")
    assert cluster.applied("a") == ["once", "once"]


def test_7_8_guarded_hands_out_each_entry_once_and_calls_nobody() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.propose("a", "poison", "after")
    cluster.flush()
    for _ in range(5):
        cluster.heartbeat("a")
        cluster.flush()
    assert [cluster.applied(name) for name in "abc"] == [["poison", "after"]] * 3


# -- 9: forwarding ------------------------------------------------------------------------------------


def test_9_bare_never_calls_back_for_a_lost_forward(bare: Callable[..., Bare]) -> None:
    cluster = bare("abc")
    cluster.elect("a")
    answers: list[object] = []
    cluster.nodes["b"].append("x", callback=lambda *answer: answers.append(answer))
    cluster.tick("b")
    assert [m["type"] for m in cluster.take("b", "a")] == ["apply_command"]
    for _ in range(330):
        cluster.heartbeat("a")
        cluster.flush()
    assert cluster.now > 66
    assert answers == []


def test_9_guarded_refuses_at_once_and_names_the_leader() -> None:
    cluster = Guarded("abc")
    with pytest.raises(NotLeader) as unknown:
        cluster.nodes["b"].propose(b"x", cluster.now)
    assert unknown.value.leader is None
    cluster.elect("a")
    with pytest.raises(NotLeader) as known:
        cluster.nodes["b"].propose(b"x", cluster.now)
    assert known.value.leader == "a"
    assert len(cluster.log("b")) == 2


# -- 10: entries in pieces ----------------------------------------------------------------------------


def test_10_bare_fails_just_below_a_multiple_of_the_batch_size(bare: Callable[..., Bare]) -> None:
    failures: list[int] = []
    for size in range(1900, 2010):
        cluster = bare("abc", appendEntriesBatchSizeBytes=1000)
        cluster.elect("a")
        cluster.propose("a", "x" * size)
        try:
            cluster.flush()
        except Exception:  # half a pickle raises this or that
            failures.append(size)
    assert 10 < len(failures) < 100
    assert max(failures) < 2000


def test_10_guarded_takes_any_size_up_to_its_limit() -> None:
    limit = 2000
    size_max = limit + ENTRY_OVERHEAD_BYTES_MAX + MESSAGE_OVERHEAD_BYTES_MAX
    config = RaftConfig(
        1000.0, 2000.0, 0.05, 1000.0, entry_bytes_max=limit, append_bytes_max=size_max, commit_notice_s=0.0
    )
    cluster = Guarded("abc", config)
    cluster.elect("a")
    for size in range(limit - 200, limit + 1):
        cluster.propose("a", "x" * size)
    cluster.flush()
    for name in "abc":
        assert [len(item) for item in cluster.applied(name)] == list(range(limit - 200, limit + 1))
    with pytest.raises(EntryTooLarge, match="2001 bytes"):
        cluster.nodes["a"].propose(b"x" * (limit + 1), cluster.now)
    assert cluster.nodes["a"].propose(b"next", cluster.now) == (1, 204)


# -- 11: a node that hears nobody ---------------------------------------------------------------------


def test_11_bare_is_disrupted_by_a_deaf_node(bare: Callable[..., Bare]) -> None:
    cluster = bare("abc")
    cluster.elect("a")
    cluster.flush()
    for _ in range(50):
        cluster.wire.clear()
        cluster.expire("c")
    cluster.flush()
    assert not cluster.is_leader("a")
    assert cluster.nodes["a"].raftCurrentTerm == 51


def test_11_guarded_is_not() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    for _ in range(50):
        cluster.wire.clear()
        cluster.grow_impatient("c")
    cluster.flush()
    cluster.heartbeat("a")
    cluster.flush()
    assert cluster.is_leader("a")
    assert {cluster.nodes[name].status().term for name in "abc"} == {1}
    assert cluster.nodes["c"].status().leader == "a"


# -- 12: a leader that nobody hears -------------------------------------------------------------------


def test_12_bare_reigns_for_half_a_minute_alone(bare: Callable[..., Bare]) -> None:
    cluster = bare("abc", leaderFallbackTimeout=30.0)
    cluster.elect("a")
    cluster.now += 29.0
    cluster.tick("a")
    assert cluster.is_leader("a")


def test_12_guarded_steps_down_when_others_may_elect() -> None:
    config = RaftConfig()
    cluster = Guarded("abc", config)
    cluster.elect("a")
    begun = cluster.now
    while cluster.is_leader("a"):
        cluster.wire.clear()
        assert cluster.nodes["a"].next_deadline() > cluster.now
        cluster.now = cluster.nodes["a"].next_deadline()
        cluster.tick("a")
    assert config.leader_fallback_s <= cluster.now - begun < config.leader_fallback_s + 0.001
    assert cluster.nodes["a"].status().leader is None
    with pytest.raises(NotLeader):
        cluster.nodes["a"].propose(b"x", cluster.now)


# -- 13: a read at a leader that was deposed and does not know it -------------------------------------


def script_deposed_without_knowing(cluster: Scripted) -> None:
    """a leads and is cut off; b is elected by c, and has a command committed that a never hears of."""
    cluster.elect("a")
    cluster.propose("a", "old")
    cluster.flush()
    cluster.heartbeat("a")
    cluster.flush()
    cluster.expire("b")
    cluster.flush("b", "c")
    cluster.propose("b", "new")
    cluster.flush("b", "c")
    assert cluster.applied("b") == ["old", "new"]


def test_13_bare_leader_has_nothing_to_tell_that_what_it_holds_is_old(bare: Callable[..., Bare]) -> None:
    cluster = bare("abc")
    script_deposed_without_knowing(cluster)
    node = cluster.nodes["a"]
    cluster.tick("a")
    assert node._isLeader()
    assert node.isReady()
    assert cluster.applied("a") == ["old"]


def test_13_guarded_leader_answers_no_read_until_it_knows() -> None:
    cluster = Guarded("abc")
    script_deposed_without_knowing(cluster)
    cluster.wire.clear()
    cluster.nodes["a"].read_index(7, cluster.now)
    cluster.perform("a")
    cluster.flush("a", "b", "c")
    told = cluster.outputs["a"]
    assert not cluster.is_leader("a")
    assert [output.reads for output in told if output.reads] == []
    assert [context for output in told for context in output.reads_refused] == [7]
    cluster.nodes["b"].read_index(8, cluster.now)
    cluster.perform("b")
    cluster.flush()
    [(context, index)] = [read for output in cluster.outputs["b"] for read in output.reads]
    assert (context, index) == (8, cluster.commit_index("b"))


# -- 14: pickle in messages ---------------------------------------------------------------------------


def test_14_bare_unpickles_what_a_peer_sends(
    bare: Callable[..., Bare], monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[tuple[str, str]] = []
    monkeypatch.setattr(os, "putenv", lambda key, value: reached.append((key, value)))
    cluster = bare("abc")
    payload = b"cos\nputenv\n(VREACHED_BY_PICKLE\nV1\ntR."
    message = {
        "type": "append_entries",
        "transmission": "finish",
        "term": 1,
        "commit_index": 1,
        "prevLogIdx": 1,
        "prevLogTerm": 0,
        "data": payload,
    }
    cluster.nodes["b"]._SyncObj__recvTransmission = b""
    with pytest.raises(TypeError):
        cluster.deliver("a", "b", message)
    assert reached == [("REACHED_BY_PICKLE", "1")]


def test_14_guarded_has_no_such_message() -> None:
    cluster = Guarded("abc")
    payload = pickle.dumps({"type": "append_entries", "transmission": "finish"})
    cluster.deliver("a", "b", payload)
    assert sum(cluster.nodes["b"].dropped.values()) == 1
    assert cluster.wire == []


# -- 16: term and vote across a restart ---------------------------------------------------------------


def script_two_candidates(cluster: Any) -> int:
    """b votes for a, restarts, and is asked by c in the same term. How many votes did it give?"""
    cluster.expire("a")
    cluster.expire("c")
    for message in cluster.take("a", "b"):
        cluster.deliver("a", "b", message)
    cluster.start("b")
    for message in cluster.take("c", "b"):
        cluster.deliver("c", "b", message)
    return len([flight for flight in cluster.wire if flight[0] == "b"])


def test_16_bare_votes_twice_in_a_term(bare: Callable[..., Bare]) -> None:
    assert script_two_candidates(bare("abc")) == 2


def test_16_guarded_votes_once() -> None:
    cluster = Guarded("abc")
    assert script_two_candidates(cluster) == 1
    assert cluster.disks["b"].hard_state == HardState(1, "a")


# -- 19: a snapshot in progress commits what nobody compared ------------------------------------------


def script_lagging_with_a_suffix(cluster: Scripted) -> None:
    """a keeps three entries that nobody else has, while b and c commit others in their place."""
    script_unverified_suffix(cluster)
    cluster.heartbeat("b")
    cluster.flush("b", "c")
    cluster.wire.clear()


def write_a_dump(cluster: Bare, leader: str, peer: str) -> None:
    """``leader`` has dropped its first entries, ``peer`` needs them, and a new dump is being written."""
    node = cluster.nodes[leader]
    node._SyncObj__raftLog.deleteEntriesTo(3)
    node._SyncObj__raftNextIndex[cluster.ids[peer]] = 2
    node._SyncObj__serializer._Serializer__pid = 1
    node._SyncObj__serializer.checkSerializing = lambda: (pysyncobj.SERIALIZER_STATE.SERIALIZING, None)


def tick_with_a_running_clock(
    cluster: Bare, node: str, step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tick in which every look at the clock finds ``step_s`` passed."""
    clock = itertools.count(1)
    with monkeypatch.context() as patch:
        begun = cluster.now + 0.2
        patch.setattr("pysyncobj.syncobj.monotonicTime", lambda: begun + next(clock) * step_s)
        cluster.nodes[node].doTick()


def test_19_bare_commits_an_unverified_suffix_while_a_snapshot_is_prepared(
    bare: Callable[..., Bare], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = bare("abc")
    script_lagging_with_a_suffix(cluster)
    write_a_dump(cluster, "b", "a")
    tick_with_a_running_clock(cluster, "b", 0.03, monkeypatch)
    message = cluster.take("b", "a")[-1]
    assert message["serialized"] is None
    cluster.deliver("b", "a", message)
    assert cluster.applied("a")[:1] == ["lost 1"]
    assert cluster.applied("b") == ["kept 1", "kept 2"]


def test_19_guarded_commits_nothing_before_the_snapshot_is_there() -> None:
    cluster = Guarded("abc")
    script_lagging_with_a_suffix(cluster)
    leader = cluster.nodes["b"]
    leader.compact(SnapshotMeta(5, 2, 2, 0, ""), 0)
    for _ in range(5):
        cluster.heartbeat("b")
        cluster.flush("b", "a")
    assert cluster.applied("a") == []
    assert cluster.nodes["a"].status().commit_index == 2
    assert cluster.nodes["a"].status().leader == "b"
    assert ["a"] in [output.snapshot_needed for output in cluster.outputs["b"]]


# -- 20: a rejection that points beyond the leader's log ----------------------------------------------


def script_rejection_beyond_the_end(cluster: Any, rejection: Any) -> bool:
    """a's log is longer than that of the leader b, and an old rejection told b so. Does a ever follow?"""
    cluster.elect("a")
    cluster.flush()
    cluster.propose("a", *"123456")
    cluster.wire.clear()
    cluster.elect("b", "c")
    cluster.wire.clear()
    cluster.deliver("a", "b", rejection)
    for _ in range(20):
        cluster.heartbeat("b")
        cluster.flush()
    return cluster.log("a") == cluster.log("b")


def test_20_bare_never_reaches_that_follower(bare: Callable[..., Bare]) -> None:
    rejection = {"type": "next_node_idx", "next_node_idx": 9, "reset": True, "success": False}
    assert script_rejection_beyond_the_end(bare("abc"), rejection) is False


@pytest.mark.parametrize("term", [1, 2])
def test_20_guarded_does_whatever_the_rejection_said(term: int) -> None:
    rejection = CODEC.encode(Ack(term, 1, 9, success=False, reset=True))
    assert script_rejection_beyond_the_end(Guarded("abc"), rejection) is True


# -- 21: a flood while a snapshot is prepared ---------------------------------------------------------


def test_21_bare_floods_a_peer_while_a_dump_is_written(
    bare: Callable[..., Bare], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = bare("abc")
    cluster.elect("b")
    cluster.propose("b", *"12345")
    cluster.flush("b", "c")
    write_a_dump(cluster, "b", "a")
    cluster.wire.clear()
    tick_with_a_running_clock(cluster, "b", 1e-5, monkeypatch)
    assert len(cluster.take("b", "a")) > 1000


def test_21_guarded_sends_one_heartbeat_per_period_and_asks_once() -> None:
    cluster = Guarded("abc")
    cluster.elect("b")
    cluster.wire.clear()
    cluster.propose("b", *"12345")
    cluster.flush("b", "c")
    cluster.nodes["b"].compact(SnapshotMeta(6, 1, 1, 0, ""), 0)
    cluster.wire.clear()
    before = len(cluster.outputs["b"])
    cluster.heartbeat("b")
    cluster.flush("a", "b")
    for n in range(10):
        cluster.propose("b", str(n))
        cluster.flush("b", "c")
    asked = [output.snapshot_needed for output in cluster.outputs["b"][before:] if output.snapshot_needed]
    assert len(asked) <= 2
    assert not any(
        entry.kind is EntryKind.COMMAND for output in cluster.outputs["a"] for entry in output.committed
    )


# -- 22: a second leader in the same term -------------------------------------------------------------


def script_second_leader(cluster: Any, append: Any) -> tuple[bool, bool]:
    """b speaks as the leader of the term in which a leads. Who gives in, a itself or its follower c?"""
    cluster.elect("a")
    cluster.flush()
    cluster.deliver("b", "a", append)
    cluster.deliver("b", "c", append)
    return cluster.is_leader("a"), bool(cluster.take("c", "b"))


def test_22_bare_gives_in(bare: Callable[..., Bare]) -> None:
    append = {"type": "append_entries", "term": 1, "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0}
    assert script_second_leader(bare("abc"), append) == (False, True)


def test_22_guarded_stays_with_the_first() -> None:
    cluster = Guarded("abc")
    assert script_second_leader(cluster, CODEC.encode_append(Append(1, 1, 1, 1, 0, ()), b"\x90")) == (
        True,
        False,
    )
    assert cluster.nodes["a"].dropped["second_leader"] == cluster.nodes["c"].dropped["second_leader"] == 1


# -- 23: a deposed leader's deadline ------------------------------------------------------------------


def script_deposed_after_a_long_reign(cluster: Scripted) -> int:
    """After a long reign of a, c asks for votes that it cannot get. How many elections does a call?"""
    cluster.elect("a", "b")
    cluster.wire.clear()
    cluster.now += 5000.0
    cluster.expire("c")
    cluster.expire("c")
    cluster.deliver("c", "a", cluster.take("c", "a")[-1])
    cluster.tick("a")
    assert not cluster.is_leader("a")
    return len(cluster.take("a", "b"))


def test_23_bare_calls_an_election_at_once(bare: Callable[..., Bare]) -> None:
    assert (
        script_deposed_after_a_long_reign(bare("abc", leaderFallbackTimeout=1e6, logCompactionMinTime=1e6))
        == 1
    )


def test_23_guarded_waits_like_any_follower() -> None:
    cluster = Guarded("abc", RaftConfig(1000.0, 2000.0, 0.05, 1e6))
    assert script_deposed_after_a_long_reign(cluster) == 0
    assert cluster.nodes["a"].next_deadline() >= cluster.now + 1000.0


# -- 24: what is on its way is sent again -------------------------------------------------------------


def script_three_in_flight(cluster: Scripted, entries_in: Callable[[Any], int]) -> int:
    """Three appends are on their way to b when the first is acknowledged. How many entries are sent?"""
    cluster.elect("a")
    cluster.flush()
    cluster.heartbeat("a")
    cluster.flush()
    in_flight: list[Any] = []
    for item in "123":
        cluster.propose("a", item)
        in_flight += cluster.take("a", "b")
    sent = sum(map(entries_in, in_flight))
    for message in in_flight:
        cluster.deliver("a", "b", message)
        for answer in cluster.take("b", "a")[:1]:
            cluster.deliver("b", "a", answer)
        cluster.heartbeat("a")
        sent += sum(map(entries_in, cluster.take("a", "b")))
    return sent


def test_24_bare_sends_again_what_is_on_its_way(bare: Callable[..., Bare]) -> None:
    assert script_three_in_flight(bare("abc"), lambda message: len(message["entries"])) > 3


def test_24_guarded_sends_each_entry_once() -> None:
    def entries_in(message: bytes) -> int:
        decoded = CODEC.decode(message)
        return len(decoded.entries) if isinstance(decoded, Append) else 0

    assert script_three_in_flight(Guarded("abc"), entries_in) == 3


# -- 25: the way back through a long suffix -----------------------------------------------------------


def script_long_divergence(cluster: Scripted) -> int:
    """a has a hundred entries that nobody else has. How many messages until it follows b?"""
    cluster.elect("a")
    cluster.flush()
    cluster.propose("a", *map(str, range(100)))
    cluster.wire.clear()
    cluster.elect("b", "c")
    cluster.propose("b", *map(str, range(120)))
    cluster.flush("b", "c")
    cluster.take("b", "a")
    messages = 0
    while cluster.log("a") != cluster.log("b"):
        cluster.heartbeat("b")
        for message in cluster.take("b", "a"):
            messages += 1
            cluster.deliver("b", "a", message)
        for message in cluster.take("a", "b"):
            cluster.deliver("a", "b", message)
    return messages


def test_25_bare_goes_back_one_entry_per_round(bare: Callable[..., Bare]) -> None:
    assert script_long_divergence(bare("abc")) > 100


def test_25_guarded_goes_back_a_term_per_round() -> None:
    assert script_long_divergence(Guarded("abc")) <= 6
