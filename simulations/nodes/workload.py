"""What the clients of a run do, and the history of it.

A client is a machine of its own and one :class:`mcp.client.client.Client`: one session, shared by some tasks.
Every value that is written is unlike any other and names the call that wrote it, so an effect can be told
from every other. What a call ends with is taken at its word: an error that says that nothing was changed is a
promise, and checked as one.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from mcp.client.client import Client
from mcp.client.results import Inference, InferenceRecord, KeyValue
from mcp.errors import (
    InvariantViolated,
    McpError,
    NotFound,
    ProtocolError,
    RemoteError,
    VersionConflict,
)
from simulations.checking.history import History
from simulations.checking.operations import (
    Absent,
    Call,
    CompareAndSet,
    Conflict,
    Delete,
    Done,
    Failed,
    Fetch,
    Found,
    Get,
    Ok,
    Outcome,
    Put,
    Recorded,
    Removed,
    Submit,
    Unknown,
    Written,
)
from simulations.invariants import Violation
from simulations.nodes import models, tally
from simulations.nodes.executed import Executed
from simulations.nodes.scenario import Load
from simulations.world import World

CALLS_END = "every call ends by its deadline"
RESULTS_ARE_RIGHT = "a result is the model's"
INSTEAD_IS_TOLD = "an answer that is not the model's own says so"
DEPLOYS_ARE_SEEN = "who has deployed a version is served by it"
NO_DEFECTS = "no client is told of a defect"

BURSTS, AT_ONCE_MAX = 0.3, 8
"""So many calls for an inference are several at once, up to so many."""
IN_ONE_CALL = 0.5
"""So many bursts of writes are one call."""
MAX_AGE_S = 1.0
"""How old an answer may be that is given instead of a fresh one."""
OVERDUE_S = 0.25
"""How much later than its deadline a call may end: a node's turn may come first."""
DEFECTS = (ProtocolError, RemoteError, InvariantViolated)
"""What no fault of these excuses, beside the root of the tree, which is a defect by name."""


class Around(Protocol):
    """What a workload finds around itself."""

    world: World
    done: Counter[str]
    declares: bool
    """Whether routes may lead elsewhere than to the version that was deployed last."""

    def fail(self, error: Exception) -> None:
        """The run has failed."""


class ClientTasks:
    """One client and its tasks, which end after ``stopping`` is set, with the calls that are under way.

    ``on_deployed`` is called with the digest as soon as a deploy is acknowledged.
    """

    def __init__(
        self,
        name: str,
        client: Client,
        load: Load,
        around: Around,
        history: History,
        executed: Executed,
        on_deployed: Callable[[str], None],
    ) -> None:
        self.name = name
        self.client = client
        self.on_deployed = on_deployed
        self.stopping = False
        self.submitted: dict[str, int] = {}
        """Inferences that may have been submitted, by id, and of which sample."""
        self.deployed: str | None = None
        """The latest version that this client knows to be deployed."""
        self._load = load
        self._around = around
        self._history = history
        self._executed = executed
        self._random: random.Random = around.world.stream(f"{name}/workload")
        self._count = 0
        self._kinds: dict[str, Callable[[str], Awaitable[object]]] = {
            "put": self._write,
            "get": lambda who: self._get(who, "session"),
            "get linearizable": lambda who: self._get(who, "linearizable"),
            "get stale": lambda who: self._get(who, "stale"),
            "count": self._count_up,
            "delete": self._delete,
            "execute": self._execute,
            "submit": lambda who: self._submit(who, "durable"),
            "submit replicated": lambda who: self._submit(who, "replicated"),
            "infer": self._infer,
        }

    # -- tasks --------------------------------------------------------------------------------------

    async def work(self, worker: int) -> None:
        """Call, think, call again."""
        who = f"{self.name}.{worker}"
        names, weights = list(self._load.weights), list(self._load.weights.values())
        while not self.stopping:
            await asyncio.sleep(self._random.expovariate(1 / self._load.pause_s))
            (kind,) = self._random.choices(names, weights)
            if kind in ("submit", "submit replicated", "infer") and self.deployed is None:
                kind = "put"
            if not self.stopping:
                await self._kinds[kind](who)

    async def deploy(self, version: str, *, at_s: float = 0.0) -> None:
        """From ``at_s`` of the run on, have a version of the model deployed, however often it takes."""
        await asyncio.sleep(max(0.0, at_s - self._around.world.now))
        while not self.stopping and self.deployed != version:
            try:
                deployment = await self.timed(
                    10.0,
                    lambda s: self.client.deploy(
                        models.NAME, models.versions()[version], version=version, timeout_s=s
                    ),
                )
            except McpError as error:
                self.told(error, "deploy")
                await asyncio.sleep(0.2)
                continue
            self.deployed = version
            self._around.world.tell(self.name, f"version {version} is deployed on {deployment.holders}")
            self.on_deployed(deployment.digest)

    # -- keys ---------------------------------------------------------------------------------------

    def _mark(self, who: str) -> str:
        self._count += 1
        return f"{who}-{self._count}"

    def _value(self, mark: str, number: int = 0) -> dict[str, Any]:
        return {"by": mark, "n": number, "pad": bytes(self._random.randint(0, self._load.value_bytes))}

    async def _write(self, who: str) -> None:
        """One write, or some at once: small ones go in one message then, and are one command of the log."""
        if self._random.random() >= BURSTS:
            await self._put(who)
            return
        if self._random.random() < IN_ONE_CALL:
            await self._put_many(who)
            return
        kinds = self._random.choices((self._put_small, self._delete), (5, 1), k=AT_ONCE_MAX)
        timeout_s = self._random.choice(self._load.timeouts_s)
        await asyncio.gather(*(kind(f"{who}.{n}", timeout_s) for n, kind in enumerate(kinds)))

    async def _put(self, who: str) -> None:
        mark = self._mark(who)
        await self._put_value(who, mark, self._value(mark))

    async def _put_small(self, who: str, timeout_s: float | None = None) -> None:
        mark = self._mark(who)
        await self._put_value(who, mark, mark, timeout_s)

    async def _put_many(self, who: str) -> None:
        """Some writes in one call, each with an outcome of its own; a large one of them goes by itself."""
        numbers = self._random.sample(range(self._load.keys), min(self._load.keys, AT_ONCE_MAX))
        marks = {f"k{number}": self._mark(who) for number in numbers}
        large = self._random.choice((None, *marks))
        values = {key: self._value(mark) if key == large else mark for key, mark in marks.items()}
        timeout_s = self._random.choice(self._load.timeouts_s)
        call = asyncio.ensure_future(self.client.put_many(values, errors="return", timeout_s=timeout_s))

        async def outcome(key: str, _timeout_s: float) -> int:
            ended = (await call)[key]
            if isinstance(ended, McpError):
                raise ended
            return ended

        await asyncio.gather(
            *(
                self.recorded(
                    f"{who}.{number}",
                    Put(key, value),
                    functools.partial(outcome, key),
                    Written,
                    request=marks[key],
                    timeout_s=timeout_s,
                )
                for number, (key, value) in enumerate(values.items())
            )
        )

    async def _put_value(
        self, who: str, mark: str, value: Any, timeout_s: float | None = None, kind: str = "k"
    ) -> None:
        key = f"{kind}{self._random.randrange(self._load.keys)}"
        await self.recorded(
            who,
            Put(key, value),
            lambda s: self.client.put(key, value, timeout_s=s),
            Written,
            request=mark,
            timeout_s=timeout_s,
        )

    async def _get(self, who: str, consistency: Any) -> KeyValue | None:
        kinds = ("k", "k", "d", "n")
        key = f"{self._random.choice(kinds)}{self._random.randrange(self._load.keys)}"
        return await self.get(who, key, consistency)

    async def get(
        self, who: str, key: str, consistency: Any, timeout_s: float | None = None
    ) -> KeyValue | None:
        """Read a key."""
        found: KeyValue | None = await self.recorded(
            who,
            Get(key, consistency),
            lambda s: self.client.get(key, consistency=consistency, timeout_s=s),
            lambda it: Absent() if it is None else Found(it.value, it.version, it.index),
            timeout_s=timeout_s,
        )
        return found

    async def _delete(self, who: str, timeout_s: float | None = None) -> None:
        if self._random.random() < 0.6:
            mark = self._mark(who)
            await self._put_value(who, mark, self._value(mark), timeout_s, "d")
            return
        key = f"d{self._random.randrange(self._load.keys)}"
        await self.recorded(
            who,
            Delete(key),
            lambda s: self.client.delete(key, timeout_s=s),
            Removed,
            timeout_s=timeout_s,
        )

    async def _count_up(self, who: str) -> None:
        """Raise a counter by one, from what this session sees of it."""
        key = f"n{self._random.randrange(2)}"
        seen = await self.get(who, key, "session")
        number, version = (0, 0) if seen is None else (seen.value["n"], seen.version)
        mark = self._mark(who)
        value = self._value(mark, number + 1)
        await self.recorded(
            who,
            CompareAndSet(key, value, version),
            lambda s: self.client.compare_and_set(key, value, expected_version=version, timeout_s=s),
            Written,
            request=mark,
        )

    # -- executors and inferences -------------------------------------------------------------------

    async def _execute(self, who: str) -> None:
        mark = self._mark(who) + ("!" if self._random.random() < 0.1 else "")
        asked = self._executed.begin(mark)
        try:
            place = await self.timed(
                None, lambda s: self.client.execute(tally.NAME, mark.encode(), timeout_s=s)
            )
        except McpError as error:
            self.told(error, "execute")
            self._executed.end(asked, None, unknown=not error.outcome_known)
        else:
            self._executed.end(asked, place)

    async def _submit(self, who: str, mode: Any) -> None:
        task, sample = f"t-{self._mark(who)}", self._random.randrange(models.SAMPLES)
        inputs = models.inputs(sample)
        self.submitted[task] = sample
        await self.recorded(
            who,
            Submit(task, mode),
            lambda s: self.client.submit(models.NAME, inputs, mode=mode, id=task, timeout_s=s),
            lambda _: Done(),
            request=task,
        )
        await self.fetch(who, task, wait=self._random.random() < 0.7)

    async def fetch(
        self, who: str, task: str, *, wait: bool, timeout_s: float | None = None
    ) -> InferenceRecord | None:
        """Read the record of an inference, and look whether its result is right."""
        record: InferenceRecord | None = await self.recorded(
            who,
            Fetch(task, wait),
            lambda s: self.client.result(task, wait=wait, timeout_s=s),
            lambda it: Absent() if it is None else self._record(task, it),
            timeout_s=timeout_s,
        )
        return record

    def _record(self, task: str, record: InferenceRecord) -> Recorded:
        result: Any = None
        if record.status == "done":
            assert record.outputs is not None
            result = models.summary(record.outputs)
            check_result(self._around, task, record.version, self.submitted[task], result)
        elif record.error is not None:
            self._around.done[f"failed {record.error.code}"] += 1
            result = record.error.code
        return Recorded(record.status, record.token, record.node, result)

    async def _infer(self, who: str) -> None:
        """One inference, or some at once, which nodes may run together."""
        at_once = self._random.randint(2, AT_ONCE_MAX) if self._random.random() < BURSTS else 1
        await asyncio.gather(*(self._infer_one(who) for _ in range(at_once)))

    async def _infer_one(self, who: str) -> None:
        sample, known = self._random.randrange(models.SAMPLES), self.deployed
        try:
            told = await self.timed(
                None, lambda s: self.client.infer(models.NAME, models.inputs(sample), timeout_s=s)
            )
        except McpError as error:
            self.told(error, "infer")
            return
        self._around.done["infer"] += 1
        check_answer(self._around, who, told, sample)
        if known is not None and told.version < known and not self._around.declares:
            self._around.fail(
                Violation(DEPLOYS_ARE_SEEN, f"{who} was served by version {told.version} after {known}")
            )

    # -- one call -----------------------------------------------------------------------------------

    async def recorded(
        self,
        who: str,
        call: Call,
        ask: Callable[[float], Awaitable[Any]],
        result: Callable[[Any], Any],
        *,
        request: str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Make a call and write down how it went. Gives what was told; ``None`` for an error."""
        world, history = self._around.world, self._history
        number = history.invoke(who, call, world.now, session=self.name, request=request)
        told, outcome = None, None
        try:
            told = await self.timed(timeout_s, ask)
        except McpError as error:
            outcome = self._outcome(call, error)
        history.complete(number, Ok(result(told)) if outcome is None else outcome, world.now)
        return told

    def _outcome(self, call: Call, error: McpError) -> Outcome:
        if isinstance(error, VersionConflict):
            return Ok(Conflict(error.details["version"], error.details["value"]))
        if isinstance(call, Fetch) and type(error) is NotFound:
            return Ok(Absent())
        name = type(call).__name__
        self.told(error, name)
        if isinstance(call, Get | Fetch) or error.outcome_known:
            return Failed(error.code)
        return Unknown(error.code)

    def told(self, error: McpError, what: str) -> None:
        """Note an error that a client was told."""
        self._around.done[f"{what.lower()} {error.code}"] += 1
        if type(error) is McpError or isinstance(error, DEFECTS):
            self._around.fail(Violation(NO_DEFECTS, f"{what}: {error.code}: {error}"))

    async def timed(self, timeout_s: float | None, ask: Callable[[float], Awaitable[Any]]) -> Any:
        """Ask for something within ``timeout_s``, or a drawn one, and look whether it ends by then."""
        timeout_s = self._random.choice(self._load.timeouts_s) if timeout_s is None else timeout_s
        begun = self._around.world.now
        try:
            return await ask(timeout_s)
        finally:
            took_s = self._around.world.now - begun
            if took_s > timeout_s + OVERDUE_S:
                self._around.fail(
                    Violation(CALLS_END, f"a call of {self.name} took {took_s:.3f} s, allowed {timeout_s} s")
                )


def check_result(around: Around, what: str, version: str, sample: int, told: str) -> None:
    """A result is what the model answers, run alone."""
    right = models.answer(version, sample)
    if told != right:
        around.fail(Violation(RESULTS_ARE_RIGHT, f"{what}: {told}, where {right} is right"))


def check_answer(around: Around, who: str, told: Inference, sample: int) -> None:
    """So is the answer of an inference, unless it says that it is the declared one.

    What is declared is called so, and nothing else is; what was kept is no older than is declared.
    """
    if told.fallback is not None:
        around.done[f"fallback {told.fallback}"] += 1
    fixed = models.is_fixed(told.outputs)
    aged = told.age_s is not None and 0 <= told.age_s <= MAX_AGE_S
    if fixed != (told.fallback == "fixed") or aged != (told.fallback == "cached"):
        said = f"{told.fallback}, age {told.age_s}" if told.fallback else "the model's own"
        what = "the declared answer" if fixed else "an answer of the model"
        around.fail(Violation(INSTEAD_IS_TOLD, f"{who}: {what} is said to be {said}"))
    elif not fixed:
        check_result(around, who, told.version, sample, models.summary(told.outputs))
