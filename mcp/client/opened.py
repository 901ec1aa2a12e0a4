"""An answer in parts, once its first part is here."""

from __future__ import annotations

from collections.abc import Callable

from mcp.errors import ProtocolError
from mcp.net.parts import Part, Parts


class Opened:
    """A stream of which the first part is here. :meth:`close` it."""

    def __init__(self, parts: Parts, ended: Callable[[], object]) -> None:
        self._parts = parts
        self._over = ended

    async def next(self) -> Part | None:
        """The next part; ``None`` at the end. Raises what ended the stream instead."""
        return await anext(self._parts, None)

    def close(self) -> None:
        """Nobody reads on: the node is told, unless it has finished."""
        self._parts.close()
        self._over()


async def first_part(parts: Parts) -> Part:
    """The first part of an answer. Raises what came instead."""
    try:
        return await anext(parts)
    except StopAsyncIteration:
        raise ProtocolError("a node ended a stream before its first step") from None
