"""From the connection options of a command to a client that is open while the command's body runs."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from mcp.cli.credentials import cluster_key
from mcp.cli.options import connection_options, traceback_option
from mcp.client.client import Client
from mcp.errors import ConfigInvalid, InvalidArgument

Body = Callable[..., Coroutine[Any, Any, None]]
"""A command's work: an open client first, then the command's own parameters by name."""


def addresses(connect: str) -> list[str]:
    """Split ``--connect``. Raises :class:`~mcp.errors.InvalidArgument` for what is no address."""
    found = [part.strip() for part in connect.split(",") if part.strip()]
    if not found:
        raise InvalidArgument("--connect names no address; give host:port, or several with commas between")
    for address in found:
        if not address.startswith("unix:") and not address.rpartition(":")[2].isdecimal():
            raise InvalidArgument(f"{address!r} is no address: host:port or unix:///path is expected")
    return found


def client_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return the TLS settings of a client, or ``None`` when no TLS option is given.

    Raises :class:`~mcp.errors.ConfigInvalid` for half a pair or a file that holds no certificate.
    """
    if ca is None and cert is None and key is None:
        return None
    if (cert is None) != (key is None):
        raise ConfigInvalid("a TLS certificate and its key go together: give --tls-cert and --tls-key")
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        if cert is not None and key is not None:
            context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        files = ", ".join(str(path) for path in (ca, cert, key) if path)
        raise ConfigInvalid(f"{files}: not usable for TLS: {error}") from error
    return context


def client_command(body: Body) -> Callable[..., None]:
    """Give a command the connection options, and run its body with a client that they describe."""

    @functools.wraps(body)
    def command(
        *,
        connect: str,
        cluster_id: str,
        cluster_key_file: Path | None,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        timeout_s: float,
        **parameters: Any,
    ) -> None:
        client = Client(
            addresses(connect),
            cluster_id=cluster_id,
            cluster_key=cluster_key(cluster_key_file),
            ssl=client_context(tls_ca, tls_cert, tls_key),
            timeout_s=timeout_s,
        )

        async def work() -> None:
            async with client:
                await body(client, **parameters)

        asyncio.run(work())

    return connection_options(traceback_option(command))
