"""`make images` where there is nothing to make them with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.process import run_python


@pytest.mark.parametrize("docker", ["not there", "without a daemon"])
def test_without_an_engine_it_says_what_is_needed(tmp_path: Path, docker: str) -> None:
    if docker == "without a daemon":
        program = tmp_path / "docker"
        program.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2; exit 1\n")
        program.chmod(0o755)
    done = run_python("-m", "tests.images", PATH=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("make images: no container engine can be used here.")
    assert "apt-get install docker.io" in done.stderr and "--daemon FOLDER" in done.stderr


def test_an_engine_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    done = run_python("-m", "tests.images", "--engine", "podman", PATH=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("make images: podman: no container engine")


def test_without_a_daemon_to_start_it_says_so(tmp_path: Path) -> None:
    done = run_python("-m", "tests.images", "--daemon", tmp_path / "kept", PATH=tmp_path)
    assert done.returncode == 2 and "there is no dockerd to start" in done.stderr
    assert not (tmp_path / "kept").exists()


def test_another_flavour_is_refused() -> None:
    done = run_python("-m", "tests.images", "rocm", "--", "--network", "host")
    assert done.returncode == 2 and "'rocm' is neither cpu nor cuda" in done.stderr
