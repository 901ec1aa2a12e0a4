"""The places of one connection: never more than there are, given in order, and never lost."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp.client.connections import Places

KINDS = st.sampled_from(["take", "give", "cancel", "turn"])
EVENTS = st.lists(st.tuples(KINDS, st.integers(0, 20)), max_size=80)


class Callers:
    """Those who hold a place and those who wait for one."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.places = Places(count)
        self.held = 0
        self.waiting: list[asyncio.Task[None]] = []

    def do(self, what: str, which: int) -> None:
        if what == "take":
            if self.places.take():
                self.held += 1
            else:
                self.waiting.append(asyncio.ensure_future(self.places.wait()))
        elif what == "give" and self.held:
            self.held -= 1
            self.places.give()
        elif what == "cancel" and self.waiting:
            self.waiting[which % len(self.waiting)].cancel()

    async def turn(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self.waiting = [task for task in self.waiting if not task.cancelled()]
        given = [task for task in self.waiting if task.done()]
        assert given == self.waiting[: len(given)], "who came first has its turn first"
        self.waiting = self.waiting[len(given) :]
        self.held += len(given)
        assert self.held <= self.count


@given(st.integers(1, 4), EVENTS)
def test_whatever_happens_places_are_neither_lost_nor_made(count: int, events: list[tuple[str, int]]) -> None:
    async def main() -> None:
        callers = Callers(count)
        for what, which in events:
            callers.do(what, which)
            if what == "turn" or which % 3 == 0:
                await callers.turn()
        for task in callers.waiting:
            task.cancel()
        await callers.turn()
        for _ in range(callers.held):
            callers.places.give()
        assert sum(callers.places.take() for _ in range(count + 5)) == count

    asyncio.run(main())


def test_who_is_cancelled_in_the_moment_of_its_turn_gives_the_place_on(virtual: Any) -> None:
    async def main(_: Any) -> None:
        places = Places(1)
        assert places.take()
        first, second = (asyncio.ensure_future(places.wait()) for _ in range(2))
        await asyncio.sleep(0)
        places.give()
        first.cancel()
        await asyncio.wait([first, second], timeout=1)
        assert first.cancelled()
        assert second.done()
        assert not places.take()

    virtual(main)
