"""Every bound of a gateway, each with what it bounds."""

from __future__ import annotations

from typing import Final

from mcp.net.limits import FILES_KEPT
from mcp.wire.frame import FRAME_BYTES_MAX

JSON_BYTES_MAX: Final = 4 * 1024**2
"""JSON in one request. It costs far more than binary data does."""

JSON_AT_ONCE_BYTES_MAX: Final = 128 * 1024
"""JSON that is read on the loop that the consensus runs on; more of it is read in a thread, in pieces."""

CONTAINERS_MAX: Final = 256 * 1024
"""Opening brackets and braces in one JSON text: each may become an object of its own."""

BODY_BYTES_MAX: Final = FRAME_BYTES_MAX + JSON_BYTES_MAX
"""One request's body, compressed or not. The tensors in it fit into one frame."""

BODIES_BYTES_MAX: Final = 512 * 1024**2
"""Bodies of requests and answers at the same time: further ones are refused as too much."""

REQUESTS_MAX: Final = 1024
"""Requests with a body that are under way at the same time."""

CONNECTIONS_MAX: Final = 2048
"""Open connections of one port; a further one is told that it is too much, and closed."""

CALLS_PER_CONNECTION_MAX: Final = REQUESTS_MAX
"""Calls that are under way on one connection of gRPC's port; its client has further ones wait.

No fewer, for a client that has not heard of the limit yet is refused what is over it.
"""

CALLS_MAX: Final = 4 * REQUESTS_MAX
"""Calls that are under way on gRPC's port, with those whose request has not come and streams that rest."""

STREAMS_MAX: Final = CALLS_MAX // 2
"""Streams of those: they may rest for as long as their client likes, and others need room beside them."""

TLS_HANDSHAKES_MAX: Final = 256
"""Connections of HTTP's port that are in their TLS handshake; beyond that the oldest makes room."""

GRPC_IDLE_S: Final = 300.0
"""A connection of gRPC's port without a call for so long is ended."""

HEAD_TIMEOUT_S: Final = 10.0
"""From a connection's or a request's first moment until its headers are here."""

BODY_TIMEOUT_S: Final = 60.0
"""How long a request's body may take to come."""

WRITE_TIMEOUT_S: Final = 60.0
"""How long a client may take nothing of an answer before its connection is cut."""

INFER_TIMEOUT_S: Final = 60.0
"""An inference that states no ``timeout``."""

TIMEOUT_S_MAX: Final = 600.0
"""The longest an inference may take, whatever its ``timeout`` says."""

WAIT_S_MAX: Final = 60.0
"""How long one request may wait for a submitted inference to be finished."""

INPUTS_MAX: Final = 256
"""Tensors in one request, and outputs that it names."""

NAME_CHARS_MAX: Final = 1024
"""The name of a tensor, and the ``id`` of a request, which is sent back."""

PARAMETERS_MAX: Final = 64
"""Parameters of a request or of a tensor."""

JSON_ELEMENTS_MAX: Final = 1024**2
"""Elements of all outputs that are sent as JSON; more of them are sent as binary data."""

ELEMENTS_PER_PIECE: Final = 8 * 1024
"""Elements that are written as JSON before others have their turn on the event loop."""

OBJECTS_MAX: Final = 256 * 1024
"""Elements of one request that become Python objects: strings in raw bytes, and gRPC's typed ``contents``."""

MODELS_COUNTED_MAX: Final = 1024
"""Models, by name and version as they were asked for, whose requests are counted."""

MODELS_TOLD_MAX: Final = 256
"""Models that have metrics of their own; how many others there are is a metric too."""

PEERS_TOLD_MAX: Final = 64
"""Peers that have metrics of their own."""

REQUEST_SERIES_MAX: Final = 1024
"""Combinations of protocol, operation and status that are counted apart."""

FRESH_S: Final = 1.0
"""How old an answer about the nodes may be: the cluster is asked no oftener, however many ask here."""

STATUS_TIMEOUT_S: Final = 0.8
"""How long nodes are waited for when they are asked how they are: probes give up after a second."""


def connections_fitting(files_max: int) -> int:
    """How many connections a port may have in a process that may have ``files_max`` files open.

    Each of the two ports has an eighth of what is for connections; the nodes' own protocol has the rest.
    """
    return min(CONNECTIONS_MAX, max(16, (files_max - FILES_KEPT) // 8))
