"""The prompts of a person as an evaluation set, of sounds that are installed."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from demo_model import prompts


def test_installed_sounds_make_a_set_in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = tmp_path / "sounds"
    (sounds / "digits").mkdir(parents=True)
    with av.open(str(sounds / "digits/7.g722"), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    monkeypatch.setattr(prompts, "INSTALLED", sounds)
    monkeypatch.setattr(prompts, "texts", lambda: [("prompts-numbers", "digits/7", "seven")])
    folder = tmp_path / "build/prompts"
    prompts.make_prompts_set(folder)
    (line,) = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    assert (line["text"], line["group"], line["file"]) == ("seven", "prompts-numbers", "digits-7.flac")
    audio, rate = soundfile.read(folder / "digits-7.flac")
    assert (rate, round(len(audio) / rate, 3)) == (16_000, line["seconds"])
    assert line["seconds"] > 1
