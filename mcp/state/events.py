"""What applying a command tells the node: facts, in the order in which they came about.

Every node gets the same events at the same log position. A node acts on those that concern it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelDeployed:
    """A version of a model was agreed on."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class ModelActivated:
    """From here on the bare name, and every alias, stands for this version."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class ModelUndeployed:
    """A version is gone. ``digest`` may still be another version's: ask ``models.is_referenced``."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class HolderChanged:
    """``node`` holds the model with ``digest`` from here on, or (``held`` false) no longer does."""

    digest: str
    node: str
    held: bool


@dataclass(frozen=True, slots=True)
class SchemaRaised:
    """From here on commands of ``schema`` may be proposed."""

    schema: int


@dataclass(frozen=True, slots=True)
class MemberUp:
    """``node`` joined, came back, or (with a higher incarnation) started again."""

    node: str
    address: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class MemberDown:
    """``node`` is agreed to be down. A node that meets its own name here says hello again."""

    node: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class InferenceAssigned:
    """``node`` is to run the inference and to complete it with ``token``; older tokens are void."""

    id: str
    node: str
    token: int


@dataclass(frozen=True, slots=True)
class InferenceWaiting:
    """No live member holds the model: the inference is assigned when one does."""

    id: str


@dataclass(frozen=True, slots=True)
class ReplicatedRequested:
    """Each of ``nodes`` is to run the inference and to report."""

    id: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplicaDiverged:
    """``node`` gave another result than the reference. ``max_abs_diff`` is ``None`` where none is finite."""

    id: str
    node: str
    max_abs_diff: float | None


@dataclass(frozen=True, slots=True)
class InferenceFinished:
    """The inference is ``done`` or ``failed``: whoever waits for it can be answered."""

    id: str
    status: str


Event = (
    ModelDeployed
    | ModelActivated
    | ModelUndeployed
    | HolderChanged
    | MemberUp
    | MemberDown
    | InferenceAssigned
    | InferenceWaiting
    | ReplicatedRequested
    | ReplicaDiverged
    | InferenceFinished
    | SchemaRaised
)
"""Any of the above."""
