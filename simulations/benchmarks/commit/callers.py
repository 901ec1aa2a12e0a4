"""A worker with callers of a cluster: ``python -m simulations.benchmarks.commit.callers SPEC``.

Each caller writes a key of its own, again as soon as the last write was acknowledged; the version of a key is
then the number of its writes, and shows every one that was lost or applied twice.

``SPEC`` has ``kind``, which is ``mcp`` (``addresses``, ``key``), ``etcd`` (``address``), or ``embedded`` (a
node in this process: ``node``, ``data_dir``, ``voters``, ``key``). The order ``{"callers": n, "seconds": s,
"bytes": b}`` is answered with a window; with ``together`` each caller writes so many keys in one call; with
``rate`` and ``seed`` writes are begun when they are due and ``callers`` is how many keys there are;
``requests_max`` ends a window early.
``{"audit": true}`` is answered with what is wrong.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from mcp.client.client import Client
from mcp.net.loop import loop_factory
from mcp.node import Node, NodeConfig
from simulations.benchmarks.arrivals import poisson
from simulations.benchmarks.asking import Ask, Check, closed_loop, open_loop
from simulations.benchmarks.workers import obey

TIMEOUT_S: Final = 20.0
PREFIX: Final = "bench/"


class Store(Protocol):
    """What callers need of a cluster."""

    def put(self, key: str, value: bytes) -> Awaitable[object]:
        """Write durably, or raise."""

    def put_many(self, values: Mapping[str, bytes]) -> Awaitable[object]:
        """Write all of them durably in one call, or raise."""

    async def versions(self, prefix: str) -> dict[str, int]:
        """How often each key that starts with ``prefix`` was written."""


class McpStore:
    """The product."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def put(self, key: str, value: bytes) -> Awaitable[object]:
        """One durable command."""
        return self._client.put(key, value)

    def put_many(self, values: Mapping[str, bytes]) -> Awaitable[object]:
        """As many durable commands, in one call."""
        return self._client.put_many(values)

    async def versions(self, prefix: str) -> dict[str, int]:
        """Read every key, linearizably."""
        found = {}
        for key in await self._client.keys(prefix, limit=100_000):
            value = await self._client.get(key, consistency="linearizable")
            if value is not None:
                found[key] = value.version
        return found


@asynccontextmanager
async def opened(spec: Mapping[str, Any]) -> AsyncIterator[Store]:
    """The store that ``spec`` names, ready to be used."""
    if spec["kind"] == "etcd":
        etcd = importlib.import_module("simulations.benchmarks.etcd.client")
        async with etcd.EtcdClient(spec["address"]) as store:
            yield store
    elif spec["kind"] == "mcp":
        async with Client(spec["addresses"], cluster_key=spec["key"].encode(), timeout_s=TIMEOUT_S) as client:
            yield McpStore(client)
    else:
        async with Node(node_config(spec)) as node, node.client(timeout_s=TIMEOUT_S) as client:
            yield McpStore(client)


def node_config(spec: Mapping[str, Any]) -> NodeConfig:
    """The settings of a node in this process: the defaults, as the other nodes have."""
    return NodeConfig(
        spec["node"],
        Path(spec["data_dir"]),
        listen=(spec["voters"][spec["node"]],),
        voters=spec["voters"],
        cluster_key=spec["key"].encode(),
    )


class Callers:
    """Writes, and remembers how often each key was acknowledged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._acknowledged: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()

    async def carry_out(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        """One order."""
        if order.get("audit"):
            return {"wrong": await self.audit(), "acknowledged": self._acknowledged.total()}
        callers, size, together = order["callers"], order["bytes"], order.get("together", 1)
        check: Check = lambda _number, _answer: None  # noqa: E731 (the audit checks everything)

        write = self._writing_one if together == 1 else partial(self._writing_many, together)
        put = write(callers, size)
        if "rate" in order:
            arrivals = poisson(order["rate"], order["seconds"], order["seed"])
            return (await open_loop(put, check, arrivals)).to_plain()
        most = order.get("requests_max", math.inf)
        window = await closed_loop(put, check, callers, order["seconds"], most)
        return replace(window, done=window.done * together).to_plain()

    def _writing_one(self, callers: int, size: int) -> Ask:
        """Each caller writes one key. What this costs is part of what is measured, so it is little."""
        write, acknowledged = self._store.put, self._acknowledged

        async def put(number: int) -> None:
            key = f"{PREFIX}{number % callers:04d}"
            try:
                await write(key, b"%0*d" % (size, number))
            except Exception:
                self._unknown[key] += 1
                raise
            acknowledged[key] += 1

        return put

    def _writing_many(self, together: int, callers: int, size: int) -> Ask:
        """Each caller writes so many keys in one call."""

        async def put(number: int) -> None:
            key, value = f"{PREFIX}{number % callers:04d}", b"%0*d" % (size, number)
            keys = [f"{key}/{each:02d}" for each in range(together)]
            try:
                await self._store.put_many(dict.fromkeys(keys, value))
            except Exception:
                self._unknown.update(keys)
                raise
            self._acknowledged.update(keys)

        return put

    async def audit(self) -> list[str]:
        """Every key whose version is not the number of its writes."""
        versions = await self._store.versions(PREFIX)
        return misfits(versions, self._acknowledged, self._unknown)


def misfits(
    versions: Mapping[str, int], acknowledged: Mapping[str, int], unknown: Mapping[str, int]
) -> list[str]:
    """Keys with fewer writes than were acknowledged, or more than were asked for."""
    found = []
    for key, least in acknowledged.items():
        most, version = least + unknown.get(key, 0), versions.get(key, 0)
        if not least <= version <= most:
            found.append(f"{key} was written {version} times, acknowledged {least}, in doubt {most - least}")
    return found


async def work(spec: Mapping[str, Any]) -> None:
    """Carry out orders until standard input ends."""
    async with opened(spec) as store:
        await obey(Callers(store).carry_out)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work(json.loads(sys.argv[1])))
