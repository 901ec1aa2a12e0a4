"""Who is meant: selectors and modes, where every node is a pod on a machine of its own.

The pod of node ``n1`` is named ``n1``, lies in the namespace ``default`` and runs on the machine ``n1``. All
nodes carry the labels :data:`NODE_LABELS`, and one with their own name. The clients are one pod more, which
can be on either side of a link and cannot be hit otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from simulations.chaos_mesh.fields import Fields, items, share, text, texts, whole
from simulations.soak.mesh import CLIENTS
from simulations.soak.plan import PlanInvalid

NAMESPACE: Final = "default"
NAME_LABEL: Final = "statefulset.kubernetes.io/pod-name"
NODE_LABELS: Final = {"app": "backend", "app.kubernetes.io/name": "mcp"}
CLIENT_LABELS: Final = {"app": "client"}
_REASONS: Final = {
    "fieldSelectors": "pods have no fields here: select them by pods or labelSelectors",
    "annotationSelectors": "pods have no annotations here: select them by pods or labelSelectors",
    "nodeSelectors": "machines have no labels here: select them by nodes or labelSelectors",
    "podPhaseSelectors": "pods have no phase here: take it out",
}
_KNOWN: Final = ("namespaces", "labelSelectors", "expressionSelectors", "pods", "nodes")
_MODES: Final[dict[str, str | None]] = dict.fromkeys(
    ("one", "all", "fixed", "fixed-percent", "random-max-percent")
)

Pick = Callable[[random.Random], tuple[str, ...]]
"""Chooses, each time that an experiment begins."""


@dataclass(frozen=True, slots=True)
class Pods:
    """Labels by place, and which of the places are nodes."""

    labels: Mapping[str, Mapping[str, str]]
    nodes: tuple[str, ...]

    @classmethod
    def of(cls, nodes: Sequence[str]) -> Pods:
        """The pods of a cluster."""
        labels = {node: NODE_LABELS | {NAME_LABEL: node} for node in nodes}
        return cls(labels | {CLIENTS: CLIENT_LABELS}, tuple(nodes))

    def described(self) -> str:
        """What there is to be selected, for refusals."""
        return "; ".join(
            f"{place} ({', '.join(f'{key}={value}' for key, value in labels.items())})"
            for place, labels in self.labels.items()
        )


def selected(spec: Fields, pods: Pods, *, clients: bool) -> Pick:
    """Read ``mode``, ``value`` and ``selector``. ``clients``: whether these may be meant.

    Raises :class:`PlanInvalid` also when nobody is meant.
    """
    places = _matching(spec.fields("selector"), pods)
    if not clients:
        places = [place for place in places if place in pods.nodes]
    if not places:
        raise spec.refuse("selector", f"it selects nothing; there are {pods.described()}")
    mode = spec.choice("mode", _MODES)
    if mode in ("one", "all"):
        if spec.has("value"):
            raise spec.refuse("value", f"mode {mode} has none: take it out")
        return (lambda generator: (generator.choice(places),)) if mode == "one" else lambda _: tuple(places)
    return _counting(spec, mode, places)


def _counting(spec: Fields, mode: str, places: Sequence[str]) -> Pick:
    def some(generator: random.Random, count: int) -> tuple[str, ...]:
        return tuple(sorted(generator.sample(list(places), min(count, len(places)))))

    if mode == "fixed":
        count = spec.take("value", lambda value: whole(1)(_number(value)))
        return lambda generator: some(generator, count)
    part = spec.take("value", share)
    if mode == "fixed-percent":
        fixed = int(len(places) * part)
        if fixed == 0:
            raise spec.refuse("value", f"{part * 100:g} percent of {len(places)} is nobody: write more")
        return lambda generator: some(generator, fixed)
    return lambda generator: some(generator, int(len(places) * generator.uniform(0, part)))


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _matching(selector: Fields, pods: Pods) -> list[str]:
    places: Iterable[str] = pods.labels
    namespaces = selector.take("namespaces", texts, (NAMESPACE,))
    if NAMESPACE not in namespaces:
        raise selector.refuse("namespaces", f"every pod here is in the namespace {NAMESPACE!r}: name that")
    if selector.has("pods"):
        named = _pods(selector.fields("pods"), pods)
        places = [place for place in places if place in named]
    if selector.has("nodes"):
        machines = selector.take("nodes", texts)
        _check_names(selector.at("nodes"), machines, pods)
        places = [place for place in places if place in machines]
    wanted = selector.take("labelSelectors", _labels, {})
    rules = selector.take("expressionSelectors", items, ())
    for number, rule in enumerate(rules):
        fits = _expression(Fields(rule, f"{selector.at('expressionSelectors')}[{number}]"))
        places = [place for place in places if fits(pods.labels[place])]
    selector.done(_REASONS, known=_KNOWN)
    return [place for place in places if wanted.items() <= pods.labels[place].items()]


def _pods(named: Fields, pods: Pods) -> tuple[str, ...]:
    found = named.take(NAMESPACE, texts)
    _check_names(named.at(NAMESPACE), found, pods)
    named.done({}, known=(NAMESPACE,))
    return found


def _check_names(path: str, names: Iterable[str], pods: Pods) -> None:
    for name in names:
        if name not in pods.labels:
            raise PlanInvalid(f"{path}: there is no {name!r}; there are {', '.join(pods.labels)}")


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"a mapping of labels to values is expected, not {value!r:.40}")
    return {text(key): text(label) for key, label in value.items()}


def _expression(rule: Fields) -> Callable[[Mapping[str, str]], bool]:
    key = rule.take("key", text)
    operator = rule.choice("operator", dict.fromkeys(("In", "NotIn", "Exists", "DoesNotExist")))
    values = rule.take("values", texts, ())
    rule.done({}, known=("key", "operator", "values"))
    if bool(values) is (operator in ("Exists", "DoesNotExist")):
        raise rule.refuse("values", f"{operator} {'has none' if values else 'needs some'}")
    return {
        "In": lambda labels: labels.get(key) in values,
        "NotIn": lambda labels: labels.get(key) not in values,
        "Exists": lambda labels: key in labels,
        "DoesNotExist": lambda labels: key not in labels,
    }[operator]
