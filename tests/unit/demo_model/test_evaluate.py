"""The evaluation's table, what counts in which row, and the prompts that are fetched for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from demo_model import prompts
from demo_model.evalset import listed, write_manifest
from demo_model.evaluate import Recording, add_scores, read_set, table, wordless


def recording(group: str, text: str | None, seen: bool = False) -> Recording:
    return Recording(f"{group}-0", group, text, seen, np.zeros(160, np.float32))


def test_people_and_natural_voices_are_summed_apart() -> None:
    recordings = [
        recording("people-read", "one two"),
        recording("seen", "one two", seen=True),
        recording("natural-room", "one two"),
        recording("prompts-numbers", "one two"),
        recording("music", None),
    ]
    report: dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]] = {"wer": {}, "false_words": {}}
    add_scores(report, "70,1", "rnnt", recordings, ["nothing", "one two", "one", "one two", "la la"])
    wer = {group: errors["wer"] for group, errors in report["wer"]["70,1"]["rnnt"].items()}
    assert wer == {
        "people-read": 100, "all people": 100, "seen": 0, "all seen": 0, "all": 0,
        "natural-room": 50, "all natural": 50,
        "prompts-numbers": 0, "all prompts": 0,
    }  # fmt: skip
    assert report["false_words"]["70,1"]["rnnt"] == {"music": 2}
    rows = [row.split("|")[1].strip() for row in table(report).splitlines()[2:]]
    assert rows[:3] == ["seen", "all seen", "all"]
    assert rows[3:] == [
        "natural-room", "all natural", "people-read", "all people", "prompts-numbers", "all prompts",
        "words in 60 s of music",
    ]  # fmt: skip


def test_a_set_is_read_as_a_client_would_send_it(tmp_path: Path) -> None:
    samples = (8000 * np.sin(np.arange(8000) / 5)).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", samples, 8000)
    write_manifest(tmp_path, [{"id": "a", "file": "a.flac", "group": "seen", "text": "yes", "seen": True,
                               "words": listed("yes")}])  # fmt: skip
    (found,) = read_set(tmp_path)
    assert len(found.audio) == 16000
    np.testing.assert_array_equal(found.audio * 32768, np.round(found.audio * 32768))


def test_what_holds_no_words_is_a_minute_each_and_equal_every_time() -> None:
    one, two = wordless(1), wordless(1)
    assert [item.group for item in one] == [
        "silence", "white noise", "pink noise", "brown noise", "band noise", "hum noise", "music",
    ]  # fmt: skip
    assert all(np.array_equal(first.audio, second.audio) for first, second in zip(one, two, strict=True))
    assert not one[0].audio.any() and all(item.audio.any() for item in one[1:])
    assert all(len(item.audio) == 960_000 for item in wordless())


def test_prompts_have_texts_of_plain_words() -> None:
    found = list(prompts.texts())
    assert len({name for _, name, _ in found}) == len(found) > 120
    assert {group for group, _, _ in found} == {"prompts-numbers", "prompts-letters", "prompts-phrases"}
    assert all(set(text) <= set("abcdefghijklmnopqrstuvwxyz' ") for _, _, text in found)
    numbers = [text for group, _, text in found if group == "prompts-numbers"]
    assert {"zero", "nineteen", "twentieth", "january", "saturday"} <= set(numbers)
    assert not set(" ".join(numbers).split()) & set(prompts.unknown_words())


@pytest.mark.slow
def test_prompts_can_be_fetched_and_decoded(tmp_path: Path) -> None:
    try:
        prompts.make_prompts_set(tmp_path)
    except prompts.PromptsError as error:
        pytest.skip(str(error))
    found = read_set(tmp_path)
    assert len(found) == len(list(prompts.texts()))
    assert all(0.6 < len(item.audio) / 16000 < 8 for item in found)
    assert all(np.abs(item.audio).max() > 0.05 for item in found)
