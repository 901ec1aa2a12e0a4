"""Chaos Mesh's YAML: what is accepted means what it says, and what is not is refused by its path."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from simulations.chaos_mesh import plan_from_yaml
from simulations.chaos_mesh.experiments import RESTART_S
from simulations.chaos_mesh.fields import rate, seconds, signed_seconds
from simulations.chaos_mesh.reading import BEGIN_S, repeated
from simulations.chaos_mesh.schedule import times
from simulations.faults import FaultKind
from simulations.soak.controls import Operation
from simulations.soak.kinds import LiveKind
from simulations.soak.mesh import CLIENTS
from simulations.soak.path import Effect
from simulations.soak.plan import LiveFault, LivePlan, PlanInvalid

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "network_chaos.yaml"
NODES = ["n1", "n2", "n3"]
RUN_S = 30.0
BACKEND = {"labelSelectors": {"app": "backend"}}


def document(kind: str, spec: dict[str, Any], **others: Any) -> str:
    head = {"apiVersion": "chaos-mesh.org/v1alpha1", "kind": kind, "metadata": {"name": "it"}}
    return str(yaml.safe_dump(head | {"spec": spec} | others))


def network(action: str, **fields: Any) -> str:
    return document("NetworkChaos", {"action": action, "mode": "all", "selector": BACKEND} | fields)


def on_pods(kind: str, **fields: Any) -> str:
    return document(kind, {"mode": "all", "selector": BACKEND} | fields)


def schedule(**fields: Any) -> str:
    inner = {"action": "pod-kill", "mode": "one", "selector": BACKEND}
    return document("Schedule", {"schedule": "@every 10s", "type": "PodChaos", "podChaos": inner} | fields)


def plan(written: str, **settings: Any) -> LivePlan:
    return plan_from_yaml(written, NODES, **{"seconds": RUN_S, "seed": 1} | settings)


def only(written: str, **settings: Any) -> LiveFault:
    (fault,) = plan(written, **settings).faults
    return fault


def test_the_example_as_it_stands() -> None:
    fault = only(EXAMPLE.read_text())
    assert (fault.kind, fault.amount, fault.direction, fault.peers) == (FaultKind.DELAY, 5.0, "to", ())
    assert len(fault.nodes) == 1
    assert fault.nodes[0] in NODES
    assert (fault.at_s, fault.ends_s) == (BEGIN_S, RUN_S)


def test_the_isolation_of_one_node_for_a_minute_is_a_partition_from_the_other_nodes() -> None:
    written = (EXAMPLE.parent / "isolation.yaml").read_text()
    fault = only(written, seconds=75.0)
    assert (fault.kind, fault.nodes, fault.direction) == (FaultKind.PARTITION, ("n1",), "both")
    assert {"n2", "n3"} <= set(fault.peers)
    assert (fault.at_s, fault.duration_s) == (BEGIN_S, 60.0)


def test_the_seed_decides_who_it_is() -> None:
    chosen = [only(EXAMPLE.read_text(), seed=seed).nodes for seed in range(30)]
    assert set(chosen) == {("n1",), ("n2",), ("n3",)}
    assert chosen == [only(EXAMPLE.read_text(), seed=seed).nodes for seed in range(30)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            network("delay", delay={"latency": "90ms", "jitter": "10ms", "correlation": "25"}, duration="5s"),
            {
                "kind": FaultKind.DELAY,
                "amount": 0.09,
                "jitter_s": 0.01,
                "correlation": 0.25,
                "duration_s": 5.0,
            },
        ),
        (network("loss", loss={"loss": "30"}), {"kind": FaultKind.LOSS, "amount": 0.3, "correlation": 0.0}),
        (network("corrupt", corrupt={"corrupt": "4"}), {"kind": LiveKind.CORRUPT, "amount": 0.04}),
        (network("partition", direction="both"), {"kind": FaultKind.PARTITION, "direction": "both"}),
        (network("partition"), {"kind": FaultKind.ONE_WAY, "direction": "to"}),
        (network("partition", direction="from"), {"kind": FaultKind.ONE_WAY, "direction": "from"}),
        (
            network("bandwidth", bandwidth={"rate": "1mbps", "limit": 20971520, "buffer": 10000}),
            {"kind": FaultKind.THROTTLE, "amount": 2.0**20, "buffer_bytes": 20971520, "burst_bytes": 10000},
        ),
        (
            document(
                "NetworkChaos",
                {
                    "action": "partition",
                    "direction": "both",
                    "mode": "all",
                    "selector": {"pods": {"default": ["n1"]}},
                    "target": {"mode": "all", "selector": {"nodes": ["n2", "n3"]}},
                },
            ),
            {"nodes": ("n1",), "peers": ("n2", "n3")},
        ),
        (
            network("delay", delay={"latency": "1s"}, selector={"labelSelectors": {"app": "client"}}),
            {"nodes": (CLIENTS,)},
        ),
        (on_pods("PodChaos", action="pod-kill"), {"kind": FaultKind.KILL, "duration_s": RESTART_S}),
        (on_pods("PodChaos", action="pod-kill", gracePeriod=0), {"kind": FaultKind.KILL}),
        (on_pods("PodChaos", action="pod-failure", duration="1m"), {"duration_s": RUN_S - BEGIN_S}),
        (on_pods("PodChaos", action="pod-failure", duration="2s"), {"duration_s": 2.0}),
        (
            on_pods(
                "IOChaos",
                action="latency",
                delay="100ms",
                volumePath="/var/lib/mcp",
                path="/var/lib/mcp/**/*",
                methods=["write", "FSYNC"],
                percent=50,
            ),
            {
                "kind": LiveKind.SLOW_DISK,
                "amount": 0.1,
                "chance": 0.5,
                "operations": Operation.WRITE | Operation.FSYNC,
            },
        ),
        (
            on_pods("IOChaos", action="fault", errno=28, volumePath="/data"),
            {"kind": FaultKind.IO_ERROR, "errno": errno.ENOSPC, "chance": 1.0},
        ),
        (
            on_pods("TimeChaos", timeOffset="-10m100ms", clockIds=["CLOCK_REALTIME"]),
            {"kind": FaultKind.WALL_JUMP, "amount": -600.1},
        ),
        (
            on_pods("StressChaos", stressors={"cpu": {"workers": 2, "load": 30}}),
            {"kind": LiveKind.CPU_STRESS, "amount": 0.6},
        ),
        (on_pods("StressChaos", stressors={"cpu": {"workers": 4}}), {"amount": 0.95}),
    ],
)
def test_what_is_accepted_means_what_it_says(written: str, expected: dict[str, Any]) -> None:
    fault = only(written)
    found = {name: getattr(fault, name) for name in expected}
    assert found == {k: pytest.approx(v) if isinstance(v, float) else v for k, v in expected.items()}
    if fault.kind in (FaultKind.DELAY, FaultKind.LOSS, FaultKind.THROTTLE, LiveKind.CORRUPT):
        Effect(fault.kind, fault.amount)  # a path takes it


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", "no document"),
        ("a: [", "not YAML"),
        ("- 1", "the document: a mapping is expected"),
        ("a: 1\na: 2", "a: it is there twice (line 2)"),
        ("a: &a {b: 1}\nc:\n  <<: *a", "<<: merge keys are not read: write the fields themselves (line 3)"),
        ("? [a]\n: 1", "unhashable key"),
        (document("NetworkChaos", {}).replace("v1alpha1", "v2"), "apiVersion: 'chaos-mesh.org/v2'"),
        (document("NetChaos", {}), "kind: 'NetChaos' is not supported: write one of NetworkChaos"),
        (document("DNSChaos", {}), "kind: DNSChaos: nodes are found by address"),
        (document("Workflow", {}), "kind: Workflow: write its experiments as documents"),
        ("a: 2001-99-99", "not YAML"),
        ("[" * 5000, "not YAML"),
        (on_pods("PodChaos", action="pod-kill") + "status: {}", "status: it is the cluster's to write"),
        (network("duplicate", duplicate={"duplicate": "40"}), "spec.action: duplicate: TCP never delivers"),
        (network("netem"), "spec.action: netem: write one document"),
        (network("explode"), "spec.action: 'explode' is not supported: write one of delay, loss"),
        (network("delay"), "spec.delay: missing, and needed"),
        (network("delay", delay={}), "spec.delay.latency: missing, and needed"),
        (
            network("delay", delay={"latencey": "5s"}),
            "spec.delay.latency: missing, and needed; there is latencey",
        ),
        (network("delay", delay={"latency": "9" * 400 + "s"}), "spec.delay.latency: '999"),
        (network("bandwidth", bandwidth={"rate": "9" * 400 + "tbps"}), "spec.bandwidth.rate: '999"),
        (network("delay", delay={"latency": "5"}), "spec.delay.latency: '5' is no duration"),
        (network("delay", delay={"latency": "-5s"}), "spec.delay.latency: '-5s' is negative"),
        (network("delay", delay={"latency": "5s", "reorder": {}}), "spec.delay.reorder: TCP never"),
        (network("delay", delay={"latency": "5s", "wobble": 1}), "spec.delay.wobble: not supported"),
        (network("delay", delay={"latency": "5s"}, loss={"loss": "1"}), "spec.loss: it goes with action"),
        (network("delay", delay={"latency": "5s"}, device="eth0"), "spec.device: there are no devices"),
        (network("partition", externalTargets=["a.b"]), "spec.externalTargets: there is one cluster"),
        (network("partition", direction="up"), "spec.direction: 'up' is not supported: write one of to"),
        (network("partition", duration=5), "spec.duration: 5 is no duration"),
        (network("partition", target={"mode": "all"}), "spec.target.selector: missing"),
        (network("loss", loss={"loss": "130"}), "spec.loss.loss: '130' is not between 0 and 100"),
        (network("loss", loss={"loss": "much"}), "spec.loss.loss: 'much' is no percentage"),
        (network("bandwidth", bandwidth={"rate": "1mbit"}), "spec.bandwidth.rate: '1mbit' is no bandwidth"),
        (
            network("bandwidth", bandwidth={"rate": "1bps", "limit": 1, "buffer": 1, "peakrate": 1}),
            "spec.bandwidth.peakrate: a relay has one rate",
        ),
        (network("partition", mode="most"), "spec.mode: 'most' is not supported"),
        (network("partition", value="1"), "spec.value: mode all has none"),
        (network("partition", mode="fixed"), "spec.value: missing, and needed"),
        (network("partition", mode="fixed", value="0"), "spec.value: a whole number from 1 on"),
        (network("partition", mode="fixed-percent", value="10"), "spec.value: 10 percent of 3 is nobody"),
        (
            network("partition", selector={"labelSelectors": {"app": "x"}}),
            "spec.selector: it selects nothing",
        ),
        (network("partition", selector={"labelSelectors": ["x"]}), "spec.selector.labelSelectors: a mapping"),
        (network("partition", selector={"namespaces": ["kube"]}), "spec.selector.namespaces: every pod"),
        (
            network("partition", selector={"pods": {"default": ["n9"]}}),
            "spec.selector.pods.default: there is no",
        ),
        (network("partition", selector={"pods": {"kube": ["n1"]}}), "spec.selector.pods.default: missing"),
        (network("partition", selector={"nodes": ["m1"]}), "spec.selector.nodes: there is no 'm1'"),
        (network("partition", selector={"fieldSelectors": {}}), "spec.selector.fieldSelectors: pods have no"),
        (
            network("partition", selector={"expressionSelectors": [{"key": "app", "operator": "Is"}]}),
            "spec.selector.expressionSelectors[0].operator: 'Is' is not supported",
        ),
        (
            network("partition", selector={"expressionSelectors": [{"key": "app", "operator": "In"}]}),
            "spec.selector.expressionSelectors[0].values: In needs some",
        ),
        (on_pods("PodChaos", action="container-kill"), "spec.action: container-kill: a node is one process"),
        (on_pods("PodChaos", action="pod-kill", gracePeriod=3), "spec.gracePeriod: a kill is a SIGKILL"),
        (on_pods("PodChaos", action="pod-kill", duration="3s"), "spec.duration: a kill takes no time"),
        (on_pods("PodChaos", action="pod-kill", containerNames=["a"]), "spec.containerNames: a node is one"),
        (
            on_pods("PodChaos", action="pod-kill", selector={"labelSelectors": {"app": "client"}}),
            "spec.selector: it selects nothing",
        ),
        (on_pods("IOChaos", action="mistake"), "spec.action: mistake: damaged bytes"),
        (on_pods("IOChaos", action="latency", delay="1s"), "spec.volumePath: missing"),
        (
            on_pods("IOChaos", action="latency", delay="1s", volumePath="/d", path="/d/a"),
            "spec.path: all files",
        ),
        (
            on_pods("IOChaos", action="latency", delay="1s", volumePath="/d", methods=["LINK"]),
            "spec.methods: 'LINK' is no operation",
        ),
        (on_pods("IOChaos", action="fault", errno=2, volumePath="/d"), "spec.errno: 2 does not come from"),
        (
            on_pods("IOChaos", action="fault", errno=5, volumePath="/d", delay="1s"),
            "spec.delay: it goes with action: latency",
        ),
        (
            on_pods("TimeChaos", timeOffset="1s", clockIds=["CLOCK_MONOTONIC"]),
            "spec.clockIds: CLOCK_MONOTONIC",
        ),
        (on_pods("StressChaos", stressors={"memory": {}}), "spec.stressors.memory: all nodes share"),
        (on_pods("StressChaos", stressors={"cpu": {"workers": 0}}), "spec.stressors.cpu.workers: a whole"),
        (
            on_pods("StressChaos", stressors={"cpu": {"workers": 1, "options": []}}),
            "spec.stressors.cpu.options: there is no stress-ng",
        ),
        (schedule(schedule="sometimes"), "spec.schedule: 'sometimes' is neither"),
        (schedule(schedule="@every 1h"), "spec.schedule: '@every 1h' never comes within 30 s"),
        (schedule(schedule="* * 1 * *"), "spec.schedule: '* * 1 \\* *'".replace("\\", "")),
        (schedule(type="NetworkChaos"), "spec.networkChaos: missing"),
        (schedule(type="Workflow"), "spec.type: Workflow: write its experiments"),
        (schedule(concurrencyPolicy="Replace"), "spec.concurrencyPolicy: 'Replace' is not supported"),
        (schedule(historyLimit=0), "spec.historyLimit: a whole number from 1 on"),
        (schedule(startingDeadlineSeconds=5), "spec.startingDeadlineSeconds: nothing here starts late"),
        (
            schedule(podChaos={"action": "pod-kill", "mode": "one", "selector": {"x": 1}}),
            "spec.podChaos.selector.x: not supported",
        ),
        (
            EXAMPLE.read_text() + "\n---\n" + network("netem"),
            "document 2: spec.action: netem",
        ),
        (
            EXAMPLE.read_text().replace("  name:", "  annotations: {}\n  name:"),
            "metadata.annotations: they steer",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_its_path(written: str, told: str) -> None:
    with pytest.raises(PlanInvalid) as refused:
        plan(written)
    assert told in str(refused.value)


def test_a_field_that_nobody_knows_is_refused_wherever_it_stands() -> None:
    def mappings(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        if not isinstance(value, dict):
            return []
        return [path, *(found for key, inner in value.items() for found in mappings(inner, (*path, key)))]

    whole = yaml.safe_load(
        network("delay", delay={"latency": "1s"}, target={"mode": "all", "selector": {"nodes": ["n1"]}})
    )
    for path in mappings(whole):
        if path[-1:] == ("labelSelectors",):
            continue  # any label may be asked for
        spoilt = yaml.safe_load(yaml.safe_dump(whole))
        place = spoilt
        for key in path:
            place = place[key]
        place["surprise"] = "x"
        with pytest.raises(PlanInvalid, match=r"\.".join((*path, "surprise"))):
            plan(yaml.safe_dump(spoilt))


@pytest.mark.parametrize(
    ("mode", "value", "counts"),
    [
        ("one", None, {1}),
        ("all", None, {3}),
        ("fixed", "2", {2}),
        ("fixed", 2, {2}),
        ("fixed", "9", {3}),
        ("fixed-percent", "70", {2}),
        ("random-max-percent", "100", {0, 1, 2}),
    ],
)
def test_modes_choose_so_many(mode: str, value: Any, counts: set[int]) -> None:
    fields = {"mode": mode} | ({} if value is None else {"value": value})
    found = set()
    for seed in range(40):
        faults = plan(on_pods("PodChaos", action="pod-kill", **fields), seed=seed).faults
        found.add(len(faults[0].nodes) if faults else 0)
    assert found == counts


@pytest.mark.parametrize(
    ("selector", "nodes"),
    [
        ({}, ("n1", "n2", "n3")),
        ({"namespaces": ["default", "other"]}, ("n1", "n2", "n3")),
        ({"labelSelectors": {"statefulset.kubernetes.io/pod-name": "n2"}}, ("n2",)),
        ({"nodes": ["n1", "n3"], "labelSelectors": {"app": "backend"}}, ("n1", "n3")),
        (
            {
                "expressionSelectors": [
                    {"key": "app", "operator": "Exists"},
                    {"key": "statefulset.kubernetes.io/pod-name", "operator": "NotIn", "values": ["n1"]},
                ]
            },
            ("n2", "n3"),
        ),
    ],
)
def test_selectors_select(selector: dict[str, Any], nodes: tuple[str, ...]) -> None:
    assert only(on_pods("PodChaos", action="pod-kill", selector=selector)).nodes == nodes


def test_a_schedule_draws_anew_each_time() -> None:
    found = plan(schedule(schedule="@every 500ms", concurrencyPolicy="Allow", historyLimit=3)).faults
    assert [fault.at_s for fault in found] == pytest.approx([n * 0.5 for n in range(1, 60)])
    assert len({fault.nodes for fault in found}) == 3


def test_a_schedule_does_not_begin_what_goes_on_unless_it_may() -> None:
    inner = {"action": "pod-failure", "mode": "one", "selector": BACKEND, "duration": "15s"}
    assert [fault.at_s for fault in plan(schedule(podChaos=inner)).faults] == [10.0]
    allowed = plan(schedule(podChaos=inner, concurrencyPolicy="Allow")).faults
    assert [fault.at_s for fault in allowed] == [10.0, 20.0]


@pytest.mark.parametrize(
    ("written", "until_s", "expected"),
    [
        ("@every 1m30s", 300.0, [90.0, 180.0, 270.0]),
        ("* * * * *", 150.0, [60.0, 120.0]),
        ("*/2 * * * *", 300.0, [120.0, 240.0]),
        ("1,3-4 * * * *", 600.0, [60.0, 180.0, 240.0]),
        ("0 1-2 * * *", 3 * 3600.0, [3600.0, 7200.0]),
        ("@hourly", 7201.0, [3600.0, 7200.0]),
    ],
)
def test_schedules(written: str, until_s: float, expected: list[float]) -> None:
    assert times(written, until_s) == expected


@pytest.mark.parametrize(
    "written", ["60 * * * *", "5-1 * * * *", "*/0 * * * *", "a * * * *", "@every 0s", "@every"]
)
def test_schedules_that_are_none(written: str) -> None:
    with pytest.raises(ValueError, match=r"out of range|is no|above 0"):
        times(written, 1e6)


@pytest.mark.parametrize(
    ("read", "written", "expected"),
    [
        (seconds, "1h30m", 5400.0),
        (seconds, "1.5s", 1.5),
        (seconds, "100us", 1e-4),
        (seconds, "0", 0.0),
        (signed_seconds, "-1m30s", -90.0),
        (signed_seconds, "+2s", 2.0),
        (rate, "1bps", 1.0),
        (rate, "3kbps", 3 * 1024.0),
        (rate, "1 gbps", 1024.0**3),
    ],
)
def test_units(read: Callable[[object], float], written: str, expected: float) -> None:
    assert read(written) == pytest.approx(expected)


class Key:
    """A key that counts how often it is compared."""

    compared = 0

    def __init__(self, name: int) -> None:
        self.name = name

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return isinstance(other, Key) and other.name == self.name


def test_a_key_that_is_there_twice_is_found_without_comparing_each_with_each() -> None:
    keys = [Key(name) for name in range(1000)]
    assert repeated(keys) is None
    assert repeated([*keys, [], Key(7), Key(8)]) == 1001
    assert Key.compared < 10 * len(keys)


def planned_or_refused(written: str) -> None:
    """Anything else that is raised fails the test."""
    try:
        plan(written)
    except PlanInvalid as error:
        told = str(error)
    else:
        told = "planned"
    assert told


@given(st.text(max_size=200))
def test_no_text_does_anything_but_be_refused_or_planned(written: str) -> None:
    planned_or_refused(written)


FIELDS = st.sampled_from(["action", "mode", "selector", "delay", "latency", "value"])
SPECS = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=8,
)


@given(
    SPECS, st.sampled_from(["NetworkChaos", "PodChaos", "IOChaos", "TimeChaos", "StressChaos", "Schedule"])
)
def test_no_spec_does_anything_but_be_refused_or_planned(spec: Any, kind: str) -> None:
    planned_or_refused(document(kind, spec))
