"""What other projects install, and what programs import. `tests/e2e/test_installed.py` has the service's wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.support.installed import build
from tests.support.process import ROOT, printed
from tools import setup


def test_the_stubs_are_a_typed_package_of_their_own(tmp_path: Path) -> None:
    with zipfile.ZipFile(build(ROOT / "proto" / "python", tmp_path)) as archive:
        names = archive.namelist()
    for name in ("py.typed", "v1/asr_pb2.py", "v1/asr_pb2.pyi", "v1/asr_pb2_grpc.py", "v1/asr_pb2_grpc.pyi"):
        assert f"asr/{name}" in names
    assert all(name.startswith(("asr/", "asr_v1_stubs-")) for name in names)


def test_what_set_up_imports_ahead_is_there() -> None:
    assert printed("-c", f"import {setup.FIRST_IMPORTS}") == ""


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
