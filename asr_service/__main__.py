"""Command line: `asr-service [serve|doctor] [--option value ...]`, and `keys new NAME`; or `python -m asr_service ...`.

Options go before the environment. Nothing heavy is imported before the settings are known to be right, so that help and
errors are answered at once. Exit codes: 0 drained and stopped, 1 the engine or what watches it failed, or the model
cannot be had now (its hub is away, the disk is full), 2 the settings cannot be served.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from asr_common.settings import add_options, describe
from asr_service import __version__
from asr_service.config import Settings, lighten_grpc, read_settings
from asr_service.core.errors import SettingsError

_PROGRAM = "asr-service"
_COMMANDS = {
    "serve": "serve until SIGTERM or SIGINT (the default)",
    "doctor": "look at what it would start with, and say what to do",
}

_EPILOG = """\
API keys: asr-service keys new NAME [--max-streams N] [--file FILE]
Exit codes: 0 stopped as asked, 1 the engine or what watches it failed or the model cannot be had now,
2 a setting cannot be served.
The WebSocket bridge has settings of its own: asr-bridge --help."""


def _parser() -> argparse.ArgumentParser:
    """The command, and one option per setting."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        usage=f"{_PROGRAM} [serve|doctor] [--option VALUE ...]",
        description="Streaming speech recognition over gRPC. Every option is also an environment variable; the "
        "option goes before it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    parser.add_argument(
        "command",
        nargs="?",
        choices=tuple(_COMMANDS),
        default="serve",
        help="\n".join(f"{name}: {what}" for name, what in _COMMANDS.items()),
    )
    add_options(parser, describe(Settings))
    return parser


def _keys(argv: Sequence[str]) -> int:
    """`keys new NAME`: makes a key; only its hash goes into the file."""
    parser = argparse.ArgumentParser(prog=f"{_PROGRAM} keys", description="API keys.")
    actions = parser.add_subparsers(dest="action", required=True)
    new = actions.add_parser("new", help="make a key: it is printed once, the file holds its hash")
    new.add_argument("name", help="who will have it; shown in logs")
    new.add_argument(
        "--max-streams", type=int, default=0, metavar="N", help="open at the same time (0: no limit)"
    )
    new.add_argument(
        "--file",
        type=Path,
        help="add its line to this file, which others may not read; made if it is not there",
    )
    chosen = parser.parse_args(argv)
    from asr_service.access.api_keys import new_key

    try:
        key, line = new_key(chosen.name, chosen.max_streams)
        if chosen.file is not None:
            with os.fdopen(os.open(chosen.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+") as file:
                mode = os.fstat(file.fileno()).st_mode
                # Its group may be the service's, and stays.
                if mode & 0o007:
                    os.fchmod(file.fileno(), stat.S_IMODE(mode) & ~0o007)
                text = file.read()
                file.write("\n" * (text != "" and not text.endswith("\n")) + line + "\n")
    except SettingsError as error:
        print(f"asr_service: {error.message}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"asr_service: --file {chosen.file}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"key, shown this once:\n  {key}")
    print(f"added to {chosen.file}:" if chosen.file else "for the file that ASR_API_KEYS_FILE names:")
    print(f"  {line}")
    return 0


def _doctor(settings: Settings) -> int:
    """`doctor`: 0 if nothing keeps the service from serving, 1 otherwise."""
    from rich.console import Console

    from asr_service.doctor import Verdict, examine

    marks = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.WRONG: "bold red"}
    console = Console(highlight=False, soft_wrap=True)
    worst = Verdict.OK
    for finding in examine(settings):
        console.print(f"[{marks[finding.verdict]}]{finding.verdict.value:>5}[/]", end="  ")
        console.print(f"{finding.subject}: {finding.found}", markup=False)
        if finding.advice:
            console.print(f"       -> {finding.advice}", markup=False)
        if finding.verdict is Verdict.WRONG or worst is Verdict.OK:
            worst = finding.verdict
    console.print(
        {
            Verdict.OK: "Nothing to do.",
            Verdict.NOTE: "It can serve; see the notes.",
            Verdict.WRONG: "It cannot serve like this.",
        }[worst]
    )
    return 1 if worst is Verdict.WRONG else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the process's exit code."""
    if sys.platform == "win32":
        print(f"{_PROGRAM}: it runs on Linux and macOS; on Windows, clients and stubs do", file=sys.stderr)
        return 2
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["keys"]:
        return _keys(argv[1:])
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    try:
        settings = read_settings(options)
    except SettingsError as error:
        for line in error.message.splitlines():
            print(f"asr_service: {line}", file=sys.stderr)
        return 2

    if command == "doctor":
        return _doctor(settings)

    lighten_grpc()
    from asr_service.app.service import serve
    from asr_service.observability import log

    log.set_up(settings.log_level, settings.log_format)
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
