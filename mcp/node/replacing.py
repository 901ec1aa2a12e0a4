"""Where a node leads, it sees to it that dead voters are replaced, if it was told after what time.

A thin shell: what is seen of the members goes into :mod:`mcp.cluster.replacement`, and what that decides is
done as a person would do it, by one change of the members in the log. It is bound to the term in which this
node looked: a successor has to look for as long by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consensus.configuration import Promote, Remove
from consensus.interface import EngineStatus, Role
from mcp.clock import Clock
from mcp.cluster.gossip.view import Member
from mcp.cluster.replacement import Action, Seen, Verdict, Watch
from mcp.errors import McpError
from mcp.node.order import Order
from mcp.node.roster import Roster

CHANGE_TIMEOUT_S: Final = 5.0
"""A step that is not committed within that is looked at anew."""
AGAIN_S: Final = 1.0
"""So long at least after a step that failed until the next."""
STEPS_KEPT_MAX: Final = 16
"""Of the steps that this node has made, so many are told in its status."""
SPARE_LABEL: Final = "spare"
"""An observer with this label and the value ``no`` is never made a voter by itself."""

_log = logging.getLogger("mcp.node")


@dataclass(frozen=True, slots=True)
class Step:
    """What was done: ``action`` with ``node``, because ``dead`` was. ``at_s``: since the epoch."""

    action: str
    node: str
    dead: str
    index: int
    at_s: float

    def to_plain(self) -> dict[str, Any]:
        """Return what a status says of it."""
        return {
            "action": self.action,
            "node": self.node,
            "dead": self.dead,
            "index": self.index,
            "at_s": self.at_s,
        }


class Replacing:
    """One node's part. :meth:`look` is called a few times a second, on the loop's thread.

    ``after_s``: ``None`` replaces nobody. ``heard_s``: who was heard by consensus within that is there.
    ``seen()`` gives what gossip has of all.
    """

    def __init__(
        self,
        node_id: str,
        order: Order,
        roster: Roster,
        clock: Clock,
        seen: Callable[[], Sequence[Member]],
        *,
        after_s: float | None,
        heard_s: float,
    ) -> None:
        self.steps: deque[Step] = deque(maxlen=STEPS_KEPT_MAX)
        """What this node has done since it started, the last at the end."""
        self.replaced_total = 0
        """Dead voters that this node has taken out since it started."""
        self.waits_for = ""
        """Why a voter that is to be replaced is not; empty where none is, or where another node leads."""
        self._node_id = node_id
        self._order = order
        self._roster = roster
        self._clock = clock
        self._seen = seen
        self._watch = None if after_s is None else Watch(node_id, after_s, heard_s=heard_s)
        self._changing: asyncio.Task[None] | None = None
        self._again_s = float("-inf")

    async def close(self) -> None:
        """Replace nobody any more."""
        if self._changing is not None:
            self._changing.cancel()
            await asyncio.gather(self._changing, return_exceptions=True)

    def look(self) -> None:
        """Look at the members, where this node leads, and begin what is to be done; one step at a time."""
        watch = self._watch
        if watch is None:
            return
        status = self._order.driver.status()
        if status.role is not Role.LEADER:
            watch.forget()
            self.waits_for = ""
            return
        now = asyncio.get_running_loop().time()
        verdict = watch.look(now, status.term, self._members(status))
        if self._changing is not None and not self._changing.done():
            return
        self._say(verdict.reason if verdict.action is Action.NOTHING else "")
        if verdict.action is not Action.NOTHING and now >= self._again_s:
            self._changing = asyncio.ensure_future(self._change(verdict, status.term))

    def to_plain(self) -> dict[str, Any]:
        """Return what a status says: ``dead`` has for how long this node, as leader, has had each as dead."""
        watch = self._watch
        return {
            "after_s": None if watch is None else watch.after_s,
            "dead": {} if watch is None else watch.dead(self._clock.monotonic()),
            "waits_for": self.waits_for,
            "steps": [step.to_plain() for step in self.steps],
        }

    def _members(self, status: EngineStatus) -> list[Seen]:
        gossip = {member.name: member for member in self._seen()}
        found = []
        for member in self._roster.configuration.members:
            said = gossip.get(member.name)
            held = status.match.get(member.name, 0)
            found.append(
                Seen(
                    member.name,
                    member.incarnation,
                    member.votes,
                    None if said is None else said.state,
                    float("-inf") if said is None else said.since,
                    status.last_contact_s.get(member.name, float("-inf")),
                    status.last_index - held if held else None,
                    said is not None and _is_willing(said),
                )
            )
        return found

    def _say(self, waits_for: str) -> None:
        if waits_for and waits_for != self.waits_for:
            _log.warning("not replaced: %s", waits_for)
        self.waits_for = waits_for

    async def _change(self, verdict: Verdict, term: int) -> None:
        kind = Promote if verdict.action is Action.PROMOTE else Remove
        change = kind(verdict.node, verdict.journal)
        _log.warning("%s; %s", verdict.reason, change)
        try:
            index = await self._roster.change(change, CHANGE_TIMEOUT_S, bound=term)
        except McpError as error:
            # The next look sees whether it is still needed.
            self._again_s = asyncio.get_running_loop().time() + AGAIN_S
            _log.warning("%s: %s: %s", change, error.code, error)
            return
        self.replaced_total += verdict.action is Action.REMOVE
        step = Step(verdict.action.value, verdict.node, verdict.dead, index, self._clock.wall())
        self.steps.append(step)
        _log.warning("%s: done by %s at log position %d", change, self._node_id, index)


def _is_willing(member: Member) -> bool:
    labels = member.card.get("labels")
    return not (isinstance(labels, dict) and labels.get(SPARE_LABEL) == "no")
