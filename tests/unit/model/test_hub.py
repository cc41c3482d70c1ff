"""Models of the hub, against a stand-in on loopback that speaks its protocol; each fetch is a process of its own."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_service.model.hub.progress import Progress, amount
from asr_service.model.locate import DEMO_MODEL
from tests.support.fetching import Fetched, fetched, outcome, start
from tests.support.hub import Repository, StandInHub

pytest.importorskip("huggingface_hub", reason="the model's packages are not installed: make setup")

CONTENT = random.Random(1).randbytes(1_500_000)
NEWER = random.Random(2).randbytes(400_000)
COMMIT = "a" * 40
NEXT = "b" * 40
LINE = re.compile(r"\S+ (INFO|WARNING) +asr_service\.model\.[\w.]+: \S.*")


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    files = {"README.md": b"about it", "model.nemo": CONTENT}
    repositories = {"org/model": Repository(files, tags={"v1": COMMIT})}
    with StandInHub(repositories) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def has(done: Fetched, content: bytes = CONTENT) -> bool:
    """Whether a model was found whose file is this; what is printed is lines of the log alone, no bars."""
    assert done.error == "", done.message
    assert [line for line in done.log if not LINE.fullmatch(line)] == []
    assert done.path is not None
    return done.path.read_bytes() == content


def refused(done: Fetched, kind: str, *parts: str, field: str = "ASR_MODEL") -> bool:
    """Whether there was an error of this kind, in one sentence with all these parts in this order."""
    assert done.path is None and "\n" not in done.message
    at = 0
    for part in parts:
        at = done.message.find(part, at)
        assert at >= 0, (part, done.message)
    return (done.error, done.field) == (kind, field)


def blobs(home: Path) -> list[Path]:
    return sorted((home / "hub/models--org--model/blobs").iterdir())


def test_a_model_is_fetched_once_and_then_asked_about_for_a_moment_only(hub: StandInHub, home: Path) -> None:
    first = fetched(hub, home, "org/model")
    assert has(first) and len(hub.downloads()) == 1
    assert first.path == home / "hub/models--org--model/snapshots" / COMMIT / "model.nemo"
    assert any("fetching org/model: model.nemo, 1.5 MB, into " in line for line in first.log)
    assert any(f"ASR_MODEL=org/model@{COMMIT} pins it" in line for line in first.log)

    hub.requests.clear()
    assert has(fetched(hub, home, "org/model")) and hub.requests == ["GET /api/models/org/model"]
    hub.requests.clear()
    assert has(fetched(hub, home, f"org/model@{COMMIT}")) and hub.requests == []
    assert has(fetched(hub, home, "org/model", HF_HUB_OFFLINE="1")) and hub.requests == []


def test_a_start_needs_no_hub_for_what_is_there(hub: StandInHub, home: Path) -> None:
    path = fetched(hub, home, "org/model").path
    for trouble in ("silent", "failing", "not ours any more", "away"):
        hub.silent = trouble == "silent"
        hub.status = 503 if trouble == "failing" else 0
        if trouble == "not ours any more":
            hub.repositories.clear()
        if trouble == "away":
            hub.close()
        done = fetched(hub, home, "org/model")
        assert has(done) and done.path == path
        assert len(done.warnings) == 1 and f"revision {COMMIT} from the cache is used: " in done.warnings[0]


def test_a_newer_revision_is_fetched_unless_one_is_pinned(hub: StandInHub, home: Path) -> None:
    assert has(fetched(hub, home, "org/model")) and has(fetched(hub, home, "org/model@v1"))
    repo = hub.repositories["org/model"]
    repo.commit, repo.files["README.md"] = NEXT, b"more about it"
    hub.requests.clear()
    done = fetched(hub, home, "org/model")
    assert has(done) and done.path is not None and done.path.parent.name == NEXT
    assert hub.downloads() == [], "another text about it, the same model"

    repo.commit, repo.files["model.nemo"] = "c" * 40, NEWER
    assert has(fetched(hub, home, "org/model"), NEWER)
    assert has(fetched(hub, home, "org/model@v1"), CONTENT) and has(fetched(hub, home, "org/model"), NEWER)


def test_a_newer_revision_that_does_not_come_is_done_without(hub: StandInHub, home: Path) -> None:
    assert has(fetched(hub, home, "org/model"))
    repo = hub.repositories["org/model"]
    repo.commit, repo.files["model.nemo"], hub.cuts, hub.cut_after = NEXT, NEWER, -1, 0
    done = fetched(hub, home, "org/model")
    assert has(done, CONTENT) and "from the cache is used" in done.warnings[-1]


@pytest.mark.parametrize("reset", [False, True])
def test_a_download_goes_on_where_it_was_cut(hub: StandInHub, home: Path, reset: bool) -> None:
    hub.cuts, hub.cut_after, hub.reset = 2, 400_000, reset
    done = fetched(hub, home, "org/model")
    assert has(done) and len([line for line in done.warnings if "the download was cut" in line]) == 2
    begun = [re.search(r"bytes=(\d+)-$", request) for request in hub.downloads()]
    assert begun[0] is None
    begins = [int(match[1]) for match in begun[1:] if match]
    assert begins == [400_000, 800_000] or (reset and begins == sorted(begins) and begins[-1] <= 800_000)


def test_the_next_start_goes_on_where_the_last_one_ended(hub: StandInHub, home: Path) -> None:
    hub.cuts, hub.cut_after = 1, 1_000_000
    hub.go_on.clear()
    process = start(hub, home, "org/model")
    hub.wait_for_downloads(2)
    process.kill()
    process.communicate()
    assert [path.stat().st_size for path in blobs(home)] == [1_000_000]
    hub.go_on.set()
    hub.requests.clear()
    done = fetched(hub, home, "org/model")
    assert has(done) and any("1 MB of it already there" in line for line in done.log)
    assert [request.split()[-1] for request in hub.downloads()] == ["bytes=1000000-"]
    assert len(blobs(home)) == 1, "nothing is left of what was incomplete"


def test_one_of_two_processes_fetches(hub: StandInHub, home: Path) -> None:
    hub.go_on.clear()
    one = start(hub, home, "org/model")
    hub.wait_for_downloads(1)
    two = start(hub, home, "org/model")
    assert two.stderr is not None
    waits = next(line for line in two.stderr if "is being fetched by another process" in line)
    hub.go_on.set()
    assert waits and has(outcome(one)) and has(outcome(two)) and len(hub.downloads()) == 1


def test_what_comes_is_checked(hub: StandInHub, home: Path) -> None:
    hub.spoil = 1
    done = fetched(hub, home, "org/model")
    assert has(done) and len(hub.downloads()) == 2
    assert "what came is not what the hub has stated: fetching it once more" in done.warnings[0]


def test_a_hub_that_sends_something_else_than_it_states(hub: StandInHub, home: Path) -> None:
    hub.spoil = 2
    done = fetched(hub, home, "org/model")
    assert refused(
        done, "ModelUnavailable", "org/model could not be fetched", "has not the hash", "HF_ENDPOINT"
    )
    hub.truncate = 1000
    done = fetched(hub, home, "org/model")
    assert refused(
        done, "ModelUnavailable", "1499000 of 1500000 bytes have come and no more", "the next start goes on"
    )
    hub.truncate = 0
    assert has(fetched(hub, home, "org/model"))


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
    assert refused(done, "ModelError", "is no .nemo archive, or damaged") and len(hub.downloads()) == 1


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


def test_a_name_that_no_model_has(hub: StandInHub, home: Path) -> None:
    done = fetched(hub, home, "org/none")
    assert refused(
        done, "ModelError", f"the hub at {hub.endpoint} has no model org/none", "correct the name", "HF_TOKEN"
    )
    hub.tokens["mine"] = False
    done = fetched(hub, home, "org/none", HF_TOKEN="mine")
    assert refused(
        done, "ModelError", "has no model org/none", "the token (HF_TOKEN", "an account that may see it"
    )
    done = fetched(hub, home, "org/model@v9")
    assert refused(done, "ModelError", "org/model has no revision 'v9'", f"{hub.endpoint}/org/model")
    hub.repositories["org/model"].files.pop("model.nemo")
    done = fetched(hub, home, "org/model")
    assert refused(done, "ModelError", "org/model has no .nemo file", "README.md")


def test_a_model_that_is_not_given_to_everybody(hub: StandInHub, home: Path) -> None:
    repo = hub.repositories["org/model"]
    repo.gated = True
    page = f"{hub.endpoint}/org/model"
    done = fetched(hub, home, "org/model")
    assert refused(done, "ModelError", "accepted its licence", f"accept it at {page}", "set HF_TOKEN")
    hub.tokens |= {"stranger": False, "friend": True}
    done = fetched(hub, home, "org/model", HF_TOKEN="stranger")
    assert refused(done, "ModelError", "accepted its licence", "the account of the token (HF_TOKEN", page)
    done = fetched(hub, home, "org/model", HF_TOKEN="mistyped")
    assert refused(
        done, "ModelError", "does not know the token (HF_TOKEN", "set HF_TOKEN to one that is valid"
    )
    assert "mistyped" not in done.message + "".join(done.log)

    repo.private = True
    assert refused(
        fetched(hub, home, "org/model"), "ModelError", "no model org/model", "private, set HF_TOKEN"
    )
    done = fetched(hub, home, "org/model", HF_TOKEN="friend")
    assert has(done) and hub.leaked == [], "the token is the hub's, not that of who stores its bytes"
    assert "friend" not in "".join(done.log)


def test_no_hub(home: Path, hub: StandInHub) -> None:
    done = fetched(hub, home, "org/model", HF_HUB_OFFLINE="1")
    assert refused(
        done, "ModelError", f"org/model is not in {home}/hub", "HF_HUB_OFFLINE", "unset it for one start"
    )
    assert hub.requests == []
    hub.status = 502
    assert refused(
        fetched(hub, home, "org/model"), "ModelUnavailable", "cannot be reached", "502 Bad Gateway"
    )
    hub.status = 200
    assert refused(
        fetched(hub, home, "org/model"), "ModelUnavailable", f"answers at {hub.endpoint} is no hub"
    )
    hub.close()
    done = fetched(hub, home, "org/model")
    assert refused(
        done, "ModelUnavailable", f"the hub at {hub.endpoint} cannot be reached", "refused", "HF_ENDPOINT"
    )
    done = fetched("nonsense", home, "org/model")
    assert refused(
        done, "ModelError", "HF_ENDPOINT is 'nonsense'", "https://huggingface.co", field="HF_ENDPOINT"
    )


def test_no_room(hub: StandInHub, home: Path) -> None:
    folder = home / "hub/models--org--model/blobs"
    done = fetched(hub, home, "org/model", "--most", "1000000")
    assert refused(
        done,
        "ModelUnavailable",
        f"{folder} (File too large)",
        "1500000 bytes are needed",
        "make room",
        "HF_HOME",
    )
    assert blobs(home) == [], "what could not be kept takes no room"
    hub.claimed = 10**15
    done = fetched(hub, home, "org/model")
    assert refused(
        done, "ModelUnavailable", f"{folder} (", "1000000001500000 bytes are needed and ", " are free"
    )
    hub.claimed = 0
    assert has(fetched(hub, home, "org/model"))


def test_a_cache_that_cannot_be_written(hub: StandInHub, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = fetched(hub, file / "home", "org/model")
    assert refused(
        done, "ModelError", str(file), "Not a directory", "set HF_HOME to a folder", field="HF_HOME"
    )
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    done = fetched(hub, locked, "org/model", "--no-rights")
    assert refused(
        done, "ModelError", str(locked), "Permission denied", "the right to write there", field="HF_HOME"
    )


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
