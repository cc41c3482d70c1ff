"""Files that tell scripts where a program listens, once it does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write_ready_file(path: Path, where: Mapping[str, object]) -> None:
    """Writes the process's id and `where` as one object of JSON; the file appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({"pid": os.getpid(), **where}) + "\n")
    part.replace(path)
