"""From YAML to a plan: the documents, their heads, and their schedules."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Final

from simulations.chaos_mesh.experiments import Recipe, io, network, pod, stress, time
from simulations.chaos_mesh.fields import Fields, text, whole
from simulations.chaos_mesh.schedule import times
from simulations.chaos_mesh.selector import Pods
from simulations.soak.plan import LiveFault, LivePlan, PlanInvalid

API_VERSION: Final = "chaos-mesh.org/v1alpha1"
BEGIN_S: Final = 1.0
"""An experiment without a schedule begins when there has been load for so long."""
DOCUMENTS_MAX: Final = 100
_MERGE: Final = "tag:yaml.org,2002:merge"
_READERS: Final[dict[str, Callable[[Fields, Pods], Recipe]]] = {
    "NetworkChaos": network,
    "PodChaos": pod,
    "IOChaos": io,
    "TimeChaos": time,
    "StressChaos": stress,
}
_UNSUPPORTED: Final = {
    "Workflow": "write its experiments as documents of their own, or as Schedules",
    "DNSChaos": "nodes are found by address",
    "HTTPChaos": "nodes speak no HTTP to each other",
    "JVMChaos": "there is no Java",
    "KernelChaos": "the kernel is everybody's",
    "BlockChaos": "use IOChaos",
    "PhysicalMachineChaos": "use PodChaos, NetworkChaos, IOChaos and TimeChaos",
    "AWSChaos": "there is no cloud below",
    "GCPChaos": "there is no cloud below",
    "AzureChaos": "there is no cloud below",
}


def plan_from_yaml(
    written: str, nodes: Sequence[str], *, seconds: float, seed: int = 0, pods: Pods | None = None
) -> LivePlan:
    """The plan of one or more documents, for a run of ``seconds``.

    The seed chooses where a mode leaves it open. ``pods`` says which labels there are, if not the usual
    ones. Raises :class:`~simulations.soak.plan.PlanInvalid` with the path of the field that cannot be
    honoured.
    """
    pods = pods or Pods.of(nodes)
    generator = random.Random(f"chaos-mesh/{seed}")
    faults: list[LiveFault] = []
    documents = list(_documents(written))
    if not documents:
        raise PlanInvalid("there is no document in it")
    for number, document in enumerate(documents):
        try:
            faults += _faults(Fields(document, ""), pods, generator, seconds)
        except PlanInvalid as error:
            place = f"document {number + 1}: " if len(documents) > 1 else ""
            raise PlanInvalid(f"{place}{error}") from None
    return LivePlan.of(faults).within(seconds)


def repeated(keys: Iterable[object]) -> int | None:
    """The place of the first key that was there before. What cannot be a key is not looked at."""
    seen: set[Hashable] = set()
    for place, key in enumerate(keys):
        if isinstance(key, Hashable):
            if key in seen:
                return place
            seen.add(key)
    return None


def _refusing(safe_loader: Any) -> Any:
    """A loader that refuses what YAML's safe one would overwrite without a word, or put together."""

    class Loader(safe_loader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            nodes = [key for key, _ in node.value]
            for key in nodes:
                if key.tag == _MERGE:
                    where = f"(line {key.start_mark.line + 1})"
                    raise PlanInvalid(f"<<: merge keys are not read: write the fields themselves {where}")
            keys = [self.construct_object(key, deep=True) for key in nodes]
            place = repeated(keys)
            if place is not None:
                line = nodes[place].start_mark.line + 1
                raise PlanInvalid(f"{keys[place]!s:.60}: it is there twice (line {line})")
            return super().construct_mapping(node, deep)

    return Loader


def _documents(written: str) -> Iterator[Any]:
    try:
        yaml = importlib.import_module("yaml")
    except ModuleNotFoundError:
        raise PlanInvalid(
            "reading YAML needs PyYAML: pip install 'message-coordination-protocol[simulations]'"
        ) from None

    loader = None
    try:
        loader = _refusing(yaml.SafeLoader)(written)
        count = 0
        while loader.check_data():
            count += 1
            if count > DOCUMENTS_MAX:
                raise PlanInvalid(f"more than {DOCUMENTS_MAX} documents")
            document = loader.get_data()
            if document is not None:
                yield document
    except PlanInvalid:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Its constructors let errors of their own through: of dates that do not exist, for one.
        raise PlanInvalid(f"this is not YAML: {' '.join(str(error).split())}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _faults(document: Fields, pods: Pods, generator: random.Random, until_s: float) -> list[LiveFault]:
    document.choice("apiVersion", {API_VERSION: None})
    kind = document.choice("kind", dict.fromkeys([*_READERS, "Schedule"]) | _UNSUPPORTED)
    _head(document.fields("metadata"))
    spec = document.fields("spec")
    document.done({"status": "it is the cluster's to write: take it out"})
    if kind == "Schedule":
        return _scheduled(spec, pods, generator, until_s)
    if until_s <= BEGIN_S:
        raise PlanInvalid(f"the run is too short: an experiment begins after {BEGIN_S:g} s")
    return _READERS[kind](spec, pods)(generator, BEGIN_S, until_s)


def _head(metadata: Fields) -> None:
    metadata.take("name", text)
    metadata.take("namespace", text, None)
    metadata.take("labels", lambda value: Fields(value, metadata.at("labels")), None)
    metadata.done({"annotations": "they steer Chaos Mesh's controller, which is not here: take them out"})


def _scheduled(spec: Fields, pods: Pods, generator: random.Random, until_s: float) -> list[LiveFault]:
    begins = spec.take("schedule", lambda value: times(value, until_s))
    kind = spec.choice("type", dict.fromkeys(_READERS) | _UNSUPPORTED)
    overlapping = spec.choice("concurrencyPolicy", dict.fromkeys(("Forbid", "Allow")), "Forbid") == "Allow"
    # How many finished experiments Kubernetes keeps as objects; here the report keeps all of them.
    spec.take("historyLimit", whole(1), None)
    name = kind[0].lower() + kind[1:] if not kind.startswith("IO") else "ioChaos"
    recipe = _READERS[kind](spec.fields(name), pods)
    spec.done(
        {"startingDeadlineSeconds": "nothing here starts late: take it out"},
        known=("schedule", "type", "concurrencyPolicy", "historyLimit", name),
    )
    faults: list[LiveFault] = []
    for at_s in begins:
        if not overlapping and any(fault.ends_s > at_s for fault in faults):
            continue
        faults += recipe(generator, at_s, until_s)
    return faults
