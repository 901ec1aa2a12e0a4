"""Reading a node's answers into results. A node is trusted, and may still be newer, older or wrong.

Unknown fields are ignored. A field that is missing or of another type is a
:class:`~mcp.errors.ProtocolError` that names it, never a ``KeyError`` in the caller's face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mcp.client.results import (
    Array,
    Deployment,
    Inference,
    InferenceRecord,
    KeyValue,
    MemberStatus,
    ModelStatus,
    NodeStatus,
    PeerStatus,
    ReplicaComparison,
)
from mcp.errors import McpError, ProtocolError, from_wire

T = TypeVar("T")


def required(source: Mapping[str, Any], name: str, kind: type[T], what: str) -> T:
    """``source[name]``, which must be a ``kind``. ``what`` names the answer in the error."""
    value = source.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolError(
            f"{what}: the field {name!r} should be of type {kind.__name__} and is {value!r:.80}; check that"
            " the node's version fits this client's"
        )
    return value


def mapping(value: object, what: str) -> dict[str, Any]:
    """``value``, which must be a map with text keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ProtocolError(f"{what}: expected a map with text keys, got {value!r:.80}")
    return dict(value)


def strings(value: object, what: str) -> list[str]:
    """``value``, which must be a list of texts; ``None`` is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ProtocolError(f"{what}: expected a list of texts, got {value!r:.80}")
    return list(value)


def items(value: object, what: str) -> list[dict[str, Any]]:
    """``value``, which must be a list of maps; ``None`` is an empty one."""
    return [mapping(item, what) for item in _listed(value, what)]


def _listed(value: object, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise ProtocolError(f"{what}: expected a list, got {value!r:.80}")
    return list(value)


def key_value(value: object) -> KeyValue | None:
    """The answer to a read of kind ``key``."""
    if value is None:
        return None
    what = "the answer to a key's read"
    fields = mapping(value, what)
    return KeyValue(
        key=required(fields, "key", str, what),
        value=fields.get("value"),
        version=required(fields, "version", int, what),
        index=required(fields, "index", int, what),
        writer=_optional(fields, "writer", str),
    )


def origin(value: Mapping[str, Any], what: str) -> tuple[str, str, str]:
    """The model, the version and the node that an answer with outputs comes from."""
    return (
        required(value, "model", str, what),
        str(value.get("version", "")),
        required(value, "node", str, what),
    )


def inference(value: Mapping[str, Any], outputs: dict[str, Array], what: str) -> Inference:
    """The payload of ``INFER_RESPONSE``, with its ``outputs`` already read."""
    found = Inference(outputs, *origin(value, what))
    fallback = fallback_of(value)
    if fallback is None:
        return found
    age_s = _optional(value, "age_s", (int, float))
    return replace(found, fallback=fallback, age_s=None if age_s is None else float(age_s))


def fallback_of(value: Mapping[str, Any]) -> str | None:
    """Which fallback an answer is; ``None``: it is the model's own."""
    return _optional(value, "fallback", str)


def deployment(value: Mapping[str, Any]) -> Deployment:
    """The payload of ``DEPLOYED``."""
    what = "the answer to a deploy"
    return Deployment(
        name=required(value, "name", str, what),
        version=str(value.get("version")),
        digest=required(value, "digest", str, what),
        size=required(value, "size", int, what),
        holders=strings(value.get("holders"), what),
        index=required(value, "index", int, what),
    )


def model(value: Mapping[str, Any]) -> ModelStatus:
    """One model of a ``models`` read or of ``STATUS_RESULT``."""
    what = "a model's status"
    version = value.get("version")
    return ModelStatus(
        name=required(value, "name", str, what),
        version="" if version is None else str(version),
        versions=[str(v) for v in _listed(value.get("versions"), what)],
        digest=_optional(value, "digest", str) or "",
        aliases=strings(value.get("aliases"), what),
        holders=strings(value.get("holders"), what),
        ready=_optional(value, "ready", bool),
        problem=_problem(value.get("problem"), what),
        size=_optional(value, "size", int),
        family=_optional(value, "family", str),
        task=_optional(value, "task", str),
        tags=strings(value["tags"], what) if "tags" in value else None,
        inputs=items(value["inputs"], what) if "inputs" in value else None,
        outputs=items(value["outputs"], what) if "outputs" in value else None,
        batching=_optional(value, "batching", dict),
        inference=_optional(value, "inference", dict),
    )


def member(value: Mapping[str, Any]) -> MemberStatus:
    """One member of a ``members`` read or of ``STATUS_RESULT``."""
    what = "a member's status"
    return MemberStatus(
        node=required(value, "node", str, what),
        address=_optional(value, "address", str) or "",
        state=_optional(value, "state", str) or "",
        schema=_optional(value, "schema", int) or 1,
        role=_optional(value, "role", str) or "",
        journal=_optional(value, "journal", int),
    )


def node_status(address: str, value: Mapping[str, Any]) -> NodeStatus:
    """The payload of ``STATUS_RESULT`` from the node at ``address``."""
    what = f"the status of {address}"
    peers = mapping(value.get("peers") or {}, what)
    return NodeStatus(
        address=address,
        node=required(value, "node", str, what),
        role=_optional(value, "role", str),
        term=_number(value, "term"),
        leader=_optional(value, "leader", str),
        leader_address=_optional(value, "leader_address", str),
        first_index=_number(value, "first_index"),
        last_index=_number(value, "last_index"),
        commit_index=_number(value, "commit_index"),
        applied_index=_number(value, "applied_index"),
        voters=strings(value.get("voters"), what),
        observers=strings(value.get("observers"), what),
        standing=_optional(value, "standing", str) or "",
        peers={name: _peer(mapping(peer, what)) for name, peer in peers.items()},
        members=[member(item) for item in items(value.get("members"), what)],
        models=[model(item) for item in items(value.get("models"), what)],
        providers=strings(value.get("providers"), what),
        schema=mapping(value.get("schema") or {}, what),
        storage=_optional(value, "storage", str) or "unknown",
        uptime_s=float(_optional(value, "uptime_s", (int, float)) or 0.0),
        version=_optional(value, "version", str) or "",
        package_version=_optional(value, "package_version", str),
        caught_up=_optional(value, "caught_up", bool),
        metrics=mapping(value.get("metrics") or {}, what),
        replacing=mapping(value.get("replacing") or {}, what),
        details=dict(value),
    )


def record(value: Mapping[str, Any], outputs: dict[str, Array] | None) -> InferenceRecord:
    """The record of a submitted inference, with its ``outputs`` already read."""
    what = "an inference's record"
    replicas = mapping(value.get("replicas") or {}, what)
    error = value.get("error")
    return InferenceRecord(
        id=required(value, "id", str, what),
        status=required(value, "status", str, what),
        mode=_optional(value, "mode", str) or "durable",
        model=_optional(value, "model", str) or "",
        version=str(value.get("version") or ""),
        outputs=outputs,
        error=_problem(error, what),
        node=_optional(value, "node", str),
        token=_number(value, "token"),
        attempts=_number(value, "attempts"),
        replicas={name: _comparison(mapping(item, what)) for name, item in replicas.items()},
    )


def _problem(value: object, what: str) -> McpError | None:
    return None if value is None else from_wire(mapping(value, what))


def _comparison(value: Mapping[str, Any]) -> ReplicaComparison:
    diff = _optional(value, "max_abs_diff", (int, float))
    return ReplicaComparison(
        equal=bool(value.get("equal", False)), max_abs_diff=None if diff is None else float(diff)
    )


def _peer(value: Mapping[str, Any]) -> PeerStatus:
    return PeerStatus(connected=bool(value.get("connected", False)), match=_optional(value, "match", int))


def _number(value: Mapping[str, Any], name: str) -> int:
    found = value.get(name)
    return found if isinstance(found, int) else 0


def _optional(value: Mapping[str, Any], name: str, kind: type[T] | tuple[type[T], ...]) -> T | None:
    found = value.get(name)
    return found if isinstance(found, kind) else None


def members_named(error: McpError) -> list[tuple[str, str]]:
    """The members, as node id and address, whom a node that was removed names to be asked in its place."""
    told = error.details.get("members")
    members = [each for each in told if isinstance(each, Mapping)] if isinstance(told, list) else []
    named = [(each.get("node"), each.get("address")) for each in members]
    return [(node, at) for node, at in named if isinstance(node, str) and isinstance(at, str)]
