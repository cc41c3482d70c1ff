"""Models of the hub, against a stand-in on loopback that speaks its protocol; each fetch is a process of its own."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.support.fetching import COMMIT, CONTENT, blobs, fetched, has, outcome, refused, start
from tests.support.hub import StandInHub

NEWER = random.Random(2).randbytes(400_000)
NEXT = "b" * 40


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
    waits = next(line for line in two.stderr if "is being fetched by another process" in line)
    hub.go_on.set()
    assert waits and has(outcome(one)) and has(outcome(two)) and len(hub.downloads()) == 1


def test_a_store_that_is_busy_is_asked_again(hub: StandInHub, home: Path) -> None:
    hub.busy = 2
    done = fetched(hub, home, "org/model")
    assert has(done) and len(done.warnings) == 2
    assert all("the download was cut (503 Service Unavailable): going on" in line for line in done.warnings)
    blobs(home)[0].unlink()
    hub.busy = 10
    assert refused(
        fetched(hub, home, "org/model"), "ModelUnavailable", "503 Service Unavailable, again and again"
    )


def test_no_more_is_taken_than_was_stated(hub: StandInHub, home: Path) -> None:
    hub.surplus = 3_000_000
    done = fetched(hub, home, "org/model", "--most", "2000000")
    assert refused(done, "ModelUnavailable", "org/model could not be fetched", "has not the hash")
    assert blobs(home) == []


@pytest.mark.parametrize("etag", ["../../evil", "a/b", ".."])
def test_an_etag_is_no_path(hub: StandInHub, home: Path, etag: str) -> None:
    hub.etag = etag
    done = fetched(hub, home, "org/model")
    assert refused(
        done, "ModelUnavailable", f"answers at {hub.endpoint} is no hub (the etag of model.nemo is "
    )
    assert not home.exists()


@pytest.mark.parametrize("commit", ["../../evil", "main"])
def test_a_commit_is_a_hash(hub: StandInHub, home: Path, commit: str) -> None:
    hub.repositories["org/model"].commit = commit
    done = fetched(hub, home, "org/model")
    assert refused(done, "ModelUnavailable", f"is no hub (the commit that it names is '{commit}')")


@pytest.mark.parametrize("file", ["../evil.nemo", "/evil.nemo"])
def test_a_file_lies_in_its_repository(hub: StandInHub, home: Path, file: str) -> None:
    hub.repositories["org/model"].files[file] = b""
    done = fetched(hub, home, "org/model")
    assert refused(done, "ModelUnavailable", f"is no hub (a file that it lists is '{file}')")


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


def test_what_a_shared_cache_holds_is_not_fetched(hub: StandInHub, home: Path, tmp_path: Path) -> None:
    """As in an image with a model: its own cache is a volume, which is empty, or cannot be written to at all."""
    path = fetched(hub, home, "org/model@v1").path
    assert path is not None
    shared = {"ASR_SHARED_MODELS": str(home / "hub")}
    hub.requests.clear()
    done = fetched(hub, tmp_path / "empty", "org/model@v1", **shared)
    assert has(done) and done.path == path and hub.requests == []
    assert not (tmp_path / "empty").exists()
    hub.close()
    done = fetched(hub, tmp_path / "empty", "org/model@v1", HF_HUB_OFFLINE="1", **shared)
    assert has(done) and done.path == path


def test_a_shared_cache_is_only_read(hub: StandInHub, home: Path, tmp_path: Path) -> None:
    """What is newer, and what is damaged there, comes from the hub into the cache of this process."""
    path = fetched(hub, home, "org/model").path
    assert path is not None
    shared, own = {"ASR_SHARED_MODELS": str(home / "hub")}, tmp_path / "own"
    repo = hub.repositories["org/model"]
    repo.commit, repo.files["model.nemo"] = NEXT, NEWER
    done = fetched(hub, own, "org/model", **shared)
    assert has(done, NEWER) and done.path is not None and own in done.path.parents
    assert has(fetched(hub, home, "org/model", HF_HUB_OFFLINE="1"), CONTENT), "as it was"

    blob = path.resolve()
    blob.write_bytes(CONTENT[:-1] + b"?")
    repo.commit, repo.files["model.nemo"] = COMMIT, CONTENT
    done = fetched(hub, tmp_path / "another", f"org/model@{COMMIT}", **shared)
    assert has(done, CONTENT) and "is not what the hub has stated: it is not used" in done.warnings[0]
    assert blob.read_bytes() != CONTENT


def test_a_shared_cache_that_is_not_there_is_done_without(
    hub: StandInHub, home: Path, tmp_path: Path
) -> None:
    assert has(fetched(hub, home, "org/model", ASR_SHARED_MODELS=str(tmp_path / "none")))
