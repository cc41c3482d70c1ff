"""Checks the machine: limits, processor, and the devices that models would run on."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_service.config import Settings
from asr_service.core.cpus import usable_cpus
from asr_service.doctor.findings import Finding, Verdict
from asr_service.model.precision import why_unsupported

DEVICE_S = 120.0
"""Longest time for torch to be imported and to survey the devices."""


def check_limits(settings: Settings) -> Iterator[Finding]:
    """Checks that there may be as many open files as connections."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < settings.max_connections + 100:
        yield Finding(
            "open files",
            Verdict.NOTE,
            f"at most {files}, and ASR_MAX_CONNECTIONS is {settings.max_connections}",
            f"ulimit -n {settings.max_connections + 100}, or lower ASR_MAX_CONNECTIONS",
        )
    else:
        yield Finding("open files", Verdict.OK, f"at most {files}")


def _flags() -> set[str]:
    """Returns the flags of what the processor can do, as Linux names them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


def check_processor(settings: Settings) -> Iterator[Finding]:
    """Checks what the processor can do, and how much of it may be used."""
    cpus = usable_cpus()
    flags = _flags()
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16") if name in flags]
    found = f"{cpus}, {' '.join(wide) or 'no AVX2'}"
    if settings.threads is not None and settings.threads > cpus.threads:
        advice = f"ASR_THREADS={settings.threads} is more than can run at a time: {cpus.threads}, or unset it"
        yield Finding("CPU", Verdict.NOTE, found, advice)
    else:
        yield Finding("CPU", Verdict.OK, found)


def cpu_precision(precision: str, *, bf16: bool, flags: set[str]) -> Iterator[Finding]:
    """Checks whether a CPU computes in a precision, and does so in hardware.

    Args:
        precision: as set.
        bf16: whether torch has kernels for bf16 on this CPU.
        flags: of what the CPU can do, as Linux names them.
    """
    if reason := why_unsupported(precision, "cpu", cpu_has_bf16=bf16):
        yield Finding("precision", Verdict.WRONG, f"{precision} {reason}", "set ASR_PRECISION=fp32")
    elif precision == "bf16" and not {"amx_bf16", "avx512_bf16"} & flags:
        advice = "set ASR_PRECISION=fp32"
        yield Finding("precision", Verdict.NOTE, "bf16 has no hardware here and is slow", advice)
    else:
        yield Finding("precision", Verdict.OK, precision)


def check_devices(settings: Settings) -> Iterator[Finding]:
    """Checks that torch finds each device and computes on it in the precision that is set."""
    if set(settings.models) == {"null"}:
        return
    devices = tuple(dict.fromkeys(settings.devices))
    # In a process of its own: importing torch takes seconds and hundreds of megabytes, and a broken driver may hang it.
    command = [sys.executable, "-m", "asr_service.model.devices", *devices]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEVICE_S, check=False)
    except subprocess.TimeoutExpired:
        yield Finding(
            "device", Verdict.WRONG, f"torch did not answer in {DEVICE_S:g} s", "check the GPU's driver"
        )
        return
    lines = done.stdout.splitlines()[-max(1, len(devices)) :]
    if done.returncode or not lines:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Finding("device", Verdict.WRONG, f"torch cannot be used: {why}", "run make setup")
        return
    surveys = [json.loads(line) for line in lines]
    threads = settings.threads or surveys[0]["threads"]
    yield Finding("torch", Verdict.OK, f"{threads} threads a step, CUDA {surveys[0]['cuda'] or '-'}")
    for found in surveys:
        yield from _device(found, settings)


def _device(found: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    """Judges what a survey found about one device."""
    gpus, chosen = found["gpus"], found["device"]
    if not chosen:
        advice = "check nvidia-smi and the driver, or set ASR_DEVICE=cpu"
        yield Finding("device", Verdict.WRONG, found["problem"], advice)
    elif chosen == "cpu":
        unset = settings.device is None
        advice = "a GPU serves many more streams" if unset else ""
        if gpus:
            advice = f"there are {len(gpus)} GPUs: ASR_DEVICE=cuda:0 uses one"
        yield Finding("device", Verdict.NOTE if unset else Verdict.OK, "the CPU", advice)
        yield from cpu_precision(settings.precision, bf16=found["cpu_has_bf16"], flags=_flags())
    else:
        index = int(chosen.partition(":")[2] or 0)
        yield Finding("device", Verdict.OK, f"{chosen}: {gpus[index]}")
