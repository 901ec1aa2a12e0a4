"""Every way between the places of a cluster, each through a relay of its own: nodes and their clients."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final

from simulations.soak.path import Effect, Path
from simulations.soak.relay import LOOPBACK, Relay

CLIENTS: Final = "clients"
"""The place where all clients are, which is no node."""

Pair = tuple[str, str]
"""From whom, to whom."""


class Mesh:
    """Relays between all ``nodes`` (real addresses by name) and from the clients to each of them.

    ``ports`` has a free port for every pair of :meth:`pairs_of`. The two directions between two places share
    their conditions with the relays of both, whoever of the two dialled: a fault knows no dialler.
    """

    def __init__(self, nodes: Mapping[str, str], ports: Sequence[int], seed: int | str) -> None:
        loop = asyncio.get_running_loop()
        pairs = self.pairs_of(list(nodes))
        both = {way for source, target in pairs for way in ((source, target), (target, source))}
        self._paths = {
            (source, target): Path(source, target, random.Random(f"{seed}/{source}/{target}"), loop.time)
            for source, target in sorted(both)
        }
        self._relays = {
            (source, target): Relay(
                self._paths[source, target], self._paths[target, source], nodes[target], port
            )
            for (source, target), port in zip(pairs, ports, strict=True)
        }

    @staticmethod
    def pairs_of(nodes: Sequence[str]) -> list[Pair]:
        """Who may dial whom."""
        return [(a, b) for a in nodes for b in nodes if a != b] + [(CLIENTS, node) for node in nodes]

    async def __aenter__(self) -> Mesh:
        """Listen everywhere."""
        try:
            for relay in self._relays.values():
                await relay.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        await self._close()

    async def _close(self) -> None:
        await asyncio.gather(*(relay.close() for relay in self._relays.values()))

    @staticmethod
    def address(port: int) -> str:
        """What is dialled to get to a relay at ``port``."""
        return f"{LOOPBACK}:{port}"

    # -- faults ---------------------------------------------------------------------------------------

    def add(self, pairs: Iterable[Pair], effect: Effect) -> None:
        """Let something be wrong in these directions; one effect counts its hits for all of them."""
        for pair in pairs:
            self._paths[pair].add(effect)

    def remove(self, pairs: Iterable[Pair], effect: Effect) -> None:
        """Let it be well again."""
        for pair in pairs:
            self._paths[pair].remove(effect)

    def reset(self, a: str, b: str) -> int:
        """Break every connection between two places; how many there were."""
        return sum(relay.reset() for relay in self._between(a, b))

    def lose_end(self, gone: str, believing: str) -> int:
        """Break every connection between two places for ``gone`` only; how many there were."""
        return sum(relay.lose_end(gone) for relay in self._between(gone, believing))

    def end_half_open(self, a: str, b: str) -> None:
        """Break what only one of the two still believes in."""
        for relay in self._between(a, b):
            relay.end_half_open()

    def heal(self) -> None:
        """Everything is well from now on."""
        for path in self._paths.values():
            path.clear_all()
        for relay in self._relays.values():
            relay.end_half_open()

    def connections(self, a: str, b: str) -> int:
        """How many connections there are between two places."""
        return sum(relay.connections for relay in self._between(a, b))

    def _between(self, a: str, b: str) -> list[Relay]:
        return [self._relays[pair] for pair in ((a, b), (b, a)) if pair in self._relays]
