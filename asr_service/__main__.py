"""Command line: `python -m asr_service [serve] [--option value ...]`.

Options go before the environment. Nothing heavy is imported before the settings are known to be right, so that help and
errors are answered at once. Exit codes: 0 drained and stopped, 1 the engine failed, 2 the settings cannot be served.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence

from asr_service import __version__
from asr_service.config import describe, load_settings
from asr_service.errors import SettingsError

_COMMANDS = {"serve": "serve until SIGTERM or SIGINT (the default)"}

_EPILOG = """\
Exit codes: 0 stopped as asked, 1 the engine failed, 2 a setting cannot be served.
The WebSocket bridge has settings of its own: python -m ws_bridge --help."""


def _parser() -> argparse.ArgumentParser:
    """One option per setting, grouped; every value is left to the settings to judge."""
    parser = argparse.ArgumentParser(
        prog="python -m asr_service",
        usage="python -m asr_service [serve] [--option VALUE ...]",
        description="Streaming speech recognition over gRPC. Every option is also an environment variable; the "
        "option goes before it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"asr_service {__version__}")
    parser.add_argument(
        "command",
        nargs="?",
        choices=tuple(_COMMANDS),
        default="serve",
        help="\n".join(f"{name}: {what}" for name, what in _COMMANDS.items()),
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for doc in describe():
        if doc.group not in groups:
            groups[doc.group] = parser.add_argument_group(doc.group)
        text = "\n".join(
            [*textwrap.wrap(doc.description, 78), f"[{doc.variable}, default: {doc.default}]", " "]
        )
        groups[doc.group].add_argument(
            doc.option,
            dest=doc.field,
            default=argparse.SUPPRESS,
            metavar="|".join(doc.choices) or "VALUE",
            help=text.replace("%", "%%"),
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the process's exit code."""
    options = vars(_parser().parse_args(argv))
    options.pop("command")
    try:
        settings = load_settings(options)
    except SettingsError as error:
        for line in error.message.splitlines():
            print(f"asr_service: {line}", file=sys.stderr)
        return 2

    from asr_service import log
    from asr_service.server import serve

    log.set_up(settings.log_level, settings.log_format)
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
