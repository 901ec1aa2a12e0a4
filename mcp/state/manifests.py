"""The manifest of a model: what is said about a version when it is deployed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mcp.errors import InvalidArgument
from mcp.plain import shown
from mcp.state import arguments
from mcp.state.arguments import DIGEST, LABEL, NAME
from mcp.state.batching import read_batching
from mcp.state.limits import StateLimits
from mcp.state.requirements import NOTHING_REQUIRED, REQUIREMENT_FIELDS, read_requirements
from mcp.wire.tensors import BYTES_DTYPE, DTYPES

_REQUIRED: Final = frozenset({"name", "digest", "size"})
_OPTIONAL: Final = frozenset({"version", "aliases", "family", "task", "tags", "inputs", "outputs"})
_OPTIONAL_2: Final = _OPTIONAL | {"batching"}
_OPTIONAL_4: Final = _OPTIONAL_2 | REQUIREMENT_FIELDS
_SPEC_REQUIRED: Final = frozenset({"name", "dtype", "shape"})
_TENSOR_NAME_BYTES_MAX: Final = 1024
_RANK_MAX: Final = 16
_DTYPES: Final = frozenset({*DTYPES, BYTES_DTYPE})


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest. ``version`` is ``None`` where the next number is to be taken."""

    name: str
    version: str | None
    digest: str
    size: int
    aliases: tuple[str, ...]
    family: str | None
    task: str | None
    tags: tuple[str, ...]
    specs: bytes
    """``[inputs, outputs]`` as msgpack: the declared tensors, ``{"name", "dtype", "shape"}`` each.

    A size is an integer, a symbol or ``None``; the shape is ``None`` where the number of sizes is open.
    """
    batching: bytes | None = None
    """A :class:`~mcp.state.batching.Batching` as msgpack (schema 2); ``None``: the owner said nothing."""
    requirements: bytes | None = None
    """:class:`~mcp.state.requirements.Requirements` as msgpack (schema 4); ``None``: it has none."""


def read_manifest(value: object, limits: StateLimits, schema: int = 1) -> Manifest:
    """Check the manifest of a command of that schema.

    Raises :class:`~mcp.errors.InvalidArgument` and :class:`~mcp.errors.TooLarge`.
    """
    manifest = arguments.mapping(value, "manifest")
    arguments.only(manifest, _REQUIRED, _optional(schema))
    name = arguments.matching(manifest["name"], "name", NAME)
    aliases = arguments.names(manifest.get("aliases", []), "aliases", NAME, limits.model_aliases_max)
    if name in aliases:
        raise InvalidArgument(f"the model {name} cannot be its own alias; leave it out")
    specs = [_tensors(manifest.get(side, []), side, limits) for side in ("inputs", "outputs")]
    required = read_requirements(manifest, limits.providers_max)
    return Manifest(
        name,
        arguments.matching_or_none(manifest.get("version"), "version", LABEL),
        arguments.matching(manifest["digest"], "digest", DIGEST),
        arguments.integer(manifest["size"], "size"),
        aliases,
        arguments.matching_or_none(manifest.get("family"), "family", LABEL),
        arguments.matching_or_none(manifest.get("task"), "task", LABEL),
        arguments.names(manifest.get("tags", []), "tags", LABEL, limits.model_tags_max),
        arguments.packed(specs, "inputs and outputs", limits.manifest_bytes_max),
        read_batching(manifest["batching"]).to_bytes() if manifest.get("batching") is not None else None,
        None if required == NOTHING_REQUIRED else required.to_bytes(),
    )


def _optional(schema: int) -> frozenset[str]:
    if schema >= 4:
        return _OPTIONAL_4
    return _OPTIONAL_2 if schema >= 2 else _OPTIONAL


def _tensors(value: object, side: str, limits: StateLimits) -> list[dict[str, Any]]:
    tensors = [_tensor(item, side) for item in arguments.sequence(value, side, limits.model_tensors_max)]
    if len({tensor["name"] for tensor in tensors}) < len(tensors):
        raise InvalidArgument(f"two of the {side} have one name")
    return tensors


def _tensor(value: object, side: str) -> dict[str, Any]:
    spec = arguments.mapping(value, f"an item of {side}")
    arguments.only(spec, _SPEC_REQUIRED)
    name = arguments.text(spec["name"], f"a name in {side}", _TENSOR_NAME_BYTES_MAX)
    if type(spec["dtype"]) is not str or spec["dtype"] not in _DTYPES:
        raise InvalidArgument(
            f"the dtype of {name!r:.80} in {side} is one of {', '.join(sorted(_DTYPES))}, "
            f"not {shown(spec['dtype'])}"
        )
    shape = spec["shape"]
    sizes = [] if shape is None else arguments.sequence(shape, f"the shape of {name!r:.80}", _RANK_MAX)
    for size in sizes:
        if size is not None and type(size) is not str:
            arguments.integer(size, f"a size of {name!r:.80} that is no symbol", -1)
    return {"name": name, "dtype": spec["dtype"], "shape": shape}
