"""Command line: `asr-bridge [--option value ...]`, or `python -m ws_bridge ...`.

Nothing heavy is imported before the settings are known to be right, so that help and errors come at once. Exit codes: 0
stopped as asked, 1 a part of it failed, 2 the settings cannot be served, 128 + N ended at once by a second signal N.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from asr_common.settings import BadSettings, add_options, describe
from ws_bridge.config import IMPLIED, Settings, limit_headers, read_settings

_EPILOG = """\
Exit codes: 0 stopped as asked, 1 a part of it failed, 2 a setting cannot be served, 128 + N ended at once by a second
signal N.
The protocol is described in ws_bridge/protocol.py; the speech service has settings of its own:
asr-service --help."""

_PROGRAM = "asr-bridge"


def _parser() -> argparse.ArgumentParser:
    """One option per setting."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="WebSocket bridge to the speech service. Every option is also an environment variable; the option "
        "goes before it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser, describe(Settings, IMPLIED))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the process's exit code."""
    if sys.platform == "win32":
        print(f"{_PROGRAM}: it runs on Linux and macOS; on Windows, clients and stubs do", file=sys.stderr)
        return 2
    options = vars(_parser().parse_args(argv))
    try:
        settings = read_settings(options)
        limit_headers(settings)

        from ws_bridge import log

        log.set_up(settings.log_level, settings.log_format)
        if settings.bridge_workers > 1:
            from ws_bridge.workers import serve_with_workers

            return serve_with_workers(settings)
        from ws_bridge.process import serve

        return serve(settings)
    except BadSettings as error:
        for line in str(error).splitlines():
            print(f"ws_bridge: {line}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
