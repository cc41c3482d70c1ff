"""python -m tests.torture.guided TARGET [options of libFuzzer]: coverage-guided fuzzing of one target of `parsers.py`.

Ends with 0 after the inputs it was asked for; any exception, an input that takes longer than `-timeout`, and memory
beyond `-rss_limit_mb` end it with another code, a stack trace, and the input in a file. Needs atheris, which
`fuzzing.py` fetches into a folder of its own.
"""

from __future__ import annotations

import os
import sys

import atheris  # type: ignore[import-not-found, unused-ignore]

with atheris.instrument_imports(include=["asr_common", "asr_service", "ws_bridge"]):
    from tests.torture.parsers import TARGETS


def main() -> None:
    target = TARGETS[sys.argv[1]]
    # cffi prints what a callback raises while libsndfile seeks in spoiled files; that is no finding.
    sys.unraisablehook = lambda _: None
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
