"""The seam to PySyncObj: what we touch is there, and nobody else notices that we do."""

from __future__ import annotations

import ast
import os
import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path

import pysyncobj
import pysyncobj.syncobj
import pytest
from raft_world import World

import consensus.raft
from consensus.errors import InvariantViolated
from consensus.interface import HardState, Recovered
from consensus.raft import RaftEngine, seams

HERE = Path(__file__).parent
PACKAGE = Path(consensus.raft.__file__).parent


def plain() -> pysyncobj.SyncObj:
    """PySyncObj without any of ours."""
    conf = pysyncobj.SyncObjConf(autoTick=False)
    return pysyncobj.SyncObj(None, [], conf, transport=pysyncobj.syncobj.Transport(None, None, None))


@pytest.mark.parametrize("name", seams.INTERNALS)
def test_pysyncobj_still_has(name: str) -> None:
    assert hasattr(plain(), name), f"PySyncObj {pysyncobj.version.VERSION} has moved {name}"


@pytest.mark.parametrize(
    "name",
    [
        "monotonicTime",
        "random",
        "pickle",
        "createPoller",
        "globalDnsResolver",
        "Transport",
        "SyncObjConf",
        "_RAFT_STATE",
    ],
)
def test_pysyncobj_still_has_the_global(name: str) -> None:
    assert hasattr(pysyncobj.syncobj, name)


def test_every_internal_that_we_touch_is_on_the_list() -> None:
    touched = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", None) or getattr(node, "name", None)
            if isinstance(name, str) and name.startswith("_SyncObj__"):
                touched.add(name)
                assert path.name == "seams.py"
    assert touched == {name for name in seams.INTERNALS if name.startswith("_SyncObj__")}


def test_only_one_module_imports_pysyncobj() -> None:
    importers = {path.name for path in PACKAGE.parent.rglob("*.py") if "pysyncobj." in path.read_text()}
    assert importers == {"seams.py"}


@pytest.mark.parametrize("kind", ["append_entries", "next_node_idx", "request_vote", "response_vote"])
def test_the_messages_that_we_translate_are_pysyncobjs(kind: str) -> None:
    assert f"'type': '{kind}'" in Path(pysyncobj.syncobj.__file__).read_text()


def test_somebody_elses_pysyncobj_keeps_its_clock_its_pickle_and_its_settings() -> None:
    resolver = pysyncobj.syncobj.globalDnsResolver()
    resolver.setTimeouts(123.0, 4.0)
    world = World(3, seed=1)
    world.elect()
    assert vars(resolver)["_DnsCachingResolver__cacheTime"] == 123.0
    assert pysyncobj.syncobj.monotonicTime is pysyncobj.monotonic.monotonic
    assert pysyncobj.syncobj.random is random
    assert pysyncobj.syncobj.pickle is pysyncobj.pickle
    assert not issubclass(seams._Raft, pysyncobj.SyncObj)

    class Counter(pysyncobj.SyncObj):
        def __init__(self) -> None:
            conf = pysyncobj.SyncObjConf(
                autoTick=False, raftMinTimeout=0.031, raftMaxTimeout=0.032, appendEntriesPeriod=0.01
            )
            super().__init__(
                pysyncobj.node.Node("me"), [], conf, transport=pysyncobj.syncobj.Transport(None, None, None)
            )
            self.count = 0

        @pysyncobj.replicated
        def add(self, much: int) -> None:
            self.count += much

    counter = Counter()
    counter._SyncObj__raftElectionDeadline = 0
    counter.add(5)
    for _ in range(3):
        counter.doTick()
    assert counter.count == 5


def test_engines_in_several_threads_do_not_disturb_one_another() -> None:
    def run(seed: int) -> str:
        world = World(3, seed=seed)
        world.now = seed * 1000.0
        leader = world.elect()
        for n in range(50):
            leader.propose(b"%d" % n)
            world.run(0.002)
        return world.trace.hexdigest()

    alone = [run(seed) for seed in range(4)]
    together: dict[int, str] = {}
    threads = [threading.Thread(target=lambda s=seed: together.__setitem__(s, run(s))) for seed in range(4)]
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch_interval)
    assert [together[seed] for seed in range(4)] == alone


def test_engines_with_different_clocks_take_turns() -> None:
    def engine(now: float) -> RaftEngine:
        recovered = Recovered(HardState(0, None), None, [])
        return RaftEngine("a", ["a"], recovered, now=now, random=random.Random(7))

    early, late = engine(0.0), engine(5000.0)
    assert early.next_deadline() == pytest.approx(late.next_deadline() - 5000.0)
    late.tick(late.next_deadline())
    early.tick(0.01)
    assert (early.status().term, late.status().term) == (0, 1)


SCENARIO = """
import sys
sys.path.insert(0, {here!r})
from test_safety import Storm
storm = Storm(11)
storm.blow(80)
print(storm.world.trace.hexdigest(), len(storm.world.sent))
"""


def test_the_same_events_give_the_same_messages_in_every_process() -> None:
    def run(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        code = SCENARIO.format(here=str(HERE))
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    outputs = {run(seed) for seed in ("0", "1", "4242")}
    assert len(outputs) == 1
    assert int(outputs.pop().split()[1]) > 100


def test_what_pysyncobj_raises_closes_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(3, seed=2)
    leader = world.elect()

    def fail() -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(leader.live._core.raft, "_onTick", fail)
    with pytest.raises(InvariantViolated, match="KeyError: 'surprise'"):
        leader.live.tick(world.now + 1.0)
    with pytest.raises(InvariantViolated, match="has stopped"):
        leader.live.take_output()


def test_pickle_in_our_copy_is_a_wall() -> None:
    assert seams._pysyncobj.pickle is not pickle
    for name in ("loads", "dumps", "load", "dump"):
        with pytest.raises(InvariantViolated, match=name):
            getattr(seams._pysyncobj.pickle, name)


def test_an_engine_owns_no_descriptor_and_no_thread() -> None:
    before, threads = set(os.listdir("/proc/self/fd")), threading.active_count()
    world = World(5, seed=3)
    world.elect()
    assert set(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads
