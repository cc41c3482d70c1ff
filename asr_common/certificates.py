"""Certificates of a server: checked in a way that never asks anybody for a password."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context of a server that shows this certificate.

    Args:
        certificate: PEM file, with the chain.
        key: PEM file of its private key, without a password.

    Raises:
        OSError: one of them cannot be read, or they do not belong together (`ssl.SSLError`).
        ValueError: the key has a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(context, certificate, key)
    return context


def load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Lets a context show this certificate from now on. Raises as `server_context` does."""
    context.load_cert_chain(certificate, key, password=_no_password)


def why_unusable(error: Exception) -> str:
    """The shortest sentence that says why files of certificates cannot be used."""
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)


def _no_password() -> str:
    """Instead of OpenSSL's question at the terminal."""
    raise ValueError("the key is encrypted")
