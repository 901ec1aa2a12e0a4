"""Connections between peers: addresses, listening, dialling, requests, notices. A thin asyncio shell."""

from mcp.net.address import Address, Scheme, parse_address
from mcp.net.connection import Connection
from mcp.net.dial import CONNECT_TIMEOUT_S, connect
from mcp.net.exchange import Exchange
from mcp.net.interface import Counters, Handler, Peer, Reply, RequestsRefused
from mcp.net.limits import DEFAULT_LIMITS, Limits
from mcp.net.listener import Listener
from mcp.net.memory import MemoryNetwork, MemoryTransport
from mcp.net.pair import memory_pair
from mcp.net.parts import Part, Parts
from mcp.net.tls import client_context, server_context
from mcp.wire.handshake import Identity, Role

__all__ = [
    "CONNECT_TIMEOUT_S",
    "DEFAULT_LIMITS",
    "Address",
    "Connection",
    "Counters",
    "Exchange",
    "Handler",
    "Identity",
    "Limits",
    "Listener",
    "MemoryNetwork",
    "MemoryTransport",
    "Part",
    "Parts",
    "Peer",
    "Reply",
    "RequestsRefused",
    "Role",
    "Scheme",
    "client_context",
    "connect",
    "memory_pair",
    "parse_address",
    "server_context",
]
