from __future__ import annotations

from asr_common.watchdog import Watchdog


def watch(watchdog: Watchdog, start: float, seconds: float, beat: float | None) -> float | None:
    """Looks for so long as often as it should be; returns when a process was found that gives one sign, or all."""
    steps = int(seconds / watchdog.look_s)
    for step in range(1, steps + 1):
        now = start + step * watchdog.look_s
        watchdog.look(now)
        if watchdog.hangs("engine 0", now if beat is None else beat):
            return now - start
    return None


def test_a_process_without_a_sign_of_life_hangs_and_others_do_not() -> None:
    for limit_s in (1.0, 30.0):
        watchdog = Watchdog(limit_s)
        assert watch(watchdog, 100.0, 3 * limit_s, None) is None
        found = watch(watchdog, 100.0 + 3 * limit_s, 3 * limit_s, 7.0)
        assert found is not None and limit_s < found <= 1.5 * limit_s


def test_time_in_which_nobody_looked_does_not_count() -> None:
    watchdog = Watchdog(30.0)
    assert watch(watchdog, 100.0, 20.0, 7.0) is None
    # Everything stood still for an hour, and goes on.
    assert watch(watchdog, 3700.0, 8.0, 7.0) is None
    assert watch(watchdog, 3708.0, 20.0, None) is None
    assert watch(watchdog, 3728.0, 60.0, 7.0) is not None


def test_who_always_looks_late_finds_it_all_the_same() -> None:
    watchdog = Watchdog(4.0)
    late = [100.0 + 10.0 * look for look in range(10)]
    for now in late:
        watchdog.look(now)
        if watchdog.hangs("engine 0", 7.0):
            return
    raise AssertionError


def test_a_successor_begins_anew() -> None:
    watchdog = Watchdog(4.0)
    assert watch(watchdog, 100.0, 3.0, 7.0) is None
    watchdog.forget("engine 0")
    assert watch(watchdog, 103.0, 4.0, 7.0) is None
