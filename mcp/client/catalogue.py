"""What the cluster knows of one version of a model, and how far its log is: reads beside those of the client.

They are what a gateway asks on behalf of others.
"""

from __future__ import annotations

from typing import Final

from mcp.client import answers, arguments
from mcp.client.calls import Calls, read_request
from mcp.client.results import ModelStatus
from mcp.errors import InvalidArgument, Unsupported

_ANY_KEY: Final = "position"
_UNKNOWN_KIND: Final = "the kind of a read"


class CatalogueReads(Calls):
    """Reads of a :class:`~mcp.client.client.Client` that it inherits."""

    async def model(self, hint: str, *, timeout_s: float | None = None) -> ModelStatus:
        """What ``hint`` stands for: a name, an alias or ``name@version``, also one that is not active.

        ``version``, ``inputs`` and ``outputs`` are that version's. Raises ``ModelNotFound``, and
        ``Unsupported`` while the node that is asked runs a version that cannot tell.
        """
        args = {"hint": arguments.text("a model", hint)}
        try:
            value = await self._read("model", args, "session", timeout_s)
        except InvalidArgument as error:
            if not error.message.startswith(_UNKNOWN_KIND):
                raise
            raise Unsupported(
                "the node that was asked runs a version that tells of active versions only; upgrade it"
            ) from error
        return answers.model(answers.mapping(value, "a model"))

    async def position(self, *, timeout_s: float | None = None) -> int:
        """A log index behind all that was acknowledged to anybody before this call.

        What this client reads from now on is at least as new, on every node.
        """
        answer = await self._call(read_request("key", {"key": _ANY_KEY}, "linearizable"), timeout_s)
        return answers.required(answer.payload, "index", int, "the answer to a read")
