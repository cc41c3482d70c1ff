"""The options of recognition that several clients have."""

from __future__ import annotations

import argparse


def add_route(parser: argparse.ArgumentParser) -> None:
    """Adds `--model` and `--language`, "" without them, and `--look-ahead`, None without it."""
    parser.add_argument("--model", default="", help="model that recognizes (the service's first)")
    parser.add_argument(
        "--look-ahead",
        type=int,
        metavar="MS",
        help="audio after a word that it waits for (the model's first)",
    )
    parser.add_argument(
        "--language",
        default="",
        help="language that is spoken, such as de-DE, or auto (the service's default)",
    )


def route_fields(args: argparse.Namespace) -> dict[str, object]:
    """Returns the fields of WebSocket's `init` that the options of `add_route` ask for."""
    asked = {"model": args.model, "language": args.language, "look_ahead_ms": args.look_ahead}
    return {name: value for name, value in asked.items() if value not in ("", None)}


def add_recognition(parser: argparse.ArgumentParser, endpoint_ms: int | None = None) -> None:
    """Adds what `add_route` does, `--endpoint-ms` with its default, `--phrase` and `--boost`."""
    add_route(parser)
    parser.add_argument(
        "--endpoint-ms",
        type=int,
        default=endpoint_ms,
        help=f"end utterances after so much silence ({endpoint_ms or 'off'})",
    )
    parser.add_argument(
        "--phrase", action="append", default=[], help="word or phrase to listen for; may be given again"
    )
    parser.add_argument("--boost", type=float, help="how strongly, 0 to 10 (the service's default)")
