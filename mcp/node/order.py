"""The agreed order as the rest of a node sees it: propose to it, wait for it.

Wraps the consensus driver: errors are translated, waits for a log position are kept here, and commands
that a node proposes on its own account are told apart from those of clients.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from consensus.driver import Applied as Committed
from consensus.driver import Done, Driver
from consensus.errors import ConsensusError
from mcp.errors import Busy, DeadlineExceeded, McpError, NoLeader, PermissionDenied, from_wire
from mcp.node.translation import translated
from mcp.state.applied import Applied
from mcp.state.commands import encode_command

INTERNAL_OPS = frozenset(
    {
        "member.hello",
        "member.down",
        "model.holder",
        "inference.complete",
        "inference.reassign",
        "inference.report",
        "model.deploy",
        "schema.raise",
        "share.grant",
        "share.return",
        "rollout.advance",
        "rollout.finish",
        "rollout.roll_back",
    }
)
"""Operations that nodes propose; a client that sends one is refused. It deploys with DEPLOY, for then a
quorum holds the bytes before the manifest is proposed."""
INTERNAL_TIMEOUT_S = 5.0
WAITERS_MAX = 65_536


class Order:
    """One node's view of the order. All calls on the loop's thread."""

    def __init__(self) -> None:
        self._driver: Driver | None = None
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._given_up = 0
        self._count = itertools.count()

    def bind(self, driver: Driver) -> None:
        """Begin to use ``driver``."""
        self._driver = driver

    @property
    def driver(self) -> Driver:
        """The consensus driver. Raises :class:`NoLeader` before the node has started."""
        if self._driver is None:
            raise NoLeader("this node is starting; ask again, or ask another node")
        return self._driver

    @property
    def leader(self) -> str | None:
        """Who leads, as far as this node knows."""
        return self.driver.leader

    @property
    def applied_index(self) -> int:
        """The last log position that was executed here."""
        return self.driver.applied_index

    def busy(self, what: str) -> Busy:
        """The refusal for a limit that was reached."""
        return Busy(f"{what}; retry later, or ask another node")

    @staticmethod
    def admit_client_op(op: str) -> None:
        """Raise :class:`PermissionDenied` for an operation that only nodes propose."""
        if op in INTERNAL_OPS:
            raise PermissionDenied(f"{op} is proposed by nodes, never by a client")

    def submit(self, data: bytes, done: Done, *, timeout_s: float) -> None:
        """Have an encoded command ordered; see :meth:`consensus.driver.Driver.submit`."""
        try:
            self.driver.submit(data, done, timeout_s=timeout_s)
        except ConsensusError as error:
            raise translated(error) from error

    def submit_after(
        self,
        wait_s: float,
        data: bytes,
        done: Done,
        refused: Callable[[McpError], object],
        *,
        timeout_s: float,
    ) -> None:
        """As :meth:`submit`, ``wait_s`` later; what it raises then is given to ``refused``."""
        if not wait_s:
            self.submit(data, done, timeout_s=timeout_s)
            return

        def now() -> None:
            try:
                self.submit(data, done, timeout_s=max(0.001, timeout_s - wait_s))
            except McpError as error:
                refused(error)

        asyncio.get_running_loop().call_later(wait_s, now)

    def propose(self, data: bytes, *, timeout_s: float) -> asyncio.Future[Committed]:
        """Have an encoded command ordered; see :meth:`consensus.driver.Driver.propose`."""
        try:
            return self.driver.propose(data, timeout_s=timeout_s)
        except ConsensusError as error:
            raise translated(error) from error

    async def execute(self, data: bytes, *, timeout_s: float) -> tuple[int, Any]:
        """Have an encoded command executed; gives ``(index, value)`` or raises its error."""
        try:
            committed = await self.propose(data, timeout_s=timeout_s)
        except ConsensusError as error:
            raise translated(error) from error
        applied: Applied = committed.result
        if applied.error is not None:
            raise refusal(applied, committed.index)
        return committed.index, applied.value

    async def internal(self, op: str, args: Mapping[str, Any]) -> Any:
        """Propose on the node's own account; the operation is idempotent, so it may be repeated."""
        _, value = await self.execute(encode_command(op, args), timeout_s=INTERNAL_TIMEOUT_S)
        return value

    async def barrier(self, timeout_s: float) -> int:
        """A log position that is executed here: all that was acknowledged to anybody lies at it or before.

        Costs no log write. Raises :class:`NoLeader`, :class:`Busy` or :class:`DeadlineExceeded`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            index = await self.driver.read_index(timeout_s=timeout_s)
        except ConsensusError as error:
            raise translated(error) from error
        await self.wait_applied(index, deadline - loop.time())
        return index

    # -- waiting for a position ---------------------------------------------------------------------

    async def wait_applied(self, index: int, timeout_s: float) -> None:
        """Wait until ``index`` has been executed here. Raises :class:`DeadlineExceeded`."""
        if self.applied_index >= index:
            return
        if len(self._waiters) - self._given_up >= WAITERS_MAX:
            raise self.busy(f"{WAITERS_MAX} reads wait for a log position")
        self.driver.await_index(index)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (index, next(self._count), waiter))
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise DeadlineExceeded(
                f"this node is at log position {self.applied_index} and did not reach {index} within "
                f"{timeout_s:.1f} s; ask a node that is further, or read with consistency 'stale'"
            ) from None
        finally:
            if waiter.cancelled():
                self._forget_given_up()

    def _forget_given_up(self) -> None:
        """One more waits no longer: what waits for a position that is far away, or never comes, is let go."""
        self._given_up += 1
        if 2 * self._given_up > len(self._waiters):
            self._waiters = [each for each in self._waiters if not each[2].cancelled()]
            heapq.heapify(self._waiters)
            self._given_up = 0

    def advanced(self, index: int) -> None:
        """Wake those who wait for ``index`` or less."""
        while self._waiters and self._waiters[0][0] <= index:
            waiter = heapq.heappop(self._waiters)[2]
            if waiter.cancelled():
                self._given_up -= 1
            elif not waiter.done():
                waiter.set_result(None)

    def close(self, error: McpError) -> None:
        """Wake everybody with ``error``."""
        for _, _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()


def refusal(applied: Applied, index: int) -> McpError:
    """The error that executing a command gave.

    Its details have the log ``index`` when it is the command's recorded outcome: sending the same
    request again gives the same.
    """
    code, message, details = applied.error or ("INTERNAL", "no error", {})
    if applied.recorded:
        details = {**details, "index": index}
    return from_wire({"code": code, "message": message, "details": details})
