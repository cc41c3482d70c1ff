"""What keeps a model from being fetched, told in a sentence with its cause and what to do."""

from __future__ import annotations

from pathlib import Path

from tests.support.fetching import blobs, fetched, has, refused
from tests.support.hub import StandInHub


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
