"""TLS of both sides: the certificate that the bridge's clients see, and the credentials of its calls to the service."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from asr_common.certificates import load_chain, server_context, why_unusable
from asr_common.followed_files import FollowedFiles
from asr_common.settings import BadSettings, variable

log = logging.getLogger(__name__)


class ServerCertificate:
    """The certificate of the WebSocket port, which follows its files. On the event loop only.

    Args:
        certificate: PEM file, with the chain.
        key: PEM file of its private key, without a password.

    Attributes:
        context: for the server; it stays the same one when a newer certificate is taken.

    Raises:
        BadSettings: they cannot be read or do not belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._paths = certificate, key
        try:
            self._followed = FollowedFiles(self._paths, lambda: server_context(certificate, key))
        except (OSError, ValueError) as error:
            names = f"{variable('bridge_tls_cert')}={certificate}, {variable('bridge_tls_key')}={key}"
            raise BadSettings(
                f"{names}: not a PEM certificate with its key ({why_unusable(error)})"
            ) from None
        self.context = self._followed.value

    def refresh(self) -> None:
        """Takes the certificate anew if its files have changed; files that do not fit together change nothing."""
        try:
            # They were tried in a context of their own first: the server's would be lost if it took half of them.
            if self._followed.newer() is None:
                return
            load_chain(self.context, *self._paths)
        except (OSError, ValueError) as error:
            log.error("%s: %s; the certificate in use stays", self._paths[0], why_unusable(error))
        else:
            log.info("certificate read again", extra={"fields": {"file": str(self._paths[0])}})


def server_certificate(certificate: Path | None, key: Path | None) -> ServerCertificate | None:
    """Reads the certificate that the settings name; None for no TLS. Raises BadSettings."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise BadSettings(
            f"{variable('bridge_tls_cert')} and {variable('bridge_tls_key')} go together: set both"
        )
    return ServerCertificate(certificate, key)


class ServiceCredentials:
    """Whom the bridge trusts as the service, and the certificate it shows there, which follow their files.

    Args:
        authority: PEM file of the authorities that vouch for the service's certificate.
        certificate: PEM file of the bridge's own, with its chain; None where it shows none.
        key: PEM file of its private key, without a password.

    Attributes:
        value: the latest that could be read.

    Raises:
        BadSettings: they cannot be read or do not belong together.
    """

    def __init__(self, authority: Path, certificate: Path | None, key: Path | None) -> None:
        given = {"grpc_ca": authority, "grpc_cert": certificate, "grpc_key": key}
        paths = {name: path for name, path in given.items() if path is not None}
        self._authority = authority

        def read() -> grpc.ChannelCredentials:
            return _read_credentials(authority, certificate, key)

        try:
            self._followed = FollowedFiles(tuple(paths.values()), read)
        except (OSError, ValueError) as error:
            names = ", ".join(f"{variable(name)}={path}" for name, path in paths.items())
            raise BadSettings(
                f"{names}: not PEM files that belong together ({why_unusable(error)})"
            ) from None
        self.value = self._followed.value

    def newer(self) -> grpc.ChannelCredentials | None:
        """Reads them anew if their files have changed; None if not. Files that do not fit together change nothing."""
        try:
            found = self._followed.newer()
        except (OSError, ValueError) as error:
            log.error("%s: %s; the credentials in use stay", self._authority, why_unusable(error))
            return None
        if found is not None:
            self.value = found
            log.info(
                "credentials for the service read again", extra={"fields": {"file": str(self._authority)}}
            )
        return found


def _read_credentials(authority: Path, certificate: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    """Reads the files once they are known to fit: gRPC would tell of those that do not at the first handshake only.

    Raises:
        OSError: one of them cannot be read, or they do not belong together (`ssl.SSLError`).
        ValueError: the key has a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    if certificate is not None and key is not None:
        load_chain(context, certificate, key)
    pems = (path.read_bytes() if path is not None else None for path in (authority, key, certificate))
    return grpc.ssl_channel_credentials(*pems)


def service_credentials(
    authority: Path | None, certificate: Path | None, key: Path | None
) -> ServiceCredentials | None:
    """Reads what the settings name for calls to the service; None for no TLS.

    Raises:
        BadSettings: a setting is missing beside another, or the files cannot be used.
    """
    if authority is None and (certificate or key):
        raise BadSettings(f"{variable('grpc_cert')} and {variable('grpc_key')} need {variable('grpc_ca')}")
    if (certificate is None) != (key is None):
        raise BadSettings(f"{variable('grpc_cert')} and {variable('grpc_key')} go together: set both")
    if authority is None:
        return None
    return ServiceCredentials(authority, certificate, key)
