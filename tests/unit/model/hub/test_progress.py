from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from asr_service.model.hub import cache
from asr_service.model.hub.progress import Progress, amount


def test_progress_is_told_now_and_then() -> None:
    now = 100.0
    progress = Progress(2_470_000_000, 470_000_000, 5.0, lambda: now)
    now += 4.9
    assert progress.add(100_000_000) is None
    now += 5.1
    assert progress.add(300_000_000) == "870 MB of 2.47 GB (35 %), 40 MB/s, 40 s left"
    assert progress.add(0) is None
    now += 5
    assert progress.add(10_000_000) == "880 MB of 2.47 GB (35 %), 2 MB/s, 13 min 15 s left"
    progress.begin_anew()
    now += 5
    assert progress.add(1_000) == "1 kB of 2.47 GB (0 %), 200 bytes/s, 205833 min 15 s left"
    assert progress.summary() == "410 MB in 20 s"
    assert [amount(size) for size in (0, 999, 460_000_000, 999_600_000)] == [
        "0 bytes",
        "999 bytes",
        "460 MB",
        "1000 MB",
    ]


def test_how_far_the_checking_of_a_file_is_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Over a network it takes a while; where the clock stands for long enough, each part is told."""
    file = tmp_path / "model.nemo"
    file.write_bytes(bytes(2_500_000))
    etag = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(cache, "TELL_S", 0.0)
    with caplog.at_level(logging.INFO):
        assert cache.matches_etag(file, etag)
    told = [record.getMessage().removeprefix(f"checking {file}: ") for record in caplog.records]
    assert told == ["1.05 MB of 2.5 MB", "2.1 MB of 2.5 MB", "2.5 MB of 2.5 MB"]
