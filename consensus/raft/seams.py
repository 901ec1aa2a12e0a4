"""The only module that knows PySyncObj. Everything it touches inside is named in :data:`INTERNALS`.

PySyncObj's Raft runs here without its sockets, threads, files, clock, randomness and pickles:

- *A copy of its own.* The module ``pysyncobj.syncobj`` is executed a second time into a private
  module object, and only there the clock, the generator and pickle are replaced. Whoever uses
  PySyncObj directly in the same process has the original, untouched.
- *Time and randomness* come from a cell per thread that every entry into PySyncObj fills in first,
  so engines with clocks of their own, in one thread or in many, do not see one another's.
- *Peers are integers.* PySyncObj keeps peers in sets and in dictionaries; small integers have the
  same hash in every process, so the same events give the same messages everywhere.
- *Appends* are not sent by PySyncObj: :mod:`~consensus.raft.replication` decides when and to whom, and
  what they carry, so that one has everything that was proposed in the meantime and no more than fits.
- *Snapshots, compaction, membership, versions and commands* of PySyncObj are cut off: nothing that
  a peer or a user supplies is ever unpickled or called in here. :meth:`Core.reconfigure` says who the other
  voters are, and who receives the log without counting.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from consensus.errors import ConsensusError, InvariantViolated
from consensus.interface import Role
from consensus.raft.config import RaftConfig
from consensus.raft.log import MemoryLog, Slot

if TYPE_CHECKING:
    from random import Random

_T = TypeVar("_T")

INTERNALS = (
    "_SyncObj__applyLogEntries",
    "_SyncObj__connectedNodes",
    "_SyncObj__doApplyCommand",
    "_SyncObj__generateRaftTimeout",
    "_SyncObj__getEntries",
    "_SyncObj__lastResponseTime",
    "_SyncObj__needLoadDumpFile",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__otherNodes",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftLeader",
    "_SyncObj__raftLog",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftState",
    "_SyncObj__readonlyNodes",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__serializer",
    "_SyncObj__tryLogCompaction",
    "_SyncObj__votedForNodeId",
    "_checkCommandsToApply",
    "_onTick",
)
"""What an upgrade of PySyncObj must not move. A contract test looks each of them up by name."""


class Peer(int):
    """A node, as PySyncObj sees it: an integer from 1, in the order in which this engine heard of them.

    ``id`` is the name: PySyncObj stores it as the vote.
    """

    id: str

    def __new__(cls, ordinal: int, name: str) -> Peer:
        """Make the node ``name``."""
        peer = super().__new__(cls, ordinal)
        peer.id = name
        return peer


class _Ambient(threading.local):
    """The clock and the generator of the engine that this thread is in."""

    now: float = 0.0
    random: Random


class _AmbientRandom:
    """Stands where PySyncObj expects the module ``random``."""

    @staticmethod
    def random() -> float:
        return _ambient.random.random()


class _NoPickle:
    """Stands where PySyncObj expects the module ``pickle``."""

    def __getattr__(self, name: str) -> Any:
        raise InvariantViolated(f"PySyncObj reached for pickle.{name}: nothing here may be pickled")


class _NoPoller:
    """Takes the place of a poller: there is no descriptor to poll."""

    def __init__(self, _kind: str) -> None:
        pass

    def poll(self, _timeout: float) -> None:
        """Return at once."""


class _NoResolver:
    """Takes the place of the process-wide resolver, whose settings belong to others."""

    def setTimeouts(self, _found_s: float, _failed_s: float) -> None:  # noqa: N802 (PySyncObj's name)
        """There are no names to resolve."""

    def setPreferredAddrFamily(self, _family: str) -> None:  # noqa: N802 (PySyncObj's name)
        """There are no addresses to prefer."""


def _ambient_now() -> float:
    return _ambient.now


def _private_copy() -> Any:
    spec = importlib.util.find_spec("pysyncobj.syncobj")
    if spec is None or spec.loader is None:
        raise ImportError("pysyncobj.syncobj was not found; install pysyncobj>=0.3.17,<0.4")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    copy: Any = module
    copy.monotonicTime = _ambient_now
    copy.random = _AmbientRandom()
    copy.pickle = _NoPickle()
    copy.createPoller = _NoPoller
    copy.globalDnsResolver = _NoResolver
    return copy


_ambient = _Ambient()
_pysyncobj = _private_copy()
_STATES = {
    _pysyncobj._RAFT_STATE.FOLLOWER: Role.FOLLOWER,
    _pysyncobj._RAFT_STATE.CANDIDATE: Role.CANDIDATE,
    _pysyncobj._RAFT_STATE.LEADER: Role.LEADER,
}
_LEADER = _pysyncobj._RAFT_STATE.LEADER


class Sink(Protocol):
    """What PySyncObj's Raft tells the engine, during a call into :class:`Core`."""

    def on_message(self, peer: Peer, message: dict[str, Any]) -> None:
        """PySyncObj sends ``message`` to ``peer``."""

    def on_committed(self, index: int) -> None:
        """The entry at ``index`` is committed: each index once, in order."""


class _Transport(_pysyncobj.Transport):  # type: ignore[misc, name-defined]
    """Hands what PySyncObj sends to the engine."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(None, None, None)
        self._sink = sink

    def send(self, node: Peer, message: dict[str, Any]) -> bool:
        self._sink.on_message(node, message)
        return True


class _NoSerializer:
    """Defects 4 and 15: PySyncObj takes, sends and loads no snapshot. Ours go another way."""

    def getTransmissionData(self, _node: Peer) -> None:  # noqa: N802 (PySyncObj's name)
        """There is never anything to send: the message that carries this becomes a heartbeat."""

    def cancelTransmisstion(self, _node: Peer) -> None:  # noqa: N802 (PySyncObj's name)
        """There is nothing to cancel."""

    def setTransmissionData(self, _data: object) -> bool:  # noqa: N802 (PySyncObj's name)
        raise InvariantViolated("a snapshot reached PySyncObj's own loader")


class _Raft(_pysyncobj.SyncObj):  # type: ignore[misc, name-defined]
    """PySyncObj with the parts cut off that are not Raft."""

    def __init__(
        self, sink: Sink, node: Peer, others: Iterable[Peer], conf: object, transport: _Transport
    ) -> None:
        self._sink = sink
        super().__init__(node, others, conf, nodeClass=_as_it_is, transport=transport)

    def _SyncObj__doApplyCommand(self, _command: bytes) -> None:  # noqa: N802 (PySyncObj's name)
        self._sink.on_committed(self._SyncObj__raftLastApplied + 1)

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 (PySyncObj's name)
        """Leave sending to the engine."""

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802 (PySyncObj's name)
        """Leave compaction to the engine."""

    def _checkCommandsToApply(self) -> None:  # noqa: N802 (PySyncObj's name)
        """No command takes PySyncObj's queue: the engine appends to the log itself."""

    def _SyncObj__getEntries(  # noqa: N802 (PySyncObj's name)
        self,
        fromIDx: int | None,  # noqa: N803 (PySyncObj's names)
        count: int | None = None,
    ) -> list[Slot]:
        """The slots from an index on, without a look at each."""
        log: MemoryLog = self._SyncObj__raftLog
        if fromIDx is None or fromIDx < log.base_index:
            return []
        start = fromIDx - log.base_index
        return log[start:] if count is None else log[start : start + count]


def _as_it_is(peer: Peer) -> Peer:
    return peer


def _configure(config: RaftConfig) -> Any:
    return _pysyncobj.SyncObjConf(
        autoTick=False,
        useFork=False,
        fullDumpFile=None,
        journalFile=None,
        dynamicMembershipChange=False,
        appendEntriesUseBatch=True,
        appendEntriesPeriod=config.heartbeat_s,
        # Above what an append holds, so that PySyncObj never cuts an entry into pieces (defect 10).
        appendEntriesBatchSizeBytes=2 * config.append_bytes_max,
        raftMinTimeout=config.election_timeout_min_s,
        raftMaxTimeout=config.election_timeout_max_s,
        connectionTimeout=config.election_timeout_max_s,
        leaderFallbackTimeout=math.inf,
    )


class Core:
    """PySyncObj's Raft for one node: state that can be read, and the few ways to move it.

    Whatever PySyncObj raises becomes :class:`~consensus.errors.InvariantViolated`: its state may be
    half changed then, and the engine must not go on.
    """

    def __init__(
        self,
        node: Peer,
        others: Iterable[Peer],
        log: MemoryLog,
        sink: Sink,
        config: RaftConfig,
        *,
        applied_index: int,
        now: float,
        random: Random,
    ) -> None:
        self._random = random
        self._config = config
        self._conf = _configure(config)
        self.now = now
        self._log = log
        self._transport = _Transport(sink)
        self.raft: Any = self._enter(_Raft, sink, node, others, self._conf, self._transport)
        self._recover(log, applied_index)
        self.connected: set[Peer] = self.raft._SyncObj__connectedNodes

    def _recover(self, log: MemoryLog, applied_index: int) -> None:
        raft = self.raft
        raft._SyncObj__serializer = _NoSerializer()
        raft._SyncObj__needLoadDumpFile = False
        raft._SyncObj__raftLog = log
        raft._SyncObj__raftCurrentTerm = log.getCurrentTerm()
        raft._SyncObj__votedForNodeId = log.getVotedForNodeId()
        raft._SyncObj__raftCommitIndex = log.getRaftCommitIndex()
        raft._SyncObj__raftLastApplied = applied_index

    # -- state -------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """What the node is in the term."""
        return _STATES[self.raft._SyncObj__raftState]

    def standing(self) -> tuple[int, int, Peer | None]:
        """What the node is, the term and its leader, to be compared with what they were before."""
        raft = self.raft
        return raft._SyncObj__raftState, raft._SyncObj__raftCurrentTerm, raft._SyncObj__raftLeader

    @property
    def is_leader(self) -> bool:
        """Whether the node leads the term."""
        return bool(self.raft._SyncObj__raftState == _LEADER)

    @property
    def term(self) -> int:
        """The current term."""
        term: int = self.raft._SyncObj__raftCurrentTerm
        return term

    @property
    def leader(self) -> Peer | None:
        """The leader of the term, as far as known."""
        leader: Peer | None = self.raft._SyncObj__raftLeader
        return leader

    @property
    def commit_index(self) -> int:
        """The highest index known to be committed."""
        index: int = self.raft._SyncObj__raftCommitIndex
        return index

    @property
    def next_index(self) -> dict[Peer, int]:
        """On the leader: the next index to send to each peer. May be written."""
        indexes: dict[Peer, int] = self.raft._SyncObj__raftNextIndex
        return indexes

    @property
    def match_index(self) -> dict[Peer, int]:
        """On the leader: the highest index known to be durable on each peer. May be raised."""
        indexes: dict[Peer, int] = self.raft._SyncObj__raftMatchIndex
        return indexes

    @property
    def last_response(self) -> dict[Peer, float]:
        """On the leader: when each peer answered last. May be written."""
        times: dict[Peer, float] = self.raft._SyncObj__lastResponseTime
        return times

    @property
    def election_deadline(self) -> float:
        """When a follower calls an election, if it is connected to anyone. May be written."""
        deadline: float = self.raft._SyncObj__raftElectionDeadline
        return deadline

    @election_deadline.setter
    def election_deadline(self, at: float) -> None:
        self.raft._SyncObj__raftElectionDeadline = at

    @property
    def heartbeat_at(self) -> float:
        """When the leader sends heartbeats. May be written."""
        at: float = self.raft._SyncObj__newAppendEntriesTime
        return at

    @heartbeat_at.setter
    def heartbeat_at(self, at: float) -> None:
        self.raft._SyncObj__newAppendEntriesTime = at

    # -- movement ----------------------------------------------------------------------------------

    def deliver(self, peer: Peer, message: dict[str, Any]) -> None:
        """Give PySyncObj a message from ``peer``."""
        self._enter(self._transport._onMessageReceived, peer, message)

    def connect(self, peer: Peer) -> None:
        """Messages to ``peer`` have a chance from now on."""
        self._enter(self._transport._onNodeConnected, peer)

    def disconnect(self, peer: Peer) -> None:
        """Messages to ``peer`` have no chance from now on."""
        self._enter(self._transport._onNodeDisconnected, peer)

    def advance(self) -> None:
        """Commit and apply what can be. No time passes: nobody is elected and nobody steps down."""
        if self.is_leader:
            self._enter(self.raft._onTick)
        else:
            self._enter(self.raft._SyncObj__applyLogEntries)

    def tick(self) -> None:
        """Let time pass."""
        self._conf.leaderFallbackTimeout = self._config.leader_fallback_s
        try:
            self._enter(self.raft._onTick)
        finally:
            self._conf.leaderFallbackTimeout = math.inf

    def reconfigure(self, voters: Iterable[Peer], observers: Iterable[Peer]) -> None:
        """From now on these others vote and count, and those only receive the log."""
        raft = self.raft
        before = raft._SyncObj__otherNodes | raft._SyncObj__readonlyNodes
        # In order, so that the sets below are built alike in every process.
        raft._SyncObj__otherNodes = set(voters)
        raft._SyncObj__readonlyNodes = set(observers)
        members = raft._SyncObj__otherNodes | raft._SyncObj__readonlyNodes
        for gone in before - members:
            self.forget(gone)
        for new in members - before:
            self.next_index[new] = self._log.last_index + 1
            self.match_index[new] = 0
            self.last_response[new] = self.now

    def forget(self, peer: Peer) -> None:
        """What was known of ``peer`` is not known of whoever comes in its place."""
        raft = self.raft
        raft._SyncObj__otherNodes.discard(peer)
        raft._SyncObj__readonlyNodes.discard(peer)
        for known in (self.next_index, self.match_index, self.last_response):
            known.pop(peer, None)

    def postpone_election(self) -> None:
        """Draw a new election deadline, from now."""
        self.election_deadline = self.now + self._enter(self.raft._SyncObj__generateRaftTimeout)

    def call_election(self) -> None:
        """Begin a new term as a candidate. A leader, and whoever is connected to nobody, does nothing."""
        deadline, self.election_deadline = self.election_deadline, -math.inf
        self._enter(self.raft._onTick)
        self.election_deadline = max(deadline, self.election_deadline)

    def forget_leader(self) -> None:
        """Nobody is known to lead the term."""
        self.raft._SyncObj__raftLeader = None

    def observe_term(self, peer: Peer, term: int) -> None:
        """``peer`` is in ``term``: follow in it, if it is newer, and vote for nobody yet."""
        # What PySyncObj does with a request for a vote whose log nobody can vote for.
        no_log = {"last_log_index": 0, "last_log_term": -1}
        self.deliver(peer, {"type": "request_vote", "term": term, **no_log})

    def committed_to(self, index: int, *, applied: bool) -> None:
        """Everything up to ``index`` is committed; ``applied``: a snapshot brings it."""
        self.raft._SyncObj__raftCommitIndex = index
        if applied:
            self.raft._SyncObj__raftLastApplied = index

    def _enter(self, call: Callable[..., _T], *arguments: Any) -> _T:
        _ambient.now = self.now
        _ambient.random = self._random
        try:
            return call(*arguments)
        except ConsensusError:
            raise
        except Exception as error:
            raise InvariantViolated(
                f"PySyncObj failed in {getattr(call, '__name__', call)} with {type(error).__name__}: "
                f"{error}; its state may be half changed: stop this node and restart it from its disk"
            ) from error
