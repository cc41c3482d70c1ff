"""What the service can be installed on: Pythons, systems, processors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import asr_service.__main__
import ws_bridge.__main__
from asr_service.doctor import installation
from tests.support.process import PATIENCE_S, ROOT, run_python
from tools import setup

pytestmark = pytest.mark.timeout(600)

LINUX, LINUX_ARM = "x86_64-manylinux_2_31", "aarch64-manylinux_2_31"
MACOS_ARM, WINDOWS = "aarch64-apple-darwin", "x86_64-pc-windows-msvc"
NEEDS_SOURCES = "antlr4-python3-runtime"
"""NeMo's; has never had wheels, and is Python alone."""
MACOS = "14.0"
"""The oldest that all of the pins have wheels for."""
# Said by uv where the index does not answer, or is not there.
NO_INDEX = re.compile(r"Failed to fetch|error sending request|provided package locations")


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def test_it_is_said_once_which_pythons_there_are() -> None:
    oldest = ".".join(map(str, installation.OLDEST_PYTHON))
    assert project()["requires-python"] == f">={oldest}"
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(project()["classifiers"]), re.MULTILINE)
    newest = ".".join(map(str, installation.NEWEST_PYTHON))
    assert (
        named == [f"3.{minor}" for minor in range(11, installation.NEWEST_PYTHON[1] + 1)]
        and named[-1] == newest
    )
    assert setup.SYSTEMS == installation.SYSTEMS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {oldest} to {newest}" in readme


def resolve(platform: str, python: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Has uv say what it would install on another platform: wheels, since what has none would have to be built."""
    return subprocess.run(
        [
            *(
                sys.executable,
                "tools/run_uv.py",
                "pip",
                "install",
                "--dry-run",
                "--python-platform",
                platform,
            ),
            *("--python-version", python, "--only-binary", ":all:", "--no-binary", NEEDS_SOURCES),
            *map(str, arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def check_resolved(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


# 3.12 is between.
@pytest.mark.parametrize(
    ("platform", "python"),
    [(LINUX, "3.13"), (LINUX_ARM, "3.11.2"), (LINUX_ARM, "3.13"), (MACOS_ARM, "3.11.2"), (MACOS_ARM, "3.13")],
)
def test_every_pin_has_a_wheel(tmp_path: Path, platform: str, python: str) -> None:
    locks = ("--requirement", "requirements.lock", "--requirement", "requirements-dev.lock")
    done = resolve(platform, python, "--target", tmp_path, *locks)
    check_resolved(done)
    if platform == MACOS_ARM:
        assert not re.search(r"^ \+ (nvidia-(?!riva)|cuda-|triton)", done.stderr, re.MULTILINE), done.stderr


@pytest.mark.parametrize(
    ("platform", "chosen"),
    [(LINUX, ["--all-extras"]), (WINDOWS, ["--extra", "mic"])],
    ids=["all extras", "Windows: what clients and stubs need"],
)
def test_what_is_asked_for_can_be_had(tmp_path: Path, platform: str, chosen: list[str]) -> None:
    """As pip resolves it, which knows nothing of our locks."""
    done = resolve(platform, "3.13", "--target", tmp_path, *chosen, "--requirement", "pyproject.toml")
    check_resolved(done)


def test_clients_and_stubs_import_nothing_that_windows_lacks() -> None:
    done = run_python("-m", "tests.support.other_systems", "win32", "--import", "asr", "clients")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


@pytest.mark.parametrize("program", [asr_service.__main__, ws_bridge.__main__])
def test_on_windows_the_servers_say_where_they_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: Any
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert program.main([]) == 2
    assert "runs on Linux and macOS; on Windows, clients and stubs do" in capsys.readouterr().err
