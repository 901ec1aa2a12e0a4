"""A handler that keeps what it saw, and identities of one cluster."""

import asyncio

import pytest

from mcp.net.interface import RequestsRefused
from mcp.wire.handshake import Identity, Role

KEY = b"k" * 32


class Recorder(RequestsRefused):
    """Answers ECHO, keeps everything else open, and lets a test wait for what it saw."""

    def __init__(self):
        self.connected = asyncio.Queue()
        self.exchanges = asyncio.Queue()
        self.notices = asyncio.Queue()
        self.closed = asyncio.Queue()

    def on_connected(self, connection):
        self.connected.put_nowait(connection)

    def on_request(self, exchange):
        if exchange.message.type == "ECHO":
            exchange.reply(exchange.message.reply("ECHOED", exchange.message.payload), exchange.segments)
        elif exchange.message.type == "BUG":
            raise ZeroDivisionError("a bug")
        else:
            self.exchanges.put_nowait(exchange)

    def on_notice(self, connection, body):
        self.notices.put_nowait(bytes(body))

    def on_closed(self, connection, reason):
        self.closed.put_nowait(reason)


@pytest.fixture
def recorder():
    """The class: it has to be made inside a running loop."""
    return Recorder


@pytest.fixture
def node():
    return Identity("prod", "node-1", KEY)


@pytest.fixture
def client():
    return Identity("prod", "client-1", KEY, Role.CLIENT)
