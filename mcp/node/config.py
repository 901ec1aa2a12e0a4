"""What a node is told before it starts: one frozen value, checked once."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from consensus.ports import DriverLimits
from mcp.errors import ConfigInvalid, InvalidArgument
from mcp.net.address import parse_address
from mcp.net.limits import check_poll_s
from mcp.net.polling import POLL_S
from mcp.state.commands import SCHEMA_MAX

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
VOTERS_MAX = 7
LABELS_MAX = 32
HEARTBEAT_S_MIN = 0.001
ELECTION_TIMEOUT_S_MAX = 3600.0
CLUSTER_KEY_BYTES_MIN = 16
REPLACE_DEAD_AFTER_S_MIN = 5.0
"""A node that is restarted, or a machine that stands still for a moment, is away for less."""
REPLACE_DEAD_AFTER_S_MAX = 1800.0
"""Gossip forgets the dead after an hour: well before that it has to have been decided."""
REPLACE_ELECTIONS_MIN = 10
"""So many of the longest election timeouts a voter is silent at least before it is replaced."""
MEMORY_ARENAS = ("shrink", "keep", "off")
"""What becomes of the processor's memory that a model's runs have taken: it is kept, and given back behind
inputs of ``arena_shrink_bytes_min`` or more; always kept; or never, for no arena is used."""
_ANYWHERE = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104 (recognised, not bound to)


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """Every bound of a node that is not an engine's, the wire's or the runtime's; units last."""

    queue_commands_max: int = 16_384
    commands_per_slice: int = 512
    inference_runs_max: int = 1_024
    inference_bytes_max: int = 512 * 1024**2
    inference_streams_max: int = 1_024
    stream_state_bytes_max: int = 1024**3
    relayed_streams_max: int = 256
    assigned_runs_max: int = 64
    uploads_max: int = 64
    arena_shrink_bytes_min: int = 16 * 1024**2
    blob_bytes_max: int = 8 * 1024**3
    chunk_bytes_max: int = 1024**2
    request_timeout_s_max: float = 600.0
    fetch_timeout_s: float = 120.0
    peer_backoff_s_min: float = 0.05
    peer_backoff_s_max: float = 0.5
    node_dead_after_s: float = 1.5
    inference_lease_s: float = 30.0


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node's settings.

    ``voters`` maps every voter's node id to the address at which peers reach it, this node's included;
    it is the same on every node that begins a cluster. A node that joins a running cluster has none: ``join``
    are addresses of living nodes (a name may stand for several of them), and with ``observer`` it receives
    everything and does not vote. At ``broadcast``, the broadcast address of a network or a multicast group
    with a port, nodes hear and find each other; then ``join`` may be empty. ``labels`` are said in gossip,
    for whoever chooses among nodes.
    ``listen`` are the addresses to bind (``host:port`` or
    ``unix:///path``; port 0 picks a free one). ``advertise`` is what others are told; by default this
    node's entry in ``voters``, otherwise the first bound address. ``schema_max`` is the newest schema of
    commands that this node executes: with an older one than the newest it can still be rolled back to a
    version that knows no more. With ``replace_dead_after_s`` this node, where it leads, replaces a voter that
    has been dead for so long by an observer (:mod:`mcp.cluster.replacement`). Without ``batching`` every
    inference is a run of its own here, whatever the models' owners say. ``memory_arena`` is one of
    :data:`MEMORY_ARENAS`. For ``poll_s`` after an answer to a client its next request is looked for before
    the event loop sleeps (:mod:`mcp.net.polling`); 0: not at all.

    Raises :class:`~mcp.errors.ConfigInvalid` when the values contradict each other.
    """

    node_id: str
    data_dir: Path
    listen: tuple[str, ...] = ("127.0.0.1:7400",)
    voters: Mapping[str, str] = field(default_factory=dict)
    join: tuple[str, ...] = ()
    observer: bool = False
    broadcast: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    cluster_id: str = "mcp"
    cluster_key: bytes | None = None
    advertise: str | None = None
    engine: str = "raft"
    schema_max: int = SCHEMA_MAX
    replace_dead_after_s: float | None = None
    providers: tuple[str, ...] = ("cpu",)
    allow_provider_fallback: bool = False
    device_memory_bytes_max: int | None = None
    threads: int = 1
    workers: int = 3
    batching: bool = True
    memory_arena: str = "shrink"
    poll_s: float = POLL_S
    election_timeout_min_s: float = 0.25
    election_timeout_max_s: float = 0.5
    heartbeat_s: float = 0.05
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    limits: NodeLimits = field(default_factory=NodeLimits)
    consensus_limits: DriverLimits = field(default_factory=DriverLimits)

    def __post_init__(self) -> None:
        self._check_identity()
        self._check_timing()
        self._check_replacing()
        self._check_security()

    @property
    def peers(self) -> dict[str, str]:
        """The other voters and their addresses, in order of node id."""
        return {node: self.voters[node] for node in sorted(self.voters) if node != self.node_id}

    @property
    def joins(self) -> bool:
        """Whether this node was started to come into a running cluster, and not to begin one."""
        return bool(self.join) or (self.broadcast is not None and not self.voters)

    def _check_identity(self) -> None:
        for node in (self.node_id, *self.voters):
            if not _NODE_ID.fullmatch(node):
                raise ConfigInvalid(
                    f"{node!r} is no node id: letters, digits, '.', '_' and '-', 64 at most, "
                    "beginning with a letter or a digit"
                )
        self._check_form_of_addresses()
        if self.engine not in ("raft", "solo"):
            raise ConfigInvalid(f"engine {self.engine!r} is unknown: choose 'raft' or 'solo'")
        if self.engine == "solo":
            if self.peers or self.join or self.broadcast:
                raise ConfigInvalid("the solo engine serves one process: give it no voters, or use 'raft'")
        elif self.joins:
            self._check_joining()
        elif self.node_id not in self.voters:
            raise ConfigInvalid(
                f"node {self.node_id!r} is not among the voters "
                f"({', '.join(sorted(self.voters)) or 'none'}): list every voter with its address, "
                "this node included, and give the same list to every node"
            )
        if self.observer and not self.joins:
            raise ConfigInvalid("an observer joins a running cluster: give it addresses to join")
        self._check_addresses()
        self._check_labels()
        if not 1 <= self.schema_max <= SCHEMA_MAX:
            raise ConfigInvalid(
                f"schema_max={self.schema_max}: this version executes commands of schema 1 to {SCHEMA_MAX}"
            )
        if len(self.voters) > VOTERS_MAX:
            raise ConfigInvalid(f"{len(self.voters)} voters; {VOTERS_MAX} at most")

    def _check_joining(self) -> None:
        if self.voters:
            raise ConfigInvalid(
                "a node that joins a running cluster learns its members from it: give it addresses to join, "
                "or the voters of a cluster that is begun, not both"
            )
        bound = [self.advertise] if self.advertise else [*self.listen]
        anywhere = [address for address in bound if _is_anywhere(address)]
        if anywhere or not bound:
            raise ConfigInvalid(
                f"others have to reach this node, and {anywhere[0] if anywhere else 'no address'} is no "
                "place: say with 'advertise' (--advertise) at which address they do"
            )

    def _check_labels(self) -> None:
        if len(self.labels) > LABELS_MAX:
            raise ConfigInvalid(f"{len(self.labels)} labels; {LABELS_MAX} at most")
        for name, value in self.labels.items():
            if not _LABEL.fullmatch(name) or not (value == "" or _LABEL.fullmatch(value)):
                raise ConfigInvalid(
                    f"{name!r:.80}={value!r:.80} is no label: name and value are of letters, digits, '.', "
                    "'_', '/' and '-', 63 at most, beginning with a letter or a digit; the value may be empty"
                )

    def _check_form_of_addresses(self) -> None:
        """Before anything is concluded from where they are."""
        given = [("listen", address) for address in self.listen]
        given += [("peers", address) for address in self.voters.values()]
        given += [("join", address) for address in self.join]
        given += [("advertise", self.advertise)] if self.advertise else []
        given += [("broadcast", self.broadcast)] if self.broadcast else []
        for setting, address in given:
            try:
                parse_address(address)
            except InvalidArgument as problem:
                raise ConfigInvalid(f"{setting}: {problem.message}") from None

    def _check_addresses(self) -> None:
        seen: dict[str, str] = {}
        for node, address in sorted(self.voters.items()):
            other = seen.setdefault(address.removeprefix("tcp://"), node)
            if other != node:
                raise ConfigInvalid(
                    f"the voters {other!r} and {node!r} have one address, {address}: give each its own, at "
                    "which the others reach it"
                )

    def _check_timing(self) -> None:
        longest_s = self.election_timeout_max_s
        if not (self.heartbeat_s >= HEARTBEAT_S_MIN and longest_s <= ELECTION_TIMEOUT_S_MAX):
            raise ConfigInvalid(
                f"heartbeat {self.heartbeat_s} s and election timeout up to {longest_s} s: a heartbeat is "
                f"{HEARTBEAT_S_MIN} s at least, and a timeout {ELECTION_TIMEOUT_S_MAX:g} s at most"
            )
        if not 0 < 3 * self.heartbeat_s < self.election_timeout_min_s < self.election_timeout_max_s:
            raise ConfigInvalid(
                f"heartbeat {self.heartbeat_s} s and election timeout {self.election_timeout_min_s} to "
                f"{self.election_timeout_max_s} s: more than three heartbeats must fit into the shortest "
                "timeout, and the longest must be longer than the shortest"
            )
        if self.threads < 1 or self.workers < 1:
            raise ConfigInvalid("threads and workers are numbers from 1 up")
        check_poll_s(self.poll_s)
        if self.memory_arena not in MEMORY_ARENAS:
            raise ConfigInvalid(
                f"memory_arena={self.memory_arena!r} is unknown: choose one of {', '.join(MEMORY_ARENAS)}"
            )

    def _check_replacing(self) -> None:
        after_s = self.replace_dead_after_s
        if after_s is None:
            return
        if self.engine == "solo":
            raise ConfigInvalid(
                "a node alone (engine 'solo') has no voters to replace: leave out how long one may be dead, "
                "or use 'raft'"
            )
        least_s = max(REPLACE_DEAD_AFTER_S_MIN, REPLACE_ELECTIONS_MIN * self.election_timeout_max_s)
        if not least_s <= after_s <= REPLACE_DEAD_AFTER_S_MAX:
            raise ConfigInvalid(
                f"dead voters replaced after {after_s:g} s: with an election timeout up to "
                f"{self.election_timeout_max_s:g} s that is {least_s:g} s at least, and "
                f"{REPLACE_DEAD_AFTER_S_MAX:g} s at most"
            )

    def _check_security(self) -> None:
        if self.cluster_key is not None and len(self.cluster_key) < CLUSTER_KEY_BYTES_MIN:
            raise ConfigInvalid(
                f"the cluster key has {len(self.cluster_key)} bytes, {CLUSTER_KEY_BYTES_MIN} are needed; "
                "make one with: openssl rand -hex 32"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigInvalid("a TLS certificate and its key go together: give both or neither")
        networked = [address for address in self.listen if not address.startswith(("unix:", "memory:"))]
        if self.tls_ca is not None and self.tls_cert is None and networked:
            raise ConfigInvalid(
                f"a TLS authority without a certificate would leave {networked[0]} without TLS: give the "
                "node's own certificate and key too, or leave the authority out"
            )
        reached = (*self.listen, *([self.broadcast] if self.broadcast else ()))
        exposed = [address for address in reached if not is_private(address)]
        if exposed and self.cluster_key is None:
            raise ConfigInvalid(
                f"{exposed[0]} can be reached from other machines, and there is no cluster key: "
                "make one with 'openssl rand -hex 32' and give it to every node and client"
            )


def _is_anywhere(address: str) -> bool:
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    return not address.startswith(("unix:", "memory:")) and host in _ANYWHERE


def is_private(address: str) -> bool:
    """Whether only this machine can reach ``address``: loopback, a Unix socket, or memory."""
    if address.startswith(("unix:", "memory:")):
        return True
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
