"""Answers that nothing is run for: given to the very same request before, or declared.

Both are descriptions of tensors with their bytes (:mod:`mcp.wire.tensors`). A request is the same as another
if the digest of what it asks is: the outputs that it wants, and of every input the name, the element type,
the shape and the bytes. Of a request that has the rows of several inferences each is looked for by itself, so
it makes no difference whether a client has joined them.

Pure, but for :class:`KeptAnswers`, which takes the time as an argument.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from mcp.errors import ConfigInvalid, InputInvalid
from mcp.flow.cache import AnswerCache, CachedAnswer
from mcp.flow.config import FlowConfig
from mcp.state.models import ModelVersion
from mcp.state.state import ReplicatedState
from mcp.wire.frame import Buffer, as_bytes
from mcp.wire.json_codec import plain_json
from mcp.wire.json_tensors import from_json, read_datatype, read_shape
from mcp.wire.tensors import BYTES_DTYPE, TENSORS_MAX, pack_all

QUESTION_BYTES_MAX: Final = 1 << 20
"""Of a request with more bytes of inputs nothing is kept: to look for it would take too long."""
STACKED_MAX: Final = 256
"""Of a request with the rows of more inferences nothing is kept or given: no client joins more."""
GIVEN_BYTES_MAX: Final = 16 << 20
"""A declared answer that takes more, once it is given to each inference of a request, is not given."""
ENTRY_BYTES: Final = 512
"""What an answer takes in memory beside its tensors' bytes, about."""
FIXED_CACHED_MAX: Final = 256
"""So many declared answers are remembered as they were read."""

_FIXED_FIELDS: Final = frozenset({"dtype", "shape", "data"})


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs: a spec each, whose ``segment`` is its place in ``segments``."""

    specs: list[dict[str, Any]]
    segments: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return ENTRY_BYTES + sum(map(len, self.segments))

    def only(self, names: Sequence[str] | None) -> Answer | None:
        """The outputs of these names, in this order; ``None`` where one is missing."""
        if names is None:
            return self
        found = {spec["name"]: spec for spec in self.specs}
        if not found.keys() >= set(names):
            return None
        return _answer([(found[name], self.segments[found[name]["segment"]]) for name in names])


def _answer(tensors: Sequence[tuple[Mapping[str, Any], bytes]]) -> Answer:
    specs = [{**spec, "segment": place} for place, (spec, _) in enumerate(tensors)]
    return Answer(specs, tuple(data for _, data in tensors))


# -- what is asked ----------------------------------------------------------------------------------


def questions(payload: Mapping[str, Any], segments: Sequence[Buffer]) -> list[bytes] | None:
    """The digest of what each inference of a request asks; ``None``: nothing is kept of such a request."""
    wanted, chunk = payload.get("outputs"), payload.get("data_chunk")
    stacked = payload.get("stacked")
    if stacked is not None and not _is_stacked(stacked):
        return None
    if type(chunk) is str:
        text = chunk.encode("utf-8", "replace") if len(chunk) <= QUESTION_BYTES_MAX else b""
        asked = 0 < len(text) <= QUESTION_BYTES_MAX and stacked is None
        return [_digest(wanted, [("", "data_chunk", [], text)])] if asked else None
    tensors = _raw(payload.get("inputs"), segments)
    if not tensors or sum(len(data) for *_, data in tensors) > QUESTION_BYTES_MAX:
        return None
    if stacked is None:
        return [_digest(wanted, tensors)]
    parts = [_rows(shape, data, dtype, stacked) for _, dtype, shape, data in tensors]
    if not all(parts):
        return None
    names = [(name, dtype) for name, dtype, *_ in tensors]
    return [
        _digest(wanted, [(*named, *part) for named, part in zip(names, of_one, strict=True)])
        for of_one in zip(*[part for part in parts if part], strict=True)
    ]


def _is_stacked(rows: object) -> bool:
    return (
        type(rows) is list
        and 0 < len(rows) <= STACKED_MAX
        and all(type(each) is int and each > 0 for each in rows)
    )


def is_asked(payload: Mapping[str, Any], segments: Sequence[Buffer]) -> bool:
    """Whether a request has the form of one: with a text or with tensors, and rows that can be told apart."""
    stacked = payload.get("stacked")
    if stacked is not None and not _is_stacked(stacked):
        return False
    return type(payload.get("data_chunk")) is str or bool(_raw(payload.get("inputs"), segments))


def fits(model: ModelVersion, payload: Mapping[str, Any], segments: Sequence[Buffer]) -> bool:
    """Whether another version takes a request's inputs, by what it declares; a text is not looked at."""
    if payload.get("inputs") is None:
        return True
    tensors = _raw(payload.get("inputs"), segments)
    declared = {spec["name"]: spec for spec in model.inputs}
    if tensors is None or {name for name, *_ in tensors} != declared.keys():
        return False
    return all(
        dtype == declared[name]["dtype"]
        and (declared[name]["shape"] is None or _may_be(shape, declared[name]["shape"]))
        for name, dtype, shape, _ in tensors
    )


_Tensor = tuple[str, str, list[int], Buffer]


def _raw(specs: object, segments: Sequence[Buffer]) -> list[_Tensor] | None:
    """Tensors as they came; ``None`` for what is no such list, which the model's checks will say more of."""
    if type(specs) is not list or len(specs) > TENSORS_MAX:
        return None
    tensors: list[_Tensor] = []
    data: Buffer
    for spec in specs:
        match spec:
            case {"name": str(name), "dtype": str(dtype), "shape": [*shape], "data": bytes() as data}:
                pass
            case {"name": str(name), "dtype": str(dtype), "shape": [*shape], "segment": int(place)} if (
                0 <= place < len(segments)
            ):
                data = as_bytes(segments[place])
            case _:
                return None
        if not all(type(size) is int and size >= 0 for size in shape):
            return None
        tensors.append((name, dtype, shape, data))
    return tensors


def _digest(wanted: object, tensors: Sequence[_Tensor]) -> bytes:
    found = hashlib.sha256(msgpack.packb(wanted))
    for name, dtype, shape, data in sorted(tensors, key=lambda tensor: tensor[0]):
        # The length is told, so that no two requests can run into each other.
        found.update(msgpack.packb([name, dtype, shape, len(data)]))
        found.update(data)
    return found.digest()


def _rows(
    shape: Sequence[int], data: Buffer, dtype: str, rows: object
) -> list[tuple[list[int], memoryview]] | None:
    """A tensor's rows, so many for each; ``None`` where it has others, or strings, which differ in length."""
    if not isinstance(rows, list) or not _is_stacked(rows):
        return None
    whole = memoryview(data)
    if dtype == BYTES_DTYPE or not shape or shape[0] != sum(rows) or len(whole) % shape[0]:
        return None
    row_bytes = len(whole) // shape[0]
    ends = list(itertools.accumulate(rows))
    return [
        ([each, *shape[1:]], whole[(end - each) * row_bytes : end * row_bytes])
        for each, end in zip(rows, ends, strict=True)
    ]


# -- answers to several at once ---------------------------------------------------------------------


def parted(specs: Sequence[Any], segments: Sequence[Buffer], rows: list[int]) -> list[Answer] | None:
    """An answer to several inferences as one for each; ``None`` where that cannot be done."""
    tensors = _raw(specs, segments)
    if tensors is None:
        return None
    parts = [_rows(shape, data, dtype, rows) for _, dtype, shape, data in tensors]
    if not all(parts):
        return None
    return [
        _answer(
            [
                ({"name": name, "dtype": dtype, "shape": shape}, bytes(data))
                for (name, dtype, *_), (shape, data) in zip(tensors, of_one, strict=True)
            ]
        )
        for of_one in zip(*[part for part in parts if part], strict=True)
    ]


def joined(answers: Sequence[Answer], rows: object) -> Answer | None:
    """One answer for several inferences, with so many rows for each; ``None``: they do not have them."""
    if rows is None:
        return answers[0]
    if not isinstance(rows, list) or not _is_stacked(rows) or len(rows) != len(answers):
        return None
    if sum(map(len, answers[0].segments)) * len(rows) > GIVEN_BYTES_MAX:
        return None
    tensors = []
    for number, spec in enumerate(answers[0].specs):
        kind = (spec["name"], spec["dtype"], spec["shape"][1:])
        others = [each.specs[number] for each in answers if number < len(each.specs)]
        if len(others) < len(answers) or spec["dtype"] == BYTES_DTYPE:
            return None
        for other, wanted in zip(others, rows, strict=True):
            fits = (other["name"], other["dtype"], other["shape"][1:]) == kind
            if not fits or not other["shape"] or other["shape"][0] != wanted:
                return None
        data = b"".join(each.segments[number] for each in answers)
        tensors.append(({**spec, "shape": [sum(rows), *spec["shape"][1:]]}, data))
    return _answer(tensors)


# -- answers that are declared ----------------------------------------------------------------------


@functools.lru_cache(maxsize=FIXED_CACHED_MAX)
def fixed_answer(text: str) -> Answer:
    """The answer that a fallback of kind "fixed" declares: an object of ``{dtype, shape, data}`` by output.

    Raises :class:`~mcp.errors.ConfigInvalid`.
    """
    try:
        declared = plain_json(text)
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"it is no JSON: {error}") from None
    if not isinstance(declared, dict) or not 1 <= len(declared) <= TENSORS_MAX:
        raise ConfigInvalid(
            f'it is an object of 1 to {TENSORS_MAX} outputs by name, {{"dtype", "shape", "data"}} each, not '
            f"{declared!r:.80}"
        )
    arrays = {}
    for name, tensor in declared.items():
        where = f"output {name!r:.80}"
        if not isinstance(tensor, dict) or tensor.keys() != _FIXED_FIELDS:
            raise ConfigInvalid(f'{where} is an object of "dtype", "shape" and "data", not {tensor!r:.80}')
        try:
            dtype = read_datatype(where, tensor["dtype"], field="dtype")
            arrays[name] = from_json(where, dtype, read_shape(where, tensor["shape"]), tensor["data"])
        except InputInvalid as error:
            raise ConfigInvalid(error.message) from None
    specs, segments = pack_all(arrays)
    return Answer(specs, tuple(bytes(segment) for segment in segments))


def misfit(text: str, model: ModelVersion) -> str | None:
    """Why a declared answer is none that this version could give, in words; ``None``: it is one."""
    return _misfit(text, model.specs)


@functools.lru_cache(maxsize=FIXED_CACHED_MAX)
def _misfit(text: str, packed: bytes) -> str | None:
    given = {spec["name"]: spec for spec in fixed_answer(text).specs}
    declared = {spec["name"]: spec for spec in msgpack.unpackb(packed)[1]}
    if given.keys() != declared.keys():
        return f"it has the outputs {', '.join(given)}, and the model {', '.join(declared)}"
    for name, spec in given.items():
        dtype, shape = declared[name]["dtype"], declared[name]["shape"]
        if spec["dtype"] != dtype:
            return f"output {name!r:.80} is of type {spec['dtype']}, and the model's of {dtype}"
        if shape is not None and not _may_be(spec["shape"], shape):
            return f"output {name!r:.80} has the shape {spec['shape']}, and the model's {shape}"
    return None


def _may_be(shape: Sequence[int], declared: Sequence[object]) -> bool:
    """Whether a shape is of the declared form, in which whatever is no number is open."""
    return len(shape) == len(declared) and all(
        type(wanted) is not int or wanted < 0 or size == wanted
        for size, wanted in zip(shape, declared, strict=True)
    )


# -- answers that are kept --------------------------------------------------------------------------


class KeptAnswers:
    """The answers that one node keeps, of the models whose owners have declared that it may give them."""

    def __init__(self, config: FlowConfig, state: ReplicatedState) -> None:
        self._config = config
        self._state = state
        self._cache = AnswerCache(config.cache)
        self._revision = state.models.revision

    def __len__(self) -> int:
        return len(self._cache)

    def configure(self, config: FlowConfig) -> None:
        """Go by another configuration. Answers that may still be given are kept, within the same bounds."""
        if config.cache != self._config.cache:
            self._cache = AnswerCache(config.cache)
        self._config = config
        self._cache.keep_only(lambda name, _: keeps(config, name))

    def look(self) -> None:
        """Forget the versions that are deployed no more."""
        models = self._state.models
        if self._revision != models.revision:
            self._revision = models.revision
            there = {(each.name, v.digest) for each in models.all() for v in each.versions.values()}
            self._cache.keep_only(lambda name, digest: (name, digest) in there)

    def keep(
        self,
        model: ModelVersion,
        payload: Mapping[str, Any],
        segments: Sequence[Buffer],
        specs: Sequence[Any],
        outputs: Sequence[Buffer],
        now: float,
    ) -> None:
        """Keep the answer of ``specs`` and ``outputs`` to a request, if its model's answers are kept."""
        if not keeps(self._config, model.name):
            return
        asked = questions(payload, segments)
        if asked is None or sum(map(len, outputs)) > self._config.cache.bytes_max:
            return
        if "stacked" in payload:
            answers = parted(specs, outputs, payload["stacked"])
        else:
            tensors = _raw(specs, outputs)
            answers = None if tensors is None else [_whole(tensors)]
        if answers is None or len(answers) != len(asked):
            return
        self.look()
        for digest, answer in zip(asked, answers, strict=True):
            self._cache.put(model.name, model.digest, digest, answer, answer.size_bytes, now)

    def find(
        self,
        model: ModelVersion,
        payload: Mapping[str, Any],
        segments: Sequence[Buffer],
        max_age_s: float,
        now: float,
    ) -> CachedAnswer | None:
        """The answer to a request; to several inferences only if there is one to each, aged as the oldest."""
        self.look()
        asked = questions(payload, segments)
        if asked is None:
            return None
        found = [self._cache.get(model.name, model.digest, digest, now, max_age_s) for digest in asked]
        there = [each for each in found if each is not None]
        if len(there) < len(found):
            return None
        answer = joined([each.answer for each in there], payload.get("stacked"))
        return None if answer is None else CachedAnswer(answer, max(each.age_s for each in there))


def _whole(tensors: Sequence[_Tensor]) -> Answer:
    return _answer(
        [
            ({"name": name, "dtype": dtype, "shape": shape}, bytes(data))
            for name, dtype, shape, data in tensors
        ]
    )


def keeps(config: FlowConfig, model: str) -> bool:
    """Whether answers of a model are kept."""
    return any(step.kind == "cached" for step in config.model(model).fallbacks)


def keeps_any(config: FlowConfig) -> bool:
    """Whether answers of any model are kept."""
    declared = (config.default_model, *config.models.values())
    return any(step.kind == "cached" for model in declared for step in model.fallbacks)
