"""The gRPC form of the Open Inference Protocol, on a node's event loop: grpcio, with generic handlers.

Every RPC that is here is listed in :data:`RPCS`. Errors have the status of gRPC that fits the one of HTTP
(:data:`CODES`), and our code in the trailing metadata.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from mcp.errors import Busy, ConfigInvalid, DeadlineExceeded, InvalidArgument, McpError
from mcp.gateway.context import read_context
from mcp.gateway.described import server_metadata
from mcp.gateway.failures import Failure, failure
from mcp.gateway.grpc_details import STATUS_DETAILS, retry_info
from mcp.gateway.grpc_messages import inference_response, read_inference
from mcp.gateway.grpc_schema import SERVICE, messages
from mcp.gateway.limits import (
    BODY_BYTES_MAX,
    BODY_TIMEOUT_S,
    CALLS_MAX,
    CALLS_PER_CONNECTION_MAX,
    CONNECTIONS_MAX,
    GRPC_IDLE_S,
    HEAD_TIMEOUT_S,
    STREAMS_MAX,
)
from mcp.gateway.observer import Observer
from mcp.gateway.operations import Operations
from mcp.gateway.room import Room
from mcp.gateway.trace import carrier
from mcp.net.address import Scheme, parse_address

_log = logging.getLogger("mcp.gateway")

Method = Callable[[Any, Any], Awaitable[Any]]
"""An RPC: of a request, or its bytes, and gRPC's context."""

PROTOCOL: Final = "grpc"

STOP_S: Final = 5.0
"""How long calls that are under way have when the server stops."""

CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""By the status of HTTP. Too large is no exhausted resource, which a client would try again."""

RPCS: Final = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
"""The RPCs with one request and one answer; ``ModelStreamInfer`` is beside them."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", BODY_BYTES_MAX),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", int(HEAD_TIMEOUT_S * 1000)),
    ("grpc.max_connection_idle_ms", int(GRPC_IDLE_S * 1000)),
    ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION_MAX),
)


def credentials(certificate: Path | None, key: Path | None, authority: Path | None) -> Any:
    """What a node's TLS files make of a server, or ``None`` without a certificate.

    With ``authority`` every client must show a certificate that it signed. Raises
    :class:`~mcp.errors.ConfigInvalid` for a file that cannot be read.
    """
    if certificate is None or key is None:
        return None
    try:
        pair = (key.read_bytes(), certificate.read_bytes())
        roots = None if authority is None else authority.read_bytes()
    except OSError as error:
        raise ConfigInvalid(
            f"{error.filename} cannot be read: {error.strerror}; check path and rights"
        ) from error
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)


class GrpcServer:
    """Serves the protocol's service at ``address`` (``host:port``), with TLS where credentials are given."""

    def __init__(
        self,
        operations: Operations,
        address: str,
        *,
        room: Room | None = None,
        credentials: Any = None,
        observer: Observer | None = None,
        connections_max: int = CONNECTIONS_MAX,
        body_timeout_s: float = BODY_TIMEOUT_S,
        streams_max: int = STREAMS_MAX,
    ) -> None:
        """Raises :class:`~mcp.errors.InvalidArgument` for what is no ``host:port``."""
        self._address = parse_address(address)
        if self._address.scheme is not Scheme.TCP:
            raise ConfigInvalid(f"gRPC is served at host:port, not at {address!r:.200}")
        self._credentials = credentials
        self._connections_max = connections_max
        self._service = _Service(
            operations,
            room or Room(),
            observer or Observer(),
            body_timeout_s=body_timeout_s,
            streams_max=streams_max,
        )
        self._server: Any = None
        self.address = ""
        """Where it listens, ``host:port``, once it does."""

    async def start(self) -> None:
        """Listen. Raises :class:`~mcp.errors.ConfigInvalid` where that is not possible."""
        options = (*_OPTIONS, ("grpc.max_allowed_incoming_connections", self._connections_max))
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=CALLS_MAX)
        server.add_generic_rpc_handlers((self._service.handler(),))
        where = str(self._address)
        try:
            if self._credentials is None:
                port = server.add_insecure_port(where)
            else:
                port = server.add_secure_port(where, self._credentials)
            await server.start()
        except (RuntimeError, OSError) as error:
            raise ConfigInvalid(
                f"cannot serve gRPC at {where}; choose another address, or stop what uses this one"
            ) from error
        self._server = server
        self.address = str(replace(self._address, port=port))

    async def stop(self) -> None:
        """Accept no more, let what is under way finish within ``STOP_S``, and close every connection."""
        if self._server is not None:
            await self._server.stop(STOP_S)


class _Service:
    """The RPCs: a message in, a message out."""

    def __init__(
        self,
        operations: Operations,
        room: Room,
        observer: Observer,
        *,
        body_timeout_s: float,
        streams_max: int,
    ) -> None:
        self._operations = operations
        self._observer = observer
        self._room = room
        self._body_timeout_s = body_timeout_s
        self._streams_max = streams_max
        self._streams = 0
        self._messages = messages()

    def handler(self) -> Any:
        """Return gRPC's handler for all of them."""
        handlers = {}
        for name in RPCS:
            # Messages are parsed in the handlers: gRPC tells those that cannot be as an error of the server.
            # And they are read there, for gRPC waits without end for the one message of a unary call.
            handlers[name] = grpc.stream_unary_rpc_method_handler(
                self._answering(name, getattr(self, f"_{name}")), None, _serialized
            )
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream, None, _serialized)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _parsed(self, name: str, data: bytes) -> Any:
        try:
            return self._messages[name].FromString(data)
        except DecodeError as error:
            raise InvalidArgument(f"the request is no {name}: {error}") from None

    def _answering(self, name: str, method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(_requests: Any, context: Any) -> Any:
            with self._observer.request(PROTOCOL, name, _carrier(context)) as seen:
                trace = tuple(seen.headers.items())
                # An aborted call is kept, with this frame, until garbage is looked for: no request is in it.
                told = await self._answered(name, method, context)
                if not isinstance(told, Failure):
                    context.set_trailing_metadata(trace)
                    seen.status = "OK"
                    return told
                seen.status, seen.code = CODES[told.status].name, told.code
                await _abort(context, told, trace)
                raise AssertionError("abort raises")

        return answer

    async def _answered(self, name: str, method: Method, context: Any) -> Any:
        """The answer, or the failure."""
        try:
            return await method(self._parsed(f"{name}Request", await self._read(context)), context)
        except McpError as error:
            return failure(error)
        except Exception as error:
            return _defect(name, error)

    async def _read(self, context: Any) -> bytes:
        """The one message of a call. Raises :class:`~mcp.errors.McpError` where it does not come."""
        try:
            async with asyncio.timeout(self._body_timeout_s):
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the request did not come within {self._body_timeout_s:g} s; send it with its call"
            ) from None
        if data is grpc.aio.EOF:
            raise InvalidArgument("the call ended without a request; send one message")
        read: bytes = data
        return read

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """One answer to each request, in their order; what one fails with is told and ends nothing."""
        if self._streams >= self._streams_max:
            busy = (
                f"streams_max={self._streams_max} streams are open; come back later, or send single requests"
            )
            await _abort(context, failure(Busy(busy)))
        response = self._messages["ModelStreamInferResponse"]
        self._streams += 1
        try:
            async for data in requests:
                yield response(**await self._streamed(data, context))
        finally:
            self._streams -= 1

    async def _streamed(self, data: bytes, context: Any) -> dict[str, Any]:
        identifier = ""
        with self._observer.request(PROTOCOL, "ModelStreamInfer", _carrier(context)) as seen:
            try:
                request = self._parsed("ModelInferRequest", data)
                identifier = request.id
                answer = await self._ModelInfer(request, context)
                seen.status = "OK"
                return {"infer_response": answer}
            except McpError as error:
                told = failure(error)
            except Exception as error:
                told = _defect("ModelStreamInfer", error)
            seen.status, seen.code = CODES[told.status].name, told.code
        return {"error_message": f"{told.code}: {told.message}", "infer_response": {"id": identifier}}

    async def _ServerLive(self, _request: Any, _context: Any) -> Any:  # noqa: N802  (the RPC's name)
        return self._messages["ServerLiveResponse"](live=True)

    async def _ServerReady(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        ready = await self._operations.not_ready() is None
        return self._messages["ServerReadyResponse"](ready=ready)

    async def _ModelReady(self, request: Any, _context: Any) -> Any:  # noqa: N802
        ready = await self._operations.model_ready(request.name, request.version or None)
        return self._messages["ModelReadyResponse"](ready=ready)

    async def _ServerMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return self._messages["ServerMetadataResponse"](**server_metadata())

    async def _ModelMetadata(self, request: Any, _context: Any) -> Any:  # noqa: N802
        metadata = await self._operations.model_metadata(request.name, request.version or None)
        return self._messages["ModelMetadataResponse"](**metadata)

    async def _ModelStatistics(self, request: Any, _context: Any) -> Any:  # noqa: N802
        told = await self._operations.statistics(request.name or None, request.version or None)
        entries = [
            {name: value for name, value in entry.items() if name != "batch_stats"}
            for entry in told["model_stats"]
        ]
        return self._messages["ModelStatisticsResponse"](model_stats=entries)

    async def _RepositoryIndex(self, request: Any, _context: Any) -> Any:  # noqa: N802
        models = await self._operations.repository_index(ready_only=request.ready)
        return self._messages["RepositoryIndexResponse"](models=models)

    async def _RepositoryModelLoad(self, request: Any, _context: Any) -> Any:  # noqa: N802
        unknown = next(iter(request.parameters), None)
        if unknown is not None:
            raise InvalidArgument(
                f'the parameter "{unknown:.80}" cannot be honoured: models are deployed with their bytes by'
                " 'mcpctl deploy'; leave it out"
            )
        await self._operations.load(request.model_name)
        return self._messages["RepositoryModelLoadResponse"]()

    async def _RepositoryModelUnload(self, request: Any, _context: Any) -> Any:  # noqa: N802
        await self._operations.unload(request.model_name)
        return self._messages["RepositoryModelUnloadResponse"]()

    async def _ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._room.request() as held:
            held.enter()
            held.grow(request.ByteSize())
            asked = read_inference(request)
            left_s = context.time_remaining()
            if left_s is not None:
                wishes = replace(asked.wishes, timeout_s=max(0.001, min(left_s, asked.wishes.timeout_s)))
                asked = replace(asked, wishes=wishes)
            told = read_context(context.invocation_metadata() or (), asked.wishes.priority)
            model, version = request.model_name, request.model_version or None
            answer = await self._operations.infer(model, version, asked, told)
            return inference_response(self._messages["ModelInferResponse"], asked, answer)


def _defect(name: str, error: Exception) -> Failure:
    _log.error("%s", name, exc_info=error)
    return failure(McpError(f"a defect of this server: {type(error).__name__}"))


async def _abort(context: Any, told: Failure, trace: tuple[tuple[str, str], ...] = ()) -> None:
    """End a call with its failure. Raises what gRPC raises."""
    code = CODES[told.status]
    await context.abort(code, told.message, (*_metadata(told, code.value[0]), *trace))


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _carrier(context: Any) -> dict[str, str]:
    """What the call's metadata say of its trace."""
    return carrier(context.invocation_metadata() or ())


def _metadata(told: Failure, code: int) -> tuple[tuple[str, str | bytes], ...]:
    named = (("mcp-error-code", told.code),)
    if told.retry_after_s is None or told.retry_after is None:
        return named
    return (
        *named,
        ("retry-after", told.retry_after),
        # gRFC A6: after which a client's own policy tries again.
        ("grpc-retry-pushback-ms", str(math.ceil(told.retry_after_s * 1000))),
        (STATUS_DETAILS, retry_info(code, told.message, told.retry_after_s)),
    )
