"""The commands in the log: how they are written and read.

A command is the msgpack array ``[schema, session, seq, ack, op, args]``. A client's command names its
session and its place in it (:mod:`mcp.state.sessions`). A node's own command has the session ``""`` and
the place 0: it is not deduplicated, so each such operation has the same effect when it comes twice.

The schema says what a node has to know to execute the command: it is the lowest one that has the operation
with its arguments.
A command of a schema means the same to every version that executes that schema, so nodes of two versions
give equal results as long as no command of the newer schema is in the log. How a newer one comes into
force is told in :mod:`mcp.state.schema`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgpack

from mcp.errors import InvalidArgument, McpError, TooLarge, VersionMismatch
from mcp.state.packing import pack
from mcp.state.requirements import REQUIREMENT_FIELDS

SCHEMA_MAX: Final = 4
"""The newest schema that this version executes. It executes all from 1 on."""

GROUP: Final = "session.group"
"""The operation that carries several commands of one session: see :mod:`mcp.state.groups`."""

_SINCE: Final[Mapping[str, int]] = {
    "key.delete_prefix": 2,
    GROUP: 3,
    "rules.set": 4,
    "routes.apply": 4,
    "routes.remove": 4,
    "limits.set": 4,
    "strategy.set": 4,
    "share.grant": 4,
    "share.return": 4,
    "rollout.begin": 4,
    "rollout.advance": 4,
    "rollout.finish": 4,
    "rollout.roll_back": 4,
    "rollout.abort": 4,
}
"""Operations that came after schema 1."""
_BATCHING_SINCE: Final = 2
"""A manifest's ``batching`` came with this schema,"""
_REQUIREMENTS_SINCE: Final = 4
"""and with this one what it says of requests and nodes."""

COMMAND_BYTES_MAX: Final = 256 << 10
_SMALLER: Final = {
    "limits.set": "declare fewer fixed answers, or shorter ones",
    "routes.apply": "apply the routes in parts",
    "rules.set": "have fewer rules, or shorter ones",
}
"""What to do about a command that is too large, where no blob can help."""
"""A command in bytes: the largest inline tensors, and room for the rest."""

SEQ_MAX: Final = 2**63 - 1
_FIELDS: Final = 6

WRITERS_CACHED_MAX: Final = 4096
"""So many sessions' published names are remembered: a session writes more than once."""


class Command(NamedTuple):
    """One command, as it was read. Its ``args`` are not checked yet: that is the operation's part."""

    session: str
    seq: int
    ack: int
    op: str
    args: dict[str, Any]
    schema: int = 1


class Moment(NamedTuple):
    """Where and when in the agreed order a command stands, and in whose session."""

    index: int  # type: ignore[assignment]  # tuples have a method of that name, which nobody wants here
    position: int
    time_s: float
    session: str
    term: int = 0
    seed: int = 0
    schema: int = 1


@functools.lru_cache(maxsize=WRITERS_CACHED_MAX)
def writer_of(session: str) -> str:
    """Return the name under which others see a session: who knows its id could speak in its place."""
    return hashlib.sha256(session.encode()).hexdigest()[:16] if session else ""


def schema_of(op: str, args: Mapping[str, Any] | None = None) -> int:
    """Return the lowest schema that has the operation, with these arguments; 1 also for what is none."""
    if op == "model.deploy" and args is not None:
        manifest = args.get("manifest")
        if not isinstance(manifest, Mapping):
            return 1
        if not REQUIREMENT_FIELDS.isdisjoint(manifest):
            return _REQUIREMENTS_SINCE
        return _BATCHING_SINCE if "batching" in manifest else 1
    return _SINCE.get(op, 1)


def encode_command(
    op: str, args: Mapping[str, Any], *, session: str = "", seq: int = 0, ack: int = 0
) -> bytes:
    """Return the bytes that :func:`decode_command` reads.

    Raises :class:`~mcp.errors.InvalidArgument` for arguments that msgpack cannot carry, and
    :class:`~mcp.errors.TooLarge` for a command over ``COMMAND_BYTES_MAX``.
    """
    try:
        data = pack([schema_of(op, args), session, seq, ack, op, dict(args)])
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(
            f"the arguments of {op} cannot be written as msgpack: {error}; "
            "use None, bool, int (64 bits), float, str, bytes, list and dict with str keys"
        ) from error
    _check_size(data, op)
    return data


def decode_command(data: bytes, schema_max: int = SCHEMA_MAX) -> Command:
    """Read a command from any bytes.

    Raises :class:`~mcp.errors.InvalidArgument` for what is no command, :class:`~mcp.errors.TooLarge` for
    one over ``COMMAND_BYTES_MAX``, and :class:`~mcp.errors.VersionMismatch` for one whose schema is not in
    1..``schema_max``: a node that meets that must not go on, for it cannot know what the others do with it.
    """
    _check_size(data)
    try:
        parts = msgpack.unpackb(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"a command is one msgpack array, and this is none: {error}") from error
    if type(parts) is list and len(parts) == _FIELDS:
        schema, session, seq, ack, op, args = parts
        if (
            type(schema) is type(seq) is type(ack) is int
            and type(session) is type(op) is str
            and type(args) is dict
            and 1 <= schema <= schema_max
            and 0 <= seq <= SEQ_MAX
            and 0 <= ack <= SEQ_MAX
        ):
            return Command(session, seq, ack, op, args, schema)
    raise _wrong(parts, schema_max)


def _wrong(parts: Any, schema_max: int) -> McpError:
    """What is wrong with something that is no command for this node."""
    if type(parts) is not list or not parts or type(parts[0]) is not int:
        return InvalidArgument("a command is an array that starts with its schema version")
    if not 1 <= parts[0] <= schema_max:
        return VersionMismatch(
            f"this node executes commands up to schema {schema_max}, and this one has {parts[0]}; "
            "upgrade this node, then start it"
        )
    if len(parts) != _FIELDS:
        return InvalidArgument(f"a command has {_FIELDS} elements, and this one {len(parts)}")
    _, session, seq, ack, op, _ = parts
    if type(session) is not str or type(op) is not str:
        return InvalidArgument("a command's session and operation are strings")
    if type(seq) is not int or type(ack) is not int or not (0 <= seq <= SEQ_MAX and 0 <= ack <= SEQ_MAX):
        return InvalidArgument("a command's seq and ack are integers in 0..2**63-1")
    return InvalidArgument("a command's arguments are a map")


def _check_size(data: bytes, op: str = "") -> None:
    if len(data) > COMMAND_BYTES_MAX:
        raise TooLarge(
            f"a command of {len(data)} bytes is over COMMAND_BYTES_MAX={COMMAND_BYTES_MAX}; "
            f"{_SMALLER.get(op, 'send large data as a blob and name its digest')}"
        )
