"""Who joins, who goes and whose disk is emptied while a cluster runs: pursued by an operator.

The operator does what a person or a supervisor does: it has a few wishes, looks at what some node says of the
members, asks some node for the next step towards a wish, and asks again when that failed, timed out or was
refused. It is told nothing that a node does not know, and asks nodes that are cut off, removed or wrong.

What it must not do is take away more than a cluster can lose, so about that it asks the observer who the
members are, and not a node that may be behind: a disk is emptied only while all other voters' disks are
whole, and its voter is replaced before the next one. Everything else the engines have to refuse.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consensus.configuration import AddObserver, Change, Configuration, Promote, Remove
from consensus.errors import ConsensusError
from simulations.engine.node import Node
from simulations.moves import VOTERS_LEAST, WISHES_MAX, Kind, Move
from simulations.world import World

STEPS_PER_PATIENCE = 4
"""So often the operator looks, in one longest election timeout."""


@dataclass(slots=True)
class _Wish:
    """``incarnation`` is that of the server which it is about, once that is known."""

    kind: Kind
    name: str
    incarnation: int | None = None

    def step(self, now: Configuration) -> Change | None:
        """The next step from ``now``; ``None`` where the wish has come true."""
        member, number = now.get(self.name), self.incarnation
        if number is None:
            raise ValueError("a wish for a server that has not started")
        if self.kind is Kind.REMOVE:
            gone = member is None or member.incarnation != number
            return None if gone else Remove(self.name, number)
        if member is None:
            return AddObserver(self.name, number, f"{self.name}:1")
        if member.incarnation != number:
            return Remove(self.name, member.incarnation)
        if member.votes or self.kind is Kind.OBSERVE:
            return None
        return Promote(self.name, number)


class Operator:
    """One run's moves. ``fresh`` are the nodes that may come; ``counts`` is told what came of it."""

    def __init__(
        self,
        world: World,
        nodes: Mapping[str, Node],
        moves: Sequence[Move],
        fresh: Sequence[str],
        counts: Counter[str],
        *,
        patience_s: float,
    ) -> None:
        self._world, self._nodes, self._counts = world, nodes, counts
        self._random = world.stream("operator")
        self._fresh = list(fresh)
        self._patience_s = patience_s
        self._wishes: list[_Wish] = []
        self._asked: _Wish | None = None
        self._over = False
        for move in moves:
            world.at(move.at_s, self._begin, move)
        if moves:
            world.after(patience_s, self._look)

    def stop(self) -> None:
        """What has not come true by now need not."""
        self._over = True

    # -- wishes -------------------------------------------------------------------------------------

    def _begin(self, move: Move) -> None:
        now = self._truth()
        if self._over or now is None or len(self._wishes) >= WISHES_MAX:
            return
        if move.kind in (Kind.JOIN, Kind.OBSERVE):
            name = self._fresh.pop(0)
            self._nodes[name].enlist()
            self._wish(_Wish(move.kind, name))
            return
        busy = {wish.name for wish in self._wishes}
        names = [m.name for m in now.members if m.name not in busy and (m.votes or move.kind is Kind.REMOVE)]
        removing = sum(wish.kind is Kind.REMOVE for wish in self._wishes)
        replacing = any(wish.kind is Kind.REPLACE for wish in self._wishes)
        if not names:
            return
        name = names[int(move.pick * len(names))]
        if move.kind is Kind.REMOVE:
            if replacing or len(now.voters) - removing <= VOTERS_LEAST:
                return
            member = now.get(name)
            assert member is not None
            self._wish(_Wish(move.kind, name, member.incarnation))
        elif not replacing and not removing and self._can_spare(name):
            self._nodes[name].empty_disk()
            self._counts["disks emptied"] += 1
            self._wish(_Wish(move.kind, name))

    def _wish(self, wish: _Wish) -> None:
        self._wishes.append(wish)
        self._world.tell("operator", f"wants to {wish.kind} {wish.name}")

    def _can_spare(self, name: str) -> bool:
        """Whether the cluster outlives the loss of this disk, by what is committed and by what may yet be.

        No node is asked: who was removed says for ever what it knew last, and who has just started knows
        little; by these the last voter's disk is one of three.
        """
        observer = next(iter(self._nodes.values())).observer
        if not observer.configurations:
            return False
        index, now = observer.configurations[-1]
        pending = any(at > index for log in observer.disks.live.values() for at, _ in log.configurations)
        return not pending and name in now.voters and len(now.voters) > VOTERS_LEAST and self._is_whole(now)

    def _is_whole(self, now: Configuration) -> bool:
        """Whether every voter runs, as the server that it is known as."""
        for name in now.voters:
            member, process = now.get(name), self._nodes[name].process
            if process is None or member is None or process.journal.incarnation != member.incarnation:
                return False
        return True

    # -- steps --------------------------------------------------------------------------------------

    def _truth(self) -> Configuration | None:
        """The members by the last configuration that is committed."""
        known = next(iter(self._nodes.values())).observer.configurations
        return known[-1][1] if known else None

    def _view(self) -> Configuration | None:
        """What some node says; of a founder that knows nothing yet, nothing."""
        up = [node.process for node in self._nodes.values() if node.process is not None]
        if not up:
            return None
        view = self._random.choice(up).engine.configuration()
        return view if any(member.incarnation for member in view.members) else None

    def _look(self) -> None:
        if self._over:
            return
        self._world.after(self._patience_s / STEPS_PER_PATIENCE, self._look)
        now = self._view()
        if now is None or self._asked is not None or not self._wishes:
            return
        wish = self._random.choice(self._wishes)
        if wish.incarnation is None:
            process = self._nodes[wish.name].process
            if process is None:
                return
            wish.incarnation = process.journal.incarnation
        change = wish.step(now)
        if change is None:
            if self._is_certain(wish):
                self._counts[f"{wish.kind} done"] += 1
                self._wishes.remove(wish)
            return
        self._ask(wish, change)

    def _is_certain(self, wish: _Wish) -> bool:
        """Whether it has come true for every node that says that it is a voter and that has a leader."""
        views = [
            node.process.engine
            for node in self._nodes.values()
            if node.process is not None and node.process.engine.leadership().leader is not None
        ]
        return bool(views) and all(wish.step(view.configuration()) is None for view in views)

    def _ask(self, wish: _Wish, change: Change) -> None:
        up = [node for node in self._nodes.values() if node.process is not None and not node.paused]
        if not up:
            return
        node = self._random.choice(up)
        process = node.process
        assert process is not None
        deadline = node.clock.now() + self._patience_s * self._random.choice((0.5, 1.0, 4.0))
        self._asked = wish
        self._counts["changes asked for"] += 1
        try:
            process.pump.change_membership(change, functools.partial(self._answered, change), deadline)
        except ConsensusError as error:
            self._answered(change, error)
        # A process that dies answers nobody.
        self._world.after(6 * self._patience_s, self._forget, wish)

    def _forget(self, wish: _Wish) -> None:
        if self._asked is wish:
            self._asked = None

    def _answered(self, change: Change, outcome: int | ConsensusError) -> None:
        self._asked = None
        code = "done" if isinstance(outcome, int) else outcome.code
        self._counts[f"change {code}"] += 1
        self._world.tell("operator", f"{change}: {outcome}")
