"""Deploying: first the bytes on a quorum, then the manifest in the log, then the acknowledgement.

The node that is asked has the artefact already (the client uploaded it). It loads it, which proves that
it is a model; has its peers fetch and load it too; and proposes the manifest once a quorum holds the
bytes. So what is acknowledged can be served by a quorum at once, and a model that nobody can load never
gets into the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mcp.clock import Clock, new_id
from mcp.errors import InvalidArgument, McpError, ModelNotReady, Unavailable
from mcp.node.artefacts import Artefacts
from mcp.node.blobs import check_digest
from mcp.node.links import PeerLinks
from mcp.node.order import Order
from mcp.node.payload import integer, text
from mcp.node.roster import Roster
from mcp.node.shelf import Shelf, batch_options
from mcp.state.batching import read_batching
from mcp.state.commands import encode_command
from mcp.wire.messages import Message, Ttl


class Deployer:
    """Both sides of a deploy: the node that was asked, and its peers."""

    def __init__(
        self,
        node_id: str,
        roster: Roster,
        order: Order,
        shelf: Shelf,
        artefacts: Artefacts,
        links: PeerLinks,
        clock: Clock,
        *,
        in_force: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._node_id = node_id
        self._roster = roster
        self._order = order
        self._shelf = shelf
        self._artefacts = artefacts
        self._links = links
        self._clock = clock
        self._in_force = in_force
        self._preparing: dict[asyncio.Task[Any], None] = {}

    async def close(self) -> None:
        """Give up what peers are being asked for."""
        tasks = list(self._preparing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def deploy(
        self,
        session: str,
        seq: int,
        ack: int,
        manifest: Mapping[str, Any],
        timeout_s: float,
        *,
        activate: bool = True,
    ) -> dict[str, Any]:
        """Deploy an uploaded artefact. Gives the ``DEPLOYED`` payload."""
        digest, size = text(manifest, "digest"), integer(manifest, "size")
        check_digest(digest)
        self._in_force("model.deploy", {"manifest": manifest})
        if not self._artefacts.holds(digest):
            raise InvalidArgument(
                f"blob {digest[:12]} is not whole on node {self._node_id}: upload it to this node with "
                "BLOB_PUT, then deploy"
            )
        deadline = self._clock.monotonic() + timeout_s
        info = await self._shelf.ensure(digest, size, ())
        if manifest.get("batching") is not None:
            self._check_batching(digest, manifest["batching"])
        holders = await self._replicate(dict(manifest), timeout_s)
        full = {
            **manifest,
            "inputs": [tensor.to_spec() for tensor in info.inputs],
            "outputs": [tensor.to_spec() for tensor in info.outputs],
        }
        args = {"manifest": full, "holders": sorted(holders), **({} if activate else {"activate": False})}
        data = encode_command("model.deploy", args, session=session, seq=seq, ack=ack)
        left = max(0.001, deadline - self._clock.monotonic())
        index, value = await self._order.execute(data, timeout_s=left)
        return {
            "name": value["name"],
            "version": value["version"],
            "digest": value["digest"],
            "size": size,
            "holders": sorted(holders),
            "index": index,
        }

    def _check_batching(self, digest: str, said: object) -> None:
        """Refuse settings that this model cannot have, instead of serving it without them."""
        batching = read_batching(said)
        if batching.mode == "off" or (batching.mode == "auto" and not batching.pad):
            return
        options = replace(batch_options(batching.to_bytes()), mode="dynamic")
        reason = self._shelf.not_batched(digest, options)
        if reason is not None:
            raise InvalidArgument(
                f"requests for this model cannot be batched as its manifest says: {reason}; "
                'leave that out, or give the mode "auto" or "off"'
            )

    async def prepare(self, manifest: Mapping[str, Any], holder: str, timeout_s: float) -> dict[str, Any]:
        """A peer asks this node to hold and load an artefact. Gives the ``MODEL_PREPARED`` payload."""
        digest = text(manifest, "digest")
        check_digest(digest)
        try:
            async with asyncio.timeout(timeout_s):
                info = await self._shelf.ensure(digest, integer(manifest, "size"), (holder,))
        except TimeoutError:
            raise ModelNotReady(
                f"model {digest[:12]} could not be fetched and loaded within {timeout_s:.1f} s; it goes on"
            ) from None
        return {
            "node": self._node_id,
            "inputs": [tensor.to_spec() for tensor in info.inputs],
            "outputs": [tensor.to_spec() for tensor in info.outputs],
        }

    async def _replicate(self, manifest: dict[str, Any], timeout_s: float) -> set[str]:
        """Have peers prepare the artefact; returns who holds it once that is a quorum."""
        voters = self._roster.configuration.voters
        needed = len(voters) // 2 + 1
        peers = self._roster.voters_besides()
        in_order = [asyncio.ensure_future(self._ask(peer, manifest, timeout_s)) for peer in peers]
        for task in in_order:
            self._preparing[task] = None
            task.add_done_callback(self._preparing.pop)
        asked = set(in_order)
        holders, problems, waiting = {self._node_id}, list[str](), asked
        # Peers that are slower than the quorum go on, and tell the log themselves when they are ready.
        while waiting and len(holders.intersection(voters)) < needed:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for peer, problem in sorted(task.result() for task in done):
                if problem is None:
                    holders.add(peer)
                else:
                    problems.append(f"{peer}: {problem}")
        if len(held := holders.intersection(voters)) < needed:
            raise Unavailable(
                f"{len(held)} of {len(voters)} voters hold the model, {needed} are needed "
                f"({'; '.join(problems)}); nothing was deployed, try again when they are back"
            )
        return holders

    async def _ask(self, peer: str, manifest: dict[str, Any], timeout_s: float) -> tuple[str, str | None]:
        connection = self._links.connection(peer)
        if connection is None:
            return peer, "not connected"
        message = Message(
            "MODEL_PREPARE", {"manifest": manifest}, new_id(self._clock), ttl=Ttl(1, int(timeout_s * 1000))
        )
        try:
            await connection.request(message, timeout_s=timeout_s)
        except McpError as error:
            return peer, error.message
        return peer, None
