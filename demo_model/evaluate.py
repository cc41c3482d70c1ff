"""Scores of a `.nemo` on the evaluation sets: every look-ahead, both decoders, every group; people apart.

The words are those of the offline encoder under each look-ahead (which a correct streaming service equals)
with greedy decoding of NeMo's own. One minute of digital silence and one of music and of each kind of noise must give
no words at all. `through_service.py` hears the same samples through a service.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from demo_model.augment import music, noise
from demo_model.features import RATE, resample
from demo_model.model import LOOK_AHEADS
from demo_model.wer import Errors, compare, total

_NOISES = ("white", "pink", "brown", "band", "hum")
_BATCH_SECONDS = 240.0
# What a group's name begins with, and the row that sums its kind up; all others are voices of espeak-ng and flite.
SUMS = {"natural": "all natural", "people": "all people", "prompts": "all prompts"}


def load(path: Path, device: str = "cpu") -> Any:
    """Restore a model with plain NeMo, ready for exact features (no dither, no padding)."""
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel

    model = EncDecHybridRNNTCTCBPEModel.restore_from(str(path), map_location=device)
    model.eval()
    model.preprocessor.featurizer.dither = 0.0
    model.preprocessor.featurizer.pad_to = 0
    return model


def transcribe(model: Any, audios: list[np.ndarray], look_ahead: list[int]) -> tuple[list[str], list[str]]:
    """Return the transducer's and the CTC decoder's words for float32 [samples] at 16 kHz."""
    model.encoder.set_default_att_context_size(look_ahead)
    order = sorted(range(len(audios)), key=lambda index: len(audios[index]))
    rnnt, ctc = [""] * len(audios), [""] * len(audios)
    while order:
        size = max(1, int(_BATCH_SECONDS * RATE / len(audios[order[0]])))
        part, order = order[:size], order[size:]
        lengths = torch.tensor([len(audios[i]) for i in part], device=model.device)
        signal = torch.zeros(len(part), int(lengths.max()), device=model.device)
        for row, index in enumerate(part):
            signal[row, : len(audios[index])] = torch.from_numpy(audios[index])
        with torch.inference_mode():
            features, _ = model.preprocessor(input_signal=signal, length=lengths)
            frames = torch.div(lengths, 160, rounding_mode="floor")
            encoded, sizes = model.encoder(audio_signal=features[:, :, : int(frames.max())], length=frames)
            spoken = model.decoding.rnnt_decoder_predictions_tensor(encoded, sizes)
            aligned = model.ctc_decoding.ctc_decoder_predictions_tensor(
                model.ctc_decoder(encoder_output=encoded), sizes
            )
        for row, index in enumerate(part):
            rnnt[index], ctc[index] = spoken[row].text, aligned[row].text
    return rnnt, ctc


@dataclass(frozen=True)
class Recording:
    """A line of a manifest with its audio: float32 [samples] at 16 kHz, values of 16 bit integers over 32768."""

    id: str
    group: str
    text: str | None
    seen: bool
    audio: np.ndarray

    @property
    def groups(self) -> tuple[str, ...]:
        """Rows of the table that it counts in: its own, and the sums of its kind."""
        kind = self.group.partition("-")[0]
        if kind in SUMS:
            return (self.group, SUMS[kind])
        return (self.group, "all seen" if self.seen else "all unseen", "all")


def read_set(folder: Path) -> list[Recording]:
    """Read a manifest and its audio, brought to 16 kHz and to 16 bits as a client would send it."""
    found = []
    for text in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        audio, rate = soundfile.read(folder / line["file"], dtype="float32")
        audio = np.clip(np.round(resample(audio, rate) * 32768), -32768, 32767).astype(np.float32) / 32768
        found.append(Recording(line["id"], line["group"], line["text"], line["seen"], audio))
    return found


def wordless(seconds: int = 60) -> list[Recording]:
    """Make the recordings that hold no words: digital silence, and music and noise at -30 dBFS."""
    generator = np.random.default_rng(5)
    loudness = np.float32(10 ** (-30 / 20))
    sounds = {"silence": np.zeros(RATE * seconds, np.float32)}
    sounds |= {f"{kind} noise": noise(generator, RATE * seconds, kind) * loudness for kind in _NOISES}
    sounds["music"] = music(generator, RATE * seconds) * loudness
    return [
        Recording(
            name,
            name,
            None,
            False,
            np.clip(np.round(audio * 32768), -32768, 32767).astype(np.float32) / 32768,
        )
        for name, audio in sounds.items()
    ]


def score(recordings: Sequence[Recording], heard: Iterable[str]) -> dict[str, Errors]:
    """Count the errors by group, and for the sums of groups."""
    groups: dict[str, list[Errors]] = defaultdict(list)
    for recording, text in zip(recordings, heard, strict=True):
        if recording.text is not None:
            for name in recording.groups:
                groups[name].append(compare(recording.text, text))
    return {name: total(items) for name, items in groups.items()}


def add_scores(
    report: dict[str, Any], name: str, decoder: str, recordings: Sequence[Recording], heard: Sequence[str]
) -> None:
    """Enter what a decoder heard under a look-ahead: WER by group, false words, and at [70,1] the mistakes."""
    scores = score(recordings, heard)
    report["wer"].setdefault(name, {})[decoder] = {
        group: errors.as_dict() for group, errors in scores.items()
    }
    report["false_words"].setdefault(name, {})[decoder] = {
        recording.group: len(text.split())
        for recording, text in zip(recordings, heard, strict=True)
        if recording.text is None
    }
    if (name, decoder) == ("70,1", "rnnt"):
        report["mistakes"] = [
            {"id": recording.id, "reference": recording.text or "", "heard": text}
            for recording, text in zip(recordings, heard, strict=True)
            if (recording.text or "") != text
        ]


def evaluate(
    path: Path, folders: Sequence[Path], look_aheads: list[list[int]] | None = None, device: str = "cpu"
) -> tuple[dict[str, Any], list[Recording], dict[tuple[str, str], list[str]]]:
    """Return the report (WER by look-ahead, decoder and group; false words), the recordings, and what was heard."""
    model = load(path, device)
    recordings = [recording for folder in folders for recording in read_set(folder)] + wordless()
    audios = [recording.audio for recording in recordings]
    report: dict[str, Any] = {"model": path.name, "utterances": len(recordings), "wer": {}, "false_words": {}}
    texts: dict[tuple[str, str], list[str]] = {}
    for look_ahead in look_aheads or [list(pair) for pair in LOOK_AHEADS]:
        name = f"{look_ahead[0]},{look_ahead[1]}"
        rnnt, ctc = transcribe(model, audios, look_ahead)
        for decoder, heard in (("rnnt", rnnt), ("ctc", ctc)):
            texts[name, decoder] = heard
            add_scores(report, name, decoder, recordings, heard)
    return report, recordings, texts


def table(report: dict[str, Any]) -> str:
    """Lay the report out as a Markdown table: a row a group, a column a look-ahead and decoder."""
    columns = [(name, decoder) for name in report["wer"] for decoder in report["wer"][name]]
    first = report["wer"][columns[0][0]][columns[0][1]]
    rows = ["| WER % | words | " + " | ".join(f"[{name}] {decoder}" for name, decoder in columns) + " |"]
    rows.append("| --- |" + " ---: |" * (1 + len(columns)))
    for group in sorted(first, key=_place):
        cells = [f"{report['wer'][name][decoder][group]['wer']:.1f}" for name, decoder in columns]
        rows.append(f"| {group} | {first[group]['words']} | " + " | ".join(cells) + " |")
    for kind in next(iter(next(iter(report["false_words"].values())).values())):
        cells = [str(report["false_words"][name][decoder][kind]) for name, decoder in columns]
        rows.append(f"| words in 60 s of {kind} | 0 | " + " | ".join(cells) + " |")
    if "equal" in report:
        cells = [report["equal"].get(f"{name} {decoder}", "-") for name, decoder in columns]
        rows.append("| equal to the reference | | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _place(group: str) -> int:
    """Sort synthesised voices first, natural ones next, people last; what is equal stays in its order."""
    kinds = ("natural", "people", "prompts")
    return next(
        (1 + i for i, kind in enumerate(kinds) if group in (SUMS[kind],) or group.startswith(kind)), 0
    )
