"""What the calls of a client return: frozen dataclasses with plain values and NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from mcp.errors import McpError

Array = NDArray[Any]
"""A tensor on either side of an inference."""

ModelInputs = Mapping[str, Array] | Array | str
"""Inputs by name; or a bare array or a text for a model that has one input."""

Consistency = Literal["session", "linearizable", "stale"]
"""How fresh a read must be: at least what this client has seen, the latest, or whatever is at hand."""

Mode = Literal["durable", "replicated"]
"""Run by one node and recorded once, or run by every replica and compared."""


@dataclass(frozen=True, slots=True)
class Inference:
    """The answer of a direct inference.

    ``outputs`` are by name, in the model's order; the arrays may be read-only views of the received
    frame, so copy one before you change it. ``node`` is who ran it.

    ``fallback`` is ``None`` for what the model that was asked for answered now. Otherwise its owner has
    declared what is done instead (``docs/routing.md``): "model", another one answered, which ``model``
    names; "cached", it is the answer to the very same request ``age_s`` seconds ago; "fixed", it is declared.
    """

    outputs: dict[str, Array]
    model: str
    version: str
    node: str
    fallback: str | None = None
    age_s: float | None = None

    @property
    def output(self) -> Array:
        """The first output: the only one of most models."""
        return next(iter(self.outputs.values()))


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a stream. ``number`` counts from 1; the rest is as in :class:`Inference`."""

    number: int
    outputs: dict[str, Array]
    model: str
    version: str
    node: str
    fallback: str | None = None

    @property
    def output(self) -> Array:
        """The first output: the only one of most models."""
        return next(iter(self.outputs.values()))


@dataclass(frozen=True, slots=True)
class ReplicaComparison:
    """How one replica's outputs compare with the recorded ones, within the cluster's tolerance."""

    equal: bool
    max_abs_diff: float | None


@dataclass(frozen=True, slots=True)
class InferenceRecord:
    """A submitted inference as the cluster records it.

    ``status`` is ``"waiting"`` (no live node holds the model) or ``"assigned"`` until it is ``"done"``
    (then ``outputs`` is there) or ``"failed"`` (then ``error`` is). ``node`` runs or ran it under the
    fencing token ``token``, for the ``attempts``-th time. ``replicas`` has an entry per replica that
    reported, in replicated mode.
    """

    id: str
    status: str
    mode: str
    model: str
    version: str
    outputs: dict[str, Array] | None
    error: McpError | None
    node: str | None
    token: int
    attempts: int
    replicas: dict[str, ReplicaComparison]

    @property
    def finished(self) -> bool:
        """Whether the record will not change any more, apart from replicas that report late."""
        return self.status in ("done", "failed")


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it was read. ``version`` is what ``compare_and_set`` expects; ``index`` wrote it."""

    key: str
    value: Any
    version: int
    index: int
    writer: str | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deploy that is committed, with the bytes on the ``holders``. ``size`` is in bytes."""

    name: str
    version: str
    digest: str
    size: int
    holders: list[str]
    index: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model with its active ``version``. ``size`` is in bytes.

    ``ready``: whether the node that was asked can run it now, and ``problem`` what kept it from loading
    it; ``None`` where the log was asked (:meth:`Client.models`), which does not know. What comes after
    them the log knows and a node's status leaves out: ``None`` there. ``inputs`` and ``outputs`` are as
    declared, ``{"name", "dtype", "shape"}`` each, and ``batching`` what its owner said. ``inference`` is
    the other way round: what waits and what ran on the node that was asked (``docs/protocol.md``).
    """

    name: str
    version: str
    versions: list[str]
    digest: str
    aliases: list[str]
    holders: list[str]
    ready: bool | None = None
    problem: McpError | None = None
    size: int | None = None
    family: str | None = None
    task: str | None = None
    tags: list[str] | None = None
    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None
    batching: dict[str, Any] | None = None
    inference: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """A member as the replicated state has it. ``schema``: the newest commands that it executes."""

    node: str
    address: str
    state: str
    schema: int = 1
    role: str = ""
    """"voter", "observer", or "none": no member any more, or not yet."""
    journal: int | None = None
    """The number of the journal under which it is a member: a node whose disk was emptied has another."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """How a node sees another; ``match`` is the index known durable there, on the leader only."""

    connected: bool
    match: int | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What one node says of itself; or, with ``error``, why it said nothing.

    Indexes count log entries from 1. ``version`` is the protocol's, ``package_version`` that of the
    installed software. ``schema`` has that of the commands ``in_force``, and what the node executes at most
    (``own_max``). ``storage`` is "ok", "full" or says what failed. ``details`` is the whole answer,
    with fields that this version does not name.
    """

    address: str
    node: str | None = None
    error: McpError | None = None
    role: str | None = None
    term: int = 0
    leader: str | None = None
    leader_address: str | None = None
    first_index: int = 0
    last_index: int = 0
    commit_index: int = 0
    applied_index: int = 0
    voters: list[str] = field(default_factory=list)
    observers: list[str] = field(default_factory=list)
    standing: str = ""
    """What the node is, as far as it knows: "voter", "observer" or "outsider"."""
    peers: dict[str, PeerStatus] = field(default_factory=dict)
    members: list[MemberStatus] = field(default_factory=list)
    models: list[ModelStatus] = field(default_factory=list)
    providers: list[str] = field(default_factory=list)
    schema: dict[str, Any] = field(default_factory=dict)
    storage: str = "unknown"
    uptime_s: float = 0.0
    version: str = ""
    package_version: str | None = None
    caught_up: bool | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    replacing: dict[str, Any] = field(default_factory=dict)
    """What the node does about dead voters: ``after_s``, and where it leads ``dead``, in seconds by name,
    ``waits_for`` and ``steps``."""
    details: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def reachable(self) -> bool:
        """Whether the node answered."""
        return self.error is None

    @property
    def is_outsider(self) -> bool:
        """Whether it is no member, yet or any more: what it says of the others is of before."""
        return self.standing == "outsider"

    @property
    def problem(self) -> str | None:
        """What keeps the node from taking part, in a few words; ``None`` where nothing does."""
        if self.error is not None:
            return f"{self.error.code}: {self.error.message}"
        if self.storage != "ok":
            return f"storage {self.storage}"
        if self.is_outsider:
            return "is no member of the cluster"
        if self.leader is None:
            return "knows no leader"
        if self.caught_up is False:
            return "is starting and has not caught up"
        return None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Every node that the client knows, as each told it at nearly the same time.

    ``leader`` is the id of the node that says it leads, in the highest ``term`` that was told; ``None``
    while there is none that answers. ``models`` is what the node with the highest applied index has.
    """

    nodes: list[NodeStatus]
    leader: str | None
    term: int
    voters: list[str]
    models: list[ModelStatus]

    @property
    def reachable(self) -> list[NodeStatus]:
        """The nodes that answered."""
        return [node for node in self.nodes if node.reachable]

    @property
    def has_quorum(self) -> bool:
        """Whether a majority of the voters answered."""
        return self._majority(self.reachable)

    @property
    def sound(self) -> list[NodeStatus]:
        """The nodes that can take part: reachable, their storage well, and following the leader."""
        return [node for node in self.nodes if node.problem is None and node.leader == self.leader]

    @property
    def serves(self) -> bool:
        """Whether there is a leader, and a majority of the voters with it is sound: commands get through."""
        leads = any(node.node == self.leader for node in self.sound)
        return leads and self._majority(self.sound)

    def _majority(self, nodes: Sequence[NodeStatus]) -> bool:
        names = {node.node for node in nodes}
        return bool(self.voters) and 2 * sum(v in names for v in self.voters) > len(self.voters)


def newest_first(nodes: Sequence[NodeStatus]) -> list[NodeStatus]:
    """The nodes, those that know most first; who is no member may know of things that are long past."""
    return sorted(
        nodes,
        key=lambda node: (not node.is_outsider, node.applied_index, node.term),
        reverse=True,
    )


def cluster_status(nodes: Sequence[NodeStatus]) -> ClusterStatus:
    """Put the nodes' own words together. Nodes of an older term do not decide who leads.

    One that does not answer, and by the members' word is none of them any more, is left out: it was removed.
    """
    answered = [node for node in nodes if node.reachable]
    term = max((node.term for node in answered), default=0)
    latest = [node for node in answered if node.term == term]
    leaders = [node.node for node in latest if node.role == "leader"]
    newest = next(iter(newest_first(answered)), None)
    members = {name for node in newest_first(answered)[:1] for name in (*node.voters, *node.observers)}
    shown = [n for n in nodes if n.reachable or not members or n.node is None or n.node in members]
    return ClusterStatus(
        nodes=sorted(shown, key=lambda node: (node.node is None, node.node or "", node.address)),
        leader=leaders[0] if leaders else None,
        term=term,
        voters=list(newest.voters) if newest else [],
        models=list(newest.models) if newest else [],
    )
