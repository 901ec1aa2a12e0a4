"""Istio's VirtualService as routes: hosts are models, subsets are versions.

The document is plain data: whoever has the YAML loads it. What has no meaning here is refused by the path of
its field, and nothing is ignored: a field of Istio's as not supported, any other as unknown, with the one
that may be meant. Source: istio.io, "Reference: Virtual Service" (networking.istio.io/v1).

Read are ``spec.hosts`` and, of ``spec.http[]``: ``name``; ``match[]`` with ``name``, ``headers`` and
``withoutHeaders`` (``exact``, ``prefix``, ``regex``, or ``{}`` for one that is there); ``route[]`` with
``destination.host``, ``destination.subset`` and ``weight``; ``mirror`` with ``mirrorPercentage``, or
``mirrors[]``; ``timeout``; ``retries`` with ``attempts`` and ``perTryTimeout``.
"""

from __future__ import annotations

from typing import Final

from mcp.cluster.router.fields import Fields, duration, items, number, text, whole
from mcp.cluster.router.routes import (
    ATTEMPTS_MAX,
    DESTINATIONS_MAX,
    ENTRIES_MAX,
    MATCHES_MAX,
    MIRRORS_MAX,
    WEIGHT_MAX,
    Destination,
    Entry,
    Match,
    Mirror,
    Retries,
    Route,
    TextMatch,
    check_weights,
    distinct,
    header_matches,
)
from mcp.errors import InvalidArgument

HOSTS_MAX: Final = 64
"""The most hosts of one document."""

_API_VERSIONS: Final = tuple(f"networking.istio.io/{version}" for version in ("v1", "v1beta1", "v1alpha3"))
_PSEUDO_HEADERS: Final = frozenset({"uri", "scheme", "method", "authority"})
_ISTIO_S: Final = (
    *("annotations", "labels", "creationTimestamp", "generation", "resourceVersion", "uid", "managedFields"),
    *("redirect", "directResponse", "delegate", "rewrite", "corsPolicy", "headers"),
    *("scheme", "method", "authority", "queryParams", "ignoreUriCase", "sourceLabels", "sourceNamespace"),
    *("statPrefix", "retryRemoteLocalities", "retryIgnorePreviousHosts", "backoff"),
)
"""Fields of Istio's, and of Kubernetes' metadata, that are none here, at least not wherever they are left."""
_UNSUPPORTED: Final = {
    **dict.fromkeys(_ISTIO_S, "not supported: take it out"),
    "tls": "routes are of inference requests: take it out",
    "tcp": "routes are of inference requests: take it out",
    "gateways": "every node takes every request: take it out",
    "exportTo": "there are no namespaces here: take it out",
    "namespace": "there are no namespaces here: take it out",
    "status": "it is the cluster's to write: take it out",
    "port": "a model has no ports: take it out",
    "mirrorPercent": "deprecated by Istio: write mirrorPercentage with a value",
    "mirror_percent": "deprecated by Istio: write mirrorPercentage with a value",
    "fault": "faults are injected by a plan of the simulations, not by a route: take it out",
    "retryOn": "which failures are tried again is decided by their codes: take it out",
}


def routes_from_virtual_service(document: object) -> tuple[Route, ...]:
    """Return the routes of one loaded document, one for each of its hosts.

    Raises :class:`~mcp.errors.InvalidArgument` with the path of the field that is wrong or not supported.
    """
    fields = Fields(document, "")
    version = fields.take("apiVersion", text)
    if version not in _API_VERSIONS:
        raise fields.refuse("apiVersion", f"one of {', '.join(_API_VERSIONS)} is expected, not {version:.60}")
    kind = fields.take("kind", text)
    if kind != "VirtualService":
        raise fields.refuse("kind", f"VirtualService is expected, not {kind:.60}")
    metadata = fields.fields("metadata")
    metadata.take("name", text)
    metadata.done(_UNSUPPORTED)
    spec = fields.fields("spec")
    fields.done(_UNSUPPORTED)
    hosts = spec.take("hosts", lambda value: [text(host) for host in items(value, HOSTS_MAX)])
    entries = spec.each("http", ENTRIES_MAX, _entry, needed=True)
    spec.done(_UNSUPPORTED)
    if not hosts or len(set(hosts)) < len(hosts) or any("*" in host for host in hosts):
        raise spec.refuse("hosts", "names of models are expected, each once and without *")
    return tuple(Route(host, entries) for host in hosts)


def _entry(fields: Fields) -> Entry:
    destinations = fields.each("route", DESTINATIONS_MAX, _destination, needed=True)
    entry = Entry(
        distinct(_weighted(destinations, fields), fields, "route"),
        fields.each("match", MATCHES_MAX, _match),
        _mirrors(fields),
        fields.take("timeout", duration, None),
        fields.take("retries", lambda value: _retries(Fields(value, fields.at("retries"))), None),
        fields.take("name", text, ""),
    )
    fields.done(_UNSUPPORTED)
    return entry


def _destination(fields: Fields) -> tuple[str, str | None, int | None]:
    model, version = _target(fields.fields("destination"))
    weight = fields.take("weight", whole(0, WEIGHT_MAX), None)
    fields.done(_UNSUPPORTED)
    return model, version, weight


def _target(fields: Fields) -> tuple[str, str | None]:
    model, version = fields.take("host", text), fields.take("subset", text, None)
    fields.done(_UNSUPPORTED)
    return model, version


def _weighted(
    destinations: tuple[tuple[str, str | None, int | None], ...], fields: Fields
) -> tuple[Destination, ...]:
    """A single destination gets everything, whatever its weight, as in Istio; of several each has one."""
    if len(destinations) == 1:
        model, version, _ = destinations[0]
        return (Destination(model, version, 100),)
    found: list[Destination] = []
    for place, (model, version, weight) in enumerate(destinations):
        if weight is None:
            raise fields.refuse(
                f"route[{place}].weight", "missing, and needed where there are several destinations"
            )
        found.append(Destination(model, version, weight))
    check_weights([each.weight for each in found], fields.at("route"))
    return tuple(found)


def _match(fields: Fields) -> Match:
    fields.take("name", text, None)
    match = Match(_headers(fields, "headers"), _headers(fields, "withoutHeaders"))
    fields.done({"uri": "a request has a model and no path: take it out", **_UNSUPPORTED})
    return match


def _headers(fields: Fields, name: str) -> tuple[tuple[str, TextMatch], ...]:
    path = fields.at(name)
    found = fields.take(name, lambda value: header_matches(Fields(value, path)), ())
    pseudo = next((header for header, _ in found if header in _PSEUDO_HEADERS), None)
    if pseudo is not None:
        raise InvalidArgument(
            f"{path}.{pseudo}: not a header: take it out", details={"path": f"{path}.{pseudo}"}
        )
    return found


def _mirrors(fields: Fields) -> tuple[Mirror, ...]:
    several = fields.each("mirrors", MIRRORS_MAX, _mirror)
    one = fields.take("mirror", lambda value: _target(Fields(value, fields.at("mirror"))), None)
    percent = _percent(fields, "mirrorPercentage")
    if one is None:
        if percent is not None:
            raise fields.refuse("mirrorPercentage", "there is no mirror: take it out")
        return several
    if several:
        raise fields.refuse("mirror", "mirrors is there already: write all of them there")
    return (Mirror(*one, 100.0 if percent is None else percent),)


def _mirror(fields: Fields) -> Mirror:
    model, version = _target(fields.fields("destination"))
    percent = _percent(fields, "percentage")
    fields.done(_UNSUPPORTED)
    return Mirror(model, version, 100.0 if percent is None else percent)


def _percent(fields: Fields, name: str) -> float | None:
    def read(value: object) -> float:
        inner = Fields(value, fields.at(name))
        percent = inner.take("value", number(0, 100))
        inner.done(_UNSUPPORTED)
        return percent

    return fields.take(name, read, None)


def _retries(fields: Fields) -> Retries:
    retries = Retries(
        fields.take("attempts", whole(0, ATTEMPTS_MAX)), fields.take("perTryTimeout", duration, None)
    )
    fields.done(_UNSUPPORTED)
    return retries
