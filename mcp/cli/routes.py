"""``mcpctl route``: which version answers what, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table

from mcp.cli.connection import client_command
from mcp.cli.documents import documents, is_rules, mapping, named, read_text
from mcp.cli.infer import with_types
from mcp.cli.inputs import Request, described_inputs, header_of, request_message
from mcp.cli.options import json_option, option
from mcp.cli.output import print_json, print_parts, table
from mcp.client.client import Client
from mcp.cluster.router.routes import Entry, Match, Route, RouteSet
from mcp.cluster.router.rules import RuleSet
from mcp.cluster.router.virtual_service import routes_from_virtual_service
from mcp.cluster.scheduler.strategies import STRATEGIES
from mcp.errors import InvalidArgument, McpError
from mcp.wire.tensors import BYTES_DTYPE, pack_inline

expected_version_option = option(
    "--expected-version",
    type=click.IntRange(min=0),
    help="Change it only if it is at this version; 0: if there never was anything.",
)


@click.group(
    name="route",
    epilog="""\b
Examples:
  mcpctl route apply examples/virtual_service.yaml
  mcpctl route strategy digits predicted_completion
  mcpctl route explain examples/infer_request.json""",
)
def route() -> None:
    """Which version of which model answers a request, where, and why: rules, weighted routes, strategies.

    'mcpctl routes' is the same.
    """


@route.command(
    name="apply",
    short_help="Put rules or routes into force on every node.",
    epilog="""\b
Examples:
  mcpctl route apply examples/routing.rules
  mcpctl route apply examples/virtual_service.yaml
  echo 'when length > 2048 use glm-large' | mcpctl route apply -
  mcpctl route apply canary.json --expected-version 3

A file of rules has one a line, and replaces all rules that there are:
  when family == glm and length > 2048 use glm-large on provider:cuda

Routes replace those of the same hosts. They are Istio's VirtualService as it stands (hosts are models,
subsets are versions), in YAML or JSON, or what 'mcpctl route list --json' prints under "routes".""",
)
@click.argument("file")
@expected_version_option
@json_option
@client_command
async def apply_(client: Client, file: str, expected_version: int | None, as_json: bool) -> None:
    """Put the rules or the routes in FILE into force ('-': standard input), on every node at once.

    What is wrong or not supported is refused by its place, and so is what leads to a model or a version
    that is not deployed: nothing is changed then.
    """
    text = read_text(file)
    if is_rules(text):
        with named(file):
            rules = [str(rule) for rule in RuleSet.read(text).rules]
            version = await client.set_rules(rules, expected_version=expected_version)
        _tell({"rules": rules, "version": version}, f"{_count(rules, 'rule')} in force", version, as_json)
        return
    routes = [each for document in documents(text, file) for each in routes_of(document, file)]
    plain = RouteSet().apply(routes).to_plain()["routes"]
    if len(plain) < len(routes):
        raise InvalidArgument(f"{file} has two routes for one host; give one for each")
    with named(file):
        version = await client.apply_routes(plain, expected_version=expected_version)
    told = f"{_count(plain, 'route')} in force ({', '.join(each['host'] for each in plain)})"
    _tell({"routes": plain, "version": version}, told, version, as_json)


def routes_of(document: object, where: str) -> list[Route]:
    """Return the routes in a document. Raises :class:`~mcp.errors.InvalidArgument` with the field's path."""
    fields = mapping(document, where)
    with named(where):
        if "routes" in fields and "apiVersion" not in fields:
            return list(RouteSet.from_plain({"version": 0, **_without(fields, "version", "index")}).routes)
        return list(routes_from_virtual_service(fields))


def _without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


@route.command(
    name="list",
    short_help="Show the rules, the routes and the strategies.",
    epilog="""\b
Examples:
  mcpctl route list
  mcpctl route list --json""",
)
@json_option
@client_command
async def list_(client: Client, as_json: bool) -> None:
    """Show the rules, in the order in which they are tried, the routes by their hosts, and the strategies."""
    rules, routes, strategies = await client.rules(), await client.routes(), await client.strategies()
    if as_json:
        print_json({"rules": rules, "routes": routes, "strategies": strategies})
        return
    parts: list[RenderableType] = [f"rules, version {rules.version}"]
    if rules.rules:
        parts.append(rules_table(rules.rules))
    known = RouteSet.from_plain({"version": routes.version, "routes": routes.routes})
    parts.append(f"routes, version {routes.version}")
    if known.routes:
        parts.append(routes_table(known.routes))
    if strategies.strategies:
        parts.append(f"strategies, version {strategies.version}")
        parts.append(strategies_table(strategies.strategies))
    print_parts(*parts)


def strategies_table(strategies: Mapping[str, str]) -> Table:
    """Return the strategies, one a row."""
    rows = table("model", "strategy")
    for model, name in strategies.items():
        rows.add_row(model, name)
    return rows


def rules_table(rules: Sequence[str]) -> Table:
    """Return the rules, one a row."""
    rows = table("#", "rule")
    for place, rule in enumerate(rules, 1):
        rows.add_row(str(place), rule)
    return rows


def routes_table(routes: Sequence[Route]) -> Table:
    """Return the entries of all routes, one a row."""
    rows = table("host", "entry#", "where", "to", "copies to", "timeout")
    for each in routes:
        for place, entry in enumerate(each.entries, 1):
            rows.add_row(
                each.host,
                str(place),
                " or ".join(map(_matched, entry.matches)) or "always",
                _destinations(entry),
                ", ".join(f"{mirror} {mirror.percent:g} %" for mirror in entry.mirrors),
                "" if entry.timeout_s is None else f"{entry.timeout_s:g} s",
            )
    return rows


def _destinations(entry: Entry) -> str:
    total = sum(each.weight for each in entry.destinations)
    return ", ".join(f"{each} {100 * each.weight / total:.3g} %" for each in entry.destinations)


def _matched(match: Match) -> str:
    wanted = [f"{name} {each.kind} {each.value}".strip() for name, each in match.headers]
    unwanted = [f"not {name} {each.kind} {each.value}".strip() for name, each in match.without_headers]
    return " and ".join(wanted + unwanted) or "always"


@route.command(
    name="remove",
    short_help="Remove routes by their hosts, or all rules.",
    epilog="""\b
Examples:
  mcpctl route remove product-service
  mcpctl route remove --rules""",
)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@option("--rules", "all_rules", is_flag=True, help="Remove all rules instead.")
@expected_version_option
@json_option
@client_command
async def remove(
    client: Client, hosts: tuple[str, ...], all_rules: bool, expected_version: int | None, as_json: bool
) -> None:
    """Have no route for each HOST any more: its active version answers again."""
    if all_rules == bool(hosts):
        raise InvalidArgument("give the hosts whose routes are to go, or --rules")
    if all_rules:
        version = await client.set_rules([], expected_version=expected_version)
        _tell({"rules": [], "version": version}, "there are no rules any more", version, as_json)
        return
    removed = await client.remove_routes(hosts, expected_version=expected_version)
    if as_json:
        print_json({"removed": removed})
    else:
        missing = [host for host in hosts if host not in removed]
        click.echo(f"removed: {', '.join(removed) or 'nothing'}")
        if missing:
            click.echo(f"mcpctl: there was no route for {', '.join(missing)}", err=True)


@route.command(
    name="strategy",
    short_help="Say how the node for a model's requests is chosen.",
    epilog="""\b
Examples:
  mcpctl route strategy digits
  mcpctl route strategy digits predicted_completion
  mcpctl route strategy digits --default

\b
Strategies:
  round_robin           each node in turn
  least_loaded          the node with the least load: processors, memory, queue
  priority_queue        requests wait where they arrive until a node has a free place,
                        the most urgent first ("priority", 0 to 15)
  predicted_completion  the node that is expected to answer first""",
)
@click.argument("model")
@click.argument("name", required=False, type=click.Choice(STRATEGIES), metavar="[NAME]")
@option("--default", "remove", is_flag=True, help="Have none: the node that is asked answers.")
@expected_version_option
@json_option
@client_command
async def strategy(
    client: Client, model: str, *, name: str | None, remove: bool, expected_version: int | None, as_json: bool
) -> None:
    """Have the strategy NAME choose the node for each request for MODEL; without NAME, show which does.

    It is in force on every node at once. Streams, and inferences in the log, are not given to others by it.
    """
    if remove and name is not None:
        raise InvalidArgument("give the name of a strategy, or --default")
    if not remove and name is None:
        known = await client.strategies()
        answer = {"model": model, "strategy": known.strategies.get(model), "version": known.version}
        _tell(
            answer,
            f"{model}: {answer['strategy'] or 'the node that is asked answers'}",
            known.version,
            as_json,
        )
        return
    version = await client.set_strategy(model, name, expected_version=expected_version)
    text = f"{model}: {name or 'the node that is asked answers'}"
    _tell({"model": model, "strategy": name, "version": version}, text, version, as_json)


@route.command(
    name="explain",
    short_help="Say which version and nodes would answer, and why.",
    epilog="""\b
Examples:
  mcpctl route explain examples/infer_request.json
  mcpctl route explain request.json --session user-17 --header x-tester=true --json""",
)
@click.argument("request", metavar="REQUEST.json")
@option("--session", metavar="TEXT", help="What the request sticks to a version by; otherwise the file's.")
@option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header. Repeatable.")
@option("--seed", type=int, default=0, show_default=True, help="Stands for all chance in the decision.")
@json_option
@client_command
async def explain(
    client: Client,
    request: str,
    *,
    session: str | None,
    headers: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Say which version and nodes would answer the INFER_REQUEST in REQUEST.json, and why; nothing is run.

    The node that is asked decides on what it knows of the others. '-' reads standard input.
    """
    payload, trace_id = await explained_request(client, request)
    payload |= {"seed": seed, **({} if session is None else {"session": session})}
    if headers:
        payload["headers"] = {**payload.get("headers", {}), **dict(map(header_of, headers))}
    try:
        decision = await client.explain(payload, trace_id=trace_id)
    except McpError as error:
        reasons = error.details.get("reasons")
        if reasons and not as_json:
            print_parts(*map(str, reasons))
        raise
    if as_json:
        print_json(decision)
    else:
        print_parts(*decision_parts(decision))


async def explained_request(client: Client, where: str) -> tuple[dict[str, Any], str]:
    """Read a request that is to be explained: its payload, whose tensors have no data, and its trace id.

    Only texts keep their data, for no shape tells how large they are.
    """
    message = request_message(where)
    payload = dict(message.payload)
    if "inputs" in payload:
        arrays, untyped = described_inputs(payload, where)
        hint = payload.get("model_hint")
        request = Request(hint if isinstance(hint, str) else "", arrays, untyped=untyped)
        typed = (await with_types(client, request)).inputs
        assert isinstance(typed, dict)
        payload["inputs"] = [_spec(name, array) for name, array in typed.items()]
    return payload, message.trace_id


def _spec(name: str, array: Any) -> dict[str, Any]:
    spec = pack_inline(name, array)
    return spec if spec["dtype"] == BYTES_DTYPE else {**spec, "data": None}


def decision_parts(decision: Mapping[str, Any]) -> list[RenderableType]:
    """Return what was decided in a line, then the reasons, one a row."""
    nodes = ", then ".join(map(str, decision["nodes"]))
    parts: list[RenderableType] = [
        f"{decision['model']} version {decision['version']} on {nodes}"
        f" (rules version {decision['rules_version']}, routes version {decision['routes_version']})"
    ]
    rows = table("step", "reason")
    for reason in decision["reasons"]:
        rows.add_row(reason["step"], reason["reason"])
    return [*parts, rows]


def _count(values: Sequence[object], what: str) -> str:
    return f"{len(values)} {what}{'' if len(values) == 1 else 's'}"


def _tell(answer: dict[str, Any], text: str, version: int, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{text}, version {version}")
