"""Compiles what any supported model needs, so that a start finds it on disk.

    python -m asr_service.model.cpu_encoder.prepare                 for this processor
    python -m asr_service.model.cpu_encoder.prepare all-kinds       for all kinds that processors.py has, as an image
    python -m asr_service.model.cpu_encoder.prepare x86-64-v3       for one of them

`make setup` and the building of an image do it. Without a model: functions are compiled for the types of what they are
called with, whatever its size. Where everything is there already, this is found out without importing a compiler.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys

from asr_service.model.cpu_encoder.machine_code import code_folder, is_prepared, mark_prepared
from asr_service.model.cpu_encoder.processors import KINDS, Kind

_MODULE = "asr_service.model.cpu_encoder.prepare"
_ALL_KINDS = "all-kinds"


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


def prepare_kind(kind: Kind) -> int:
    """Compiles for a kind of processors, in a process that never runs what it compiles; returns its exit code."""
    _say(f"for processors of the kind {kind.name}:")
    told = {"NUMBA_CPU_NAME": kind.cpu, "NUMBA_CPU_FEATURES": kind.features}
    isolated = ["-I"] if sys.flags.isolated else []
    return subprocess.run([sys.executable, *isolated, "-m", _MODULE], env=os.environ | told).returncode


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """Runs the command line: kinds of processors, or none for this one."""
    kinds = {kind.name: kind for kind in KINDS}
    if arguments == [_ALL_KINDS]:
        # Elsewhere there is none: this processor it is.
        arguments = list(kinds) if platform.machine() == "x86_64" else []
    if unknown := set(arguments) - set(kinds):
        raise SystemExit(f"{min(unknown)!r} should be {_ALL_KINDS}, {', '.join(kinds)}, or left out")
    for name in arguments:
        if code := prepare_kind(kinds[name]):
            raise SystemExit(code)
    if not arguments and not is_prepared():
        prepare()
        if code_folder() is None:
            raise SystemExit("there is no folder that machine code can be kept in")
        if not is_prepared():
            raise SystemExit(
                f"some machine code could not be kept in {code_folder()}: see the warnings above"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
