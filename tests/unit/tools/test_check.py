"""The checks of the protocol notice what they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT
from tools import check

PROTO = "proto/asr/v1/asr.proto"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the protocol and its stubs in a repository of its own, released as v1.0.0."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("buf", path=path) is None:
        pytest.skip("buf is not installed")
    monkeypatch.setenv("PATH", path)
    for name in ("buf.yaml", "buf.gen.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "proto", tmp_path / "proto", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "release"], ["tag", "v1.0.0"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(check, "ROOT", tmp_path)
    return tmp_path


def edit(tree: Path, old: str, new: str) -> None:
    path = tree / PROTO
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_stubs_that_are_what_the_protocol_says_pass(tree: Path) -> None:
    assert check.stubs()


def test_stubs_of_another_protocol_are_stale(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(tree, "string finalize_tag = 7;", "string finalize_tag = 7;\n  string speaker = 99;")
    assert not check.stubs()
    assert "proto/python/asr/v1/asr_pb2.py is not what proto/asr/v1 says" in capsys.readouterr().out


def test_a_new_field_breaks_nobody(tree: Path) -> None:
    edit(tree, "string finalize_tag = 7;", "string finalize_tag = 7;\n  string speaker = 99;")
    assert check.breaking()


def test_a_field_that_changes_its_number_breaks_clients(tree: Path) -> None:
    edit(tree, "string finalize_tag = 7;", "string finalize_tag = 98;")
    assert not check.breaking()


def test_a_pin_that_does_not_answer_its_requirement_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text("# pins\nnumpy==2.4.6 ; sys_platform != 'win32'  # via scipy\nnemo-toolkit==3.0.0\n")
    assert check.answered(["numpy>=2", "nemo_toolkit[asr]>=3,<4"], lock)
    assert not check.answered(["numpy>=3", "scipy"], lock)
    said = capsys.readouterr().out
    assert "asks for 'numpy>=3', some.lock has 2.4.6" in said
    assert "asks for 'scipy', some.lock has None" in said


def test_what_is_committed_pins_all_that_is_asked_for() -> None:
    assert check.locks()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_has_pins_of_no_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    pins = [line.partition("#")[0] for line in text.splitlines() if not line.startswith("#")]
    assert all("==" in pin and "+" not in pin for pin in pins)
    names = [pin.partition("==")[0] for pin in pins]
    assert not [name for name in names if name.startswith("nvidia-") and name != "nvidia-riva-client"]
    assert "/" not in text and " -" not in text
