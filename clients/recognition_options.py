"""The options of recognition that several clients have."""

from __future__ import annotations

import argparse


def add_language(parser: argparse.ArgumentParser) -> None:
    """Adds `--language`, "" without it."""
    parser.add_argument(
        "--language",
        default="",
        help="language that is spoken, such as de-DE, or auto (the service's default)",
    )


def add_recognition(parser: argparse.ArgumentParser) -> None:
    """Adds `--language`, `--endpoint-ms`, `--phrase` and `--boost`."""
    add_language(parser)
    parser.add_argument("--endpoint-ms", type=int, help="end utterances after so much silence (off)")
    parser.add_argument(
        "--phrase", action="append", default=[], help="word or phrase to listen for; may be given again"
    )
    parser.add_argument("--boost", type=float, help="how strongly, 0 to 10 (the service's default)")
