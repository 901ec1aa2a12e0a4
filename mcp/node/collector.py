"""How often a process that holds a node looks for garbage."""

from __future__ import annotations

import gc
from typing import Final

COLLECT_AFTER: Final = (10_000, 20, 20)
"""Of objects, younger and older collections. What a node drops is mostly free at once, without a collection;
with Python's defaults, looking for the rest costs a tenth of a command."""


def collect_rarely() -> None:
    """Look for garbage as ``mcpctl serve`` does. For a process that is there for its node, once that runs.

    The setting is the whole process's, which is why no node makes it by itself. What exists by then is
    never looked through again (:func:`gc.freeze`), so that no full collection holds up everybody.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
