"""Contexts for TLS 1.3, and for mutual TLS where an authority is given."""

from __future__ import annotations

import ssl
from pathlib import Path

from mcp.errors import ConfigInvalid


def server_context(
    certificate: str | Path, key: str | Path, *, authority: str | Path | None = None
) -> ssl.SSLContext:
    """A context for a listener, from PEM files.

    With ``authority`` every peer must show a certificate that it signed. Raises
    :class:`~mcp.errors.ConfigInvalid` naming the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_certificate(context, certificate, key)
    if authority is not None:
        _load_authority(context, authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    *,
    authority: str | Path | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> ssl.SSLContext:
    """A context for connecting: the node's certificate and host name are always verified.

    ``authority``: who must have signed it; the system's authorities if ``None``. ``certificate`` and
    ``key``: what this end shows where the node asks for it. Raises :class:`~mcp.errors.ConfigInvalid`
    naming the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if authority is None:
        context.load_default_certs()
    else:
        _load_authority(context, authority)
    if (certificate is None) != (key is None):
        raise ConfigInvalid(
            "a certificate needs its key and a key its certificate; give both files or neither"
        )
    if certificate is not None and key is not None:
        _load_certificate(context, certificate, key)
    return context


def _load_certificate(context: ssl.SSLContext, certificate: str | Path, key: str | Path) -> None:
    _check_file(certificate, "certificate")
    _check_file(key, "key")
    try:
        # An empty password makes an encrypted key an error instead of a question on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigInvalid(
            f"{certificate} and {key} are no certificate with its unencrypted key in PEM: {error}"
        ) from None


def _load_authority(context: ssl.SSLContext, authority: str | Path) -> None:
    _check_file(authority, "authority")
    try:
        context.load_verify_locations(authority)
    except (ssl.SSLError, OSError) as error:
        raise ConfigInvalid(f"{authority} holds no certificates of an authority in PEM: {error}") from None


def _check_file(path: str | Path, what: str) -> None:
    try:
        with Path(path).open("rb"):
            return
    except OSError as error:
        raise ConfigInvalid(
            f"the TLS {what} file {path} cannot be read: {error.strerror}; check path and rights"
        ) from None
