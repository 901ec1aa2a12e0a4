"""Makes the faults of a plan happen to simulated machines, and counts those that really did.

A fault counts when it had an effect: a message was lost, a process died, a sync was slow, an operation
failed, a damaged disk was noticed. A run in which nothing counted has shown nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from simulations.chronicle import Happening
from simulations.faults import LINK_KINDS, Fault, FaultKind, FaultPlan
from simulations.faulty_disk import FaultyDisk
from simulations.network import Network
from simulations.world import Clock, World


class Machine(Protocol):
    """What a level has to offer, for faults to happen to it."""

    name: str
    clock: Clock
    disk: FaultyDisk
    slow_sync_s: float
    paused: int
    """How many pauses are under way."""

    @property
    def alive(self) -> bool:
        """Whether a process runs."""

    def start(self) -> None:
        """Start a process, if it is down."""

    def kill(self, why: str = ...) -> bool:
        """End the process; whether there was one."""

    def lose_power(self, why: str, kind: FaultKind) -> bool:
        """Switch the machine off; whether a process ran. It starts again by itself."""

    def pause(self) -> None:
        """Let the process stand still."""

    def resume(self) -> None:
        """Let it go on."""

    def clock_changed(self) -> None:
        """The clock was changed."""

    def flip_bit(self) -> bool:
        """Flip a stored bit; whether there was one that may be."""


Act = Callable[[Fault], None]

AT_ONCE = frozenset(
    {
        FaultKind.POWER_LOSS,
        FaultKind.BLACKOUT,
        FaultKind.TORN_WRITE,
        FaultKind.IO_ERROR,
        FaultKind.BIT_FLIP,
        FaultKind.CLOCK_LEAP,
        FaultKind.WALL_JUMP,
    }
)
"""What is done in one moment, whatever duration was drawn; what follows from it is not the fault."""


class Chaos:
    """One plan, and what comes of it: ``count`` is called for every fault that had an effect."""

    def __init__(
        self,
        world: World,
        network: Network,
        machines: Mapping[str, Machine],
        plan: FaultPlan,
        count: Callable[[FaultKind], None],
    ) -> None:
        self._world = world
        self._network = network
        self._machines = machines
        self._plan = plan
        self._count = count
        self._over = False
        self._begin: dict[FaultKind, Act] = {
            FaultKind.KILL: self._kill,
            FaultKind.POWER_LOSS: self._power_loss,
            FaultKind.BLACKOUT: self._power_loss,
            FaultKind.TORN_WRITE: lambda f: self._each(f, lambda m: m.disk.lose_power_in(int(f.amount))),
            FaultKind.PAUSE: self._pause,
            FaultKind.SLOW_SYNC: self._slow_sync,
            FaultKind.DISK_FULL: self._disk_full,
            FaultKind.IO_ERROR: lambda f: self._each(f, lambda m: m.disk.fail_in(int(f.amount))),
            FaultKind.BIT_FLIP: lambda f: self._each(f, lambda m: m.flip_bit()),
            FaultKind.CLOCK_DRIFT: self._clock_drift,
            FaultKind.CLOCK_LEAP: self._clock_leap,
            FaultKind.WALL_JUMP: self._wall_jump,
            FaultKind.PARTITION: self._partition,
            FaultKind.PARTIAL: self._partition,
            FaultKind.HALF_OPEN: self._half_open,
            FaultKind.RESET: self._reset,
        }

    def unleash(self) -> None:
        """Schedule the plan."""
        for fault in self._plan.faults:
            self._world.at(fault.at_s, self._start, fault)

    def heal(self) -> None:
        """Everything is well from now on: nothing of the plan happens any more, and what was done ends."""
        self._over = True
        self._world.chronicle.healed(self._world.now)
        self._network.heal()
        for machine in self._machines.values():
            machine.disk.heal()
            machine.slow_sync_s = 0.0
            machine.clock.set_rate(1.0)
            machine.clock.wall_offset_s = 0.0
            machine.clock_changed()
            while machine.paused:
                machine.resume()
            machine.start()

    def _start(self, fault: Fault) -> None:
        if self._over:
            return
        self._world.tell("chaos", f"{fault}")
        now = self._world.now
        ends_s = now if fault.kind in AT_ONCE else now + fault.duration_s
        self._world.chronicle.fault(
            Happening(str(fault.kind), now, ends_s, fault.nodes, fault.peers, str(fault))
        )
        if fault.kind in self._begin:
            self._begin[fault.kind](fault)
        else:
            self._path_fault(fault)

    def _each(self, fault: Fault, act: Callable[[Machine], object]) -> None:
        for name in fault.nodes:
            act(self._machines[name])

    def _later(self, fault: Fault, act: Callable[..., None], *arguments: object) -> None:
        self._world.after(fault.duration_s, self._unless_over, act, arguments)

    def _unless_over(self, act: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if not self._over:
            act(*arguments)

    # -- processes and machines ---------------------------------------------------------------------

    def _kill(self, fault: Fault) -> None:
        for name in fault.nodes:
            machine = self._machines[name]
            if machine.kill():
                self._count(fault.kind)
                self._later(fault, machine.start)

    def _power_loss(self, fault: Fault) -> None:
        fired = [self._machines[name].lose_power("", fault.kind) for name in fault.nodes]
        if any(fired):
            self._count(fault.kind)

    def _pause(self, fault: Fault) -> None:
        for name in fault.nodes:
            machine = self._machines[name]
            if machine.alive:
                self._count(fault.kind)
                machine.pause()
                self._later(fault, machine.resume)

    # -- disks --------------------------------------------------------------------------------------

    def _slow_sync(self, fault: Fault) -> None:
        def restore(machine: Machine) -> None:
            machine.slow_sync_s = 0.0

        for name in fault.nodes:
            machine = self._machines[name]
            machine.slow_sync_s = fault.amount
            self._later(fault, restore, machine)

    def _disk_full(self, fault: Fault) -> None:
        def restore(machine: Machine) -> None:
            machine.disk.capacity_bytes = None

        for name in fault.nodes:
            machine = self._machines[name]
            machine.disk.capacity_bytes = machine.disk.used_bytes + int(fault.amount)
            self._later(fault, restore, machine)

    # -- clocks -------------------------------------------------------------------------------------

    def _clock_drift(self, fault: Fault) -> None:
        def run_at(machine: Machine, rate: float) -> None:
            machine.clock.set_rate(rate)
            machine.clock_changed()

        for name in fault.nodes:
            run_at(self._machines[name], fault.amount)
            self._later(fault, run_at, self._machines[name], 1.0)
            self._count(fault.kind)

    def _clock_leap(self, fault: Fault) -> None:
        for name in fault.nodes:
            self._machines[name].clock.leap(fault.amount)
            self._machines[name].clock_changed()
            self._count(fault.kind)

    def _wall_jump(self, fault: Fault) -> None:
        for name in fault.nodes:
            self._machines[name].clock.wall_offset_s += fault.amount
            self._count(fault.kind)

    # -- links --------------------------------------------------------------------------------------

    def _path_fault(self, fault: Fault) -> None:
        assert fault.kind in LINK_KINDS
        pairs = [(a, b) for a in fault.nodes for b in fault.peers or self._machines if a != b]
        if fault.kind is not FaultKind.ONE_WAY:
            pairs = list(dict.fromkeys(pairs + [(b, a) for a, b in pairs]))
        self._network.add(pairs, fault.kind, fault.amount)
        self._later(fault, self._network.remove, pairs, fault.kind, fault.amount)

    def _partition(self, fault: Fault) -> None:
        self._path_fault(fault)
        if fault.amount < fault.duration_s:
            for a in fault.nodes:
                for b in fault.peers:
                    self._world.after(fault.amount, self._unless_over, self._network.reset_if_blocked, (a, b))

    def _half_open(self, fault: Fault) -> None:
        for a in fault.nodes:
            for b in fault.peers:
                self._network.hold_down(a, b)
                self._later(fault, self._network.release, a, b)

    def _reset(self, fault: Fault) -> None:
        end = self._world.now + fault.duration_s

        def again() -> None:
            if self._over or self._world.now > end:
                return
            for a in fault.nodes:
                for b in fault.peers:
                    if self._network.connected(a, b):
                        self._count(fault.kind)
                        self._network.reset(a, b)
            self._world.after(fault.amount, again)

        again()
