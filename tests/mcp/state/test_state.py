"""The state as a whole: a function of the commands, to the byte, that no bytes can crash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.errors import ConfigInvalid, StorageCorrupt, VersionMismatch
from mcp.state.applied import Applied
from mcp.state.commands import SCHEMA_MAX, encode_command
from mcp.state.limits import StateLimits
from mcp.state.state import ReplicatedState
from mcp.wire.tensors import pack_inline

A, B = "a" * 64, "b" * 64
LIMITS = StateLimits(
    sessions_max=1,
    session_idle_s=40.0,
    session_evict_idle_s=5.0,
    session_results_max=4,
    conflicts_per_key_max=2,
    conflicts_max=3,
    keys_max=2,
    models_max=2,
    model_versions_max=2,
    members_max=3,
    inferences_max=3,
    finished_max=2,
    attempts_max=2,
)


def tensors(number: float) -> list[dict[str, Any]]:
    return [pack_inline("x", np.float32([number]))]


OUTCOMES: list[dict[str, Any]] = [
    {"outputs": tensors(1)},
    {"outputs": tensors(2)},
    {"digest": A, "size": 1, "node": "n1"},
    {"error": {"code": "INPUT_INVALID", "message": "x"}},
    {"error": {"code": "BUSY", "message": "x"}},
    {"error": {}},
]
VALUES: list[Any] = [1, "x", [1, {"a": None}], b"y" * 3000]


def operation(random: Random) -> tuple[str, dict[str, Any]]:
    """Draw any operation over few names, so that they meet; some arguments are bad on purpose."""
    node, small = random.choice(["n1", "n2", "n3", "n4"]), random.randrange(4)
    key, inference = random.choice(["a", "b", "c", ""]), random.choice("ijkl")
    digest, name = random.choice([A, B]), random.choice("mn")
    version, outcome = random.choice([None, "1", "2", "v"]), random.choice(OUTCOMES)
    token = random.randrange(1, 8)
    replicated = {"id": random.choice("kklli"), "node": random.choice(["n1", "n2"]), "outcome": outcome}
    aliases = random.choice([[], [], ["al"], ["el", "al"], ["m"]])
    manifest = {"name": name, "version": version, "digest": digest, "size": small // 2, "aliases": aliases}
    return random.choice(
        [
            ("noop", {}),
            *[("session.open", {})] * 4,
            ("session.close", {}),
            *[("key.put", {"key": key, "value": random.choice(VALUES)})] * 4,
            *[("key.cas", {"key": key, "expected_version": small, "value": small})] * 4,
            ("key.delete", {"key": key, "expected_version": random.choice([None, small])}),
            ("model.deploy", {"manifest": manifest, "holders": random.sample(["n1", "n2", "n3"], small)}),
            ("model.undeploy", {"name": name, "version": version}),
            ("model.activate", {"name": name, "version": version}),
            ("model.holder", {"digest": digest, "node": node, "held": small > 1}),
            ("member.hello", {"node": node, "address": node, "incarnation": small, "providers": ["CPU"]}),
            ("member.hello", {"node": node, "address": node, "incarnation": 3, "providers": []}),
            ("member.down", {"node": node, "incarnation": small}),
            *[submission(random, inference)] * 8,
            ("inference.complete", {"id": inference, "node": node, "token": token, "outcome": outcome}),
            ("inference.reassign", {"id": inference, "token": token, "reason": "slow"}),
            *[("inference.report", replicated)] * 6,
            ("unknown", {}),
        ]
    )


def submission(random: Random, inference: str) -> tuple[str, dict[str, Any]]:
    args = {
        "id": inference,
        "model_hint": random.choice(["m", "m", "n", "al", "m@1"]),
        "inputs": random.choice([tensors(1), []]),
        "mode": "durable" if inference in random.choice(["ij", "ij", "ijkl"]) else "replicated",
    }
    return "inference.submit", args


SETUP: list[tuple[str, dict[str, Any]]] = [
    ("session.open", {}),
    ("member.hello", {"node": "n1", "address": "n1", "incarnation": 1, "providers": []}),
    ("member.hello", {"node": "n2", "address": "n2", "incarnation": 1, "providers": []}),
    ("model.deploy", {"manifest": {"name": "m", "digest": A, "size": 1}, "holders": ["n1", "n2"]}),
]
CLIENT_OPS = ("key.", "session.")
Position = tuple[int, int, float, bytes]


def random_log(seed: int, size: int) -> list[Position]:
    """Draw a log: some commands per entry, stamps that never go back, commands that come twice."""
    random = Random(seed)
    log: list[Position] = []
    time_s = 100.0
    given_out: Counter[str] = Counter()
    for number in range(size):
        op, args = SETUP[number] if number < len(SETUP) else operation(random)
        session = (
            f"{random.choice('ssst' if log else 's')}{number // 27}" if op.startswith(CLIENT_OPS) else ""
        )
        seq = ack = 0
        if session:
            given_out[session] += random.choice([0, 1, 1, 1])
            seq = max(1, given_out[session])
            ack = max(1, seq - random.randrange(4))
        time_s += random.choice([0.0, 1.0, 6.0, 6.0, 41.0]) if number % 9 == 0 else 0.0
        data = encode_command(op, args, session=session, seq=seq, ack=ack)
        if random.random() < 0.1:
            data = random.choice(log)[3] if log else data
        log.append((1 + number // 3, number % 3, time_s, data))
    return log


def logs(size: int = 80) -> st.SearchStrategy[list[Position]]:
    return st.builds(random_log, st.integers(0, 2**32), st.integers(1, size))


def test_the_logs_reach_what_they_are_to_test() -> None:
    totals: Counter[str] = Counter()
    for seed in range(40):
        state = ReplicatedState(LIMITS)
        for entry in random_log(seed, 80):
            applied = apply(state, entry)
            totals[applied.error[0] if applied.error else "ok"] += 1
            totals.update(type(event).__name__ for event in applied.events)
        totals.update(state.counters())
    rare = {
        "SESSION_EXPIRED",
        "BUSY",
        "FENCED",
        "VERSION_CONFLICT",
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "INVALID_ARGUMENT",
        "ModelUndeployed",
        "InferenceAssigned",
        "ReplicatedRequested",
        "ReplicaDiverged",
        "MemberDown",
        "sessions_expired",
        "commands_deduplicated",
        "inferences_waiting",
        "inferences_done",
        "inferences_failed",
    }
    assert {name for name in rare if totals[name] < 3} == set()


def apply(state: ReplicatedState, entry: Position) -> Applied:
    index, position, time_s, data = entry
    return state.apply(data, index=index, position=position, term=1, time_s=time_s, seed=index)


@given(logs(), st.data())
@settings(deadline=None, max_examples=300)
def test_replicas_are_equal_and_a_snapshot_stands_for_what_came_before(
    log: list[Position], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(log)))
    one, other = ReplicatedState(LIMITS), ReplicatedState(LIMITS)
    results = [apply(one, entry) for entry in log]
    assert [apply(other, entry) for entry in log[:cut]] == results[:cut]
    third = ReplicatedState()
    third.restore(other.snapshot())
    assert third.limits == LIMITS
    assert [apply(third, entry) for entry in log[cut:]] == results[cut:]
    assert third.snapshot() == one.snapshot()
    assert third.digest() == one.digest()
    assert third.counters() == one.counters()
    assert one.applied_index == log[-1][0]


@given(logs())
@settings(deadline=None, max_examples=300)
def test_an_error_leaves_the_state_as_it_was(log: list[Position]) -> None:
    """But for the sessions' bookkeeping, and the conflict log when a compare-and-set lost."""
    state = ReplicatedState(LIMITS)
    for entry in log:
        before = machines(state)
        conflicts = state.keys.conflicts.to_plain()
        applied = apply(state, entry)
        if applied.error is not None:
            assert applied.error[0] != "INTERNAL"
            assert machines(state) == before
            assert applied.events == ()
            assert applied.value is None
        if applied.error is None or applied.error[0] != "VERSION_CONFLICT":
            assert state.keys.conflicts.to_plain() == conflicts
        if not applied.executed:
            assert machines(state) == before


def machines(state: ReplicatedState) -> list[Any]:
    parts = (state.keys, state.members, state.models, state.inferences)
    return [part.to_plain() for part in parts]


ARGS = st.dictionaries(
    st.sampled_from(["key", "value", "id", "node", "token", "outcome", "manifest", "holders", "version"]),
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.text(max_size=3) | st.binary(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=6,
    ),
)
ANY_OPERATION = st.integers(0, 2**32).map(lambda seed: operation(Random(seed)))
MANGLED = st.one_of(
    st.binary(max_size=40),
    st.tuples(ANY_OPERATION, ARGS).map(
        lambda drawn: encode_command(drawn[0][0], {**drawn[0][1], **drawn[1]})
    ),
    st.tuples(ANY_OPERATION, ARGS).map(
        lambda drawn: encode_command(drawn[0][0], {**drawn[0][1], **drawn[1]}, session="s", seq=1, ack=1)
    ),
    st.tuples(ANY_OPERATION, st.integers(0, 200), st.integers(0, 255)).map(
        lambda drawn: flipped(encode_command(*drawn[0]), drawn[1], drawn[2])
    ),
)


def flipped(data: bytes, at: int, byte: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([byte]) + data[at + 1 :]


@given(logs(12), st.lists(MANGLED, min_size=1, max_size=6))
@settings(deadline=None)
def test_no_bytes_crash_it(log: list[Position], mangled: list[bytes]) -> None:
    state = ReplicatedState(LIMITS)
    for entry in log:
        apply(state, entry)
    for offset, data in enumerate(mangled):
        applied = state.apply(data, index=1000 + offset, position=0, term=1, time_s=0.0, seed=0)
        assert applied.error is None or applied.error[0] != "INTERNAL", applied.error
        msgpack.packb([applied.value, applied.error])
    ReplicatedState().restore(state.snapshot())


def test_a_defect_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ReplicatedState()
    monkeypatch.setattr(state.inferences, "lost", lambda node, moment: 1 // 0)
    hello = {"node": "n", "address": "h", "incarnation": 1, "providers": []}
    assert apply(state, (1, 0, 1.0, encode_command("member.hello", hello))).error is None
    broken = apply(state, (2, 0, 1.0, encode_command("member.down", {"node": "n", "incarnation": 1})))
    assert broken.error is not None
    assert broken.error[0] == "INTERNAL"


def test_running_out_of_memory_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(node: str, moment: Any) -> Any:
        raise MemoryError

    state = ReplicatedState()
    monkeypatch.setattr(state.inferences, "lost", out_of_memory)
    hello = {"node": "n", "address": "h", "incarnation": 1, "providers": []}
    apply(state, (1, 0, 1.0, encode_command("member.hello", hello)))
    with pytest.raises(MemoryError):
        apply(state, (2, 0, 1.0, encode_command("member.down", {"node": "n", "incarnation": 1})))


def test_a_position_is_applied_once() -> None:
    state = ReplicatedState()
    entry = (
        3,
        1,
        1.0,
        encode_command("model.deploy", {"manifest": {"name": "m", "digest": A, "size": 1}, "holders": []}),
    )
    assert apply(state, entry).error is None
    before = state.digest()
    for late in ((3, 1), (3, 0), (2, 9)):
        again = apply(state, (*late, 1.0, entry[3]))
        assert again.error is not None
        assert again.error[0] == "INTERNAL"
        assert not again.executed
    assert state.digest() == before
    assert state.applied_index == 3


def test_the_clock_never_goes_back() -> None:
    state = ReplicatedState()
    for index, time_s in enumerate([5.0, 3.0, float("nan"), 6.0], 1):
        apply(state, (index, 0, time_s, b""))
        assert state.time_s == [5.0, 5.0, 5.0, 6.0][index - 1]


# -- snapshots --------------------------------------------------------------------------------------


@given(logs(30), st.integers(0, 30))
@settings(deadline=None)
def test_what_is_frozen_is_written_down_as_it_was(log: list[Position], at: int) -> None:
    state = ReplicatedState(LIMITS)
    for entry in log[:at]:
        apply(state, entry)
    then, frozen = state.snapshot(), state.frozen()
    for entry in log[at:]:
        apply(state, entry)
    assert frozen() == then


@given(logs(30))
@settings(deadline=None)
def test_a_snapshot_in_pieces_is_what_packing_at_once_gives(log: list[Position]) -> None:
    state = ReplicatedState(LIMITS)
    for entry in log:
        apply(state, entry)
    payload = state.snapshot()[41:]
    assert msgpack.packb(msgpack.unpackb(payload)) == payload


@given(logs(12), st.integers(0, 10**6), st.integers(1, 255), st.binary(max_size=80))
@settings(deadline=None)
def test_a_damaged_snapshot_is_refused_and_changes_nothing(
    log: list[Position], at: int, mask: int, garbage: bytes
) -> None:
    state = ReplicatedState(LIMITS)
    for entry in log:
        apply(state, entry)
    whole = state.snapshot()
    at %= len(whole)
    for bad in (garbage, whole[:at], flipped(whole, at, whole[at] ^ mask), whole + b"\x00"):
        with pytest.raises((StorageCorrupt, VersionMismatch)):
            state.restore(bad)
        assert state.snapshot() == whole


@pytest.mark.parametrize("payload", [None, [], {}, [1] * 9, [[1]] + [[]] * 8, "text"])
def test_a_sealed_snapshot_of_something_else_is_refused(payload: Any) -> None:
    data = msgpack.packb(payload)
    state = ReplicatedState()
    before = state.digest()
    with pytest.raises(StorageCorrupt):
        state.restore(b"MCPSTATE\x01" + hashlib.sha256(data).digest() + data)
    assert state.digest() == before


def test_another_schema_is_told_apart() -> None:
    snapshot = bytearray(ReplicatedState().snapshot())
    snapshot[8] = SCHEMA_MAX + 1
    with pytest.raises(VersionMismatch, match=f"schema {SCHEMA_MAX + 1}"):
        ReplicatedState().restore(bytes(snapshot))


def test_limits_are_part_of_the_state() -> None:
    assert ReplicatedState(LIMITS).digest() != ReplicatedState().digest()
    with pytest.raises(ConfigInvalid, match="keys_max"):
        StateLimits(keys_max=0)


def test_the_digest_is_the_payloads() -> None:
    state = ReplicatedState()
    assert state.digest() == hashlib.sha256(state.snapshot()[41:]).hexdigest()


# -- nothing but the commands -----------------------------------------------------------------------

SCRIPT = """
import hashlib, sys, msgpack
from mcp.state.state import ReplicatedState
state = ReplicatedState()
results = []
for index, (time_s, data) in enumerate(msgpack.unpackb(sys.stdin.buffer.read()), 1):
    applied = state.apply(data, index=index, position=0, term=1, time_s=time_s, seed=index)
    results.append(repr(applied))
print(state.digest(), hashlib.sha256("".join(results).encode()).hexdigest())
"""


def story() -> list[tuple[float, bytes]]:
    """Many names at every place where an order could leak in: ties, reassignments, evictions."""
    commands: list[tuple[float, bytes]] = []

    def add(op: str, session: str = "", seq: int = 0, **args: Any) -> None:
        data = encode_command(op, args, session=session, seq=seq, ack=seq)
        commands.append((float(len(commands)), data))

    nodes = [f"node-{n}" for n in range(7)]
    for node in nodes:
        add("member.hello", node=node, address=node, incarnation=1, providers=["CUDA", "CPU"])
    for n in range(5):
        manifest = {
            "name": f"m{n}",
            "digest": [A, B][n % 2],
            "size": 1,
            "aliases": [f"z{n}", f"a{n}"],
            "tags": ["y", "x"],
        }
        add("model.deploy", manifest=manifest, holders=nodes[n : n + 3])
    for n in range(60):
        add(
            "inference.submit",
            id=f"i{n}",
            model_hint=f"m{n % 5}",
            inputs=[],
            mode=["durable", "replicated"][n % 3 == 0],
        )
        add("session.open", session=f"s{n % 9}")
        add(
            "key.cas",
            session=f"s{n % 9}",
            seq=n + 1,
            key=f"k{n % 11}",
            expected_version=n % 2,
            value={f"f{n}": n},
        )
    for node in nodes[:4]:
        add("member.down", node=node, incarnation=1)
    add("inference.submit", id="unknown", model_hint="nobody", inputs=[], mode="durable")
    for node in nodes[:3]:
        add("member.hello", node=node, address=node, incarnation=2, providers=[])
    return commands


def test_the_hash_seed_decides_nothing() -> None:
    root = Path(__file__).parents[3]
    log = msgpack.packb(story())
    outputs = set()
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=log,
            capture_output=True,
            env=environment,
            cwd=root,
            check=True,
        )
        outputs.add(run.stdout)
    assert len(outputs) == 1
    state = ReplicatedState()
    for index, (time_s, data) in enumerate(story(), 1):
        apply(state, (index, 0, time_s, data))
    assert state.counters()["inferences_unfinished"] == 60
    assert state.counters()["conflicts_kept"] > 10
    assert state.digest().encode() in outputs.pop()
