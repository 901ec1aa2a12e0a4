"""The kinds of experiments, each read into a recipe: the faults of one beginning, whenever that is."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import Final, get_args

from simulations.chaos_mesh.fields import Fields, rate, seconds, share, signed_seconds, text, texts, whole
from simulations.chaos_mesh.selector import Pods, selected
from simulations.faults import FaultKind
from simulations.soak.controls import ERRNOS, EVERY, Operation
from simulations.soak.kinds import Kind, LiveKind
from simulations.soak.path import BUFFER_BYTES_MAX
from simulations.soak.plan import Direction, LiveFault

Recipe = Callable[[random.Random, float, float], list[LiveFault]]
"""Faults that begin at a time and, where nothing says otherwise, last until the other."""

RESTART_S: Final = 0.5
"""After which a killed pod is started again."""
STOLEN_PART_MAX: Final = 0.95
_CONTAINERS: Final = "a node is one process and no container: take it out"
_TCP: Final = "TCP never delivers a byte twice: python -m simulations swarm repeats messages"
_ORDER: Final = "TCP never delivers bytes out of order: python -m simulations swarm reorders messages"
_ELSEWHERE: Final = "there is one cluster and nothing outside of it: take it out"

# -- network ----------------------------------------------------------------------------------------------

_ACTIONS: Final[dict[str, str | None]] = {
    "delay": None,
    "loss": None,
    "corrupt": None,
    "partition": None,
    "bandwidth": None,
    "duplicate": _TCP,
    "netem": "write one document for each of its actions",
}
_NETWORK_REASONS: Final = {
    "duplicate": _TCP,
    "device": "there are no devices between processes: take it out",
    "targetDevice": "there are no devices between processes: take it out",
    "externalTargets": _ELSEWHERE,
    "remoteCluster": _ELSEWHERE,
    **{name: f"it goes with action: {name}" for name in ("delay", "loss", "corrupt", "bandwidth")},
}
_NETWORK_KNOWN: Final = ("action", "mode", "value", "selector", "direction", "target", "duration")


def network(spec: Fields, pods: Pods) -> Recipe:
    """``NetworkChaos``. ``direction`` is ``to`` by default: what the selected send to the others."""
    action = spec.choice("action", _ACTIONS)
    whom = selected(spec, pods, clients=True)
    direction: Direction = spec.choice("direction", dict.fromkeys(get_args(Direction)), "to")  # type: ignore[assignment]
    others = None
    if spec.has("target"):
        target = spec.fields("target")
        others = selected(target, pods, clients=True)
        target.done({}, known=("mode", "value", "selector"))
    lasts = spec.take("duration", seconds, None)
    shape = _shape(spec, action, direction)
    spec.done(_NETWORK_REASONS, known=_NETWORK_KNOWN)

    def faults(generator: random.Random, at_s: float, until_s: float) -> list[LiveFault]:
        nodes = whom(generator)
        peers = () if others is None else tuple(p for p in others(generator) if p not in nodes)
        if not nodes or (others is not None and not peers):
            return []
        return [shape(at_s, until_s - at_s if lasts is None else lasts, nodes, peers)]

    return faults


Shape = Callable[[float, float, tuple[str, ...], tuple[str, ...]], LiveFault]


def _shape(spec: Fields, action: str, direction: Direction) -> Shape:
    kind: Kind
    amount = jitter_s = correlation = 0.0
    burst, buffer = 0, BUFFER_BYTES_MAX
    if action == "partition":
        kind = FaultKind.PARTITION if direction == "both" else FaultKind.ONE_WAY
    else:
        inner = spec.fields(action)
        reasons = {}
        if action == "bandwidth":
            kind, amount = FaultKind.THROTTLE, inner.take("rate", rate)
            buffer, burst = inner.take("limit", whole(1)), inner.take("buffer", whole(1))
            reasons = dict.fromkeys(("peakrate", "minburst"), "a relay has one rate: take it out")
        else:
            correlation = inner.take("correlation", share, 0.0)
            if action == "delay":
                kind, amount = FaultKind.DELAY, inner.take("latency", seconds)
                jitter_s = inner.take("jitter", seconds, 0.0)
                reasons = {
                    "reorder": "TCP never delivers bytes out of order: python -m simulations swarm does it"
                }
            else:
                kind = FaultKind.LOSS if action == "loss" else LiveKind.CORRUPT
                amount = inner.take(action, share)
        inner.done(reasons)

    def fault(at_s: float, lasts_s: float, nodes: tuple[str, ...], peers: tuple[str, ...]) -> LiveFault:
        return LiveFault(
            kind, at_s, lasts_s, nodes, peers, amount, direction, jitter_s, correlation, burst, buffer
        )

    return fault


# -- pods -------------------------------------------------------------------------------------------------


def pod(spec: Fields, pods: Pods) -> Recipe:
    """``PodChaos``: killed and started again, or not there for a while."""
    action = spec.choice(
        "action",
        {
            "pod-kill": None,
            "pod-failure": None,
            "container-kill": "a node is one process and no container: use pod-kill",
        },
    )
    if spec.take("gracePeriod", whole(0), 0):
        raise spec.refuse("gracePeriod", "a kill is a SIGKILL here: write 0, or take it out")
    lasts = spec.take("duration", seconds, None)
    if action == "pod-kill" and lasts is not None:
        raise spec.refuse("duration", "a kill takes no time: take it out, or use pod-failure")
    return _on_nodes(
        spec,
        pods,
        FaultKind.KILL,
        RESTART_S if action == "pod-kill" else lasts,
        reasons={"containerNames": _CONTAINERS},
    )


def _on_nodes(
    spec: Fields,
    pods: Pods,
    kind: Kind,
    lasts_s: float | None,
    *,
    reasons: dict[str, str],
    amount: float = 0.0,
    chance: float = 1.0,
    operations: Operation = EVERY,
    number: int = errno.EIO,
) -> Recipe:
    whom = selected(spec, pods, clients=False)
    spec.done(reasons, known=("mode", "value", "selector", "duration"))

    def faults(generator: random.Random, at_s: float, until_s: float) -> list[LiveFault]:
        nodes = whom(generator)
        if not nodes:
            return []
        duration_s = until_s - at_s if lasts_s is None else lasts_s
        return [
            LiveFault(
                kind,
                at_s,
                duration_s,
                nodes,
                amount=amount,
                chance=chance,
                operations=operations,
                errno=number,
            )
        ]

    return faults


# -- disks ------------------------------------------------------------------------------------------------

_METHODS: Final = {operation.name: operation for operation in Operation if operation.name} | {
    "FLUSH": Operation.FSYNC,
    "MKNOD": Operation.CREATE,
}


def io(spec: Fields, pods: Pods) -> Recipe:
    """``IOChaos``: slow or failing operations of the log's and the snapshots' disk."""
    action = spec.choice(
        "action",
        {
            "latency": None,
            "fault": None,
            "attrOverride": "the log does not look at attributes",
            "mistake": "damaged bytes stop a node for good: the simulated disks flip bits",
        },
    )
    # It names where the volume is mounted in the pod: here that is the data directory, wherever it lies.
    spec.take("volumePath", text)
    pattern = spec.take("path", text, "**/*")
    if not pattern.endswith("**/*"):
        raise spec.refuse("path", "all files of the log and the snapshots are meant, or none: write **/*")
    operations = spec.take("methods", _operations, EVERY)
    chance = spec.take("percent", share, 1.0)
    lasts = spec.take("duration", seconds, None)
    kind: Kind = LiveKind.SLOW_DISK if action == "latency" else FaultKind.IO_ERROR
    amount = spec.take("delay", seconds) if action == "latency" else 0.0
    number = spec.take("errno", _errno) if action == "fault" else errno.EIO
    return _on_nodes(
        spec,
        pods,
        kind,
        lasts,
        reasons={
            "containerNames": _CONTAINERS,
            "delay": "it goes with action: latency",
            "errno": "it goes with action: fault",
            "attr": "it goes with action: attrOverride, which is not supported",
            "mistake": "it goes with action: mistake, which is not supported",
        },
        amount=amount,
        chance=chance,
        operations=operations,
        number=number,
    )


def _operations(value: object) -> Operation:
    found = Operation(0)
    for name in texts(value):
        if name.upper() not in _METHODS:
            raise ValueError(f"{name!r} is no operation of a log's disk; there are {', '.join(_METHODS)}")
        found |= _METHODS[name.upper()]
    return found


def _errno(value: object) -> int:
    if value not in ERRNOS:
        known = ", ".join(f"{number} ({errno.errorcode[number]})" for number in ERRNOS)
        raise ValueError(f"{value!r:.40} does not come from a disk here: write one of {known}")
    return int(str(value))


# -- clocks and processors --------------------------------------------------------------------------------


def time(spec: Fields, pods: Pods) -> Recipe:
    """``TimeChaos``: the wall clock is off."""
    offset_s = spec.take("timeOffset", signed_seconds)
    for clock in spec.take("clockIds", texts, ("CLOCK_REALTIME",)):
        if clock != "CLOCK_REALTIME":
            raise spec.refuse("clockIds", f"{clock} is the kernel's: only CLOCK_REALTIME can be off")
    lasts = spec.take("duration", seconds, None)
    reasons = {"containerNames": _CONTAINERS}
    return _on_nodes(spec, pods, FaultKind.WALL_JUMP, lasts, reasons=reasons, amount=offset_s)


def stress(spec: Fields, pods: Pods) -> Recipe:
    """``StressChaos``: the node gets its processor for a part of the time only."""
    stressors = spec.fields("stressors")
    if stressors.has("memory"):
        raise stressors.refuse("memory", "all nodes share this machine's memory: only cpu is supported")
    cpu = stressors.fields("cpu")
    stolen = cpu.take("workers", whole(1)) * cpu.take("load", share, 1.0)
    cpu.done({"options": "there is no stress-ng here: take it out"}, known=("workers", "load"))
    stressors.done({}, known=("cpu",))
    lasts = spec.take("duration", seconds, None)
    reasons = {
        "containerNames": _CONTAINERS,
        "stressngStressors": "there is no stress-ng here: use stressors.cpu",
    }
    return _on_nodes(
        spec, pods, LiveKind.CPU_STRESS, lasts, reasons=reasons, amount=min(stolen, STOLEN_PART_MAX)
    )
