"""The models by everything that a hint may say of them.

A hint that is a text is tried in this order, and the first that finds anything decides:

1. the exact name of a model: its active version;
2. ``name@version`` (or ``name:version``): that version, and no other will do;
3. an alias: its model's active version;
4. a family, 5. a task, 6. tags, several of them with commas between: every model whose active version
   declares it.

Several models that one step finds stay candidates. Whether one of them is meant is for the rules and the
inputs to say: see :mod:`mcp.cluster.router.router`. A hint in parts
(:class:`~mcp.cluster.router.features.Hint`) finds the models for which every part holds.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, NamedTuple, NoReturn

from mcp.cluster.router.features import HINT_BYTES_MAX, TAGS_MAX, Hint
from mcp.cluster.router.models import Candidate, ModelRecord, VersionRecord, candidate, model_key
from mcp.cluster.router.reasons import Reason, Step
from mcp.errors import InvalidArgument, ModelNotFound, TooLarge

MODELS_MAX: Final = 10_000
"""The most models in one catalogue."""
RESOLVED_MAX: Final = 4096
"""So many hints have their meaning remembered; then all are forgotten, and it begins anew."""
CANDIDATES_MAX: Final = 100
"""How many names an error lists in its details."""
SHOWN_MAX: Final = 10
"""How many of them its message has."""


class Stage(enum.Enum):
    """How a hint found its models; in the order in which they are tried."""

    NAME = "name"
    VERSION = "version"
    ALIAS = "alias"
    FAMILY = "family"
    TASK = "task"
    TAGS = "tags"
    PARTS = "parts"


_INDEXED: Final = (Stage.NAME, Stage.ALIAS, Stage.FAMILY, Stage.TASK, Stage.TAGS)
_SENTENCES: Final = {
    Stage.NAME: "{0} is the name of a model",
    Stage.VERSION: "{0} names a version of {1}",
    Stage.ALIAS: "{0} is an alias of {1}",
    Stage.FAMILY: "{0} is the family of {1}",
    Stage.TASK: "{0} is the task of {1}",
    Stage.TAGS: "{0} tags {1}",
    Stage.PARTS: "{0}: that is {1}",
}


class Resolution(NamedTuple):
    """What a hint means.

    ``models``: the names that it may stand for, in order, at least one. ``pinned``: the version, where one is
    named. ``asked``: the name or alias that was used, for the routes of that host; empty for other stages.
    ``model``, ``family`` and ``task``: what all ``models`` have in common, ``None`` where they differ.
    """

    stage: Stage
    hint: str
    asked: str
    models: tuple[str, ...]
    pinned: Candidate | None
    model: str | None
    family: str | None
    task: str | None
    reason: Reason


class Catalogue:
    """An immutable index of models. What a hint means is worked out once, and then a look-up.

    Raises :class:`~mcp.errors.InvalidArgument` for records that contradict each other, and
    :class:`~mcp.errors.TooLarge` over :data:`MODELS_MAX`.
    """

    def __init__(self, models: Iterable[ModelRecord]) -> None:
        self._records: dict[str, dict[str, VersionRecord]] = {}
        self._actives: dict[str, str] = {}
        self._by: dict[Stage, dict[str, list[str]]] = {stage: {} for stage in _INDEXED}
        for model in sorted(models, key=lambda record: record.name):
            self._add(model)
        aliases = self._by[Stage.ALIAS]
        wrong = next((a for a, names in aliases.items() if a in self._records or len(names) > 1), None)
        if wrong is not None:
            raise InvalidArgument(f"the alias {wrong:.80} stands for several models; let it stand for one")
        self._candidates: dict[tuple[str, str], Candidate] = {}
        self._resolved: dict[str | Hint, Resolution] = {}

    def _add(self, model: ModelRecord) -> None:
        if len(self._records) >= MODELS_MAX:
            raise TooLarge(f"a catalogue has at most models_max={MODELS_MAX} models")
        versions = {record.version: record for record in model.versions}
        if model.name in self._records or len(versions) < len(model.versions):
            raise InvalidArgument(f"the model {model.name:.80}, or a version of it, is there twice")
        active = versions.get(model.active)
        if active is None:
            raise InvalidArgument(
                f"the model {model.name:.80} has no version {model.active:.80}, yet it is active"
            )
        self._records[model.name] = versions
        self._actives[model.name] = model.active
        self._index(Stage.NAME, (model.name,), model.name)
        self._index(Stage.ALIAS, model.aliases, model.name)
        self._index(Stage.FAMILY, () if active.family is None else (active.family,), model.name)
        self._index(Stage.TASK, () if active.task is None else (active.task,), model.name)
        self._index(Stage.TAGS, active.tags, model.name)

    def _index(self, stage: Stage, texts: Iterable[str], name: str) -> None:
        for text in dict.fromkeys(texts):
            self._by[stage].setdefault(text, []).append(name)

    def __len__(self) -> int:
        return len(self._records)

    def names(self) -> list[str]:
        """Return the models' names, in order."""
        return list(self._records)

    def active(self, model: str) -> Candidate:
        """Return the version that the bare name stands for; ``KeyError`` for no model."""
        return self._candidate(model, self._actives[model])

    def version(self, model: str, version: str | None) -> Candidate | None:
        """Return a version of a model, with ``None`` the active one; ``None`` if there is none."""
        versions = self._records.get(model)
        wanted = self._actives.get(model, "") if version is None else version
        return self._candidate(model, wanted) if versions is not None and wanted in versions else None

    def _candidate(self, model: str, version: str) -> Candidate:
        """Always the same object for the same version, so that others may remember what they know of it."""
        found = self._candidates.get((model, version))
        if found is None:
            found = candidate(model, self._records[model][version])
            self._candidates[model, version] = found
        return found

    def resolve(self, hint: str | Hint) -> Resolution:
        """Return what a hint means, by the order above.

        Raises :class:`~mcp.errors.ModelNotFound` with what there is in ``details["candidates"]``,
        :class:`~mcp.errors.InvalidArgument` for what is no hint and :class:`~mcp.errors.TooLarge`.
        """
        known = type(hint) is str or type(hint) is Hint
        found = self._resolved.get(hint) if known else None
        if found is None:
            found = self._resolve_parts(hint) if isinstance(hint, Hint) else self._resolve_text(hint)
            # Only what means something is remembered: what means nothing, anybody can make up.
            if len(self._resolved) >= RESOLVED_MAX:
                self._resolved.clear()
            self._resolved[hint] = found
        return found

    def target(self, name: str) -> Resolution | None:
        """Return what a name, ``name@version`` or an alias means; ``None`` if it is none of these."""
        return self._named(name) or self._named_version(name) or self._indexed(Stage.ALIAS, name)

    def _resolve_text(self, hint: str) -> Resolution:
        _check_text(hint)
        found = self.target(hint)
        for stage in (Stage.FAMILY, Stage.TASK, Stage.TAGS):
            found = found or self._indexed(stage, hint)
        return found or self._tagged(hint) or self._refuse(hint)

    def _named(self, hint: str) -> Resolution | None:
        return self._resolution(Stage.NAME, hint, [hint], asked=hint) if hint in self._records else None

    def _indexed(self, stage: Stage, hint: str) -> Resolution | None:
        names = self._by[stage].get(hint)
        asked = hint if stage is Stage.ALIAS else ""
        return None if names is None else self._resolution(stage, hint, names, asked=asked)

    def _named_version(self, hint: str) -> Resolution | None:
        name, _, version = hint.partition("@" if "@" in hint else ":")
        found = self.version(name, version) if version else None
        if found is None:
            return None
        return self._resolution(Stage.VERSION, hint, [name], asked="", pinned=found)

    def _tagged(self, hint: str) -> Resolution | None:
        tags = hint.split(",")
        if not 1 < len(tags) <= TAGS_MAX:
            return None
        names = self._with_all(Stage.TAGS, tags, None)
        return self._resolution(Stage.TAGS, hint, names, asked="") if names else None

    def _with_all(self, stage: Stage, texts: Iterable[str], within: list[str] | None) -> list[str]:
        for text in texts:
            having = self._by[stage].get(text, [])
            if within is None:
                within = having
            else:
                wanted = set(within)
                within = [name for name in having if name in wanted]
        return within or []

    def _resolve_parts(self, hint: Hint) -> Resolution:
        _check_parts(hint)
        names: list[str] | None = None
        for stage, part in ((Stage.NAME, hint.name), (Stage.ALIAS, hint.alias)):
            names = self._with_all(stage, (part,), names) if part else names
        pinned: Candidate | None = None
        if hint.version:
            pinned = self.version(names[0], hint.version) if names else None
            names = names if pinned is not None else []
            names = [name for name in names or [] if _declares(pinned, hint)]
        else:
            for stage, part in ((Stage.FAMILY, hint.family), (Stage.TASK, hint.task)):
                names = self._with_all(stage, (part,), names) if part else names
            names = self._with_all(Stage.TAGS, hint.tags, names) if hint.tags else names
        if not names:
            self._refuse(str(hint))
        return self._resolution(Stage.PARTS, str(hint), names, asked=hint.alias or hint.name, pinned=pinned)

    def _resolution(
        self, stage: Stage, hint: str, names: list[str], *, asked: str, pinned: Candidate | None = None
    ) -> Resolution:
        records = [pinned.record] if pinned else [self._records[name][self._actives[name]] for name in names]
        families, tasks = {r.family for r in records}, {r.task for r in records}
        return Resolution(
            stage,
            hint,
            asked,
            tuple(names),
            pinned,
            names[0] if len(names) == 1 else None,
            families.pop() if len(families) == 1 else None,
            tasks.pop() if len(tasks) == 1 else None,
            Reason(Step.HINT, _SENTENCES[stage], (hint, listed(names))),
        )

    def _refuse(self, hint: str) -> NoReturn:
        name = hint.partition("@" if "@" in hint else ":")[0]
        known = self._records.get(name)
        candidates = self.names() if known is None else [model_key(name, version) for version in known]
        raise ModelNotFound(
            f"no model answers to {hint!r:.80}; name a model, name@version, an alias, a family, a task or "
            f"tags. There are: {listed(candidates) or 'none'}",
            details={"candidates": candidates[:CANDIDATES_MAX]},
        )


def listed(names: Iterable[str]) -> str:
    """Return the first names for a message, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - SHOWN_MAX} more" if len(every) > SHOWN_MAX else ""
    return ", ".join(f"{name:.80}" for name in every[:SHOWN_MAX]) + more


def _check_text(hint: object) -> None:
    if type(hint) is not str or not hint:
        raise InvalidArgument(f"a model hint is a text that is not empty, not {hint!r:.80}")
    if len(hint) > HINT_BYTES_MAX or len(hint.encode("utf-8", "surrogatepass")) > HINT_BYTES_MAX:
        raise TooLarge(f"a model hint of {len(hint)} characters is over hint_bytes_max={HINT_BYTES_MAX}")


def _check_parts(hint: Hint) -> None:
    texts = [hint.name, hint.version, hint.alias, hint.family, hint.task, *hint.tags]
    if not any(texts):
        raise InvalidArgument("a model hint in parts has at least one of name, alias, family, task and tags")
    if hint.version and not (hint.name or hint.alias):
        raise InvalidArgument("a model hint with a version also has the name or an alias of the model")
    if len(hint.tags) > TAGS_MAX:
        raise TooLarge(f"a model hint with {len(hint.tags)} tags is over tags_max={TAGS_MAX}")
    for text in filter(None, texts):
        _check_text(text)


def _declares(pinned: Candidate | None, hint: Hint) -> bool:
    """Whether the version that is named is what the other parts of the hint say."""
    if pinned is None:
        return False
    record = pinned.record
    wanted = ((hint.family, record.family), (hint.task, record.task))
    return all(part in ("", value) for part, value in wanted) and set(hint.tags) <= set(record.tags)
