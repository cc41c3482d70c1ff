"""Files of the cache that are not what the hub has: found, removed, fetched again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from asr_service.model.locate import DEMO_MODEL
from tests.support.fetching import COMMIT, CONTENT, blobs, fetched, has, outcome, refused, start
from tests.support.hub import StandInHub
from tests.support.nemo_files import changed

NEXT = "b" * 40


def spoil(path: Path, *, keep_time: bool = False) -> None:
    """Changes a byte in the middle of a file."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (0 if keep_time else 1)))


@pytest.mark.parametrize("name", ["org/model", f"org/model@{COMMIT}"])
def test_a_damaged_file_is_fetched_again(hub: StandInHub, home: Path, name: str) -> None:
    path = fetched(hub, home, name).path
    assert path is not None
    for damage in ("a byte", "its end", "all of it"):
        if damage == "a byte":
            spoil(path.resolve())
        elif damage == "its end":
            os.truncate(path, 1000)
        else:
            path.resolve().unlink()
        hub.requests.clear()
        done = fetched(hub, home, name)
        assert has(done) and len(hub.downloads()) == 1
        assert len(done.warnings) == (damage != "all of it")
        assert all(
            f"{blobs(home)[0]} is not what the hub has stated: it is removed" in line
            for line in done.warnings
        )


def test_another_process_may_have_replaced_a_damaged_file(hub: StandInHub, home: Path) -> None:
    """While this one was reading it: what is there now is not removed."""
    path = fetched(hub, home, "org/model").path
    assert path is not None
    blob = path.resolve()
    hub.requests.clear()
    spoil(blob)
    with FileLock(home / f"hub/.locks/models--org--model/{blob.name}.lock"):
        process = start(hub, home, "org/model")
        assert next(line for line in process.stderr if "is being fetched by another process" in line)
        fresh = blob.with_name("fresh")
        fresh.write_bytes(CONTENT)
        fresh.replace(blob)
    done = outcome(process)
    assert has(done) and done.warnings == [] and hub.downloads() == []


def test_damage_that_only_reading_finds_is_mended(hub: StandInHub, home: Path) -> None:
    path = fetched(hub, home, "org/model").path
    assert path is not None
    assert fetched(hub, home, "org/model", "--mend").path is None, "nothing is wrong with it"
    spoil(path.resolve(), keep_time=True)
    assert not has(fetched(hub, home, "org/model"))
    assert has(fetched(hub, home, "org/model", "--mend"))


def test_a_file_that_cannot_be_read_is_fetched_again(hub: StandInHub, home: Path) -> None:
    """Though neither its size nor its time of change tells of the damage."""
    hub.repositories["org/model"].files["model.nemo"] = DEMO_MODEL.read_bytes()
    path = fetched(hub, home, "org/model").path
    assert path is not None
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(bytes(1024))
    os.utime(path, ns=times)
    hub.requests.clear()
    done = fetched(hub, home, "org/model", "--read")
    assert has(done, DEMO_MODEL.read_bytes()) and len(hub.downloads()) == 1
    hub.repositories["org/model"].files["model.nemo"] = CONTENT
    hub.repositories["org/model"].commit = NEXT
    hub.requests.clear()
    done = fetched(hub, home, "org/model", "--read")
    assert refused(done, "DamagedModel", "is no .nemo archive, or damaged") and len(hub.downloads()) == 1


def test_a_model_that_is_refused_is_not_looked_through_for_damage(
    hub: StandInHub, home: Path, tmp_path: Path
) -> None:
    """Of gigabytes that takes a while, and another copy would be refused as well."""
    other = changed(DEMO_MODEL, tmp_path / "other.nemo", config=lambda c: c.update(target="of.another.kind"))
    hub.repositories["org/model"].files["model.nemo"] = other.read_bytes()
    path = fetched(hub, home, "org/model").path
    assert path is not None
    spoil(path.resolve(), keep_time=True)
    hub.requests.clear()
    done = fetched(hub, home, "org/model", "--read")
    assert refused(done, "ModelError", "its class of.another.kind") and not hub.downloads()


def test_a_damaged_file_without_a_network(hub: StandInHub, home: Path) -> None:
    path = fetched(hub, home, "org/model").path
    assert path is not None
    blob = path.resolve()
    spoil(blob)
    done = fetched(hub, home, "org/model", HF_HUB_OFFLINE="1")
    assert refused(
        done, "ModelError", "org/model is damaged", str(blob), "delete that file", "without HF_HUB_OFFLINE"
    )
    blob.unlink()
    assert has(fetched(hub, home, "org/model"))
    spoil(blob)
    hub.close()
    assert refused(fetched(hub, home, "org/model"), "ModelUnavailable", "cannot be reached")


def test_files_that_others_have_fetched_are_checked_too(hub: StandInHub, home: Path) -> None:
    """As the library leaves them, and as an image's layers do, which keep whole seconds of a file's time."""
    path = fetched(hub, home, "org/model").path
    assert path is not None
    second = path.stat().st_mtime_ns // 1_000_000_000 * 1_000_000_000
    os.utime(path, ns=(second, second))
    hub.close()
    assert has(fetched(hub, home, f"org/model@{COMMIT}"))
    (note,) = (home / "hub/models--org--model/.checked").iterdir()
    note.unlink()
    assert has(fetched(hub, home, f"org/model@{COMMIT}")) and note.exists()
    note.unlink()
    spoil(path.resolve(), keep_time=True)
    assert refused(fetched(hub, home, f"org/model@{COMMIT}"), "ModelUnavailable", "cannot be reached")
