"""Artefacts between nodes: fetched by digest from whoever holds them, in chunks, and verified."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from mcp.clock import Clock, new_id
from mcp.errors import McpError, NotFound, Unavailable
from mcp.node.blobs import BlobStatus, BlobStore, check_digest
from mcp.node.links import PeerLinks
from mcp.wire.messages import Message, Ttl

T = TypeVar("T")
CHUNK_TIMEOUT_S = 10.0
UNUSED_S = 3600.0

_log = logging.getLogger("mcp.node")


class Artefacts:
    """The blobs of this node, and how to get one from its peers.

    Disk work is done in threads. Fetches of one digest are shared.
    """

    def __init__(self, store: BlobStore, links: PeerLinks, clock: Clock, *, chunk_bytes_max: int) -> None:
        self.store = store
        self._links = links
        self._clock = clock
        self._chunk_bytes = chunk_bytes_max
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def close(self) -> None:
        """Give up what is being fetched."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def holds(self, digest: str) -> bool:
        """Whether the whole blob is here."""
        return self.store.status(digest).complete

    async def put(self, digest: str, size: int, offset: int, chunk: memoryview) -> BlobStatus:
        """Add an uploaded chunk (:meth:`BlobStore.put`). Chunks of one blob are written one at a time."""
        check_digest(digest)
        lock = self._writing.setdefault(digest, asyncio.Lock())
        async with lock:
            return await _to_its_end(asyncio.to_thread(self.store.put, digest, size, offset, chunk))

    async def read(self, digest: str, offset: int, length: int) -> bytes:
        """A piece of a blob. Raises :class:`NotFound`."""
        return await asyncio.to_thread(self.store.read, digest, offset, min(length, self._chunk_bytes))

    async def keep(self, content: bytes) -> str:
        """Store ``content``; gives its digest."""
        return await asyncio.to_thread(self.store.store, content)

    async def sweep(self, used: set[str]) -> None:
        """Drop blobs that nothing refers to and that have been here for ``UNUSED_S``."""
        dropped = await asyncio.to_thread(self.store.drop_unused, used, self._clock.wall() - UNUSED_S)
        if dropped:
            _log.info("dropped %d blobs that nothing refers to", len(dropped))

    async def fetch(self, digest: str, size: int, holders: Sequence[str]) -> None:
        """Have the blob here, from any of ``holders``.

        Raises :class:`NotFound` when none of them can be asked or has it, and what the disk raises.
        """
        if self.holds(digest):
            return
        task = self._fetching.get(digest)
        if task is None:
            task = asyncio.ensure_future(self._fetch(digest, size, list(holders)))
            self._fetching[digest] = task
            task.add_done_callback(lambda _: self._fetching.pop(digest, None))
        await asyncio.shield(task)

    async def _fetch(self, digest: str, size: int, holders: list[str]) -> None:
        self._clock.random().shuffle(holders)
        problems = []
        for holder in holders:
            if not self._links.connected(holder):
                problems.append(f"{holder}: not connected")
                continue
            try:
                await self._fetch_from(holder, digest, size)
            except McpError as error:
                problems.append(f"{holder}: {error.message}")
            else:
                return
        raise NotFound(
            f"no node gave blob {digest[:12]} ({'; '.join(problems) or 'nobody is known to hold it'}); "
            "it is tried again when a holder is back"
        )

    async def _fetch_from(self, holder: str, digest: str, size: int) -> None:
        status = self.store.status(digest)
        offset = status.received
        while offset < size:
            connection = self._links.connection(holder)
            if connection is None:
                raise Unavailable("the link broke")
            payload: dict[str, Any] = {"digest": digest, "offset": offset, "length": self._chunk_bytes}
            message = Message(
                "BLOB_GET", payload, new_id(self._clock), ttl=Ttl(1, int(CHUNK_TIMEOUT_S * 1000))
            )
            reply = await connection.request(message, timeout_s=CHUNK_TIMEOUT_S)
            if len(reply.segments) != 1 or not len(reply.segments[0]):
                raise NotFound(f"it sent nothing from offset {offset} on")
            status = await self.put(digest, size, offset, reply.segments[0])
            if status.complete:
                return
            offset = status.received
        if not self.holds(digest):
            raise NotFound("what it has is shorter than announced")


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """As ``await work``, but a cancellation waits for it: a thread that writes cannot be called back."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
