"""One soak from beginning to end: start, load, faults, healing, audit, judgement."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mcp.cli.demo.digits import load_digits
from mcp.client.client import Client
from mcp.clock import Clock, SystemClock
from mcp.errors import DeadlineExceeded, McpError
from simulations import checking
from simulations.checking.operations import Found
from simulations.chronicle import SILENT, Chronicle
from simulations.faults import FaultKind
from simulations.soak.audit import Findings, read_each, read_through, settled
from simulations.soak.inject import Injector, Kill
from simulations.soak.plan import PORT_FAULTS, LivePlan, PlanInvalid
from simulations.soak.pulse import Pulse
from simulations.soak.report import Report, fill, gaps, judge, measure_gaps
from simulations.soak.supervisor import Supervisor
from simulations.soak.volume import Volume
from simulations.soak.watch import Watch
from simulations.soak.workload import LATE_S, MODEL, TIMEOUT_S, Pace, Record, Workload
from simulations.verdict import Verdict

READY_WITHIN_S: Final = 60.0
SETTLED_WITHIN_S: Final = 30.0
END_WITHIN_S: Final = TIMEOUT_S + LATE_S + 5.0
"""After the load was stopped, every call has ended by then, or it hangs."""
VOLUME_BYTES: Final = 192 * 1024 * 1024
LOG_ENTRIES: Final = 400
CONFIGURATIONS_MAX: Final = 400_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run. ``seconds`` of load; ``log_entries`` between snapshots, 0: as in production."""

    plan: LivePlan
    seconds: float
    nodes: int = 3
    seed: int = 0
    keep_quorum: bool = False
    plain: bool = False
    log_entries: int = LOG_ENTRIES
    pace: Pace = field(default_factory=Pace)
    command: str = ""


@dataclass(slots=True)
class Soak:
    """A run under way, for whoever wants to show it. ``phase`` says in words what is happening."""

    settings: Settings
    supervisor: Supervisor
    watch: Watch
    record: Record
    workload: Workload
    injector: Injector
    pulse: Pulse
    clock: Clock
    report: Report
    chronicle: Chronicle = SILENT
    phase: str = "starting"
    ended_s: float = 0.0
    """When the cluster had come to rest, or was given up, or the run was interrupted; 0: not yet."""

    @property
    def now(self) -> float:
        """Seconds since the load began; negative before."""
        return self.watch.now()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client with a session of its own, behind the relays."""
        async with self.new_client() as made:
            yield made

    def new_client(self) -> Client:
        """The same, for whoever closes it himself."""
        return Client(
            self.supervisor.addresses,
            cluster_key=self.supervisor.key,
            timeout_s=TIMEOUT_S,
            clock=self.clock,
        )


async def soak(
    settings: Settings,
    folder: Path,
    show: Callable[[Soak], None] = lambda run: None,
    chronicle: Chronicle = SILENT,
) -> Report:
    """Run it in ``folder``, which keeps logs, history and plan. ``show`` is called once it has begun.

    ``chronicle`` is told what happens, for whoever wants a picture of the run.

    Raises :class:`~simulations.soak.plan.PlanInvalid` when the plan cannot be run as set, and
    :class:`~mcp.errors.McpError` when the cluster does not even start.
    """
    clock = SystemClock()
    started = clock.monotonic()
    begin = [started]

    def now() -> float:
        return clock.monotonic() - begin[0]

    volumes = check_settings(settings, folder)
    (folder / "plan.json").write_text(plan_json(settings.plan))
    supervisor = _supervisor(settings, folder, clock, volumes=volumes)
    with (folder / "history.jsonl").open("w") as sink:
        addresses = {name: node.address for name, node in supervisor.nodes.items()}
        watch = Watch(addresses, supervisor.key, clock, now)
        record, pulse = Record(now, sink), Pulse(now)
        injector = Injector(
            supervisor, watch, settings.plan, now, settings.seconds, settings.seed, settings.keep_quorum
        )
        report = Report(settings.seed, settings.seconds, settings.nodes, settings.command, settings.plan)
        report.honoured = honoured(settings, volumes=volumes)
        run = Soak(
            settings,
            supervisor,
            watch,
            record,
            _workload(settings, record),
            injector,
            pulse,
            clock,
            report,
            chronicle,
        )
        run.workload.client = run.new_client
        show(run)
        try:
            async with supervisor, background(watch.run()):
                await prepare(run)
                begun = clock.monotonic()
                watch.rebase(begun - begin[0])
                begin[0] = begun
                _listen(run)
                async with background(pulse.run()):
                    await _perform(run)
        finally:
            # Also of a run that was interrupted: whoever waited so long may want to see it.
            if run.ended_s:
                _keep(run, folder)
    return report


async def _perform(run: Soak) -> None:
    """The load and the faults, then what is to be read and judged; less where somebody does not wait."""
    try:
        await under_fire(run)
        run.ended_s = run.now
        await afterwards(run)
    except asyncio.CancelledError:
        _break_off(run)
        raise


def _break_off(run: Soak) -> None:
    """The run is not judged. What was wrong at first sight is wrong nevertheless."""
    run.ended_s = run.ended_s or run.now
    measure_gaps(run.report, run.record, run.injector.outages())
    told = f"interrupted after {run.now:.1f} s, {run.phase}: the history was not checked"
    run.report.find(Verdict.VOID, told)
    for verdict, found in ((Verdict.SAFETY, run.record.wrong), (Verdict.CRASH, run.injector.falls)):
        for what in found:
            run.report.find(verdict, what)


def _keep(run: Soak, folder: Path) -> None:
    report = run.report
    fill(report, run.injector, run.watch, run.record, run.pulse)
    (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=2))
    (folder / "story.jsonl").write_text("".join(json.dumps(line) + "\n" for line in report.story))


def _supervisor(settings: Settings, folder: Path, clock: Clock, *, volumes: bool) -> Supervisor:
    return Supervisor(
        settings.nodes,
        folder,
        clock,
        seed=settings.seed,
        plain=settings.plain,
        log_entries=settings.log_entries,
        volume_bytes=VOLUME_BYTES if volumes else 0,
    )


def _listen(run: Soak) -> None:
    """The chronicle is told of the run itself, not of what came before it."""
    run.watch.chronicle = run.injector.chronicle = run.chronicle
    for node in run.supervisor.nodes:
        run.chronicle.life(0.0, node, "up")


def _workload(settings: Settings, record: Record) -> Workload:
    def nobody() -> Client:
        raise AssertionError("clients come with the cluster")

    return Workload(nobody, load_digits(), record, settings.seed, settings.pace)


def check_settings(settings: Settings, folder: Path) -> bool:
    """Whether nodes get file systems of their own. Raises :class:`PlanInvalid` for what cannot be."""
    settings.plan.check([f"n{number}" for number in range(1, settings.nodes + 1)])
    late = [fault for fault in settings.plan.faults if fault.at_s >= settings.seconds]
    if late:
        raise PlanInvalid(
            f"{late[0].kind} begins after {late[0].at_s:g} s and the run ends after {settings.seconds:g} s: "
            "run longer, or take it out"
        )
    ill = sorted(settings.plan.kinds & PORT_FAULTS)
    if settings.plain and ill:
        raise PlanInvalid(f"{ill[0]}: a plain node's disk and clock cannot be made ill: leave out --plain")
    full = FaultKind.DISK_FULL in settings.plan.kinds
    volumes = full and Volume.possible(folder)
    if full and settings.plain and not volumes:
        raise PlanInvalid(
            "disk_full: a plain node needs a file system of its own, from root: leave out --plain"
        )
    return volumes


def honoured(settings: Settings, *, volumes: bool) -> dict[str, str]:
    """How faults that can be had in several ways are had in this run."""
    found = {}
    if FaultKind.DISK_FULL in settings.plan.kinds:
        found["disk_full"] = (
            "a file system in memory for each node, filled up"
            if volumes
            else "a quota in the storage port: for the log and snapshots, not for models"
        )
    if settings.plan.kinds & PORT_FAULTS:
        found["disk and clock"] = "in the storage port and the clock of the node, not in the kernel"
    return found


def plan_json(plan: LivePlan) -> str:
    """The plan as a file that ``--plan`` takes."""
    return json.dumps({"faults": [fault.to_dict() for fault in plan.faults]}, indent=1)


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine beside the body; what it raises is raised at the end, unless it was only cancelled."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def prepare(run: Soak) -> None:
    """Deploy the model everywhere, and learn what it answers. Raises :class:`~mcp.errors.McpError`."""
    run.phase = "deploying the model"
    deadline = run.clock.monotonic() + READY_WITHIN_S
    async with run.client() as client:
        await client.deploy(MODEL, run.workload.digits.model, timeout_s=READY_WITHIN_S)
        while True:
            status = await client.status()
            ready = [n for n in status.reachable if any(m.name == MODEL and m.ready for m in n.models)]
            if len(ready) == run.settings.nodes:
                break
            if run.clock.monotonic() > deadline:
                raise DeadlineExceeded(f"not all nodes had the model within {READY_WITHIN_S:.0f} s")
            await asyncio.sleep(0.1)
        await run.workload.learn(client)


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """No full collection meanwhile: with a long history it takes 100 ms, and all clients wait for it."""
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(before[0], before[1], 1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def under_fire(run: Soak) -> None:
    """Load and faults at the same time, then neither."""
    run.phase = "under fire"
    numbers = iter(range(len(run.settings.plan.faults) * run.settings.nodes + 1))
    with rare_collections():
        async with run.client() as prober, asyncio.TaskGroup() as group:

            def probe(kill: Kill) -> None:
                # Begun at the very moment of the kill: the failover's figure is not to depend on luck.
                if kill.led:
                    process = f"failover-{next(numbers)}"
                    group.create_task(run.workload.probe(process, prober))

            run.injector.on_kill = probe
            load = group.create_task(run.workload.run())
            tending = group.create_task(run.injector.tend())
            await run.injector.run()
            await asyncio.sleep(max(0.0, run.settings.seconds - run.now))
            # What is read and written afterwards is no load.
            measure_gaps(run.report, run.record, run.injector.outages())
            run.report.gaps = gaps(run.injector.happened, run.record)
            run.injector.heal()
            run.phase = "healed"
            run.workload.stop()
            await _ended(run, load)
            await _settle(run)
            tending.cancel()


async def _ended(run: Soak, load: asyncio.Task[None]) -> None:
    _, hanging = await asyncio.wait([load], timeout=END_WITHIN_S)
    if hanging:
        run.report.find(
            Verdict.LIVENESS, f"calls hang: not ended {END_WITHIN_S:g} s after the load was stopped"
        )
        load.cancel()
        await asyncio.wait([load])


async def _settle(run: Soak) -> None:
    run.phase = "settling"
    healed_at = run.now
    if await settled(run.supervisor, run.watch, SETTLED_WITHIN_S):
        run.report.settled_s = round(run.now - healed_at, 3)
    else:
        told = ", ".join(str(run.watch.latest.get(node)) for node in run.supervisor.nodes)
        run.report.find(Verdict.LIVENESS, f"healed, and not settled within {SETTLED_WITHIN_S:g} s: {told}")


async def afterwards(run: Soak) -> None:
    """Read everything back, and judge."""
    findings = Findings()
    run.phase = "reading everything back"
    if run.report.settled_s is not None:
        try:
            async with run.client() as client:
                await read_through(client, run.workload, run.record, findings)
            await read_each(run.supervisor, run.clock, run.record, findings)
        except McpError as error:
            run.report.find(
                Verdict.LIVENESS, f"reading everything back failed: {error.code}: {error.message}"
            )
    run.phase = "checking"
    run.report.checkers = await asyncio.to_thread(_check, run, findings)
    judge(run.report, run.injector, run.record, findings, run.pulse)


def _check(run: Soak, findings: Findings) -> list[checking.Verdict]:
    counter = findings.final.get(run.workload.counter)
    whole = bool(findings.final) and not findings.wrong
    evidence = checking.Evidence(
        final=findings.final or None,
        counters={run.workload.counter: counter.value} if isinstance(counter, Found) else None,
        settled=whole,
    )
    return checking.check(run.record.history, evidence, configurations_max=CONFIGURATIONS_MAX)
