"""The models as the router needs them: records of what manifests say, made by whoever has the manifests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mcp.cluster.router.acceptance import Acceptance
from mcp.cluster.router.reasons import Reason, Step


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A declared input. In its shape, integers from 0 are fixed; symbols, ``None`` and -1 are open.

    A shape of ``None`` leaves the rank open.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One version of a model.

    * ``index``: the log position of its deployment: a node that was ready earlier means other bytes.
    * ``inputs``: as declared; empty where the manifest says nothing, and then anything fits.
    * ``length_max`` (elements), ``batch_max`` (rows), ``size_max`` (bytes): what one request may have.
    * ``run_bytes``: memory that a run takes beside its inputs.
    * ``providers``: execution providers that will do, by short name; empty: any.
    """

    version: str
    index: int = 0
    family: str | None = None
    task: str | None = None
    tags: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    length_max: int | None = None
    batch_max: int | None = None
    size_max: int | None = None
    run_bytes: int = 0
    providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A name, the version that the bare name stands for, and all its versions in the order of deployment."""

    name: str
    active: str
    versions: tuple[VersionRecord, ...]
    aliases: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """A version of a model that may answer. ``key`` is ``name@version``, by which nodes say what is ready."""

    model: str
    version: str
    key: str
    record: VersionRecord
    acceptance: Acceptance
    fits: Reason


def model_key(model: str, version: str) -> str:
    """Return how nodes name a version that they have ready."""
    return f"{model}@{version}"


def candidate(model: str, record: VersionRecord) -> Candidate:
    """Prepare one version for decisions."""
    acceptance = Acceptance(
        [(spec.name, spec.dtype, spec.shape) for spec in record.inputs],
        length_max=record.length_max,
        batch_max=record.batch_max,
        size_max=record.size_max,
    )
    key = model_key(model, record.version)
    fits = Reason(Step.INPUTS, "the inputs fit {0}", (key,))
    return Candidate(model, record.version, key, record, acceptance, fits)
