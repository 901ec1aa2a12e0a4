"""Two clusters that follow a script message by message: PySyncObj as it ships, and our engine.

Nothing happens by itself. `expire` makes one node call an election, what is sent waits on `wire`, and
the script decides what arrives, in which order and how often. So one script can be played on both.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pysyncobj
import pysyncobj.syncobj
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from consensus.interface import EntryKind, HardState, InstalledSnapshot, Output, Recovered, Truncate
from consensus.raft import RaftConfig, RaftEngine
from consensus.raft.messages import Codec, Message, PreVote, PreVoteAnswer

PATIENT = RaftConfig(election_timeout_min_s=1000.0, election_timeout_max_s=2000.0, leader_fallback_s=1000.0)

Flight = tuple[str, str, Any]


def decoded(output: Output, codec: Codec) -> list[tuple[str, Message]]:
    """What an output sends, early and late, in order."""
    return [(peer, codec.decode(message)) for peer, message in output.send_early + output.send]


def call_election(engine: RaftEngine, *yes: str, codec: Codec) -> None:
    """Let the deadline pass and ``yes`` say that they would vote."""
    now = engine.next_deadline()
    engine.tick(now)
    asked = dict(decoded(engine.take_output(), codec))
    for peer in yes:
        ask = asked[peer]
        assert isinstance(ask, PreVote)
        engine.receive(peer, codec.encode(PreVoteAnswer(ask.term - 1, ask.round, granted=True)), now)


class Scripted:
    """What both clusters have in common."""

    def __init__(self, names: str) -> None:
        self.names = list(names)
        self.now = 0.0
        self.wire: list[Flight] = []

    def take(self, source: str, target: str) -> list[Any]:
        """Take what waits from ``source`` to ``target`` off the wire."""
        taken = [message for a, b, message in self.wire if (a, b) == (source, target)]
        self.wire = [flight for flight in self.wire if flight[:2] != (source, target)]
        return taken

    def flush(self, *among: str) -> None:
        """Deliver, in order, what is on the wire among these nodes (default: all), until it is quiet."""
        nodes = among or tuple(self.names)
        for _ in range(10_000):
            ready = [f for f in self.wire if f[0] in nodes and f[1] in nodes]
            if not ready:
                return
            self.wire.remove(ready[0])
            self.deliver(*ready[0])
        raise AssertionError("the wire does not become quiet")

    def elect(self, name: str, *voters: str) -> None:
        """Have ``name`` elected by ``voters`` alone (default: by all)."""
        self.expire(name)
        self.flush(name, *(voters or self.names))
        assert self.is_leader(name)

    def heartbeat(self, name: str) -> None:
        """Let the leader's heartbeat period pass."""
        self.now += 0.2
        self.tick(name)

    def deliver(self, source: str, target: str, message: Any) -> None:
        raise NotImplementedError

    def expire(self, name: str) -> None:
        raise NotImplementedError

    def tick(self, name: str) -> None:
        raise NotImplementedError

    def is_leader(self, name: str) -> bool:
        raise NotImplementedError


class BareTransport(Transport):
    def __init__(self, send: Callable[[Any, Any], bool]) -> None:
        super().__init__(None, None, None)
        self._send = send

    def send(self, node: Any, message: Any) -> bool:
        return self._send(node, message)


class ListMachine(pysyncobj.SyncObj):
    """The simplest replicated object: it remembers what it was told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.items: list[Any] = []
        self.on_append: Callable[[Any], None] = lambda _item: None
        super().__init__(*args, **kwargs)

    @pysyncobj.replicated
    def append(self, item: Any) -> None:
        self.on_append(item)
        self.items.append(item)


class Bare(Scripted):
    """PySyncObj, unmodified, on a scripted transport and clock."""

    def __init__(self, names: str, monkeypatch: Any, **conf: Any) -> None:
        super().__init__(names)
        monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", lambda: self.now)
        self.conf = {
            "autoTick": False,
            "raftMinTimeout": 1000.0,
            "raftMaxTimeout": 2000.0,
            "connectionTimeout": 5000.0,
            "appendEntriesPeriod": 0.1,
            "leaderFallbackTimeout": 1000.0,
            **conf,
        }
        self.ids = {name: Node(name) for name in names}
        self.nodes: dict[str, ListMachine] = {}
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        def send(node: Any, message: Any) -> bool:
            self.wire.append((name, node.id, message))
            return True

        transport = BareTransport(send)
        others = [node for other, node in self.ids.items() if other != name]
        conf = pysyncobj.SyncObjConf(**self.conf)
        self.nodes[name] = ListMachine(self.ids[name], others, conf, transport=transport)
        self.nodes[name].transport = transport
        for node in others:
            transport._onNodeConnected(node)
        self.nodes[name].doTick()

    def deliver(self, source: str, target: str, message: Any) -> None:
        self.nodes[target].transport._onMessageReceived(self.ids[source], message)
        self.nodes[target].doTick()

    def expire(self, name: str) -> None:
        self.nodes[name]._SyncObj__raftElectionDeadline = self.now - 1
        self.nodes[name].doTick()

    def tick(self, name: str) -> None:
        self.nodes[name].doTick()

    def propose(self, name: str, *items: str) -> None:
        """Propose and send: with the default settings that takes a period."""
        for item in items:
            self.nodes[name].append(item)
        self.nodes[name].doTick()
        self.heartbeat(name)

    def is_leader(self, name: str) -> bool:
        return self.nodes[name]._isLeader()

    def applied(self, name: str) -> list[str]:
        return list(self.nodes[name].items)

    def log(self, name: str) -> list[tuple[int, int]]:
        return [(entry[1], entry[2]) for entry in self.nodes[name]._SyncObj__raftLog[:]]

    def commit_index(self, name: str) -> int:
        return self.nodes[name].raftCommitIndex


class Guarded(Scripted):
    """Our engine. Each output is performed at once, completely."""

    def __init__(self, names: str, config: RaftConfig = PATIENT) -> None:
        super().__init__(names)
        self.config = config
        self.nodes: dict[str, RaftEngine] = {}
        self.disks = {name: Recovered(HardState(0, None), None, []) for name in names}
        self.outputs: dict[str, list[Output]] = {name: [] for name in names}
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        rng = random.Random(ord(name[0]))
        disk = self.disks[name]
        recovered = Recovered(disk.hard_state, disk.snapshot, list(disk.entries))
        engine = RaftEngine(name, self.names, recovered, now=self.now, random=rng, config=self.config)
        self.nodes[name] = engine
        for other in self.names:
            engine.peer_connected(other, self.now)
        self.perform(name)

    def perform(self, name: str) -> Output:
        output = self.nodes[name].take_output()
        self.outputs[name].append(output)
        disk = self.disks[name]
        for record in output.persist:
            match record:
                case HardState():
                    disk.hard_state = record
                case Truncate(from_index):
                    disk.entries = [e for e in disk.entries if e.index < from_index]
                case InstalledSnapshot(meta):
                    disk.snapshot, disk.entries = meta, []
                case entry:
                    disk.entries.append(entry)
        self.wire += [(name, peer, message) for peer, message in output.send_early + output.send]
        return output

    def deliver(self, source: str, target: str, message: Any) -> None:
        self.nodes[target].receive(source, message, self.now)
        self.perform(target)

    def expire(self, name: str) -> None:
        """Have ``name`` call an election that everybody takes part in, whoever leads: its script wants it."""
        self.nodes[name]._advance_clock(self.now)
        self.nodes[name]._elections.call(handed_over=True)
        self.perform(name)

    def grow_impatient(self, name: str) -> None:
        """Have ``name``'s election deadline pass: what it does then is up to it."""
        self.nodes[name]._core.election_deadline = self.now - 1
        self.tick(name)

    def tick(self, name: str) -> None:
        self.nodes[name].tick(self.now)
        self.perform(name)

    def propose(self, name: str, *items: str) -> None:
        for item in items:
            self.nodes[name].propose(item.encode(), self.now)
        self.perform(name)

    def is_leader(self, name: str) -> bool:
        return self.nodes[name].status().role.value == "leader"

    def applied(self, name: str) -> list[str]:
        return [
            entry.data.decode()
            for output in self.outputs[name]
            for entry in output.committed
            if entry.kind is EntryKind.COMMAND
        ]

    def log(self, name: str) -> list[tuple[int, int]]:
        log = self.nodes[name]._log
        return [(i, log.term_at(i)) for i in range(log.base_index, log.last_index + 1)]

    def commit_index(self, name: str) -> int:
        return self.nodes[name].status().commit_index
