"""What the clients of a soak do, and the one history that remembers all of it.

Every process here is one client with a session of its own, which does one thing after the other. Values are
never written twice, so whatever is read names its writer. Keys that many have written for a while are
retired, which keeps the search for an order of their history short.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

import numpy as np

from mcp.cli.demo.digits import Digits
from mcp.client.client import Client
from mcp.client.results import Consistency, InferenceRecord, KeyValue, Mode
from mcp.errors import McpError, NotFound, VersionConflict
from simulations.checking.history import History
from simulations.checking.operations import (
    Absent,
    Call,
    CompareAndSet,
    Conflict,
    Done,
    Failed,
    Fetch,
    Found,
    Get,
    Ok,
    Outcome,
    Put,
    Recorded,
    Result,
    Submit,
    Unknown,
    Written,
)
from simulations.chronicle import sort_of
from simulations.soak.pulse import Pulse

MODEL: Final = "digits"
TIMEOUT_S: Final = 6.0
"""What every call is given."""
LATE_S: Final = 1.0
"""A call that takes so much longer than it was given did not keep its deadline."""
SCANS: Final = 32
"""How many of the scans are asked about."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much load: clients of each sort, and how long each rests between two calls, in seconds."""

    writers: int = 4
    writer_rest_s: float = 0.02
    probe_rest_s: float = 0.01
    submitters: int = 2
    submitter_rest_s: float = 0.1
    askers: int = 2
    asker_rest_s: float = 0.05
    keys: int = 4
    """Keys that are written at a time."""
    calls_per_key: int = 150


@dataclass(frozen=True, slots=True)
class Late:
    """A call that took longer than it was given."""

    what: str
    begun: float
    ended: float
    timeout_s: float


@dataclass(slots=True)
class Record:
    """What happened to the clients. ``now``: seconds since the beginning of the run."""

    now: Callable[[], float]
    sink: IO[str] | None = None
    history: History = field(init=False)
    late: list[Late] = field(default_factory=list)
    """Calls that did not keep their deadline, or would not have if this machine had not stood still."""
    wrong: list[str] = field(default_factory=list)
    """Answers of a model that are not what it answers."""
    direct: Counter[str] = field(default_factory=Counter)
    """Direct inferences, by outcome; they have no place in the history."""
    acknowledged_at: list[tuple[float, float]] = field(default_factory=list)
    """Of every acknowledged write, when it was begun and when it was acknowledged."""

    def __post_init__(self) -> None:
        self.history = History(sink=self.sink)

    async def ask(
        self, process: str, call: Call, answer: Callable[[], Awaitable[Result]], timeout_s: float = TIMEOUT_S
    ) -> Outcome:
        """Let a client do something, and write down what it was and how it ended."""
        begun = self.now()
        operation = self.history.invoke(process, call, begun)
        outcome = await outcome_of(answer)
        ended = self.now()
        self.history.complete(operation, outcome, ended)
        self.check_deadline(f"{process}: {call}", begun, timeout_s)
        if isinstance(outcome, Ok) and isinstance(outcome.result, Written):
            self.acknowledged_at.append((begun, ended))
        return outcome

    def check_deadline(self, what: str, begun: float, timeout_s: float = TIMEOUT_S) -> None:
        """Note a call that ended just now and took too long."""
        ended = self.now()
        if ended - begun > timeout_s + LATE_S:
            self.late.append(Late(what, begun, ended, timeout_s))

    def too_late(self, pulse: Pulse) -> list[str]:
        """The calls that took too long while this machine ran."""
        return [
            f"{late.what} took {late.ended - late.begun:.2f} s, {late.timeout_s:g} s were given"
            for late in self.late
            if late.ended - late.begun - pulse.within(late.begun, late.ended) > late.timeout_s + LATE_S
        ]

    def first_commit_after(self, moment: float) -> float | None:
        """When the first write was acknowledged that was begun at ``moment`` or later."""
        return min((ended for begun, ended in self.acknowledged_at if begun >= moment), default=None)

    def longest_gap_s(self, without: Sequence[tuple[float, float]] = ()) -> float:
        """The longest time in which no write was acknowledged, and that none of ``without`` touches."""
        ends = sorted(ended for _, ended in self.acknowledged_at)
        gaps = [
            later - earlier
            for earlier, later in itertools.pairwise(ends)
            if not any(begun < later and earlier < over for begun, over in without)
        ]
        return max(gaps, default=0.0)

    def outcomes(self) -> dict[str, dict[str, int]]:
        """How many calls of each sort ended how."""
        counts: dict[str, Counter[str]] = {}
        for operation in self.history:
            outcome = operation.outcome
            how = "unanswered" if outcome is None else type(outcome).__name__.lower()
            if isinstance(outcome, Ok) and isinstance(outcome.result, Conflict):
                how = "conflict"
            counts.setdefault(sort_of(operation.call), Counter())[how] += 1
        if self.direct:
            counts["infer"] = self.direct
        return {sort: dict(sorted(found.items())) for sort, found in sorted(counts.items())}

    @property
    def unanswered(self) -> int:
        """Calls that never came back."""
        return sum(operation.outcome is None for operation in self.history)


async def outcome_of(answer: Callable[[], Awaitable[Result]]) -> Outcome:
    """How a call ends, in the words of the history."""
    try:
        return Ok(await answer())
    except VersionConflict as error:
        return Ok(Conflict(int(error.details.get("version") or 0), error.details.get("value")))
    except McpError as error:
        if type(error) is NotFound:
            return Ok(Absent())
        return Failed(error.code) if error.outcome_known else Unknown(error.code)


@dataclass(slots=True)
class Keys:
    """The keys that are written now, each retired after so many calls."""

    pace: Pace
    all: list[str] = field(default_factory=list)
    _slots: list[tuple[str, int]] = field(default_factory=list)

    def pick(self, generator: random.Random) -> str:
        """One of them, for one call."""
        while len(self._slots) < self.pace.keys:
            self._slots.append((self._fresh(), 0))
        slot = generator.randrange(len(self._slots))
        key, calls = self._slots[slot]
        self._slots[slot] = (key, calls + 1) if calls + 1 < self.pace.calls_per_key else (self._fresh(), 0)
        return key

    def _fresh(self) -> str:
        self.all.append(f"key/{len(self.all):05d}")
        return self.all[-1]


@dataclass(slots=True)
class Workload:
    """Everything that the clients do until :meth:`stop`. ``client`` makes one with a session of its own."""

    client: Callable[[], Client]
    digits: Digits
    record: Record
    seed: int
    pace: Pace = field(default_factory=Pace)
    keys: Keys = field(init=False)
    probes: list[str] = field(default_factory=list)
    submitted: dict[str, int] = field(default_factory=dict)
    """Which scan each id is about, acknowledged or not."""
    counter: str = "counter"
    _labels: list[int] = field(default_factory=list)
    _stopping: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.keys = Keys(self.pace)

    def stop(self) -> None:
        """Begin nothing further."""
        self._stopping = True

    async def learn(self, client: Client) -> None:
        """Ask what the model answers while all is well. Raises :class:`~mcp.errors.McpError`."""
        for scan in range(SCANS):
            answer = await client.infer(MODEL, self._scan(scan))
            self._labels.append(int(answer.outputs["label"][0]))

    async def run(self) -> None:
        """All clients, until stopped and the last call has ended."""
        pace = self.pace
        async with asyncio.TaskGroup() as group:
            for number in range(pace.writers):
                group.create_task(self._loop(f"writer-{number}", self._write, pace.writer_rest_s))
            group.create_task(self._loop("counter", self._count, pace.writer_rest_s))
            group.create_task(self._loop("probe", self.probe, pace.probe_rest_s))
            for number in range(pace.submitters):
                group.create_task(self._loop(f"submitter-{number}", self._submit, pace.submitter_rest_s))
            for number in range(pace.askers):
                group.create_task(self._loop(f"asker-{number}", self._infer, pace.asker_rest_s))

    async def _loop(
        self, process: str, act: Callable[[str, Client, random.Random], Awaitable[None]], rest_s: float
    ) -> None:
        generator = random.Random(f"{self.seed}/{process}")
        async with self.client() as client:
            while not self._stopping:
                await act(process, client, generator)
                await asyncio.sleep(rest_s * generator.uniform(0.5, 1.5))

    # -- keys -------------------------------------------------------------------------------------

    async def _write(self, process: str, client: Client, generator: random.Random) -> None:
        key = self.keys.pick(generator)
        chance = generator.random()
        if chance < 0.3:
            await self.record.ask(process, *put(client, key, self._value(process)))
        elif chance < 0.6:
            seen = await self._get(process, client, key, "session")
            version = seen.version if isinstance(seen, Found) else 0
            await self.record.ask(process, *compare_and_set(client, key, self._value(process), version))
        else:
            await self._get(process, client, key, "linearizable" if chance < 0.8 else "session")

    async def _get(self, process: str, client: Client, key: str, consistency: Consistency) -> Result | None:
        outcome = await self.record.ask(process, *get(client, key, consistency))
        return outcome.result if isinstance(outcome, Ok) else None

    async def _count(self, process: str, client: Client, _generator: random.Random) -> None:
        """Raise a number by one, so that its value tells how many did."""
        seen = await self._get(process, client, self.counter, "linearizable")
        if isinstance(seen, Found | Absent):
            version, value = (seen.version, seen.value) if isinstance(seen, Found) else (0, 0)
            await self.record.ask(process, *compare_and_set(client, self.counter, value + 1, version))

    async def probe(self, process: str, client: Client, _generator: random.Random | None = None) -> None:
        """Write a key of its own, once."""
        key = f"probe/{next(self._numbers):06d}"
        self.probes.append(key)
        await self.record.ask(process, *put(client, key, self._value(process)))

    def _value(self, process: str) -> str:
        return f"{process}:{next(self._numbers)}"

    # -- inference --------------------------------------------------------------------------------

    async def _submit(self, process: str, client: Client, generator: random.Random) -> None:
        identifier, scan = f"soak-{next(self._numbers):06d}", generator.randrange(SCANS)
        mode: Mode = "replicated" if generator.random() < 0.2 else "durable"

        async def submit() -> Result:
            await client.submit(MODEL, self._scan(scan), mode=mode, id=identifier, timeout_s=TIMEOUT_S)
            return Done()

        self.submitted[identifier] = scan
        await self.record.ask(process, Submit(identifier, mode), submit)
        await self.fetch(process, client, identifier)

    async def fetch(
        self, process: str, client: Client, identifier: str, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Wait for the result of a submission, and check it."""

        async def fetch() -> Result:
            record = await client.result(identifier, timeout_s=timeout_s)
            self._check(identifier, self.submitted[identifier], record)
            return recorded(record)

        await self.record.ask(process, Fetch(identifier), fetch, timeout_s)

    def _check(self, identifier: str, scan: int, record: InferenceRecord) -> None:
        if record.status == "failed":
            self.record.wrong.append(f"{identifier} failed: {record.error}")
        elif label(record) != self._labels[scan]:
            self.record.wrong.append(
                f"{identifier}: scan {scan} is {label(record)}, not {self._labels[scan]}"
            )
        for node, compared in record.replicas.items():
            if not compared.equal:
                self.record.wrong.append(f"{identifier}: {node} computed something else")

    async def _infer(self, process: str, client: Client, generator: random.Random) -> None:
        scan, begun = generator.randrange(SCANS), self.record.now()
        try:
            answer = await client.infer(MODEL, self._scan(scan), timeout_s=TIMEOUT_S)
        except McpError as error:
            self.record.direct[f"failed {error.code}"] += 1
        else:
            self.record.direct["ok"] += 1
            if (found := int(answer.outputs["label"][0])) != self._labels[scan]:
                self.record.wrong.append(f"{process}: scan {scan} is {found}, not {self._labels[scan]}")
        self.record.check_deadline(f"{process}: infer", begun)

    def _scan(self, scan: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return self.digits.images[scan : scan + 1]


Asked = tuple[Call, Callable[[], Awaitable[Result]]]


def put(client: Client, key: str, value: str) -> Asked:
    """A put, and what asks it."""

    async def ask() -> Result:
        return Written(await client.put(key, value, timeout_s=TIMEOUT_S))

    return Put(key, value), ask


def compare_and_set(client: Client, key: str, value: str | int, version: int) -> Asked:
    """A compare-and-set, and what asks it."""

    async def ask() -> Result:
        return Written(
            await client.compare_and_set(key, value, expected_version=version, timeout_s=TIMEOUT_S)
        )

    return CompareAndSet(key, value, version), ask


def get(client: Client, key: str, consistency: Consistency) -> Asked:
    """A read, and what asks it."""

    async def ask() -> Result:
        return found(await client.get(key, consistency=consistency, timeout_s=TIMEOUT_S))

    return Get(key, consistency), ask


def found(read: KeyValue | None) -> Found | Absent:
    """A read in the words of the history."""
    return Absent() if read is None else Found(read.value, read.version, read.index)


def label(record: InferenceRecord) -> int | None:
    """The digit that a record has as its result."""
    return None if record.outputs is None else int(record.outputs["label"][0])


def recorded(record: InferenceRecord) -> Recorded:
    """A record in the words of the history."""
    result = label(record) if record.error is None else record.error.code
    return Recorded(record.status, record.token, record.node, result)
