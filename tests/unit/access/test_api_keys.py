from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_service.__main__ import main
from asr_service.access import api_keys as keys
from asr_service.access.api_keys import KeyRing, new_key, parse
from asr_service.core.errors import SettingsError


@pytest.fixture(autouse=True)
def _look_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_LOOK_S", 0.0)


def rewrite(path: Path, text: str) -> None:
    """Replaces the file as an editor does, so that the change is seen whatever the clock's grain is."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def test_a_new_key_opens_and_is_not_in_the_file(tmp_path: Path) -> None:
    key, line = new_key("team-a", 3)
    assert key not in line and key.removeprefix("asr_") not in line
    path = tmp_path / "keys"
    path.write_text(f"# clients\n\n{line}  # until spring\n")
    ring = KeyRing(path)
    found = ring.find(key)
    assert found is not None and (found.name, found.max_streams) == ("team-a", 3)
    for wrong in ("", key[:-1], key + "x", key.upper(), line.split(":")[1], "\udcff"):
        assert ring.find(wrong) is None


@given(st.text(max_size=200))
def test_text_that_is_no_file_of_keys_is_an_error_that_quotes_nothing(text: str) -> None:
    said = ""
    try:
        parse(text)
    except SettingsError as error:
        said = error.message
    assert said == "" or re.match(r"line \d+ should be name:hash", said)


@pytest.mark.parametrize(
    "line",
    ["asr_a-key-by-mistake", "name:abc", ":" + "0" * 64, "a b:" + "0" * 64, "n:" + "0" * 64 + ":-1"],
)
def test_the_line_at_fault_is_numbered_and_not_shown(line: str) -> None:
    with pytest.raises(SettingsError, match="line 2 ") as caught:
        parse(f"# one\n{line}\n")
    assert line not in caught.value.message


def test_changes_of_the_file_are_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    (old, old_line), (new, new_line) = new_key("a"), new_key("a")
    path.write_text(old_line)
    ring = KeyRing(path)
    rewrite(path, f"{old_line}\n{new_line}\n")
    assert ring.find(old) and ring.find(new), "two keys of one client, while it changes"
    rewrite(path, new_line)
    assert ring.find(old) is None and ring.find(new)
    for spoil in ("not a key", None):
        if spoil is None:
            path.unlink()
        else:
            rewrite(path, spoil)
        assert ring.find(new), "what cannot be read changes nothing"
        assert "stay as they were" in caplog.text
        assert "not a key" not in caplog.text
        caplog.clear()
    path.write_text("")
    assert ring.find(new) is None


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"ASR_API_KEYS_FILE={tmp_path}/none: No such file"):
        KeyRing(tmp_path / "none")


def test_the_command_makes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    made = []
    for name in ("one", "two"):
        assert main(["keys", "new", name, "--file", str(path), "--max-streams", "2"]) == 0
        made.append(capsys.readouterr().out.split("\n")[1].strip())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o664)
    assert main(["keys", "new", "three", "--file", str(path)]) == 0
    made.append(capsys.readouterr().out.split("\n")[1].strip())
    assert stat.S_IMODE(path.stat().st_mode) == 0o660, "a group that was let in stays, others do not"
    ring = KeyRing(path)
    assert [ring.find(key).name for key in made] == ["one", "two", "three"]  # type: ignore[union-attr]
    assert main(["keys", "new", "no name"]) == 2
    assert main(["keys", "new", "x", "--file", str(tmp_path)]) == 2
    assert "letters" in capsys.readouterr().err
