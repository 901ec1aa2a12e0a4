"""Writing msgpack where it is done for every command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, cast

import msgpack

pack: Final = cast("Callable[[Any], bytes]", msgpack.Packer().pack)
"""What :func:`msgpack.packb` does, without making a packer each time. Of plain values only.

Nothing of Python's runs while it works on those, so several threads may use it; after a value that it
refuses it is as before.
"""


def reader(kind: type) -> Callable[[Any], tuple[Any, ...]]:
    """Return what gives the values of a dataclass's fields, in their order.

    As :func:`dataclasses.astuple`, without copies of what nobody changes. Of two fields at least.
    """
    return attrgetter(*(field.name for field in fields(kind)))
