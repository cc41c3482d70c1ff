"""Checks what the service would start with, and advises what to do: `python -m asr_service doctor`.

Nothing is changed and no model is read. Each check stands alone: one that raises does not keep the next from running.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from asr_service import __version__
from asr_service.access import tls
from asr_service.access.api_keys import KeyRing
from asr_service.config import Settings
from asr_service.core.cpus import usable_cpus
from asr_service.core.errors import ModelError, SettingsError
from asr_service.model.hub.names import parse_hub_name
from asr_service.model.locate import local_path
from asr_service.model.nemo_file.names import CONFIG
from asr_service.model.precision import why_unsupported

SOON = timedelta(days=14)
"""A certificate that expires sooner is reported."""
DEVICE_S = 120.0
"""Longest time for torch to be imported and to survey the devices."""


class Verdict(Enum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        subject: what was checked.
        verdict: WRONG keeps the service from starting, or from serving as it is set to.
        found: what there is.
        advice: what to do, "" if nothing.
    """

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Makes every check in turn, the slow one last, and yields what they find."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _packages,
        _model,
        _ports,
        _certificates,
        _keys,
        _limits,
        _processor,
        _device,
    )
    for check in checks:
        try:
            yield from check(settings)
        except Exception as error:
            yield Finding(
                check.__name__.strip("_"), Verdict.WRONG, f"the check itself failed: {error!r}", "report it"
            )


def _packages(settings: Settings) -> Iterator[Finding]:
    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "missing"

    found = {name: version(name) for name in ("grpcio", "numpy", "torch", "nemo_toolkit", "huggingface_hub")}
    shown = f"asr_service {__version__}, " + ", ".join(f"{name} {number}" for name, number in found.items())
    missing = [name for name, number in found.items() if number == "missing"]
    if missing and settings.model != "null":
        yield Finding("packages", Verdict.WRONG, shown, "run make setup, or pip install 'asr-service[model]'")
    else:
        yield Finding("packages", Verdict.OK, shown)


def _model(settings: Settings) -> Iterator[Finding]:
    name = settings.model
    if name == "null":
        yield Finding("model", Verdict.NOTE, "null: no recognition", "set ASR_MODEL for real words")
        return
    path = local_path(name)
    if path is None:
        yield from _hub_model(name)
    elif not path.exists():
        yield Finding("model", Verdict.WRONG, f"{path} does not exist", "correct ASR_MODEL")
    elif not os.access(path, os.R_OK):
        yield Finding("model", Verdict.WRONG, f"{path} cannot be read", "give this user the right to read it")
    elif path.is_dir():
        if (path / CONFIG).is_file():
            yield Finding("model", Verdict.OK, f"{path}, the folder of an unpacked .nemo file")
        else:
            yield Finding("model", Verdict.WRONG, f"{path} has no {CONFIG}", "correct ASR_MODEL")
    elif not _looks_like_archive(path):
        yield Finding(
            "model",
            Verdict.WRONG,
            f"{path} is no .nemo archive ({path.stat().st_size} bytes)",
            "fetch it again; a few hundred bytes are often a Git LFS pointer",
        )
    else:
        yield Finding("model", Verdict.OK, f"{path}, {path.stat().st_size / 1e6:.0f} MB")


def _hub_model(name: str) -> Iterator[Finding]:
    """Looks for a hub's model where the service would; the hub is not asked."""
    try:
        wanted = parse_hub_name(name)
    except ModelError as error:
        yield Finding("model", Verdict.WRONG, error.message, "correct ASR_MODEL")
        return
    try:
        from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

        from asr_service.model.hub.cache import RepoCache, matches_etag
    except ModuleNotFoundError:
        # Its absence is reported with the packages.
        return
    cache = RepoCache(wanted)
    held = cache.find()
    if held is None:
        verdict, advice = Verdict.NOTE, "the first start fetches it and needs the network"
        if HF_HUB_OFFLINE:
            verdict, advice = Verdict.WRONG, "HF_HUB_OFFLINE forbids to fetch it: unset it for one start"
        yield Finding("model", verdict, f"{name} is not in {HF_HUB_CACHE}", advice)
    elif matches_etag(held.blob, held.blob.name):
        yield Finding("model", Verdict.OK, f"{name}, fetched before ({held.path})")
    else:
        verdict, advice = Verdict.NOTE, "the next start fetches it again and needs the network"
        if HF_HUB_OFFLINE:
            verdict, advice = Verdict.WRONG, "delete that file, and start once without HF_HUB_OFFLINE"
        yield Finding("model", verdict, f"{held.blob} is damaged", advice)


def _looks_like_archive(path: Path) -> bool:
    """Returns whether a file is a tar file, as it is or gzipped."""
    with path.open("rb") as file:
        start = file.read(512)
    return start[257:262] == b"ustar" or start[:2] == b"\x1f\x8b"


def _ports(settings: Settings) -> Iterator[Finding]:
    for variable, host, port in (
        ("ASR_GRPC_PORT", settings.host, settings.grpc_port),
        ("ASR_METRICS_PORT", settings.metrics_host, settings.metrics_port),
    ):
        if not port:
            continue
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                advice = f"stop what has it (ss -ltnp), or set {variable}"
                yield Finding("port", Verdict.WRONG, f"{host}:{port}: {error.strerror}", advice)
            else:
                yield Finding("port", Verdict.OK, f"{host}:{port} is free")


def _certificates(settings: Settings) -> Iterator[Finding]:
    try:
        files = tls.files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        if files is None:
            outside = settings.host not in ("127.0.0.1", "::1", "localhost")
            advice = "set ASR_TLS_CERT and ASR_TLS_KEY unless a proxy before it speaks TLS" if outside else ""
            yield Finding("TLS", Verdict.NOTE if outside else Verdict.OK, "none", advice)
            return
        identity = files.read()
    except SettingsError as error:
        yield Finding("TLS", Verdict.WRONG, error.message, "see docs/security.md")
        return
    kind = "clients need a certificate" if identity.client_ca else "clients need none"
    until = identity.not_after
    if until is None:
        yield Finding("TLS", Verdict.WRONG, "the certificate has expired or is not valid yet", "renew it")
    elif until - datetime.now(UTC) < SOON:
        yield Finding("TLS", Verdict.NOTE, f"valid until {until:%Y-%m-%d %H:%M} UTC, {kind}", "renew it soon")
    else:
        yield Finding("TLS", Verdict.OK, f"valid until {until:%Y-%m-%d}, {kind}")
    if settings.tls_key is not None and settings.tls_key.stat().st_mode & 0o077:
        yield Finding("TLS", Verdict.NOTE, f"{settings.tls_key} can be read by others", "chmod 600 it")


def _keys(settings: Settings) -> Iterator[Finding]:
    if settings.api_keys_file is None:
        yield Finding("API keys", Verdict.OK, "none: whoever reaches the port may call")
        return
    try:
        count = len(KeyRing(settings.api_keys_file))
    except SettingsError as error:
        yield Finding("API keys", Verdict.WRONG, error.message, "see docs/security.md")
        return
    if count:
        yield Finding("API keys", Verdict.OK, f"{count} in {settings.api_keys_file}")
    else:
        yield Finding(
            "API keys", Verdict.NOTE, f"none in {settings.api_keys_file}", "nobody can call: add one"
        )


def _limits(settings: Settings) -> Iterator[Finding]:
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


def _processor(settings: Settings) -> Iterator[Finding]:
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


def _device(settings: Settings) -> Iterator[Finding]:
    if settings.model == "null":
        return
    # In a process of its own: importing torch takes seconds and hundreds of megabytes, and a broken driver may hang it.
    command = [sys.executable, "-m", "asr_service.model.devices"]
    if settings.device is not None:
        command.append(settings.device)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEVICE_S, check=False)
    except subprocess.TimeoutExpired:
        yield Finding(
            "device", Verdict.WRONG, f"torch did not answer in {DEVICE_S:g} s", "check the GPU's driver"
        )
        return
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Finding("device", Verdict.WRONG, f"torch cannot be used: {why}", "run make setup")
        return
    found = json.loads(lines[-1])
    threads, gpus, device = settings.threads or found["threads"], found["gpus"], found["device"]
    yield Finding("torch", Verdict.OK, f"{threads} threads a step, CUDA {found['cuda'] or '-'}")
    if not device:
        advice = "check nvidia-smi and the driver, or set ASR_DEVICE=cpu"
        yield Finding("device", Verdict.WRONG, found["problem"], advice)
    elif device == "cpu":
        unset = settings.device is None
        advice = "a GPU serves many more streams" if unset else ""
        if gpus:
            advice = f"there are {len(gpus)} GPUs: ASR_DEVICE=cuda:0 uses one"
        yield Finding("device", Verdict.NOTE if unset else Verdict.OK, "the CPU", advice)
        yield from cpu_precision(settings.precision, bf16=found["cpu_has_bf16"], flags=_flags())
    else:
        index = int(device.partition(":")[2] or 0)
        yield Finding("device", Verdict.OK, f"{device}: {gpus[index]}")
