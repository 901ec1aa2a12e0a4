"""What an entry carries: many commands, one stamp, one seed.

Commands are opaque. Each travels with the request id that its proposer waits for, so that a proposer
recognises its own command when it is applied, whichever node appended it and however often.

The stamp is the only time that replicated state may see, the seed its only randomness: both are
chosen once, by the leader, and are equal on every node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from consensus.errors import InvariantViolated

FORMAT = 1
REQUEST_ID_BYTES = 16


class Batch(NamedTuple):
    """The content of one entry. ``time_s`` is seconds since the epoch, ``seed`` has 64 bits."""

    time_s: float
    seed: int
    request_ids: Sequence[bytes]
    commands: Sequence[bytes]


EMPTY = Batch(0.0, 0, (), ())
"""What an entry without commands carries: a leader's no-op."""


def encode_batch(batch: Batch) -> bytes:
    """The bytes of an entry."""
    packed: bytes = msgpack.packb(
        [FORMAT, batch.time_s, batch.seed, list(batch.request_ids), list(batch.commands)],
        use_bin_type=True,
    )
    return packed


def decode_batch(data: bytes) -> Batch:
    """The batch in an entry's bytes.

    Raises :class:`~consensus.errors.InvariantViolated`: a committed entry that cannot be read means
    that nodes of incompatible versions share a log, and going on would let them diverge.
    """
    if not data:
        return EMPTY
    try:
        fields = msgpack.unpackb(data, raw=False, use_list=True)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise InvariantViolated(f"a committed entry is no batch of commands: {error}") from error
    if type(fields) is list and len(fields) == 5 and fields[0] == FORMAT:
        _, time_s, seed, ids, commands = fields
        shapes = type(time_s), type(seed), type(ids), type(commands)
        if shapes == (float, int, list, list) and len(ids) == len(commands):
            return Batch(time_s, seed, ids, commands)
    raise InvariantViolated(
        f"a committed entry is no batch of format {FORMAT}, which this version reads; "
        "upgrade this node before it rejoins"
    )
