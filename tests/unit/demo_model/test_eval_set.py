"""The committed evaluation set and clips are whole, held out, and as docs/demo-model.md describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

import demo_model
from demo_model import grammar, voices
from demo_model.__main__ import CLIPS

EVAL = Path(demo_model.__file__).parent / "eval"


@pytest.fixture(scope="module")
def manifest() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EVAL / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_file_is_there_and_as_described(manifest: list[dict[str, Any]]) -> None:
    assert {line["file"] for line in manifest} == {path.name for path in EVAL.glob("*.flac")}
    for line in manifest:
        info = soundfile.info(EVAL / line["file"])
        assert (info.samplerate, info.channels) == (line["rate"], 1)
        assert info.frames / info.samplerate == pytest.approx(line["seconds"], abs=0.001)
    assert sum(path.stat().st_size for path in EVAL.iterdir()) < 8_000_000


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
