"""What other projects install: the stubs alone, and the service with its data."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.process import ROOT, printed


def wheel(source: Path, folder: Path) -> list[str]:
    """Names of the files in the wheel that pip makes of a project."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    # A copy: building leaves folders beside the sources.
    copy = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (source / name).exists():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source / name).read_bytes())
    subprocess.run([*command, "--wheel-dir", str(folder), str(copy)], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        return archive.namelist()


def test_the_stubs_are_a_typed_package_of_their_own(tmp_path: Path) -> None:
    names = wheel(ROOT / "proto" / "python", tmp_path)
    for name in ("py.typed", "v1/asr_pb2.py", "v1/asr_pb2.pyi", "v1/asr_pb2_grpc.py", "v1/asr_pb2_grpc.pyi"):
        assert f"asr/{name}" in names
    assert all(name.startswith(("asr/", "asr_v1_stubs-")) for name in names)


def test_the_service_brings_its_data_and_no_tests(tmp_path: Path) -> None:
    names = wheel(ROOT, tmp_path)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "asr_common",
        "asr_service",
        "ws_bridge",
    }
    for path in [*(ROOT / "asr_service").rglob("*"), *(ROOT / "ws_bridge").rglob("*")]:
        # Pages for engineers stay in the repository.
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
            assert str(path.relative_to(ROOT)) in names


@pytest.mark.parametrize(
    ("modules", "never"),
    [
        ("asr_common.settings, asr_common.log_lines", "torch nemo numpy grpc asr_service ws_bridge clients"),
        ("asr.v1.asr_pb2, asr.v1.asr_pb2_grpc", "torch nemo numpy asr_service"),
        ("ws_bridge.server", "torch nemo asr_service"),
        (
            "clients.grpc_client_wav, clients.loadgen.__main__, clients.demo.__main__",
            "torch nemo asr_service ws_bridge",
        ),
        ("asr_service.app.service", "torch nemo grpc google uvloop numpy"),
        ("asr_service.app.front_end", "torch nemo"),
        ("asr_service.app.engine_process", "torch nemo grpc google uvloop"),
    ],
)
def test_nothing_heavy_or_foreign_is_imported(modules: str, never: str) -> None:
    snippet = f"import sys, {modules}; print(*set({never.split()!r}) & set(sys.modules))"
    assert printed("-c", snippet) == ""
