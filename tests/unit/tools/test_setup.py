"""`make setup` and `make lock` on a small project, with packages from a folder: nothing is fetched."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import ROOT
from tools.run_uv import pip_options, uv_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "asr-service"
version = "1"
requires-python = ">=3.11"
dependencies = ["steady>=1"]
[project.optional-dependencies]
model = ["torch>=1"]
compressed = ["steady"]
otel = ["setuptools"]
nemo = ["steady"]
[dependency-groups]
riva = ["nvidia-riva-client"]
dev = ["uv", "checker"]
[tool.setuptools]
py-modules = []
"""


def make_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> None:
    """A wheel of these files, metadata among them, by their paths in it."""
    info = f"{name}-{version}.dist-info"
    files = {f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"} | files
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)
            # uv is a program.
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, content)


def small_wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """A package with one module, which knows its version."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    module = f"version = {version!r}\n"
    files = {f"{name}-{version}.dist-info/METADATA": metadata.encode(), f"{name}.py": module.encode()}
    make_wheel(folder, name, version, files)


def installed_wheel(folder: Path, name: str) -> str:
    """A wheel made anew of a package of this environment; its pin."""
    package = importlib.metadata.distribution(name)
    files = {}
    for path in package.files or []:
        if "__pycache__" in path.parts or path.name in ("RECORD", "WHEEL", "direct_url.json"):
            continue
        script = path.parts[-2:-1] == ("bin",)
        files[f"{name}-{package.version}.data/scripts/{path.name}" if script else str(path)] = Path(
            str(path.locate())
        ).read_bytes()
    make_wheel(folder, name, package.version, files)
    return f"{name}=={package.version}"


class Project:
    """The small project: its folder, and `make` in it, whose packages come from `wheels` alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.site = folder / ".venv/lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        # make hands its own variables on: ARGS of `make test` is not meant for the `make` here.
        told = ("PIP_", "UV_", "MAKE", "ARGS", "TORCH")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(told)},
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "UV_CACHE_DIR": str(folder / "cache"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`make` in a process group of its own."""
        return subprocess.Popen(
            ["make", f"PYTHON={sys.executable}", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def make(self, *arguments: str) -> str:
        """What `make` printed; it has to succeed."""
        process = self.start(*arguments)
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
        return printed

    def version(self, name: str) -> str:
        """What the environment's Python imports as the package's version."""
        command = [str(self.folder / ".venv/bin/python"), "-c", f"import {name}; print({name}.version)"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def edit(self, lock: str, old: str, new: str) -> None:
        """Changes a pin."""
        path = self.folder / lock
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project before its first set-up."""
    folder = tmp_path_factory.mktemp("template")
    wheels = folder / "wheels"
    wheels.mkdir()
    own = [installed_wheel(wheels, name) for name in ("setuptools", "uv")]
    for version in ("1.0", "2.0"):
        small_wheel(wheels, "steady", version)
        small_wheel(wheels, "checker", version, "steady")
        # As torch's GPU builds do: what only they need is pinned by them, and in no lock.
        small_wheel(wheels, "torch", version, f"nvidia-fast=={version}")
        small_wheel(wheels, "nvidia_fast", version)
    small_wheel(wheels, "nvidia_riva_client", "1.0")
    (folder / "requirements.lock").write_text(f"{own[0]}\nsteady==1.0\ntorch==1.0\n")
    (folder / "requirements-dev.lock").write_text(f"{own[1]}\nchecker==1.0\n")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "tools").mkdir()
    for path in ("Makefile", "tools/setup.py", "tools/run_uv.py"):
        shutil.copy(ROOT / path, folder / path)
    kernels = folder / "asr_service/model/cpu_encoder"
    kernels.mkdir(parents=True)
    for package in (kernels, *list(kernels.parents)[:2]):
        (package / "__init__.py").touch()
    (kernels / "prepare.py").write_text("import steady\nprint('compiling with', steady.version)\n")
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    """A project that has no environment yet."""
    return Project(Path(shutil.copytree(template, tmp_path / "project")))


@pytest.fixture(scope="module")
def first_set_up(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project that has an environment, and what its first set-up has printed."""
    project = Project(Path(shutil.copytree(template, tmp_path_factory.mktemp("settled") / "project")))
    return project, project.make("setup")


@pytest.fixture
def settled(template: Path, first_set_up: tuple[Project, str]) -> Iterator[Project]:
    """The project of `first_set_up`, whose files are as they were afterwards; its environment is what tests make it."""
    project, _ = first_set_up
    environment = dict(project.environment)
    yield project
    project.environment = environment
    for path in project.folder.glob("asr_service/**/more.py"):
        path.unlink()
    shutil.copytree(template, project.folder, dirs_exist_ok=True)


def test_the_encoder_step_is_compiled_at_set_up_and_when_its_sources_change(
    settled: Project, first_set_up: tuple[Project, str]
) -> None:
    assert "compiling with 1.0" in first_set_up[1]
    assert settled.make("setup") == ""

    kernels = settled.folder / "asr_service/model/cpu_encoder"
    (kernels / "more.py").touch()
    printed = settled.make("setup")
    assert "compiling with" in printed and "installing" not in printed
    assert settled.make("setup") == ""

    (kernels / "prepare.py").write_text("raise SystemExit('no compiler')\n")
    assert "the first start takes the longer" in settled.make("setup"), (
        "which is no reason to have no environment"
    )


def test_set_up_installs_the_pins_once_and_then_what_changes(
    settled: Project, first_set_up: tuple[Project, str]
) -> None:
    project = settled
    assert "making .venv" in first_set_up[1]
    assert [project.version(name) for name in ("steady", "checker", "torch")] == ["1.0"] * 3
    assert project.version("nvidia_fast") == "1.0", "a build of torch brings what it alone needs"
    assert (project.folder / ".venv/bin/uv").exists()
    names = {found.metadata["Name"] for found in importlib.metadata.distributions(path=[str(project.site)])}
    assert "asr-service" in names

    project.make("setup")
    assert project.make("setup") == ""

    project.edit("requirements.lock", "steady==1.0", "steady==2.0")
    assert "making" not in project.make("setup"), "the environment is kept"
    assert [project.version(name) for name in ("steady", "nvidia_fast")] == ["2.0", "1.0"]


def test_torch_index_has_another_build_of_torch(project: Project, tmp_path: Path) -> None:
    small_wheel(tmp_path, "torch", "1.0+cpu")
    (tmp_path / "index" / "torch").mkdir(parents=True)
    (wheel,) = tmp_path.glob("torch-*.whl")
    page = f'<a href="{wheel.as_uri()}">{wheel.name}</a>'
    (tmp_path / "index" / "torch" / "index.html").write_text(page)
    del project.environment["PIP_NO_INDEX"]
    project.environment["PIP_INDEX_URL"] = (tmp_path / "empty").as_uri()
    project.environment["TORCH_INDEX"] = (tmp_path / "index").as_uri()
    project.make("setup")
    assert project.version("torch") == "1.0+cpu"
    assert not (project.site / "nvidia_fast.py").exists()


def test_an_interrupted_set_up_is_taken_up_by_the_next(project: Project) -> None:
    process = project.start("setup")
    assert process.stdout is not None
    while "installing what" not in (line := process.stdout.readline()):
        assert line, "the set-up ended by itself"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "making .venv" in project.make("setup")

    # Killed while it unpacked: the metadata are there, the module is not.
    (project.site / "steady.py").unlink()
    (project.folder / ".venv/installed").unlink()
    project.make("setup")
    assert project.version("steady") == "1.0"


def test_of_two_at_once_the_second_waits(project: Project) -> None:
    both = [project.start("setup") for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert sorted("making .venv" in text for text in printed) == [False, True]
    assert project.version("checker") == "1.0"


def test_an_old_python_is_told(project: Project) -> None:
    code = "import runpy, sys; sys.version_info = (3, 10, 1); runpy.run_path('tools/setup.py', run_name='__main__')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Python 3.11 or newer is needed")
    assert not (project.folder / ".venv").exists()


@pytest.mark.parametrize(
    ("system", "machine", "said"),
    [
        ("Windows", "AMD64", "On Windows, clients and stubs do: pip install . brings"),
        ("Darwin", "x86_64", "for macOS on arm64; this is Darwin on x86_64"),
        ("Linux", "riscv64", "Linux on x86-64 and arm64 and for macOS on arm64; this is Linux on riscv64"),
    ],
)
def test_a_system_without_packages_is_told(project: Project, system: str, machine: str, said: str) -> None:
    code = (
        f"import platform, runpy; platform.system = lambda: {system!r}; platform.machine = lambda: {machine!r}; "
        "runpy.run_path('tools/setup.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project.folder, capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr
    assert not (project.folder / ".venv").exists()


def test_locks_keep_their_pins_unless_told_otherwise(settled: Project, tmp_path: Path) -> None:
    project = settled

    def pins(name: str) -> dict[str, str]:
        lines = (project.folder / name).read_text().splitlines()
        split = (line.partition(" ")[0].partition("==") for line in lines if line[:1] != "#")
        return {package: version for package, _, version in split}

    limit = tmp_path / "limit.txt"
    limit.write_text("torch<3\n")
    project.environment["PIP_CONSTRAINT"] = str(limit)
    project.make("lock")
    kept = pins("requirements.lock")
    # The group riva was asked for and had no pin; nvidia-fast is what only torch asks for.
    assert set(kept) == {"setuptools", "steady", "torch", "nvidia-riva-client"}
    assert (kept["steady"], kept["torch"]) == ("1.0", "1.0")
    assert pins("requirements-dev.lock")["checker"] == "1.0"

    project.make("lock", "ARGS=--upgrade")
    newest = pins("requirements.lock")
    assert (newest["steady"], newest["torch"]) == ("2.0", "1.0"), "torch keeps its release"
    assert pins("requirements-dev.lock")["checker"] == "2.0"

    project.make("lock", "TORCH=2.0")
    assert pins("requirements.lock")["torch"] == "2.0"
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert str(tmp_path) not in (project.folder / name).read_text(), "paths belong to the machine"


def test_what_cannot_be_installed_is_told(settled: Project) -> None:
    settled.edit("requirements.lock", "steady==1.0", "steady==7.0")
    process = settled.start("setup")
    printed = process.communicate()[0]
    assert process.returncode != 0
    assert "steady==7.0" in printed and "Run the same command to go on" in printed


def test_uv_is_told_what_pip_is() -> None:
    options = pip_options(
        "global.find-links='/everyone'\n"
        "global.extra-index-url='\\nfile:///one\\nfile:///two'\n"
        "install.constraint='/c.txt'\n"
        "list.format='columns'\n"
        ":env:.find-links='/mine /yours'\n"
        ":env:.no-index='1'\n"
    )
    assert options["no-index"] == "1" and "format" not in options
    told = uv_environment(options, {"HOME": "/home", "TORCH_INDEX": "file:///torch"})
    assert told["UV_FIND_LINKS"] == "/mine,/yours"
    assert told["UV_INDEX"] == "file:///one file:///two file:///torch"
    assert told["UV_CONSTRAINT"] == "/c.txt"
    assert told["HOME"] == "/home" and "UV_DEFAULT_INDEX" not in told
    assert uv_environment(options, {"UV_INDEX": "file:///own"})["UV_INDEX"] == "file:///own"
