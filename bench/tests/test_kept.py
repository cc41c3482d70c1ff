"""Files that benchmarks keep between runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.kept import made_once


def test_a_file_is_made_once_and_under_its_own_suffix(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("whole")

    wanted = tmp_path / "build" / "model.nemo"
    assert made_once(wanted, make) == made_once(wanted, make) == wanted
    assert wanted.read_text() == "whole"
    assert [path.suffix for path in made] == [".nemo"]
    assert list(wanted.parent.iterdir()) == [wanted]


def test_an_interrupted_run_leaves_no_half_file(tmp_path: Path) -> None:
    wanted = tmp_path / "model.nemo"

    def interrupted(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(wanted, interrupted)
    assert list(tmp_path.iterdir()) == []
    made_once(wanted, lambda path: path.write_text("whole"))
    assert wanted.read_text() == "whole"
