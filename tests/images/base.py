"""Makes a base image from Debian's packages, for machines that reach a mirror of Debian and no registry of images."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.images.engine import Engine, EngineError

BASE = "asr-base:bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
# What images of Debian leave out as well.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")


def make_base(engine: Engine) -> str:
    """Makes the image that stands for python:3.11-slim-bookworm, unless it is there; returns its name.

    Raises:
        EngineError: mmdebstrap is missing or fails.
    """
    try:
        engine.size(BASE)
    except EngineError:
        if shutil.which("mmdebstrap") is None:
            raise EngineError("a base is made by mmdebstrap: apt-get install mmdebstrap") from None
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder, "base.tar")
            left_out = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
            command = [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={PACKAGES}",
                *left_out,
                "bookworm",
                str(tar),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise EngineError(f"mmdebstrap failed:\n{done.stderr[-2000:]}") from None
            engine.run("import", "--change", "ENV LANG=C.UTF-8", tar, BASE)
    return BASE
