"""The committed evaluation sets and clips are whole, held out, and as docs/demo-model.md describes them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import soundfile

import demo_model
from demo_model import grammar, kokoro_voices, voices
from demo_model.__main__ import CLIPS

EVAL = Path(demo_model.__file__).parent / "eval"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def manifest() -> list[dict[str, Any]]:
    return lines(EVAL)


@pytest.mark.parametrize(
    ("folder", "most_bytes"), [(".", 8_000_000), ("natural", 4_000_000), ("people", 2_000_000)]
)
def test_every_file_is_there_and_as_described(folder: str, most_bytes: int) -> None:
    found = lines(EVAL / folder)
    assert {line["file"] for line in found} == {path.name for path in (EVAL / folder).glob("*.flac")}
    for line in found:
        info = soundfile.info(EVAL / folder / line["file"])
        assert (info.samplerate, info.channels) == (line["rate"], 1)
        assert info.frames / info.samplerate == pytest.approx(line["seconds"], abs=0.001)
        assert line["source"] and line["licence"]
    assert sum(path.stat().st_size for path in (EVAL / folder).glob("*.flac")) < most_bytes


def test_natural_voices_and_their_sentences_do_not_train() -> None:
    found = lines(EVAL / "natural")
    held_out = {*kokoro_voices.HELD_OUT, *kokoro_voices.HELD_OUT_ACCENTS}
    for line in found:
        assert {voice for voice, _ in kokoro_voices.parts(line["voice"].removeprefix("kokoro:"))} <= held_out
        assert ("+" in line["voice"]) == (line["group"] == "natural-telephone")
        assert grammar.is_held_out(line["text"])
    groups = Counter(line["group"] for line in found)
    assert groups == {"natural": 48, "natural-room": 16, "natural-telephone": 40}


def test_people_are_of_clean_licence_and_written_as_the_model_writes() -> None:
    found = lines(EVAL / "people")
    licences = {"BSD-2-Clause", "CC0-1.0", "CC-BY-4.0", "public domain"}
    notice = (EVAL / "people" / "LICENCES.md").read_text(encoding="utf-8")
    for line in found:
        assert line["licence"] in licences
        assert f"`{line['group']}-" in notice
        assert line["group"].startswith("people-") and not line["seen"]
        assert set(line["text"]) <= set("abcdefghijklmnopqrstuvwxyz' ")


def test_half_is_spoken_by_voices_that_did_not_train(manifest: list[dict[str, Any]]) -> None:
    assert len(manifest) >= 200
    assert sum(not line["seen"] for line in manifest) * 2 == len(manifest)
    for line in manifest:
        variant = line["voice"].partition("+")[2]
        assert (variant in voices.HELD_OUT_VARIANTS) == (not line["seen"])
    assert not set(voices.HELD_OUT_VARIANTS) & set(voices.TRAIN_VARIANTS)


def test_no_sentence_trains(manifest: list[dict[str, Any]]) -> None:
    texts = [line["text"] for line in manifest]
    assert len(set(texts)) == len(texts)
    assert all(grammar.is_held_out(line["text"]) for line in manifest if not line["group"].startswith("long"))


def test_word_times_are_in_order_and_inside_the_file(manifest: list[dict[str, Any]]) -> None:
    for line in manifest:
        assert [word["text"] for word in line["words"]] == line["text"].split()
        times = [
            t
            for word in line["words"]
            if word["start_ms"] is not None
            for t in (word["start_ms"], word["end_ms"])
        ]
        assert times == sorted(times)
        assert not times or (times[0] >= 0 and times[-1] <= 1000 * line["seconds"])
        if line["voice"].startswith("espeak"):
            assert len(times) >= len(line["words"])  # at least half of the words have both times


def test_clips_are_listed_short_and_held_out() -> None:
    clips = [json.loads(line) for line in (CLIPS / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    assert 4 <= len(clips) <= 6
    for clip in clips:
        assert grammar.is_held_out(clip["text"])
        info = soundfile.info(CLIPS / clip["file"])
        assert info.samplerate == 16000
        assert 2.5 <= info.frames / 16000 <= 8
