"""Which event loop to run on: uvloop's where it is installed, for its callbacks cost about half."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a new event loop: uvloop's where that is installed, asyncio's own elsewhere."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop
    uvloop: Any = importlib.import_module("uvloop")
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
