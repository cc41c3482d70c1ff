"""Reaches servers that ask who calls: TLS, whom to trust, a certificate of the client's own, an API key."""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc.aio

KEY_VARIABLE = "ASR_API_KEY"


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached.

    Attributes:
        tls: with gRPC, whether it speaks TLS; a WebSocket URL says so itself.
        ca: PEM file of the authority of its certificate; None for those of the system.
        cert: PEM file of the client's own certificate, for mutual TLS; None for none.
        key: PEM file of its private key.
        api_key: "" for none.
    """

    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    api_key: str = field(default="", repr=False)

    def channel(self, target: str, options: Sequence[tuple[str, int]] = ()) -> grpc.aio.Channel:
        """Opens a gRPC channel, with TLS if it was asked for."""
        # Here, since the WebSocket client, which is copied to where there is no gRPC, uses this file too.
        import grpc.aio

        if not self.tls:
            return grpc.aio.insecure_channel(target, options=options)
        pems = [path.read_bytes() if path else None for path in (self.ca, self.key, self.cert)]
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(*pems), options=options)

    def headers(self) -> dict[str, str]:
        """Gives `authorization` for a WebSocket handshake, if there is a key."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Gives the headers as gRPC takes them."""
        return tuple(self.headers().items())

    def websocket_tls(self, url: str) -> ssl.SSLContext | None:
        """Makes the TLS of a wss url, which trusts the given authority, or those of the system; None for a ws url."""
        if not url.startswith("wss://"):
            if self.tls:
                print("TLS options mean nothing to a ws:// url; wss:// is the one with TLS", file=sys.stderr)
            return None
        return self._context()

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key, password=_no_password)
        return context


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options. For the key the environment is the better place: other users see command lines."""
    group = parser.add_argument_group("access")
    group.add_argument(
        "--tls",
        action="store_true",
        help="with gRPC: TLS, trusting the system's authorities (wss:// says so itself)",
    )
    group.add_argument(
        "--ca", type=Path, metavar="FILE", help="TLS, trusting the authority in this PEM file instead"
    )
    group.add_argument(
        "--cert",
        type=Path,
        metavar="FILE",
        help="TLS, showing the certificate in this PEM file (mutual TLS); with --key",
    )
    group.add_argument("--key", type=Path, metavar="FILE", help="PEM file of the certificate's private key")
    group.add_argument(
        "--api-key",
        metavar="KEY",
        default=os.environ.get(KEY_VARIABLE, ""),
        help=f"for a server that asks for one ({KEY_VARIABLE} of the environment)",
    )


def chosen(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Access:
    """Reads what the options say; ends the program with exit code 2 if they cannot be used."""
    if (args.cert is None) != (args.key is None):
        parser.error("--cert and --key go together: give both")
    if not (args.api_key.isascii() and (args.api_key.isprintable() or not args.api_key)):
        parser.error("the API key should be printable ASCII characters")
    tls = args.tls or args.ca is not None or args.cert is not None
    access = Access(tls, args.ca, args.cert, args.key, args.api_key)
    for name, given in (("--ca", Access(ca=args.ca)), ("--cert", Access(cert=args.cert, key=args.key))):
        try:
            given._context()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = " ".join(str(path) for path in (given.ca, given.cert, given.key) if path)
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            parser.error(f"{name}: {files}: {reason}")
    return access


def _no_password() -> str:
    """Answers for OpenSSL, which else asks at the terminal."""
    raise ValueError("the key is encrypted")
