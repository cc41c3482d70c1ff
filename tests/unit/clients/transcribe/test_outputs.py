"""Transcripts on disk: named after their recordings, whole or not there, never in somebody's place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clients.transcribe.outputs import Job, Unwritable, write_whole


@pytest.fixture
def job(tmp_path: Path) -> Job:
    source = tmp_path / "talk.v2.wav"
    source.touch()
    (tmp_path / "out").mkdir()
    return Job(source, tmp_path / "out", ("text", "srt"))


def aged(path: Path, than: Path, seconds: int) -> None:
    at = than.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(at, at))


def test_names(job: Job, tmp_path: Path) -> None:
    assert job.path("text") == tmp_path / "out/talk.v2.txt"
    assert job.path("vtt", 2) == tmp_path / "out/talk.v2.2.vtt"
    assert Job(tmp_path / "talk", tmp_path, ("json",)).path("json") == tmp_path / "talk.json"


def test_what_is_missing(job: Job) -> None:
    assert job.missing([None]) == [("text", None), ("srt", None)]
    write_whole({job.path("srt"): "1"})
    assert job.missing([None]) == [("text", None)], "what is newer stays"
    aged(job.path("srt"), job.source, 0)
    assert job.missing([None]) == [("text", None)], "and what is as old, such as both from one archive"
    assert job.missing([1, 2]) == [("text", 1), ("srt", 1), ("text", 2), ("srt", 2)]
    again = Job(job.source, job.folder, job.formats, replace=True)
    assert again.missing([None]) == [("text", None), ("srt", None)]
    aged(job.path("srt"), job.source, -1)
    with pytest.raises(Unwritable, match="is older than the recording; --force writes it anew"):
        job.missing([None])
    assert again.missing([None]) == [("text", None), ("srt", None)]


@pytest.mark.parametrize("replace", [False, True])
def test_a_recording_is_never_written_over(tmp_path: Path, replace: bool) -> None:
    source = tmp_path / "talk.txt"
    source.touch()
    with pytest.raises(Unwritable, match="would be written over itself"):
        Job(source, tmp_path, ("text",), replace).missing([None])


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("before")
    with pytest.raises(Unwritable, match=r"b\.txt: "):
        write_whole({tmp_path / "there": "after", tmp_path / "no folder/b.txt": "b"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"there": "before"}
    write_whole({tmp_path / "there": "after", tmp_path / "b.txt": "é"})
    assert (tmp_path / "b.txt").read_bytes() == b"\xc3\xa9"
    assert (tmp_path / "there").read_text() == "after"
