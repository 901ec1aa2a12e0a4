"""Ports for datagrams: UDP beside a TCP listener, and in memory. A thin asyncio shell.

A node hears datagrams at the port number of its TCP listener, so that one address is enough to reach it in
both ways. Names are resolved in the background; what is sent meanwhile is lost, as datagrams may be.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from dataclasses import replace
from typing import Any, Final

from mcp.errors import ConfigInvalid, McpError
from mcp.net.address import Address, Scheme, parse_address
from mcp.net.interface import DatagramPort, Heard
from mcp.net.memory import MemoryNetwork
from mcp.net.names import Names

UNSENT_BYTES_MAX: Final = 256 * 1024
"""Datagrams that the system does not take wait up to so many bytes; more are dropped."""

PARSED_MAX: Final = 4096
"""Addresses that are kept parsed; then all are forgotten and begin anew."""


async def open_datagrams(
    address: str | Address, heard: Heard, *, names: Names, network: MemoryNetwork | None = None
) -> DatagramPort:
    """Open a port at ``address``: UDP at a TCP address, or in ``network``.

    Raises :class:`~mcp.errors.ConfigInvalid` where the address cannot be had, or has no datagrams.
    """
    where = parse_address(address) if isinstance(address, str) else address
    if where.scheme is Scheme.MEMORY and network is not None:
        return network.datagrams(where.path, heard)
    if where.scheme is not Scheme.TCP:
        raise ConfigInvalid(f"{where} has no datagrams; listen at host:port")
    port = UdpPort(heard, names)
    try:
        await port.open(where)
    except OSError as error:
        port.close()
        raise ConfigInvalid(
            f"cannot hear datagrams at {where} (UDP): {error.strerror or error}; choose another address, "
            "or stop what uses this one"
        ) from error
    return port


class _Ear(asyncio.DatagramProtocol):
    """Hands on what a socket hears."""

    def __init__(self, heard: Heard) -> None:
        self.dropped = 0
        """What was not sent: no such address, none known yet, no way there, or too much unsent."""
        self._heard = heard

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """See :class:`asyncio.DatagramProtocol`."""
        self._heard(data, str(Address(Scheme.TCP, host=str(addr[0]), port=int(addr[1]))))

    def error_received(self, exc: Exception) -> None:
        """Nobody hears there, or there is no way: as good as lost on the way."""
        self.dropped += 1


class UdpPort(_Ear):
    """UDP sockets at one host and port: one for each address family that the host has."""

    def __init__(self, heard: Heard, names: Names) -> None:
        super().__init__(heard)
        self._names = names
        self._sockets: dict[int, Any] = {}  # asyncio.DatagramTransport, whose types lack the buffer's size
        self._parsed: dict[str, Address | None] = {}
        self._where = Address(Scheme.TCP)

    async def open(self, where: Address) -> None:
        """Bind. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(where.host, where.port, type=socket.SOCK_DGRAM)
        self._where = where
        problem: OSError | None = None
        for family, place in {info[0]: info[4] for info in reversed(found)}.items():
            try:
                # With port 0 the first family's port is everybody's.
                sock = _socket(family, (place[0], self._where.port, *place[2:]))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                problem = error  # as on a machine without IPv6, where "localhost" has an address of it
                continue
            transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=sock)
            self._sockets[family] = transport
            self._where = replace(where, port=sock.getsockname()[1])
        if problem is not None and not self._sockets:
            raise problem

    @property
    def address(self) -> str:
        """Where it is, with the port that was taken."""
        return str(self._where)

    def send(self, address: str, data: bytes) -> bool:
        """Send one datagram to a ``host:port``; ``False``: it was dropped at once."""
        target = self._target(address)
        transport = None if target is None else self._sockets.get(_family(target[0]))
        if transport is None or transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            self.dropped += 1
            return False
        try:
            transport.sendto(data, target)
        except OSError:
            self.dropped += 1
            return False
        return True

    def close(self) -> None:
        """Hear nothing any more."""
        for transport in self._sockets.values():
            transport.close()
        self._sockets.clear()

    def _target(self, address: str) -> tuple[str, int] | None:
        if address not in self._parsed:
            if len(self._parsed) >= PARSED_MAX:
                self._parsed.clear()
            self._parsed[address] = _parsed(address)
        where = self._parsed[address]
        if where is None:
            return None
        for host in self._names.addresses(where.host):
            if _family(host) in self._sockets:
                return host, where.port
        return None


async def hear_group(address: str | Address, heard: Heard) -> asyncio.DatagramTransport:
    """Hear what is sent to everybody at ``address``, a broadcast address or a multicast group; close it.

    Several processes of one machine may. Sending is for a node's own port, so that answers come back there.
    Raises :class:`~mcp.errors.ConfigInvalid`.
    """
    where = parse_address(address) if isinstance(address, str) else address
    try:
        sock = _group_socket(where)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(
            f"cannot hear what is sent to everybody at {where}: {getattr(error, 'strerror', None) or error}; "
            "give the broadcast address of this network, such as 10.0.0.255:7400, or a multicast group"
        ) from error
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Ear(heard), sock=sock)
    return transport


def _group_socket(where: Address) -> socket.socket:
    group = ipaddress.IPv4Address(where.host)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((where.host, where.port))
        if group.is_multicast:
            joined = struct.pack("4sI", group.packed, socket.INADDR_ANY)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
    except BaseException:
        sock.close()
        raise
    return sock


def _socket(family: int, bound: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if family == socket.AF_INET6:
            # Otherwise "::" would take the port of IPv4 too.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(bound)
    except BaseException:
        sock.close()
        raise
    return sock


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _parsed(address: str) -> Address | None:
    try:
        where = parse_address(address)
    except McpError:
        return None
    return where if where.scheme is Scheme.TCP and where.port else None
