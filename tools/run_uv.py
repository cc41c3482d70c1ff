"""Runs the environment's uv, which does not read pip's configuration, with what pip is configured with here.

    .venv/bin/python tools/run_uv.py pip install ...

What is set for uv itself (`UV_INDEX` and the like) comes before what is set for pip. `TORCH_INDEX` may name one more
package index, such as PyTorch's own of CPU builds.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "proxy": "ALL_PROXY",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""Where uv looks for what an option of pip says."""


def pip_options(listed: str) -> dict[str, str]:
    """Options of `pip install` out of what `pip config list` prints, by name."""
    found: dict[str, dict[str, str]] = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        found.setdefault(section, {})[option] = ast.literal_eval(value)
    # A later section overrides an earlier one; the environment overrides the files.
    return {**found.get("global", {}), **found.get("install", {}), **found.get(":env:", {})}


def uv_environment(options: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that uv is run with, for these options of pip."""
    # All indexes are equal, and the newest release in any of them is taken: pip's way.
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for option, variable in VARIABLES.items():
        if values := options.get(option, "").split():
            settings[variable] = ("," if variable == "UV_FIND_LINKS" else " ").join(values)
    settings.update(environment)
    if index := environment.get("TORCH_INDEX"):
        settings["UV_INDEX"] = f"{settings.get('UV_INDEX', '')} {index}".strip()
    settings["UV_PYTHON"] = sys.executable
    return settings


def main() -> NoReturn:
    """Command line: uv's."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = pip_options(listed)
    # The one option that uv takes from its command line only.
    closed = ["--no-index"] if options.get("no-index", "").lower() in ("1", "true", "yes", "on") else []
    uv = str(Path(sys.executable).with_name("uv"))
    os.execve(uv, [uv, *sys.argv[1:], *closed], uv_environment(options, os.environ))


if __name__ == "__main__":
    main()
