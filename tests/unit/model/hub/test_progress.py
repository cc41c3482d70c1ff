from __future__ import annotations

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
