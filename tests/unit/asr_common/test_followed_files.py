"""Values that follow their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asr_common.followed_files import FollowedFiles
from asr_common.ready_file import write_ready_file


def rewrite(path: Path, text: str) -> None:
    """Replaces the file as an editor does, so that the change is seen whatever the clock's grain is."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def test_a_change_is_told_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    followed = FollowedFiles([one, two], lambda: one.read_text() + two.read_text())
    assert (followed.value, followed.newer()) == ("12", None)
    rewrite(two, "3")
    assert followed.newer() == followed.value == "13"
    assert followed.newer() is None


@pytest.mark.parametrize("spoilt", ["no number", None], ids=["unusable", "missing"])
def test_files_that_cannot_be_used_leave_the_value_and_are_told_once(
    tmp_path: Path, spoilt: str | None
) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    followed = FollowedFiles([path], lambda: int(path.read_text()))
    if spoilt is None:
        path.unlink()
    else:
        rewrite(path, spoilt)
    with pytest.raises((ValueError, FileNotFoundError)):
        followed.newer()
    assert (followed.newer(), followed.value) == (None, 1)
    rewrite(path, "2")
    assert followed.newer() == 2


def test_files_that_are_still_being_written_are_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_text("")
    written = iter(["a", "ab", None])

    def read() -> str:
        """What is there, and before the reader is done somebody writes on."""
        found = path.read_text()
        if following := next(written):
            rewrite(path, following)
        return found

    followed = FollowedFiles([path], read)
    assert (followed.value, followed.newer(), followed.value) == ("", None, "")
    assert followed.newer() == "ab"


def test_files_are_looked_at_no_more_often_than_asked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    followed = FollowedFiles([path], path.read_text, look_s=3600)
    rewrite(path, "2")
    assert (followed.newer(), followed.value) == (None, "1")


def test_files_that_cannot_be_used_at_first_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "none"
    with pytest.raises(FileNotFoundError):
        FollowedFiles([path], path.read_text)


def test_a_ready_file_holds_where_the_program_listens(tmp_path: Path) -> None:
    path = tmp_path / "ready"
    for port in (1, 2):
        write_ready_file(path, {"host": "localhost", "port": port})
        ready = json.loads(path.read_text())
        assert (set(ready), ready["port"]) == ({"pid", "host", "port"}, port)
    assert list(tmp_path.iterdir()) == [path]
