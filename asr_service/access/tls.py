"""Certificates of the gRPC port, which are checked before they are used and read again when their files change.

gRPC asks for them at each handshake. If the files do not fit together, as in the middle of a renewal, the certificate
in use stays. Connections that are open keep theirs.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from asr_common.certificates import server_context, why_unusable
from asr_common.followed_files import FollowedFiles
from asr_service.core.errors import SettingsError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server shows and whom it trusts, as PEM.

    Attributes:
        certificate: the server's certificate, with its chain.
        key: its private key.
        client_ca: authorities whose clients are let in; None if clients need no certificate.
        not_after: when the server's certificate expires; None if that could not be read.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """The files that an identity is read from."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> Identity:
        """Reads the identity as it is on disk.

        Raises:
            SettingsError: a file cannot be read, or certificate and key do not belong together.
        """
        pems = [
            _read(path, variable)
            for path, variable in (
                (self.certificate, "ASR_TLS_CERT"),
                (self.key, "ASR_TLS_KEY"),
                (self.client_ca, "ASR_TLS_CLIENT_CA"),
            )
            if path is not None
        ]
        try:
            context = server_context(self.certificate, self.key)
        except (ValueError, OSError) as error:
            raise SettingsError(
                f"ASR_TLS_CERT={self.certificate}, ASR_TLS_KEY={self.key}: not a PEM certificate with the key that "
                f"belongs to it, without a password ({why_unusable(error)})",
                field="tls_cert",
            ) from None
        if self.client_ca is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.client_ca)
            except (ssl.SSLError, OSError) as error:
                raise SettingsError(
                    f"ASR_TLS_CLIENT_CA={self.client_ca}: no PEM certificates ({why_unusable(error)})",
                    field="tls_client_ca",
                ) from None
        return Identity(
            pems[0], pems[1], pems[2] if self.client_ca else None, expiry(context, self.certificate)
        )

    @property
    def paths(self) -> list[Path]:
        """All of the files."""
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]


def files(certificate: Path | None, key: Path | None, client_ca: Path | None) -> IdentityFiles | None:
    """Returns the files that the settings name; None for no TLS.

    Raises:
        SettingsError: one is set without the others that it needs.
    """
    if certificate is None and key is None:
        if client_ca is not None:
            raise SettingsError(
                "ASR_TLS_CLIENT_CA is set without ASR_TLS_CERT and ASR_TLS_KEY: clients' certificates need the "
                "server's own",
                field="tls_client_ca",
            )
        return None
    if certificate is None or key is None:
        missing, there = ("ASR_TLS_CERT", "ASR_TLS_KEY") if key else ("ASR_TLS_KEY", "ASR_TLS_CERT")
        raise SettingsError(
            f"{there} is set without {missing}: set both, or none for no TLS", field=missing[4:].lower()
        )
    return IdentityFiles(certificate, key, client_ca)


class FollowedIdentity:
    """An identity that follows its files. Any thread.

    Args:
        source: the files.
        used: called with each identity that is taken into use, the first one included.

    Raises:
        SettingsError: as `IdentityFiles.read`.
    """

    def __init__(self, source: IdentityFiles, used: Callable[[Identity], None]) -> None:
        self._certificate = source.certificate
        self._used = used
        self._followed = FollowedFiles(source.paths, source.read)
        used(self.identity)

    @property
    def identity(self) -> Identity:
        """The identity in use."""
        return self._followed.value

    def newer(self) -> Identity | None:
        """Returns the identity if it has changed since the last call; None if it has not, or cannot be used."""
        try:
            identity = self._followed.newer()
        except SettingsError as error:
            log.error("%s; the certificate in use stays", error.message)
            return None
        if identity is not None:
            log.info("certificate read again from %s, valid until %s", self._certificate, identity.not_after)
            self._used(identity)
        return identity


def expiry(server: ssl.SSLContext, certificate: Path) -> datetime | None:
    """Returns when a server's certificate expires; None if no client would accept it.

    The standard library does not read certificates, so a client is asked that saw it in a handshake in memory.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # The certificate vouches for itself.
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(4):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return None
    shown = theirs.getpeercert()
    if not shown:
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable}={path}: {error.strerror}", field=variable[4:].lower()) from None
