"""What a client needs for a server that asks who calls: whom to trust, and an API key."""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from pathlib import Path

import grpc.aio

KEY_VARIABLE = "ASR_API_KEY"


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--ca`, and `--api-key`, for which the environment is the better place: other users see command lines."""
    parser.add_argument(
        "--ca",
        type=Path,
        metavar="FILE",
        help="PEM file of the authority of the server's certificate; with gRPC it also turns TLS on (no TLS)",
    )
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        default=os.environ.get(KEY_VARIABLE, ""),
        help=f"for a server that asks for one ({KEY_VARIABLE} of the environment)",
    )


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program with exit code 2 if the options cannot be used."""
    if args.ca is not None:
        try:
            ssl.create_default_context(cafile=args.ca)
        except OSError as error:
            parser.error(f"--ca {args.ca}: {error.strerror or error}")
    if not (args.api_key.isascii() and (args.api_key.isprintable() or not args.api_key)):
        parser.error("the API key should be printable ASCII characters")


def channel(target: str, args: argparse.Namespace) -> grpc.aio.Channel:
    """A gRPC channel, with TLS if an authority was given."""
    if args.ca is None:
        return grpc.aio.insecure_channel(target)
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(args.ca.read_bytes()))


def headers(args: argparse.Namespace) -> dict[str, str]:
    """`authorization` for metadata or a WebSocket handshake, if there is a key."""
    return {"authorization": f"Bearer {args.api_key}"} if args.api_key else {}


def websocket_tls(url: str, args: argparse.Namespace) -> ssl.SSLContext | None:
    """For a wss url: trust in the given authority, or in those of the system."""
    if not url.startswith("wss://"):
        if args.ca is not None:
            print("--ca means nothing to a ws:// url; wss:// is the one with TLS", file=sys.stderr)
        return None
    return ssl.create_default_context(cafile=args.ca)
