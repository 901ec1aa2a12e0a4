"""What every call of a blocking client is made of: a coroutine, handed to the loop of the client's thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from mcp.client.client import Client
from mcp.errors import OutcomeUnknown, Unavailable

T = TypeVar("T")


class SyncCalls:
    """What the parts of a :class:`~mcp.client.sync.SyncClient` have in common, which makes the attributes."""

    _client: Client
    _loop: asyncio.AbstractEventLoop
    _lock: threading.Lock
    _closed: bool
    _process: int
    """The id of the process that the client was made in: a fork has neither its thread nor its loop."""

    def _run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if os.getpid() != self._process:
            # Its thread does not exist here, so it would wait for ever; its connections are the parent's.
            raise Unavailable("the client was made before this process was forked; make a new one here")
        with self._lock:
            if self._closed:
                raise Unavailable("the client is closed; make a new one")
            future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise OutcomeUnknown(
                "the client was closed during the call: whether a command took effect is not known; read the "
                "state with a new client before you repeat it"
            ) from None
        except BaseException:
            future.cancel()
            raise
