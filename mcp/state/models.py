"""Models: which versions there are, which one a name stands for, and who holds the bytes.

A version is a name, a version string and a content digest, and it never changes its digest: to serve
other bytes is to deploy another version. A deployed version becomes the active one, at that position of
the log on every node; an alias stands for its model's active version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import msgpack

from mcp.errors import Busy, InvalidArgument, ModelNotFound, VersionConflict
from mcp.plain import shown
from mcp.state import arguments
from mcp.state.arguments import DIGEST, LABEL, NAME, NODE
from mcp.state.batching import batching_of
from mcp.state.commands import Moment
from mcp.state.events import Event, HolderChanged, ModelActivated, ModelDeployed, ModelUndeployed
from mcp.state.limits import StateLimits
from mcp.state.manifests import Manifest, read_manifest
from mcp.state.packing import reader
from mcp.state.requirements import requirements_of

CANDIDATES_MAX: Final = 100
"""How many names a MODEL_NOT_FOUND error lists."""
HINT_BYTES_MAX: Final = 256

_NUMBER_DIGITS_MAX: Final = 15
_DEPLOY: Final = frozenset({"manifest", "holders"})
_ACTIVATE: Final = frozenset({"activate"})
_VERSION: Final = frozenset({"name", "version"})
_HINT: Final = frozenset({"hint"})
_HOLDER: Final = frozenset({"digest", "node"})
_HELD: Final = frozenset({"held"})


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One deployed version. ``size`` in bytes; ``index`` is the log position of its deployment."""

    name: str
    version: str
    digest: str
    size: int
    family: str | None
    task: str | None
    tags: tuple[str, ...]
    specs: bytes
    index: int
    holders: tuple[str, ...]
    """Nodes that hold the bytes, in the order of their ids."""
    batching: bytes | None = None
    """A :class:`~mcp.state.batching.Batching` as msgpack, if the owner said something about it."""
    requirements: bytes | None = None
    """:class:`~mcp.state.requirements.Requirements` as msgpack, if it has any."""

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The declared inputs, ``{"name", "dtype", "shape"}`` each."""
        inputs: list[dict[str, Any]] = msgpack.unpackb(self.specs)[0]
        return inputs

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The declared outputs, ``{"name", "dtype", "shape"}`` each."""
        outputs: list[dict[str, Any]] = msgpack.unpackb(self.specs)[1]
        return outputs


@dataclass(frozen=True, slots=True)
class Model:
    """A name with its versions, in the order of their deployment."""

    name: str
    active: str
    aliases: tuple[str, ...]
    versions: dict[str, ModelVersion]
    last_number: int
    """The highest version so far that is a number."""

    def to_wire(self, version: ModelVersion | None = None) -> dict[str, Any]:
        """Return the model as a client reads it: that version, the active one by default, and all names."""
        told = self.versions[self.active] if version is None else version
        return {
            "name": self.name,
            "version": told.version,
            "versions": list(self.versions),
            "digest": told.digest,
            "size": told.size,
            "aliases": list(self.aliases),
            "family": told.family,
            "task": told.task,
            "tags": list(told.tags),
            "inputs": told.inputs,
            "outputs": told.outputs,
            "batching": None if told.batching is None else batching_of(told.batching).to_plain(),
            "requirements": (
                None if told.requirements is None else requirements_of(told.requirements).to_plain()
            ),
            "holders": list(told.holders),
            "index": told.index,
        }


class Models:
    """The models by name, and what stands for them."""

    def __init__(self, limits: StateLimits) -> None:
        self.revision = 0
        """How often anything but the holders changed in this process, for who has made something of it."""
        self.holders_revision = 0
        """The same of the holders."""
        self._limits = limits
        self._models: dict[str, Model] = {}
        self._aliases: dict[str, str] = {}
        # By digest the names and labels that have it: nodes ask for each of them, again and again.
        self._labels: dict[str, dict[tuple[str, str], None]] = {}

    def __len__(self) -> int:
        return len(self._models)

    def all(self) -> list[Model]:
        """Return every model, in the order of their names."""
        return [self._models[name] for name in sorted(self._models)]

    def get(self, name: str, version: str | None = None) -> ModelVersion | None:
        """Return that version, or the active one, of the model with exactly this name, or ``None``."""
        model = self._models.get(name)
        if model is None:
            return None
        return model.versions.get(model.active if version is None else version)

    def is_referenced(self, digest: str) -> bool:
        """Say whether any version has this digest."""
        return digest in self._labels

    def digests(self) -> set[str]:
        """Return the digests of all versions of all models."""
        return set(self._labels)

    def artefacts(self) -> list[tuple[str, int, tuple[str, ...]]]:
        """Return digest, size in bytes and holders of everything that versions stand for, each once."""
        found = [(digest, self._one(digest)) for digest in self._labels]
        return [(digest, version.size, version.holders) for digest, version in found]

    def holders(self, digest: str) -> tuple[str, ...]:
        """Return the nodes that hold these bytes, in the order of their ids."""
        return self._one(digest).holders if digest in self._labels else ()

    def resolve(self, hint: str) -> ModelVersion:
        """Find the version that a hint means.

        Tried in this order: a model's name (its active version), ``name@version`` or ``name:version``,
        an alias (its model's active version). Raises :class:`~mcp.errors.ModelNotFound` with the names
        of the models that there are, and :class:`~mcp.errors.InvalidArgument` for what is no hint.
        """
        model = self._models.get(hint) if type(hint) is str else None
        if model is not None:
            return model.versions[model.active]
        arguments.text(hint, "a model hint", HINT_BYTES_MAX, bytes_min=1)
        found = self.pinned(hint)
        if found is None and hint in self._aliases:
            found = self.get(self._aliases[hint])
        if found is None:
            candidates = sorted(self._models)[:CANDIDATES_MAX]
            raise ModelNotFound(
                f"no model answers to {hint!r:.80}; name a model, name@version or an alias. "
                f"There are: {', '.join(candidates[:10]) or 'none'}",
                details={"candidates": candidates},
            )
        return found

    def active(self, name: str) -> ModelVersion | None:
        """Return what a name, or an alias, stands for, or ``None``."""
        return self.get(name if name in self._models else self._aliases.get(name, ""))

    def pinned(self, hint: str) -> ModelVersion | None:
        """Return the version that ``name@version`` or ``name:version`` names, or ``None``."""
        name, _, version = hint.partition("@" if "@" in hint else ":")
        return self.get(name, version) if version else None

    def deploy(self, args: dict[str, Any], moment: Moment) -> tuple[dict[str, Any], list[Event]]:
        """``{manifest, holders, activate?}``: add a version and, unless told otherwise, activate it.

        The same version with the same content again adds aliases and holders, and makes it the active one
        again: to deploy a version is to put it into service, whatever was deployed since.
        Raises :class:`~mcp.errors.VersionConflict` when that version has other content, and
        :class:`~mcp.errors.InvalidArgument` when a name or an alias is taken.
        """
        arguments.only(args, _DEPLOY, _ACTIVATE)
        manifest = read_manifest(args["manifest"], self._limits, moment.schema)
        holders = arguments.names(args["holders"], "holders", NODE, self._limits.holders_max)
        activate = args.get("activate", True)
        if type(activate) is not bool:
            raise InvalidArgument(f"activate is true or false, not {shown(activate)}")
        model = self._models.get(manifest.name)
        self._check_names(manifest, model)
        holders = self._united(manifest.digest, holders)
        self.revision += 1
        known = None if model is None or manifest.version is None else model.versions.get(manifest.version)
        if model is not None and known is not None:
            return self._deploy_again(model, known, manifest, holders, activate=activate)
        version = self._new_version(manifest, model, moment, holders)
        events = self._add(version, manifest, model, activate=activate)
        return _deployed(version), events

    def activate(self, args: dict[str, Any], moment: Moment) -> tuple[dict[str, Any], list[Event]]:
        """``{name, version}``: let the bare name stand for that version."""
        arguments.only(args, _VERSION)
        model, version = self._named(args)
        if version is None:
            raise InvalidArgument("version is the one to activate, and cannot be None")
        self.revision += 1
        return {}, self._activate(model.name, version)

    def undeploy(self, args: dict[str, Any], moment: Moment) -> tuple[dict[str, Any], list[Event]]:
        """``{name, version|None}``: remove a version, or all of them and the name.

        When the active version goes, the one of the rest that was deployed last becomes active.
        """
        arguments.only(args, _VERSION)
        model, version = self._named(args)
        gone = list(model.versions.values()) if version is None else [version]
        self.revision += 1
        events: list[Event] = [ModelUndeployed(v.name, v.version, v.digest) for v in gone]
        for each in gone:
            self._forget(each)
        rest = {v: kept for v, kept in model.versions.items() if kept not in gone}
        if not rest:
            del self._models[model.name]
            for alias in model.aliases:
                del self._aliases[alias]
            return {}, events
        active = model.active
        if active not in rest:
            active = next(reversed(rest))
            events.append(ModelActivated(model.name, active, rest[active].digest))
        self._models[model.name] = replace(model, active=active, versions=rest)
        return {}, events

    def holder(self, args: dict[str, Any], moment: Moment) -> tuple[dict[str, Any], list[Event]]:
        """``{digest, node, held?}``: the node holds these bytes (or, with false, no longer does).

        Raises :class:`~mcp.errors.ModelNotFound` when no version has the digest.
        """
        arguments.only(args, _HOLDER, _HELD)
        digest = arguments.matching(args["digest"], "digest", DIGEST)
        node = arguments.matching(args["node"], "node", NODE)
        held = args.get("held", True)
        if type(held) is not bool:
            raise InvalidArgument(f"held is true or false, not {shown(held)}")
        if not self.is_referenced(digest):
            raise ModelNotFound(f"no version of any model has the digest {digest}; deploy one first")
        if (node in self.holders(digest)) == held:
            return {}, []
        rest = tuple(holder for holder in self.holders(digest) if holder != node)
        self._set_holders(digest, self._united(digest, (node,)) if held else rest)
        return {}, [HolderChanged(digest, node, held)]

    def read(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        """``{}``: return every model, in the order of their names."""
        arguments.only(args, frozenset())
        return [model.to_wire() for model in self.all()]

    def read_one(self, args: dict[str, Any]) -> dict[str, Any]:
        """``{hint}``: return the model that the hint means, with that version's tensors."""
        arguments.only(args, _HINT)
        version = self.resolve(args["hint"])
        return self._models[version.name].to_wire(version)

    def _one(self, digest: str) -> ModelVersion:
        """A version with that digest, which there is: all that have it are equal in size and holders."""
        name, label = next(iter(self._labels[digest]))
        return self._models[name].versions[label]

    def _index(self, version: ModelVersion) -> None:
        self._labels.setdefault(version.digest, {})[version.name, version.version] = None

    def _forget(self, version: ModelVersion) -> None:
        labels = self._labels[version.digest]
        del labels[version.name, version.version]
        if not labels:
            del self._labels[version.digest]

    def _named(self, args: dict[str, Any]) -> tuple[Model, ModelVersion | None]:
        """Find the model, and the version that is named (``None``: none is)."""
        name = arguments.matching(args["name"], "name", NAME)
        version = arguments.matching_or_none(args["version"], "version", LABEL)
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(
                f"there is no model {name}", details={"candidates": sorted(self._models)[:CANDIDATES_MAX]}
            )
        if version is not None and version not in model.versions:
            raise ModelNotFound(
                f"model {name} has no version {version}; it has {', '.join(list(model.versions)[:10])}",
                details={"candidates": [f"{name}@{known}" for known in model.versions]},
            )
        return model, None if version is None else model.versions[version]

    def _check_names(self, manifest: Manifest, model: Model | None) -> None:
        name = manifest.name
        if name in self._aliases:
            raise InvalidArgument(f"{name} is an alias of {self._aliases[name]}; choose another name")
        for alias in manifest.aliases:
            owner = alias if alias in self._models else self._aliases.get(alias, name)
            if owner != name:
                raise InvalidArgument(f"the alias {alias} stands for the model {owner}; choose another")
        aliases = set(manifest.aliases) | set(() if model is None else model.aliases)
        if len(aliases) > self._limits.model_aliases_max:
            raise Busy(f"model_aliases_max={self._limits.model_aliases_max} is reached for {name}")

    def _united(self, digest: str, holders: tuple[str, ...]) -> tuple[str, ...]:
        united = tuple(sorted({*self.holders(digest), *holders}))
        if len(united) > self._limits.holders_max:
            raise Busy(f"holders_max={self._limits.holders_max} nodes hold {digest} already")
        return united

    def _new_version(
        self, manifest: Manifest, model: Model | None, moment: Moment, holders: tuple[str, ...]
    ) -> ModelVersion:
        if model is None and len(self._models) >= self._limits.models_max:
            raise Busy(f"models_max={self._limits.models_max} is reached; undeploy one first")
        if model is not None and len(model.versions) >= self._limits.model_versions_max:
            raise Busy(
                f"model_versions_max={self._limits.model_versions_max} is reached for {model.name}; "
                "undeploy a version first"
            )
        number = 1 if model is None else model.last_number + 1
        return ModelVersion(
            manifest.name,
            str(number) if manifest.version is None else manifest.version,
            manifest.digest,
            manifest.size,
            manifest.family,
            manifest.task,
            manifest.tags,
            manifest.specs,
            moment.index,
            holders,
            manifest.batching,
            manifest.requirements,
        )

    def _add(
        self, version: ModelVersion, manifest: Manifest, model: Model | None, *, activate: bool
    ) -> list[Event]:
        name, label = version.name, version.version
        model = model or Model(name, label, (), {}, 0)
        events: list[Event] = [ModelDeployed(name, label, version.digest)]
        if activate or not model.versions:
            model = replace(model, active=label)
            events.append(ModelActivated(name, label, version.digest))
        self._models[name] = replace(
            model,
            versions={**model.versions, label: version},
            last_number=max(model.last_number, _number(label)),
        )
        self._index(version)
        self._add_aliases(name, manifest.aliases)
        self._set_holders(version.digest, version.holders)
        return events

    def _deploy_again(
        self,
        model: Model,
        known: ModelVersion,
        manifest: Manifest,
        holders: tuple[str, ...],
        *,
        activate: bool,
    ) -> tuple[dict[str, Any], list[Event]]:
        said = (manifest.digest, manifest.size, manifest.family, manifest.task, manifest.tags)
        same = said == (known.digest, known.size, known.family, known.task, known.tags)
        if not same or (manifest.batching, manifest.requirements) != (known.batching, known.requirements):
            other = "settings of batching" if manifest.batching != known.batching else "requirements"
            batching = f", and other {other}" if same else ""
            raise VersionConflict(
                f"version {known.version} of {known.name} is deployed with digest {known.digest}, family "
                f"{known.family}, task {known.task} and tags {list(known.tags)}{batching}, and never changes"
                "; deploy under another version, or leave the version out to get the next number",
                details={"key": known.name, "value": known.digest, "version": known.version},
            )
        self._add_aliases(model.name, manifest.aliases)
        self._set_holders(known.digest, holders)
        return _deployed(known), self._activate(model.name, known) if activate else []

    def _activate(self, name: str, version: ModelVersion) -> list[Event]:
        model = self._models[name]
        if model.active == version.version:
            return []
        self._models[name] = replace(model, active=version.version)
        return [ModelActivated(name, version.version, version.digest)]

    def _add_aliases(self, name: str, aliases: tuple[str, ...]) -> None:
        model = self._models[name]
        self._aliases.update(dict.fromkeys(aliases, name))
        self._models[name] = replace(model, aliases=tuple(sorted({*model.aliases, *aliases})))

    def _set_holders(self, digest: str, holders: tuple[str, ...]) -> None:
        self.holders_revision += 1
        for name, label in self._labels[digest]:
            versions = self._models[name].versions
            if versions[label].holders != holders:
                versions[label] = replace(versions[label], holders=holders)

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal models."""
        return [
            [m.name, m.active, m.aliases, [_fields(v) for v in m.versions.values()], m.last_number]
            for m in self.all()
        ]

    @classmethod
    def from_plain(cls, plain: list[Any], limits: StateLimits) -> Models:
        """Rebuild what :meth:`to_plain` wrote."""
        models = cls(limits)
        for name, active, aliases, versions, last_number in plain:
            by_label = {fields[1]: _version(fields) for fields in versions}
            models._models[name] = Model(name, active, tuple(aliases), by_label, last_number)
            for version in by_label.values():
                models._index(version)
            models._aliases.update(dict.fromkeys(aliases, name))
        return models


_values: Final = reader(ModelVersion)


def _fields(version: ModelVersion) -> tuple[Any, ...]:
    """A version's values, without the last ones that are ``None``: so older schemas wrote and read them."""
    values = _values(version)
    if version.requirements is not None:
        return values
    return values[:-1] if version.batching is not None else values[:-2]


def _version(fields: list[Any]) -> ModelVersion:
    name, label, digest, size, family, task, tags, specs, index, holders, *newer = fields
    return ModelVersion(
        name, label, digest, size, family, task, tuple(tags), specs, index, tuple(holders), *newer
    )


def _number(version: str) -> int:
    """Return the number that a version is, 0 if it is none that counting could reach."""
    return int(version) if version.isdigit() and len(version) <= _NUMBER_DIGITS_MAX else 0


def _deployed(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "index": version.index,
    }
