"""What every engine promises, whatever is behind it: `consensus.interface` as a test.

To put another engine under the contract, add a line to ``ENGINES``: how to make one, and the group
sizes that it can form. Nothing else changes. The group below drives engines the way a driver does, on
journals and snapshot stores of their own, over a network that delivers in order, on a virtual clock.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from consensus.configuration import AddObserver, Standing
from consensus.errors import EntryTooLarge, MembershipRefused, NotLeader
from consensus.interface import (
    Engine,
    Entry,
    EntryKind,
    HardState,
    InstalledSnapshot,
    Record,
    Recovered,
    Role,
    SnapshotMeta,
    Truncate,
)
from consensus.journal import Journal, JournalLimits
from consensus.raft import RaftConfig, RaftEngine
from consensus.recovery import recover
from consensus.snapshots import SnapshotStore
from consensus.solo import SoloEngine
from simulations.disk import MemoryDisk

ENTRY_BYTES_MAX = 1000
"""Every factory sets this limit."""

PATIENCE_S = 60.0
"""Virtual seconds in which an undisturbed group has to elect a leader or commit what was proposed."""

Make = Callable[[str, Sequence[str], Recovered, float], Engine]
"""Makes the engine of ``node_id`` among ``voters`` from ``recovered``, at the time ``now``."""


def make_solo(node_id: str, voters: Sequence[str], recovered: Recovered, now: float) -> Engine:
    assert list(voters) == [node_id]
    return SoloEngine(node_id, recovered, entry_bytes_max=ENTRY_BYTES_MAX)


def make_raft(node_id: str, voters: Sequence[str], recovered: Recovered, now: float) -> Engine:
    config = RaftConfig(entry_bytes_max=ENTRY_BYTES_MAX)
    return RaftEngine(node_id, voters, recovered, now=now, random=random.Random(node_id), config=config)


ENGINES: list[tuple[str, Make, Sequence[int]]] = [
    ("solo", make_solo, (1,)),
    ("raft", make_raft, (1, 2, 3, 5)),
]


@dataclass
class Node:
    """One engine with its disk, and what a driver and a state machine keep beside it."""

    node_id: str
    disk: MemoryDisk
    journal: Journal
    store: SnapshotStore
    engine: Engine
    durable: dict[int, Entry] = field(default_factory=dict)
    hard_state: HardState = field(default_factory=lambda: HardState(0, None))
    applied: list[Entry] = field(default_factory=list)
    """Committed entries behind the restored snapshot, in order."""
    restored: SnapshotMeta | None = None
    reads: dict[int, int] = field(default_factory=dict)
    reads_refused: list[int] = field(default_factory=list)

    def persist(self, records: Sequence[Record]) -> None:
        self.journal.append(records)
        self.journal.sync()
        for record in records:
            if isinstance(record, Entry):
                self.durable[record.index] = record
            elif isinstance(record, HardState):
                assert record.term >= self.hard_state.term
                self.hard_state = record
            elif isinstance(record, Truncate):
                self.durable = {i: e for i, e in self.durable.items() if i < record.from_index}
            elif isinstance(record, InstalledSnapshot):
                self.durable = {}

    def commands(self) -> list[bytes]:
        return [entry.data for entry in self.applied if entry.kind is EntryKind.COMMAND]

    @property
    def applied_index(self) -> int:
        before = self.restored.index if self.restored else 0
        return self.applied[-1].index if self.applied else before


class Group:
    """Engines that can reach each other, driven step by step on a virtual clock."""

    def __init__(self, make: Make, size: int) -> None:
        self.make = make
        self.now = 100.0
        self.voters = [f"node-{number}" for number in range(size)]
        self.mail: deque[tuple[str, str, bytes]] = deque()
        self.nodes: dict[str, Node] = {}
        self.committed: dict[int, Entry] = {}
        self.cut_off: str | None = None
        for node_id in self.voters:
            self.start(node_id, MemoryDisk())
        self.connect()

    def start(self, node_id: str, disk: MemoryDisk) -> None:
        journal, store = Journal.open(disk, "journal"), SnapshotStore.open(disk, "snapshots")
        recovered = recover(journal, store)
        engine = self.make(node_id, self.voters, recovered, self.now)
        node = Node(node_id, disk, journal, store, engine)
        node.durable = {entry.index: entry for entry in recovered.entries}
        node.hard_state = recovered.hard_state
        # As a driver does before the first output, which may name the same snapshot again.
        node.restored = recovered.snapshot
        self.nodes[node_id] = node

    def connect(self) -> None:
        for node in self.nodes.values():
            for peer in self.voters:
                if peer != node.node_id:
                    node.engine.peer_connected(peer, self.now)
        self.settle()

    def restart_all(self) -> None:
        """A power loss of the whole group: what was not synced is gone."""
        self.mail.clear()
        for node in list(self.nodes.values()):
            self.start(node.node_id, node.disk.crash())
        self.connect()

    def cut(self, node_id: str) -> None:
        """Let nothing through to ``node_id`` or from it."""
        self.cut_off = node_id
        for peer in self.voters:
            if peer != node_id:
                self.nodes[peer].engine.peer_disconnected(node_id, self.now)
                self.nodes[node_id].engine.peer_disconnected(peer, self.now)

    def heal(self) -> None:
        self.cut_off = None
        self.connect()

    def reachable(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.node_id != self.cut_off]

    def settle(self) -> None:
        """Perform outputs and deliver messages until nothing is left to do at this moment."""
        for _ in range(10_000):
            busy = [self.perform(node) for node in self.nodes.values()]
            if self.mail:
                source, target, message = self.mail.popleft()
                if self.cut_off not in (source, target) and target in self.nodes:
                    self.nodes[target].engine.receive(source, message, self.now)
            elif not any(busy):
                return
        raise AssertionError("the engines never come to rest")

    def perform(self, node: Node) -> bool:
        output = node.engine.take_output()
        self.mail.extend((node.node_id, peer, message) for peer, message in output.send_early)
        node.persist(output.persist)
        self.mail.extend((node.node_id, peer, message) for peer, message in output.send)
        if output.restore is not None:
            assert node.store.latest() == output.restore
            node.restored, node.applied = output.restore, []
        for entry in output.committed:
            self.apply(node, entry)
        node.reads.update(output.reads)
        node.reads_refused += output.reads_refused
        for peer in output.snapshot_needed:
            if self.cut_off not in (node.node_id, peer) and peer in self.nodes:
                self.transfer(node, self.nodes[peer])
        return bool(output)

    def apply(self, node: Node, entry: Entry) -> None:
        assert entry.index == node.applied_index + 1, "strictly in order, each index once"
        assert self.committed.setdefault(entry.index, entry) == entry, "one order for all, for ever"
        # Of term 0 are entries that every log begins with: nobody has to be asked about them.
        holders = sum(
            other.durable.get(entry.index) == entry
            or (other.store.latest() or SnapshotMeta(0, 0, 0, 0, "")).index >= entry.index
            for other in self.nodes.values()
        )
        assert entry.term == 0 or holders > len(self.nodes) / 2, "committed means durable on a quorum"
        node.applied.append(entry)

    def transfer(self, node: Node, peer: Node) -> None:
        meta = node.store.latest()
        assert meta is not None
        term = node.engine.status().term
        receiver = peer.store.receive(meta)
        receiver.write(receiver.received, node.store.read_chunk(meta, receiver.received, meta.size))
        receiver.finish()
        peer.engine.install_snapshot(node.node_id, term, meta, self.now)
        self.perform(peer)
        node.engine.snapshot_delivered(peer.node_id, term, meta.index, self.now)

    def run_until(self, done: Callable[[], bool]) -> None:
        end = self.now + PATIENCE_S
        self.settle()
        while not done():
            deadline = min(node.engine.next_deadline() for node in self.nodes.values())
            assert deadline <= end, "nothing left that would bring it about"
            self.now = max(self.now, deadline)
            for node in self.nodes.values():
                if node.engine.next_deadline() <= self.now:
                    node.engine.tick(self.now)
            self.settle()

    def leaders(self) -> list[Node]:
        return [node for node in self.reachable() if node.engine.status().role is Role.LEADER]

    def leader(self) -> Node:
        """The one leader that all reachable nodes know."""

        def agreed() -> bool:
            known = {node.engine.status().leader for node in self.reachable()}
            return known == {node.node_id for node in self.leaders()} and len(known) == 1

        self.run_until(agreed)
        return self.leaders()[0]

    def commit(self, commands: Sequence[bytes]) -> None:
        leader = self.leader()
        places = [leader.engine.propose(data, self.now) for data in commands]
        assert places == sorted(set(places)), "places are handed out in order"
        term, last = places[-1]
        assert term == leader.engine.status().term
        self.run_until(lambda: all(node.applied_index >= last for node in self.reachable()))
        assert [self.committed[index].data for _, index in places] == list(commands)

    def compact(self, node: Node, retain: int) -> SnapshotMeta:
        """What a driver does when its log has grown: snapshot what is applied, then drop what it covers."""
        last, before = node.applied[-1], node.applied[-2] if len(node.applied) > 1 else node.applied[-1]
        meta = node.store.write(last.index, last.term, before.term, b"state at %d" % last.index)
        first_kept = node.engine.compact(meta, retain)
        assert 1 <= first_kept <= meta.index + 1
        assert node.engine.status().first_index <= first_kept
        node.journal.compact(first_kept)
        return meta


@pytest.fixture(
    params=[
        pytest.param((make, size), id=f"{name}-{size}") for name, make, sizes in ENGINES for size in sizes
    ]
)
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    make, size = request.param
    return Group(make, size)


def test_a_fresh_group_elects_one_leader_that_all_agree_on(group: Group) -> None:
    leader = group.leader()
    status = leader.engine.status()
    assert status.term >= 1
    assert status.leader == status.node_id == leader.node_id
    assert sorted(status.voters) == group.voters
    assert leader.hard_state.term == status.term, "the term is durable"
    assert {node.engine.status().term for node in group.nodes.values()} == {status.term}


def test_commands_are_committed_everywhere_in_the_order_of_their_places(group: Group) -> None:
    commands = [b"%d" % number for number in range(50)]
    group.commit(commands[:1])
    group.commit(commands[1:])
    for node in group.nodes.values():
        assert node.commands() == commands
        status = node.engine.status()
        assert status.commit_index == node.applied_index == status.last_index
        assert status.first_index == 1


def test_an_empty_and_a_largest_command_are_opaque_bytes_like_any_other(group: Group) -> None:
    commands = [b"", bytes(range(256)), b"x" * ENTRY_BYTES_MAX]
    group.commit(commands)
    assert all(node.commands() == commands for node in group.nodes.values())


def test_a_command_that_is_too_large_leaves_no_trace(group: Group) -> None:
    leader = group.leader()
    last = leader.engine.status().last_index
    with pytest.raises(EntryTooLarge):
        leader.engine.propose(b"x" * (ENTRY_BYTES_MAX + 1), group.now)
    assert leader.engine.status().last_index == last
    group.commit([b"next"])
    assert leader.commands() == [b"next"]


def test_only_the_leader_takes_proposals(group: Group) -> None:
    leader = group.leader()
    for node in group.nodes.values():
        if node is not leader:
            with pytest.raises(NotLeader) as caught:
                node.engine.propose(b"x", group.now)
            assert caught.value.leader == leader.node_id
    group.commit([b"taken"])
    assert all(node.commands() == [b"taken"] for node in group.nodes.values())


def test_a_proposal_is_in_the_output_to_persist_before_it_is_durable_anywhere(group: Group) -> None:
    leader = group.leader()
    term, index = leader.engine.propose(b"x", group.now)
    assert leader.engine.status().commit_index < index
    output = leader.engine.take_output()
    assert Entry(index, term, EntryKind.COMMAND, b"x") in output.persist
    assert not leader.engine.take_output().persist, "an output is handed over once"


def test_a_read_is_told_a_position_behind_all_that_was_committed_before_it(group: Group) -> None:
    leader = group.leader()
    for number in range(5):
        group.commit([b"%d" % number])
        last = max(group.committed)
        leader.engine.read_index(number, group.now)
        group.run_until(lambda number=number: number in leader.reads)
        assert leader.reads[number] == last
    assert leader.reads_refused == []
    assert leader.engine.status().last_index == last, "a read writes nothing"


def test_a_read_of_a_leader_that_has_just_been_elected_sees_what_its_predecessors_committed(
    group: Group,
) -> None:
    group.commit([b"x", b"y"])
    last = max(group.committed)
    group.restart_all()
    leader = group.leader()
    leader.engine.read_index(1, group.now)
    group.run_until(lambda: 1 in leader.reads)
    assert leader.reads[1] >= last


def test_only_the_leader_tells_where_to_read(group: Group) -> None:
    leader = group.leader()
    for node in group.nodes.values():
        if node is not leader:
            with pytest.raises(NotLeader) as caught:
                node.engine.read_index(1, group.now)
            assert caught.value.leader == leader.node_id


def test_a_leader_that_was_cut_off_refuses_its_reads(group: Group) -> None:
    if len(group.voters) < 2:
        pytest.skip("a single voter is its own majority")
    leader = group.leader()
    group.cut(leader.node_id)
    leader.engine.read_index(1, group.now)
    group.run_until(lambda: leader.reads_refused == [1])
    assert leader.reads == {}
    assert leader.engine.status().role is not Role.LEADER


def test_the_configuration_names_the_voters_and_stays_the_same_object(group: Group) -> None:
    leader = group.leader()
    group.commit([b"x"])
    for node in group.nodes.values():
        configuration = node.engine.configuration()
        assert list(configuration.voters) == group.voters
        assert node.engine.configuration() is configuration
        assert node.engine.configuration_at(node.applied_index) == b"", "nobody has changed it"
    status = leader.engine.status()
    assert (list(status.voters), status.observers, status.standing) == (group.voters, (), Standing.VOTER)


def test_members_change_at_a_position_of_the_log_or_are_refused(group: Group) -> None:
    leader = group.leader()
    group.commit([b"x"])
    last = leader.engine.status().last_index
    before = leader.engine.configuration()
    try:
        index = leader.engine.change_membership(AddObserver("node-9", 7, "there:1"), group.now)
    except MembershipRefused:
        assert leader.engine.status().last_index == last
        assert leader.engine.configuration() is before
        return
    assert index == last + 1
    assert leader.engine.configuration().observers == ("node-9",), "in force at once"
    assert leader.engine.status().commit_index < index
    group.run_until(lambda: all(node.applied_index >= index for node in group.nodes.values()))
    for node in group.nodes.values():
        assert node.applied[-1].kind is EntryKind.CONFIG
        assert node.engine.configuration() == leader.engine.configuration()
        assert node.engine.configuration_at(index) == node.applied[-1].data
        assert node.engine.configuration_at(index - 1) == b""
    group.restart_all()
    group.commit([b"y"])
    assert {node.engine.configuration().observers for node in group.nodes.values()} == {("node-9",)}


def test_only_the_leader_changes_members(group: Group) -> None:
    leader = group.leader()
    for node in group.nodes.values():
        if node is not leader:
            with pytest.raises(NotLeader) as caught:
                node.engine.change_membership(AddObserver("node-9", 7), group.now)
            assert caught.value.leader == leader.node_id


def test_messages_that_make_no_sense_change_nothing(group: Group) -> None:
    group.commit([b"before"])
    for node in group.nodes.values():
        status = node.engine.status()
        for peer in [*group.voters, "stranger", ""]:
            for message in (b"", b"\x00", b"\xff" * 100, b"\x80\x04K\x01.", b"\x81\xa4type\xa1x"):
                node.engine.receive(peer, message, group.now)
        after = node.engine.status()
        assert (after.term, after.role, after.last_index) == (status.term, status.role, status.last_index)
    group.settle()
    group.commit([b"after"])
    assert all(node.commands() == [b"before", b"after"] for node in group.nodes.values())


def test_time_alone_commits_nothing_and_deposes_nobody(group: Group) -> None:
    leader = group.leader()
    term, applied = leader.engine.status().term, leader.applied_index
    end = group.now + 10
    group.run_until(
        lambda: (
            group.now >= end or math.isinf(min(node.engine.next_deadline() for node in group.nodes.values()))
        )
    )
    assert group.leaders() == [leader]
    assert (leader.engine.status().term, leader.applied_index) == (term, applied)


def test_a_group_that_lost_power_goes_on_in_a_new_term_with_everything_it_committed(group: Group) -> None:
    commands: list[bytes] = []
    term = 0
    for number in range(4):
        new = [b"%d/%d" % (number, place) for place in range(5)]
        group.commit(new)
        commands += new
        assert group.leader().engine.status().term > term
        term = group.leader().engine.status().term
        group.restart_all()
        group.run_until(
            lambda expected=tuple(commands): all(
                tuple(node.commands()) == expected for node in group.nodes.values()
            )
        )
        assert all(node.engine.status().term >= term for node in group.nodes.values())


@pytest.mark.parametrize("retain", [0, 3, 1000])
def test_a_group_starts_again_from_snapshots_and_what_follows_them(group: Group, retain: int) -> None:
    for number in range(3):
        group.commit([b"%d/%d" % (number, place) for place in range(8)])
        metas = {node.node_id: group.compact(node, retain) for node in group.nodes.values()}
        group.commit([b"%d/last" % number])
        group.restart_all()
        group.leader()
        group.run_until(
            lambda number=number: all(
                node.commands()[:1] == [b"%d/last" % number] for node in group.nodes.values()
            )
        )
        assert {node.node_id: node.restored for node in group.nodes.values()} == metas


def test_a_node_that_was_cut_off_is_caught_up_by_a_snapshot(group: Group) -> None:
    if len(group.voters) < 3:
        pytest.skip("a group of this size does not go on without a node")
    group.commit([b"before"])
    absent = next(node for node in group.nodes.values() if node is not group.leader())
    group.cut(absent.node_id)
    for number in range(3):
        group.commit([b"%d/%d" % (number, place) for place in range(10)])
        for node in group.reachable():
            group.compact(node, 0)
    assert absent.commands() == [b"before"]
    group.heal()
    group.commit([b"after"])
    assert absent.restored is not None
    assert absent.commands()[-1:] == [b"after"]
    group.restart_all()
    group.commit([b"again"])
    restarted = group.nodes[absent.node_id]
    assert restarted.restored == absent.restored
    assert restarted.commands()[-2:] == [b"after", b"again"]


def test_a_snapshot_behind_the_commit_index_is_refused(group: Group) -> None:
    group.commit([b"a", b"b", b"c"])
    for node in group.nodes.values():
        group.perform(node)
        meta = SnapshotMeta(node.applied_index - 1, 1, 1, 0, "00" * 32)
        taken = node.engine.install_snapshot(group.voters[0], node.engine.status().term, meta, group.now)
        assert not taken
        assert node.engine.take_output().restore is None


def test_the_journal_stays_bounded_when_the_driver_compacts(group: Group) -> None:
    for node in group.nodes.values():
        node.journal.close()
        node.journal = Journal.open(node.disk, "journal", limits=JournalLimits(segment_bytes_max=2000))
    sizes = []
    for number in range(12):
        group.commit([b"%d" % number * 20 for _ in range(40)])
        for node in group.nodes.values():
            group.compact(node, 2)
            sizes.append(node.journal.bytes_on_disk)
    assert max(sizes) < 12_000
