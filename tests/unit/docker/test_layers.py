"""What an image leaves out of an installed environment, and which layer the rest lies in."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.process import ROOT

FILES = {
    "torch/__init__.py": "",
    "torch/bin/torch_shm_manager": "program",
    "torch/bin/test_jit": "program",
    "torch/bin/protoc": "program",
    "torch/include/ATen/ATen.h": "header",
    "torch/lib/libtorch_cpu.so": "library",
    "torch/lib/libtorchbind_test.so": "library",
    "torch/nn/test/test_nn.py": "",
    "nvidia/cu13/lib/libcublas.so.13": "library",
    "nvidia/cu13/include/cublas.h": "header",
    "nvidia/cu13/lib/libcudart_static.a": "library",
    "nvidia/cu13/lib/libcusolverMg.so.12": "library",
    "nvidia/cu13/lib/libnvrtc.so.13": "library",
    "nvidia/cu13/lib/libnvrtc.alt.so.13": "library",
    "numpy/__init__.py": "",
    "numpy/_core/tests/_natype.py": "imported = True",
    "numpy/lib/tests/test_io.py": "",
    "uvloop/includes/__init__.py": "",
    "uvloop/loop.pyx": "",
    "asr/v1/asr_pb2.py": "",
    "asr_service/__init__.py": "",
    "asr_common/log.py": "",
    "ws_bridge/page/index.html": "page",
    "asr_service-0.1.dist-info/METADATA": "Name: asr-service",
}
KEPT = {
    "nvidia/cu13/lib/libnvrtc.so.13",
    "torch/__init__.py", "torch/bin/torch_shm_manager", "torch/lib/libtorch_cpu.so", "nvidia/cu13/lib/libcublas.so.13",
    "numpy/__init__.py", "numpy/_core/tests/_natype.py", "uvloop/includes/__init__.py", "asr/v1/asr_pb2.py",
    "asr_service/__init__.py", "asr_common/log.py", "ws_bridge/page/index.html", "asr_service-0.1.dist-info/METADATA",
}  # fmt: skip


@pytest.fixture
def layers() -> ModuleType:
    """The program, which lies in no package."""
    spec = importlib.util.spec_from_file_location("layers", ROOT / "docker" / "layers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with `FILES` in it, which nobody but its owner may read."""
    root = tmp_path / "asr"
    for name, content in FILES.items():
        path = root / "lib/python3.11/site-packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o600)
    program = root / "libexec/entrypoint.sh"
    program.parent.mkdir()
    program.write_text("#!/bin/sh")
    program.chmod(0o700)
    return root


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_nothing_runs_is_left_out(layers: ModuleType, environment: Path) -> None:
    packages = layers.packages_folder(environment)
    before = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    removed = layers.trim(environment)
    assert files(packages) == KEPT
    assert removed == before - sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())


def test_everybody_may_read_what_one_user_installed(layers: ModuleType, environment: Path) -> None:
    layers.compile_all(environment)
    for path in environment.rglob("*"):
        wanted = 0o755 if path.is_dir() or path.suffix == ".sh" else 0o644
        assert path.stat().st_mode & 0o777 == wanted, path


def test_byte_code_goes_by_content_so_that_dates_of_layers_do_not_matter(
    layers: ModuleType, environment: Path
) -> None:
    layers.compile_all(environment)
    packages = layers.packages_folder(environment)
    (code,) = (packages / "numpy/_core/tests/__pycache__").glob("_natype.*.pyc")
    first = code.read_bytes()
    code.unlink()
    (packages / "numpy/_core/tests/_natype.py").touch()
    layers.compile_all(environment)
    assert code.read_bytes() == first and first[4:8] == b"\x01\0\0\0", "by hash, not checked"


def test_layers_are_what_changes_together(layers: ModuleType, environment: Path, tmp_path: Path) -> None:
    layers.trim(environment)
    layers.split(environment, tmp_path / "layers")
    inside = f"{environment.relative_to('/')}/lib/python3.11/site-packages"
    found = {
        layer: {
            name.removeprefix(f"{inside}/").partition("/")[0] for name in files(tmp_path / "layers" / layer)
        }
        for layer in ("torch", "packages", "service")
    }
    assert found["torch"] == {"torch", "nvidia"}
    assert found["packages"] == {"numpy", "uvloop"}
    ours = {"asr", "asr_service", "asr_common", "ws_bridge", "asr_service-0.1.dist-info"}
    assert found["service"] - ours == {str(environment.relative_to("/")).partition("/")[0]}, (
        "and the programs"
    )
    assert ours <= found["service"]
    assert (tmp_path / "layers/service" / environment.relative_to("/") / "libexec/entrypoint.sh").exists()
