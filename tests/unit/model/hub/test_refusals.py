"""What keeps a model from being fetched, told in a sentence with its cause and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    assert has(fetched(hub, home, "org/model"))
    done = fetched(hub, home, "org/model@main/x")
    assert refused(done, "ModelError", "org/model has no revision 'main/x'", f"{hub.endpoint}/org/model")
    hub.repositories["org/model"].commit = "b" * 40
    hub.repositories["org/model"].files.pop("model.nemo")
    done = fetched(hub, home / "another", "org/model")
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


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "socksio"),
        ("HTTPS_PROXY", "ftp://somebody:secret@127.0.0.1:9", "ftp://"),
        ("HTTPS_PROXY", "http://somebody:se/cret@127.0.0.1:9", "the address of a proxy cannot be read"),
        ("HTTPS_PROXY", "http://127.0.0.1:port", "the address of a proxy cannot be read"),
        ("SSL_CERT_FILE", "{tmp}/none.pem", "No such file"),
        ("SSL_CERT_FILE", "{tmp}/empty.pem", "certificate"),
        ("SSL_CERT_FILE", "{tmp}", "Is a directory"),
    ],
)
def test_a_proxy_or_certificates_that_cannot_be_used(
    hub: StandInHub, home: Path, tmp_path: Path, variable: str, value: str, why: str
) -> None:
    """Neither the hub nor HF_ENDPOINT is to blame, and what is in the cache is served without them."""
    (tmp_path / "empty.pem").touch()
    variables = {variable: value.format(tmp=tmp_path)}
    done = fetched(hub, home, "org/model", **variables)
    assert refused(
        done, "ModelUnavailable", "org/model could not be fetched", why, "HTTPS_PROXY", "SSL_CERT_FILE"
    )
    assert "cret" not in done.message and hub.requests == []
    path = fetched(hub, home, "org/model").path
    done = fetched(hub, home, "org/model", **variables)
    assert has(done) and done.path == path
    assert (
        len(done.warnings) == 1 and "from the cache is used: " in done.warnings[0] and why in done.warnings[0]
    )


@pytest.mark.parametrize("token", ["t\u00f6ken", "to\x01ken"])
def test_a_token_that_cannot_be_sent(hub: StandInHub, home: Path, token: str) -> None:
    done = fetched(hub, home, "org/model", HF_TOKEN=token)
    assert refused(
        done, "ModelError", "the token (HF_TOKEN", "has characters that no token has", "set HF_TOKEN"
    )
    assert "ken" not in done.message.replace("token", "").replace("TOKEN", "") and hub.requests == []
    assert has(fetched(hub, home, "org/model"))
    done = fetched(hub, home, "org/model", HF_TOKEN=token)
    assert has(done) and "the token (HF_TOKEN" in done.warnings[0]
    assert "ken" not in "".join(done.log).replace("token", "").replace("TOKEN", "")


def test_a_stored_token_that_cannot_be_read(hub: StandInHub, home: Path) -> None:
    home.mkdir()
    (home / "token").write_bytes(b"\xff")
    done = fetched(hub, home, "org/model")
    assert refused(done, "ModelError", "the token (HF_TOKEN", "cannot be read (", "set HF_TOKEN")


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
