"""What is asked for during an upgrade that only the newer version can execute: for each schema its own.

Of schema 2 a deletion by prefix, of schema 4 rules, routes, limits, strategies and rollouts: each is refused
until the last node is upgraded. Of schema 3 nothing can be asked for: several commands of a client go into
the log as one where they can, and one by one until then.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from mcp.client.client import Client
from mcp.errors import McpError, NotFound, VersionConflict
from simulations.checking.operations import Delete, Failed, Put, Unknown, Written
from simulations.checking.operations import Outcome as Done
from simulations.nodes import models
from simulations.nodes.workload import ClientTasks

if TYPE_CHECKING:
    from simulations.nodes.upgrade import Upgrade

PREFIX: Final = "p/"
TIMEOUT_S: Final = 2.0
"""Of one call: so long a node may take that is about to learn of the raise."""
REST_S: Final = 1.5
"""After a declaration that was taken: somebody else declares, too, and is to get on."""
AT_ONCE: Final = 6
"""So many keys: the first one goes by itself."""
TRIES_MAX: Final = 20
"""In the end it is asked for so often: where all are well once would do."""


class Newer(Protocol):
    """What is asked for of one schema, by one client, again and again."""

    async def ask(self, tasks: ClientTasks) -> None:
        """Ask once."""

    async def last(self, tasks: ClientTasks) -> str | None:
        """Ask when all are upgraded and well; gives what is wrong, and ``None`` where it works."""


class Deletions:
    """Schema 2: a key is written, and deleted by its prefix, however often that takes."""

    def __init__(self, around: Upgrade) -> None:
        self._around = around
        self._key: str | None = None
        """The key that is to be deleted by its prefix."""

    async def ask(self, tasks: ClientTasks) -> None:
        """See :class:`Newer`."""
        if self._key is None:
            who = f"{tasks.name}.p"
            mark = tasks._mark(who)
            self._key = f"{PREFIX}{mark}"
            await _put(tasks, who, mark, self._key)
        else:
            await self._delete(tasks)

    async def last(self, tasks: ClientTasks) -> str | None:
        """See :class:`Newer`."""
        if not await self._delete(tasks):
            return "every node is upgraded, and the command is refused"
        left = await tasks.client.keys(PREFIX)
        return f"deleted by prefix, and still there: {left[:5]}" if left else None

    async def _delete(self, tasks: ClientTasks) -> bool:
        """Delete all by prefix. For the history: the one that is there may be deleted from now on."""
        around, number = self._around, None
        if self._key is not None:
            number = around.history.invoke(
                f"{tasks.name}.p", Delete(self._key), around.world.now, session=tasks.name
            )
        outcome: Done = Unknown("which version it had is not told")
        try:
            await tasks.timed(TIMEOUT_S, lambda s: tasks.client.delete_prefix(PREFIX, timeout_s=s))
        except McpError as error:
            around.refused(tasks, error, "delete prefix")
            if error.outcome_known:
                outcome = Failed(error.code)
        else:
            around.taken()
        if number is not None:
            around.history.complete(number, outcome, around.world.now)
        taken = isinstance(outcome, Unknown)
        self._key = None if taken else self._key
        return taken


class Groups:
    """Schema 3: keys are written at once, and are one command of the log as soon as they can be."""

    def __init__(self, around: Upgrade) -> None:
        self._around = around

    async def ask(self, tasks: ClientTasks) -> None:
        """See :class:`Newer`."""
        lanes = [f"{tasks.name}.p{lane}" for lane in range(AT_ONCE)]
        await asyncio.gather(*(_put(tasks, who, tasks._mark(who), f"{PREFIX}{who}") for who in lanes))

    async def last(self, tasks: ClientTasks) -> str | None:
        """See :class:`Newer`."""
        before = self._around.done["newer commands"]
        for _ in range(TRIES_MAX):
            await self.ask(tasks)
            if self._around.done["newer commands"] > before:
                self._around.taken()
                return None
        return "every node is upgraded, and commands that come at once stand one by one in the log"


class Declarations:
    """Schema 4: rules, routes, limits, strategies and rollouts, in turn; each as that there be none."""

    def __init__(self, around: Upgrade) -> None:
        self._around = around
        self._asked = 0
        self._declared: Mapping[str, Callable[[Client, float], Awaitable[Any]]] = {
            "rules": lambda client, s: client.set_rules([], timeout_s=s),
            "routes": lambda client, s: client.remove_routes([models.NAME], timeout_s=s),
            "limits": lambda client, s: client.set_limits(None, timeout_s=s),
            "strategies": lambda client, s: client.set_strategy(models.NAME, None, timeout_s=s),
            "rollouts": lambda client, s: client.abort_rollout(models.NAME, timeout_s=s),
        }

    async def ask(self, tasks: ClientTasks) -> None:
        """See :class:`Newer`."""
        kinds = list(self._declared)
        kind = kinds[self._asked % len(kinds)]
        self._asked += 1
        if await self._declare(tasks, kind):
            await asyncio.sleep(REST_S)

    async def last(self, tasks: ClientTasks) -> str | None:
        """See :class:`Newer`."""
        refused = [kind for kind in self._declared if not await self._declare(tasks, kind)]
        return f"every node is upgraded, and {', '.join(refused)} are refused" if refused else None

    async def _declare(self, tasks: ClientTasks, kind: str) -> bool:
        declare = functools.partial(self._declared[kind], tasks.client)
        try:
            await tasks.timed(TIMEOUT_S, declare)
        except (NotFound, VersionConflict):
            pass  # it came as far as the log, where there was nothing to end
        except McpError as error:
            self._around.refused(tasks, error, kind)
            return False
        self._around.taken()
        return True


async def _put(tasks: ClientTasks, who: str, mark: str, key: str) -> None:
    """Write a small value, within the same time as all others: only such commands go together."""
    await tasks.recorded(
        who,
        Put(key, mark),
        lambda s: tasks.client.put(key, mark, timeout_s=s),
        Written,
        request=mark,
        timeout_s=TIMEOUT_S,
    )


NEWER: Final[Mapping[int, Callable[[Upgrade], Newer]]] = {2: Deletions, 3: Groups, 4: Declarations}
"""What is asked for, by the schema that it came with."""
