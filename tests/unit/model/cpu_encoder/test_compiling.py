"""Machine code on disk: never that of other sources, wherever it lies and whoever else writes there."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from asr_service.model.cpu_encoder.kernels.rows import exponential
from asr_service.model.cpu_encoder.machine_code import (
    FOLDER_PREFIX,
    SOURCES,
    UNUSED_DAYS,
    code_folder,
    remove_unused_folders,
    source_key,
)
from asr_service.model.cpu_encoder.processors import KINDS, kind_of_processor
from tests.support.forks import Fork, Forks

# Computes e^2 and says whether it was compiled ("1") or read from disk ("0").
PROGRAM = """
    import logging, sys
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    import numpy as np
    from asr_service.model.cpu_encoder.kernels.rows import exponential
    from asr_service.model.cpu_encoder.machine_code import code_folder
    kind = np.dtype(sys.argv[1])
    row = np.array([2.0], kind)
    exponential(row, np.empty_like(row, np.float32), 1)
    print(code_folder(), round(float(row[0]), 3), sum(exponential.stats.cache_misses.values()))
"""
RIGHT = 7.389
# Not the sources, which each test has a copy of.
_FORKS = Forks("numba", "numpy", "numba.core.caching", "numba.core.codegen")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the sources, to change; nothing in it is compiled yet."""
    root = tmp_path / "copy"
    copied = root / "asr_service" / "model" / "cpu_encoder"
    shutil.copytree(SOURCES, copied, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (copied.parent, copied.parent.parent):
        (folder / "__init__.py").touch()
    return root


def _start(
    package: Path, kind: str = "float32", program: str = PROGRAM, **env: str
) -> subprocess.Popen[str] | Fork:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_", "PYTHON"))}
    if not env:
        return _FORKS.program(textwrap.dedent(program), kind, env=plain, cwd=package)
    # Python and Numba read these at their start.
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), kind],
        env=plain | env, cwd=package, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _finish(process: subprocess.Popen[str] | Fork) -> tuple[Path | None, float, int, str]:
    """The folder, e^2, how many functions were compiled, and what was logged."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    folder, value, misses = out.split()
    return None if folder == "None" else Path(folder), float(value), int(misses), err


def _run(package: Path, kind: str = "float32", **env: str) -> tuple[Path | None, float, int, str]:
    return _finish(_start(package, kind, **env))


def test_code_of_changed_sources_is_never_used(package: Path) -> None:
    """A constant in another file than the function's, the file's date and size as before: Numba would not see it."""
    first, value, misses, _ = _run(package)
    assert (value, misses) == (RIGHT, 1)
    again = _run(package)
    assert again[:3] == (first, RIGHT, 0), "read from disk"
    source = package / "asr_service/model/cpu_encoder/isa/exponential.py"
    before, dates = source.read_text(), source.stat()
    changed = before.replace("np.float32(88.0)", "np.float32(1.00)")
    assert changed != before and len(changed) == len(before)
    source.write_text(changed)
    os.utime(source, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    shutil.rmtree(
        source.parent / "__pycache__", ignore_errors=True
    )  # Python's own cache goes by date and size
    other, value, misses, _ = _run(package)
    assert (value, misses) == (2.718, 1), "inputs are limited to 1 now"
    assert other != first
    source.write_text(before)
    shutil.rmtree(source.parent / "__pycache__", ignore_errors=True)
    assert _run(package)[:3] == (first, RIGHT, 0), "and what was there is used again"


def test_a_file_more_is_a_change_too(package: Path) -> None:
    first = _run(package)[0]
    (package / "asr_service/model/cpu_encoder/isa/more.py").touch()
    assert _run(package)[0] != first


def test_the_folder_lies_beside_the_sources_or_where_it_is_told(package: Path, tmp_path: Path) -> None:
    beside, elsewhere = _run(package)[0], _run(package, NUMBA_CACHE_DIR=str(tmp_path / "a" / "b"))[0]
    assert beside is not None and elsewhere is not None
    assert beside.parent == package / "asr_service/model/cpu_encoder/__pycache__"
    assert elsewhere.parent == tmp_path / "a" / "b"
    assert beside.name == elsewhere.name
    assert list(elsewhere.glob("*.nbc"))


def test_sources_that_cannot_be_written_to_leave_the_users_cache(package: Path, tmp_path: Path) -> None:
    """A file stands where the folder would be made: permissions do not stop root, who runs tests in containers."""
    (package / "asr_service/model/cpu_encoder/__pycache__").touch()
    home = tmp_path / "home"
    folder, value, _, _ = _run(package, HOME=str(home), PYTHONDONTWRITEBYTECODE="1")
    assert value == RIGHT
    assert folder is not None and home in folder.parents


def test_without_any_folder_functions_are_compiled_at_each_start(package: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    (package / "asr_service/model/cpu_encoder/__pycache__").touch()
    env = {"HOME": str(blocked), "NUMBA_CACHE_DIR": str(blocked / "x"), "PYTHONDONTWRITEBYTECODE": "1"}
    for _ in range(2):
        folder, value, _, log = _run(package, **env)
        assert (folder, value) == (None, RIGHT)
        assert "NUMBA_CACHE_DIR" in log


def test_processes_that_compile_at_once_never_load_each_others_code(package: Path) -> None:
    """Different types of argument for one function, whose code Numba numbers by what it sees on disk."""
    kinds = ["float32", "float64"] * 3
    started = [_start(package, kind) for kind in kinds]
    assert [_finish(process)[1] for process in started] == [RIGHT] * len(kinds)
    for kind in kinds[:2]:
        assert _run(package, kind)[1:3] == (RIGHT, 0)


def test_of_processes_that_start_together_one_compiles(package: Path) -> None:
    started = [_start(package) for _ in range(3)]
    finished = [_finish(process) for process in started]
    assert [value for _, value, _, _ in finished] == [RIGHT] * 3
    assert sum(misses for _, _, misses, _ in finished) == 1, "the others waited and read what it wrote"


def test_a_folder_where_all_is_compiled_goes_before_one_that_can_be_written(
    package: Path, tmp_path: Path
) -> None:
    """As in an image, beside whose sources only its builder writes; for one processor, not for any."""
    home = tmp_path / "home"
    beside = package / "asr_service/model/cpu_encoder/__pycache__"
    beside.touch()
    mark = (
        "; from asr_service.model.cpu_encoder.machine_code import mark_prepared; mark_prepared()\n    kind ="
    )
    told = {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    prepared = _finish(_start(package, program=PROGRAM.replace("\n    kind =", mark), **told))[0]
    assert prepared is not None and home in prepared.parents
    beside.unlink()
    assert _run(package, **told)[:3] == (prepared, RIGHT, 0)
    other = _run(package, **told, NUMBA_CPU_NAME="x86-64" if platform.machine() == "x86_64" else "generic")[0]
    assert other is not None and other.parent == beside


@pytest.mark.skipif(kind_of_processor() is None, reason="this processor is of no kind that code is made for")
def test_code_for_this_kind_of_processor_is_used_where_there_is_none_for_itself(
    package: Path, tmp_path: Path
) -> None:
    """As in an image: beside the sources, where only its builder writes, for all kinds and for no processor."""
    own = kind_of_processor()
    assert own is not None
    program = """
        import sys
        import numba, numpy as np
        from asr_service.model.cpu_encoder.kernels.rows import exponential
        from asr_service.model.cpu_encoder.machine_code import code_folder, mark_prepared, target
        row = np.array([2.0], np.float32)
        if sys.argv[1] == "prepare":
            exponential.compile((numba.typeof(row), numba.typeof(row), numba.int64))
            mark_prepared()
        else:
            exponential(row, np.empty_like(row), 1)
        codegen = exponential.targetctx.codegen().magic_tuple()
        print(code_folder(), target().key, codegen[1], sum(exponential.stats.cache_misses.values()), row[0])
    """
    for kind in KINDS:
        told = {"NUMBA_CPU_NAME": kind.cpu, "NUMBA_CPU_FEATURES": kind.features}
        out, err = _start(package, "prepare", program, **told).communicate()
        assert out.split()[1:4] == [kind.name, kind.cpu, "1"], err
    folder = out.split()[0]
    plain = {"PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    taken = _start(package, "use", program, **plain).communicate()[0].split()
    assert taken[:4] == [folder, own.name, own.cpu, "0"] and float(taken[4]) == pytest.approx(np.exp(2))
    # One that is not complete is not used, nor one for a lesser kind: this processor's own is compiled.
    Path(folder, f"prepared-{own.name}").unlink()
    taken = _start(package, "use", program, **plain).communicate()[0].split()
    assert taken[1] not in {kind.name for kind in KINDS} and taken[3] == "1"
    assert float(taken[4]) == pytest.approx(np.exp(2))
    # Where there is code for the processor itself, that goes before its kind's.
    Path(folder, f"prepared-{own.name}").touch()
    Path(folder, f"prepared-{taken[1]}").touch()
    again = _start(package, "use", program, **plain).communicate()[0].split()
    assert again[1:4] == [*taken[1:3], "0"]


@pytest.mark.parametrize("trouble", ["a cache that others may not enter", "no home"])
def test_no_folder_of_the_user_stops_nobody(package: Path, tmp_path: Path, trouble: str) -> None:
    """As in a container whose process runs as a user that its image does not know."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o000)
    program = f"""
        import os, pwd
        from tests.support.rights import give_up_rights
        give_up_rights()
        if {trouble == "no home"}:
            os.environ.pop("HOME", None)
            pwd.getpwuid = {{}}.__getitem__
        else:
            os.environ["XDG_CACHE_HOME"] = {str(locked)!r}
        from asr_service.model.cpu_encoder.machine_code import code_folder, is_prepared
        print(code_folder(), int(is_prepared()), 0)
    """
    folder, prepared, _, _ = _finish(_start(package, program=program))
    assert folder is not None and not prepared
    assert folder.parent == package / "asr_service/model/cpu_encoder/__pycache__"


def test_broken_files_are_written_anew(package: Path) -> None:
    """As a crash of the machine leaves them."""
    folder = _run(package)[0]
    assert folder is not None
    for suffix in ("nbi", "nbc"):
        for file in folder.glob(f"*.{suffix}"):
            file.write_bytes(file.read_bytes()[:3])
        assert _run(package)[:3] == (folder, RIGHT, 1)
        assert _run(package)[:3] == (folder, RIGHT, 0)


def test_a_folder_that_can_no_longer_be_used_stops_nobody(package: Path) -> None:
    """A file has taken its place since the start: nothing can be read there and nothing kept."""
    spoil = "import shutil; f = code_folder(); shutil.rmtree(f); f.touch()\n    kind ="
    _, value, misses, log = _finish(_start(package, program=PROGRAM.replace("kind =", spoil)))
    assert (value, misses) == (RIGHT, 1)
    assert "machine code is not kept" in log


def test_code_that_did_not_fit_on_the_disk_is_not_kept(package: Path) -> None:
    """Its index does fit, and is written first."""
    program = """
        import resource, signal, sys
        import numba, numpy as np
        from asr_service.model.cpu_encoder.compiling import Call
        from asr_service.model.cpu_encoder.kernels.rows import exponential
        from asr_service.model.cpu_encoder.machine_code import code_folder
        if sys.argv[1] == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        row = np.array([2.0], np.float32)
        call = Call(exponential, (numba.typeof(row), numba.typeof(row), numba.int64))
        before = call.is_kept()
        call.compile()
        print(code_folder(), int(before), int(call.is_kept()))
    """
    folder, before, after, log = _finish(_start(package, "full", program))
    assert folder is not None and list(folder.glob("*.nbi")) and not list(folder.glob("*.nbc"))
    assert (before, after) == (0, 0) and "machine code is not kept" in log
    assert _finish(_start(package, "room", program))[1:3] == (0, 1)
    assert _finish(_start(package, "room", program))[1:3] == (1, 1)


def test_folders_that_nobody_opened_for_long_are_removed(tmp_path: Path) -> None:
    now = 2_000_000_000.0
    ages = {"old": UNUSED_DAYS + 1, "recent": UNUSED_DAYS - 1, source_key(): UNUSED_DAYS + 1}
    for name, days in ages.items():
        folder = tmp_path / (FOLDER_PREFIX + name)
        folder.mkdir()
        (folder / "code.nbc").touch()
        os.utime(folder, (now - days * 86_400,) * 2)
    other = tmp_path / "somebody-else"
    other.mkdir()
    os.utime(other, (0, 0))
    assert remove_unused_folders(tmp_path, now) == [tmp_path / (FOLDER_PREFIX + "old")]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {FOLDER_PREFIX + "recent", FOLDER_PREFIX + source_key(), "somebody-else"}


def test_numba_uses_the_folder() -> None:
    """What this package replaces is private to Numba: another release may have moved it."""
    assert exponential.stats.cache_path == str(code_folder())
