"""Compiles what any supported model needs on this processor, so that a start finds it on disk.

    python -m asr_service.model.cpu_encoder.prepare

`make setup` and the building of an image do it. Without a model: functions are compiled for the types of what they are
called with, whatever its size. Where everything is there already, this is found out without importing a compiler.
"""

from __future__ import annotations

import sys

from asr_service.model.cpu_encoder.machine_code import code_folder, is_prepared, mark_prepared


def prepare() -> int:
    """Compiles what is missing and prints what it does; returns the number of compiled functions.

    Only if all of them are on disk then, the folder is marked as prepared.
    """
    # Only now, since these import torch and the compiler.
    from asr_service.model.cpu_encoder.precompile import compile_missing
    from asr_service.model.cpu_encoder.sample_encoders import sample_encoders

    missing = compile_missing(sample_encoders(), _say)
    # Where the disk is full, a function is compiled and not kept.
    if all(call.is_kept() for call in missing):
        mark_prepared()
    return len(missing)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Runs the command line; takes no arguments."""
    if not is_prepared():
        prepare()
        if code_folder() is None:
            raise SystemExit("there is no folder that machine code can be kept in")
        if not is_prepared():
            raise SystemExit(
                f"some machine code could not be kept in {code_folder()}: see the warnings above"
            )


if __name__ == "__main__":
    main()
