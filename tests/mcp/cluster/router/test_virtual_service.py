"""Istio's VirtualService, as plain data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp.cluster.router.routes import Destination, Entry, Match, Mirror, Retries, Route, TextMatch
from mcp.cluster.router.virtual_service import routes_from_virtual_service
from mcp.errors import InvalidArgument

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "virtual_service.yaml"

FULL = yaml.safe_load("""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: glm
spec:
  hosts: [glm, glm-large]
  http:
    - name: testers
      match:
        - name: by-header
          headers:
            End-User: {exact: jason}
            cookie: {regex: "^(.*?;)?(user=jason)(;.*)?$"}
          withoutHeaders:
            x-old: {}
        - headers:
            x-team: {prefix: red-}
      route:
        - destination: {host: glm, subset: v2}
      timeout: 1m2.5s
      retries: {attempts: 3, perTryTimeout: 500ms}
      mirror: {host: glm, subset: v3}
      mirrorPercentage: {value: 12.5}
    - route:
        - destination: {host: glm, subset: v1}
          weight: 9
        - destination: {host: glm}
          weight: 0
      mirrors:
        - destination: {host: glm, subset: v2}
          percentage: {value: 1}
        - destination: {host: glm-small}
""")


def test_the_example_as_it_stands() -> None:
    assert routes_from_virtual_service(yaml.safe_load(EXAMPLE.read_text())) == (
        Route(
            "product-service",
            (
                Entry(
                    (
                        Destination("product-service", "v1", 80),
                        Destination("product-service", "v2", 20),
                    )
                ),
            ),
        ),
    )


def test_everything_that_is_supported() -> None:
    testers = Entry(
        (Destination("glm", "v2", 100),),
        (
            Match(
                (
                    ("cookie", TextMatch("regex", "^(.*?;)?(user=jason)(;.*)?$")),
                    ("end-user", TextMatch("exact", "jason")),
                ),
                (("x-old", TextMatch("present")),),
            ),
            Match((("x-team", TextMatch("prefix", "red-")),)),
        ),
        (Mirror("glm", "v3", 12.5),),
        62.5,
        Retries(3, 0.5),
        "testers",
    )
    rest = Entry(
        (Destination("glm", "v1", 9), Destination("glm", None, 0)),
        mirrors=(Mirror("glm", "v2", 1.0), Mirror("glm-small", None, 100.0)),
    )
    assert routes_from_virtual_service(FULL) == (
        Route("glm", (testers, rest)),
        Route("glm-large", (testers, rest)),
    )


def test_reading_changes_nothing() -> None:
    document = copy.deepcopy(FULL)
    routes_from_virtual_service(document)
    assert document == FULL


def changed(path: str, value: Any) -> Any:
    document: Any = copy.deepcopy(FULL)
    at = document
    *way, last = path.split(".")
    for step in way:
        at = at[int(step)] if step.isdigit() else at[step]
    if value is ...:
        del at[int(last) if last.isdigit() else last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return document


HTTP = "spec.http.0"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("apiVersion", "v1", "apiVersion: one of networking.istio.io/v1"),
        ("kind", "Gateway", "kind: VirtualService is expected"),
        ("kind", ..., "kind: missing"),
        ("metadata.namespace", "x", "metadata.namespace: there are no namespaces"),
        ("metadata.labels", {}, "metadata.labels: not supported"),
        ("status", {}, "status: it is the cluster's"),
        ("spec.tls", [], "spec.tls: routes are of inference"),
        ("spec.tcp", [{}], "spec.tcp: routes are of inference"),
        ("spec.gateways", ["mesh"], "spec.gateways: every node"),
        ("spec.exportTo", ["*"], "spec.exportTo: there are no"),
        ("spec.hosts", [], "spec.hosts: names of models"),
        ("spec.hosts", ["*.local"], "spec.hosts: names of models"),
        ("spec.hosts", ["a", "a"], "spec.hosts: names of models"),
        ("spec.hosts", "glm", "spec.hosts: a list is expected"),
        ("spec.http", ..., "spec.http: missing"),
        ("spec.http", [], "spec.http: at least one"),
        *[
            (f"{HTTP}.{field}", {"x": 1}, rf"spec.http\[0\].{field}: ")
            for field in (
                "redirect",
                "directResponse",
                "delegate",
                "rewrite",
                "fault",
                "corsPolicy",
                "headers",
            )
        ],
        (f"{HTTP}.headers", {}, r"spec.http\[0\].headers: not supported"),
        (f"{HTTP}.mirrorPercent", 5, r"spec.http\[0\].mirrorPercent: deprecated"),
        (f"{HTTP}.mirror", ..., r"spec.http\[0\].mirrorPercentage: there is no mirror"),
        (f"{HTTP}.mirrors", [{"destination": {"host": "a"}}], r"spec.http\[0\].mirror: mirrors is there"),
        (f"{HTTP}.mirror.port", {"number": 80}, r"spec.http\[0\].mirror.port: a model has no ports"),
        (f"{HTTP}.mirrorPercentage.value", 101, r"mirrorPercentage.value: a number in 0..100"),
        (f"{HTTP}.mirrorPercentage", {}, "mirrorPercentage.value: missing"),
        *[
            (f"{HTTP}.match.0.{field}", {"exact": "/x"}, rf"spec.http\[0\].match\[0\].{field}: ")
            for field in ("uri", "scheme", "method", "authority", "queryParams", "sourceLabels", "gateways")
        ],
        (f"{HTTP}.match.0.port", 80, r"spec.http\[0\].match\[0\].port: "),
        (f"{HTTP}.match.0.ignoreUriCase", True, r"spec.http\[0\].match\[0\].ignoreUriCase: "),
        (f"{HTTP}.match.0.headers.uri", {"exact": "/"}, r"match\[0\].headers.uri: not a header"),
        (f"{HTTP}.match.0.headers.cookie.regex", "(a", r"headers.cookie.regex: the pattern"),
        (
            f"{HTTP}.match.0.headers.cookie",
            {"suffix": "x"},
            r"headers.cookie.suffix: unknown field: take it out; there are: exact",
        ),
        (f"{HTTP}.route", [], r"spec.http\[0\].route: at least one"),
        (f"{HTTP}.route.0.headers", {}, r"spec.http\[0\].route\[0\].headers: not supported"),
        (f"{HTTP}.route.0.destination.port", {}, r"route\[0\].destination.port: a model has no ports"),
        (
            f"{HTTP}.route.0.destination.host",
            ...,
            r"destination.host: missing, and needed; there is",
        ),
        ("spec.http.1.route.0.weight", ..., r"spec.http\[1\].route\[0\].weight: missing"),
        ("spec.http.1.route.0.weight", 0, r"spec.http\[1\].route: integers in 0"),
        ("spec.http.1.route.0.weight", 1.5, r"spec.http\[1\].route\[0\].weight: an integer"),
        (
            "spec.http.1.route.1.destination.subset",
            "v1",
            r"http\[1\].route: a destination is there twice",
        ),
        (f"{HTTP}.timeout", "5", r"spec.http\[0\].timeout: '5' is no duration"),
        (f"{HTTP}.timeout", "0s", r"spec.http\[0\].timeout: '0s' is not above 0"),
        (f"{HTTP}.timeout", "1s" * 200, r"spec.http\[0\].timeout: "),
        (f"{HTTP}.timeout", "25h", r"spec.http\[0\].timeout: '25h' is not above 0"),
        (f"{HTTP}.timeout", 5, r"spec.http\[0\].timeout: 5 is no duration"),
        (f"{HTTP}.retries.retryOn", "5xx", r"spec.http\[0\].retries.retryOn: "),
        (f"{HTTP}.retries.attempts", ..., r"spec.http\[0\].retries.attempts: missing"),
        (f"{HTTP}.retries.attempts", 1000, r"spec.http\[0\].retries.attempts: an integer in 0..10"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_path(path: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        routes_from_virtual_service(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("apiversion", "x", r"apiversion: unknown field; did you mean apiVersion\?"),
        ("spec.hosst", [], r"spec.hosst: unknown field; did you mean hosts\?"),
        (f"{HTTP}.matches", [], r"spec.http\[0\].matches: unknown field; did you mean match\?"),
        (f"{HTTP}.retries.perTryTimout", "1s", r"retries.perTryTimout: unknown field; did you mean perTryT"),
        (f"{HTTP}.route.0.wieght", 1, r"route\[0\].wieght: unknown field; did you mean weight\?"),
        (
            f"{HTTP}.match.0.headers.cookie",
            {"exat": "x"},
            r"cookie.exat: unknown field; did you mean exact\?",
        ),
        (f"{HTTP}.nothing", 1, r"http\[0\].nothing: unknown field: take it out; there are: route, match,"),
    ],
)
def test_what_istio_has_not_either_is_unknown_and_told_with_what_may_be_meant(
    path: str, value: Any, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said) as caught:
        routes_from_virtual_service(changed(path, value))
    assert caught.value.details["path"] == caught.value.message.partition(": ")[0]


def test_a_needed_field_that_is_misspelt_is_told_and_not_that_it_is_missing() -> None:
    document = changed("spec.hosts", ...)
    document["spec"]["hosst"] = ["glm"]
    with pytest.raises(InvalidArgument, match=r"^spec.hosst: unknown field; did you mean hosts\?$"):
        routes_from_virtual_service(document)


@pytest.mark.parametrize("document", [None, [], "x", 7, {1: 2}])
def test_what_is_no_document_is_refused(document: Any) -> None:
    with pytest.raises(InvalidArgument, match="the document: a map is expected"):
        routes_from_virtual_service(document)
