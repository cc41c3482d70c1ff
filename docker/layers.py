"""Makes an installed environment ready for an image: leaves out what no program of it runs, writes all byte code, and
sorts the files into layers by how often they change.

layers.py trim FOLDER          removes tests, headers and tools of packages from an environment
layers.py compile FOLDER       writes the byte code of all its modules, and lets everybody read everything
layers.py split FOLDER TARGET  moves it into TARGET/torch, TARGET/packages and TARGET/service, each to be copied to /

Byte code goes by the sources' content, not their dates, and is not checked when it is read: the same sources make the
same layer, and nothing has to be written where the image runs. Standard library only.
"""

from __future__ import annotations

import compileall
import os
import shutil
import stat
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

TESTS = ("test", "tests")
"""Folders that are left out of any package."""
KEPT = ("numpy/_core/tests",)
"""But for those that packages import."""
NOT_RUN = (
    "torch/bin/[!t]*", "torch/bin/test*", "torch/include", "torch/share",
    "torch/lib/*test*", "torch/lib/*.a",
    "nvidia/*/lib/libcusolverMg.*", "nvidia/*/lib/lib*.alt.so*", "nvidia/*/lib/libnvblas.*", "nvidia/*/lib/libcufftw.*",
    "nvidia/*/lib/libnvperf_*", "nvidia/*/lib/libpcsamplingutil.*", "nvidia/*/lib/libcheckpoint.*",
    "triton/_C/libproton.so", "triton/backends/nvidia/lib/cupti",
    "triton/backends/nvidia/bin/cuobjdump", "triton/backends/nvidia/bin/nvdisasm",
    "nvidia/*/include", "nvidia/*/*/include", "nvidia/*/bin", "nvidia/*/lib/*.a", "nvidia/*/lib/*static*",
    "numpy/_core/include", "numpy/_core/lib", "numpy/random/lib",
    "uvloop/*.pyx", "uvloop/*.pxd", "uvloop/handles",
    "pip", "pip-*.dist-info",
)  # fmt: skip
"""What only those need who build something: headers, static libraries, sources, tools; and libraries of CUDA that torch
neither is linked with nor loads: more GPUs in one solver, profilers, other builds of the same."""
SERVICE = ("asr", "asr_*", "ws_bridge*")
"""What this project installs."""


def packages_folder(environment: Path) -> Path:
    """Returns an environment's site-packages."""
    (folder,) = environment.glob("lib/python3*/site-packages")
    return folder


def trim(environment: Path) -> int:
    """Removes what is not run; returns its bytes."""
    packages = packages_folder(environment)
    removed = sum(_remove(path) for pattern in NOT_RUN for path in packages.glob(pattern))
    for folder, names, _ in os.walk(packages):
        inside = Path(folder).relative_to(packages)
        for name in [name for name in names if name in TESTS and inside.parts]:
            if (inside / name).as_posix() not in KEPT:
                removed += _remove(packages / inside / name)
                names.remove(name)
    return removed


def compile_all(environment: Path) -> None:
    """Writes byte code for all modules and makes everything readable for everybody, whose umask ever it was."""
    compileall.compile_dir(
        environment,
        quiet=2,
        workers=0,
        force=True,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )
    for folder, _, names in os.walk(environment):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            if not path.is_symlink():
                mode = path.stat().st_mode
                more = stat.S_IRGRP | stat.S_IROTH
                if path.is_dir() or mode & stat.S_IXUSR:
                    more |= stat.S_IXGRP | stat.S_IXOTH
                path.chmod(mode | more)


def split(environment: Path, target: Path) -> None:
    """Moves the environment into a folder for each layer, in which it lies as it lies below /."""
    packages = packages_folder(environment)
    inside = packages.relative_to("/")
    of_service = [path for pattern in SERVICE for path in packages.glob(pattern)]
    of_torch = [path for pattern in ("torch", "nvidia", "triton") for path in packages.glob(pattern)]
    for layer, paths in (("service", of_service), ("torch", of_torch)):
        folder = target / layer / inside
        folder.mkdir(parents=True)
        for path in paths:
            shutil.move(path, folder / path.name)
    shutil.move(environment / "libexec", target / "service" / environment.relative_to("/") / "libexec")
    shutil.move(environment, target / "packages" / environment.relative_to("/"))


def _remove(path: Path) -> int:
    size = _size(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    return size


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(_size(one) for one in path.iterdir())


def main(arguments: list[str]) -> int:
    """Command line."""
    match arguments:
        case ["trim", folder]:
            print(f"left out {trim(Path(folder)) / 1e6:.0f} MB that nothing runs")
        case ["compile", folder]:
            compile_all(Path(folder))
        case ["split", folder, target]:
            split(Path(folder), Path(target))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
