"""What a request says about itself, as far as routing may look at it: never a tensor's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

HINT_BYTES_MAX: Final = 256
"""The longest text in a hint, in UTF-8."""
TAGS_MAX: Final = 32
"""The most tags in one hint."""

_SEQUENCE_RANKS: Final = (2, 3)


@dataclass(frozen=True, slots=True)
class Hint:
    """A hint in parts: every part that is not empty has to hold. ``version`` needs ``name`` or ``alias``."""

    name: str = ""
    version: str = ""
    alias: str = ""
    family: str = ""
    task: str = ""
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [(part, getattr(self, part)) for part in ("name", "version", "alias", "family", "task")]
        shown = [f"{part} {value}" for part, value in parts if value]
        return ", ".join(shown + ([f"tags {' '.join(self.tags)}"] if self.tags else []))


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input: its name (empty: the only one), type and shape as on the wire, and its size in bytes.

    ``shape`` is ``None`` for a plain text: it becomes one string of whatever rank the model declares.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    size: int


@dataclass(frozen=True, slots=True)
class Features:
    """What is known of a request. ``None`` is unknown: nothing is refused for it.

    * ``hint``: a name, ``name@version``, alias, family, task or comma-separated tags; or in parts.
    * ``tensors``: the inputs. ``length``: the sequence length in elements (of a text: characters).
      ``batch``: rows. ``size``: all inputs in bytes. See :func:`measured`.
    * ``priority``: higher is more urgent. ``deadline_s``: seconds that are left.
    * ``client``, ``session``, ``trace_id``: who asks; empty where that is not known.
    * ``headers``: names in lower case, to texts. ``parameters``: plain values, only passed on.
    * ``position``: the log position that the session has seen, so that a node must be there, too.

    Values are taken as they are: :func:`mcp.cluster.router.requests.features_of` checks what comes from
    outside.
    """

    hint: str | Hint
    tensors: tuple[Tensor, ...] | None = None
    length: int | None = None
    batch: int | None = None
    size: int | None = None
    priority: int = 0
    deadline_s: float | None = None
    client: str = ""
    session: str = ""
    trace_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    position: int = 0


def measured(tensors: Iterable[Tensor]) -> tuple[int | None, int | None, int]:
    """Return ``(length, batch, size)`` of inputs: elements, rows and bytes.

    The batch is the largest first size. The length is the largest second size of tensors of rank 2 and 3, as
    token ids and embeddings have them: an image's second size is no length. ``None`` where no input has one.
    """
    length: int | None = None
    batch: int | None = None
    size = 0
    for tensor in tensors:
        size += tensor.size
        shape = tensor.shape
        if not shape:
            continue
        batch = shape[0] if batch is None else max(batch, shape[0])
        if len(shape) in _SEQUENCE_RANKS:
            length = shape[1] if length is None else max(length, shape[1])
    return length, batch, size
