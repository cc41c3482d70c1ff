"""The synthesised evaluation sets and the demo clips: held-out sentences, spoken, distorted by group, written as FLAC.

A set is a folder with a `manifest.jsonl`, which has one line an utterance: id, file, group, voice, seen (whether the
voice trained), rate (Hz), seconds, text, words: text with start_ms and end_ms on the file's clock, null where the
synthesiser gives no times (flite), and where the recording is from: source, licence. Two sets are made here: voices of
espeak-ng and flite, and natural voices. That of people is in `people.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from demo_model import augment, grammar, phones, voices
from demo_model.corpus import trim
from demo_model.espeak import Spoken
from demo_model.features import RATE, resample

GROUPS = (
    ("seen", 60, False), ("unseen", 60, True), ("telephone-seen", 24, False), ("telephone-unseen", 24, True),
    ("noise-seen", 24, False), ("noise-unseen", 24, True), ("long-seen", 4, False), ("long-unseen", 4, True),
)  # fmt: skip
NATURAL_GROUPS = (
    ("natural", 48),
    ("natural-room", 16),
    ("natural-telephone", 40),
)  # none of these voices trains
TELEPHONE_NOISE_DB = 10.0
LICENCE = "Apache-2.0"  # made by this project
_SOURCES = {
    "espeak": "spoken by espeak-ng", "flite": "spoken by flite",
    "kokoro": "spoken by Kokoro-82M (Apache-2.0; docs/demo-model.md)",
}  # fmt: skip
_KEPT_BITS = {
    "noise": 10,
    "natural-room": 10,
    "natural-telephone": 9,
}  # what lies below is inaudible beside the noise, and FLAC need not store it
_DEFAULT_BITS = 11

CLIPS = (
    ("i would like to book a table for eight at twenty past five", "espeak", "en-gb-x-rp", 150),
    ("my account number is eight six seven oh seven eight", "espeak", "en-us+Mike", 160),
    ("what is the weather in dublin in february", "flite", "rms", 1.1),
    ("please transfer sixty two pounds to patricia watson", "espeak", "en-us+f3", 155),
    ("remind me to call martin on monday", "flite", "awb", 1.1),
    ("i want to book a flight from venice to oslo in august", "espeak", "en+Annie", 160),
)


@dataclass(frozen=True)
class Word:
    """A word of the reference with its time in milliseconds, None where unknown."""

    text: str
    start_ms: int | None
    end_ms: int | None


def word_times(text: str, spoken: Spoken, shift_ms: float) -> tuple[Word, ...]:
    """Give each word its time: from its own event to the next word's, or to the silence before that."""
    starts = dict(spoken.words)
    silences = [at for name, at in spoken.phonemes if phones.phone_class(name) == phones.SILENCE]
    words: list[Word] = []
    offset = 0
    for word in text.split():
        offset = text.index(word, offset)
        start = starts.get(offset)
        end = None
        if start is not None:
            later = [at for place, at in spoken.words if place > offset]
            end = min([at for at in (*later, *silences) if at > start], default=None)
        known = start is not None and end is not None
        words.append(
            Word(word, round(start + shift_ms), round(end + shift_ms))  # type: ignore[operator]
            if known
            else Word(word, None, None)
        )
        offset += len(word)
    return tuple(words)


def _speak(
    speaker: voices.Speaker, rng: random.Random, text: str, voice: voices.Voice, lead_ms: int, trail_ms: int
) -> tuple[np.ndarray, tuple[Word, ...]]:
    spoken = speaker.say(text, voice)
    audio, cut_ms = trim(spoken.audio, spoken.rate)
    audio = augment.set_peak(resample(audio, spoken.rate), rng.uniform(-9, -2))
    audio = np.concatenate((np.zeros(RATE * lead_ms // 1000), audio, np.zeros(RATE * trail_ms // 1000)))
    return audio.astype(np.float32), word_times(text, spoken, lead_ms - cut_ms)


def write_audio(path: Path, audio: np.ndarray, rate: int, bits: int = 16) -> None:
    """Write float32 samples as FLAC, keeping the upper `bits` of 16."""
    step = 1 << (16 - bits)
    samples = np.clip(np.round(audio * 32768 / step), -(1 << (bits - 1)), (1 << (bits - 1)) - 1) * step
    soundfile.write(path, samples.astype(np.int16), rate, format="FLAC", subtype="PCM_16")


def make_eval_set(folder: Path, seed: int) -> None:
    """Write the FLAC files and `manifest.jsonl` under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    speaker = voices.Speaker()
    lines: list[dict[str, Any]] = []
    used: set[str] = set()
    for group, count, held_out in GROUPS:
        rng = random.Random(f"{seed}/eval/{group}")
        generator = np.random.default_rng([seed, *group.encode()])
        kind = group.split("-")[0]
        for index in range(count):
            voice = voices.draw(rng, held_out, flite_share=1 / 3)
            parts: list[np.ndarray] = []
            words: list[Word] = []
            texts: list[str] = []
            for _ in range(rng.randint(4, 6) if kind == "long" else 1):
                text = _fresh(rng, used)
                lead = rng.randint(200, 400) if not parts else rng.randint(300, 900)
                audio, found = _speak(speaker, rng, text, voice, lead, rng.randint(200, 500))
                shift = sum(len(part) for part in parts) * 1000 // RATE
                words += [
                    Word(w.text, w.start_ms + shift, w.end_ms + shift)
                    if w.start_ms is not None and w.end_ms is not None
                    else w
                    for w in found
                ]
                parts.append(audio)
                texts.append(text)
            audio, rate = np.concatenate(parts), RATE
            if kind == "noise":
                audio = augment.add_noise(generator, audio, float(generator.uniform(5, 20)))
                audio = audio / max(1.0, float(np.abs(audio).max()) / 0.97)
            elif kind == "telephone":
                audio, rate = augment.telephone(audio, return_narrow=True), 8000
            name = f"{group}-{index:02d}"
            write_audio(folder / f"{name}.flac", audio, rate, _KEPT_BITS.get(kind, _DEFAULT_BITS))
            lines.append({
                "id": name, "file": f"{name}.flac", "group": group, "voice": voice.label, "seen": not held_out,
                "rate": rate, "seconds": round(len(audio) / rate, 3), "text": " ".join(texts),
                "words": _listed(words), "source": _SOURCES[voice.engine], "licence": LICENCE,
            })  # fmt: skip
    write_manifest(folder, lines)


def make_natural_set(folder: Path, seed: int, packages: Path) -> None:
    """Write the set of natural voices: clear, in a room with a second of it before and after, by noisy telephone."""
    folder.mkdir(parents=True, exist_ok=True)
    speaker = voices.Speaker(packages)
    lines: list[dict[str, Any]] = []
    used: set[str] = set()
    for group, count in NATURAL_GROUPS:
        rng = random.Random(f"{seed}/eval/{group}")
        generator = np.random.default_rng([seed, *group.encode()])
        for index in range(count):
            voice = voices.draw_natural(rng, True, blend_share=group == "natural-telephone")
            text = _fresh(rng, used)
            lead, trail = (
                (1000, 1000) if group == "natural-room" else (rng.randint(200, 400), rng.randint(200, 500))
            )
            audio, words = _speak(speaker, rng, text, voice, lead, trail)
            rate = RATE
            if group == "natural-room":
                audio = augment.room(generator, augment.reverberate(generator, audio), rng.uniform(-55, -45))
            elif group == "natural-telephone":
                audio = augment.add_noise(generator, audio, TELEPHONE_NOISE_DB)
                audio, rate = (
                    augment.telephone(audio / max(1.0, float(np.abs(audio).max()) / 0.97), True),
                    8000,
                )
            name = f"{group}-{index:02d}"
            write_audio(folder / f"{name}.flac", audio, rate, _KEPT_BITS.get(group, _DEFAULT_BITS))
            lines.append({
                "id": name, "file": f"{name}.flac", "group": group, "voice": voice.label, "seen": False, "rate": rate,
                "seconds": round(len(audio) / rate, 3), "text": text, "words": _listed(words),
                "source": _SOURCES[voice.engine], "licence": LICENCE,
            })  # fmt: skip
            print(f"evalset: {name}", flush=True)
    write_manifest(folder, lines)


def write_manifest(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write `manifest.jsonl`, a line an utterance."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")


def listed(text: str) -> list[dict[str, Any]]:
    """List the words of a text for a manifest, their times unknown."""
    return [{"text": word, "start_ms": None, "end_ms": None} for word in text.split()]


def _listed(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [{"text": word.text, "start_ms": word.start_ms, "end_ms": word.end_ms} for word in words]


def _fresh(rng: random.Random, used: set[str]) -> str:
    """Draw a held-out sentence of 3 to 10 words not drawn before."""
    while True:
        text = grammar.sentence(rng, held_out=True)
        if text not in used and len(text.split()) <= 10:
            used.add(text)
            return text


def make_clips(folder: Path, seed: int) -> None:
    """Write the demo clips and `clips.jsonl` (file, text) under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    speaker = voices.Speaker()
    rng = random.Random(f"{seed}/clips")
    lines: list[str] = []
    for number, (text, engine, name, rate) in enumerate(CLIPS, 1):
        voice = voices.Voice(engine, name, rate, None if engine == "flite" else 45)
        audio, _ = _speak(speaker, rng, text, voice, 300, 600)
        file = f"clip{number}.wav"
        soundfile.write(folder / file, np.round(audio * 32767).astype(np.int16), RATE, subtype="PCM_16")
        lines.append(json.dumps({"file": file, "text": text}) + "\n")
    (folder / "clips.jsonl").write_text("".join(lines), encoding="utf-8")
