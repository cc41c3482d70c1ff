"""Scores of a `.nemo` on the evaluation set: every look-ahead, both decoders, every group.

The words are those of the offline encoder under each look-ahead (which a correct streaming service equals)
with greedy decoding of NeMo's own. One minute of digital silence and one of each kind of noise must give
no words at all.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from demo_model.augment import noise
from demo_model.features import RATE, resample
from demo_model.model import LOOK_AHEADS
from demo_model.wer import Errors, compare, total

_NOISES = ("white", "pink", "brown", "band", "hum")
_BATCH_SECONDS = 60.0


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


def read_set(folder: Path) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Read the manifest and its audio, brought to 16 kHz."""
    lines = [
        json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    audios = []
    for line in lines:
        audio, rate = soundfile.read(folder / line["file"], dtype="float32")
        audios.append(resample(audio, rate))
    return lines, audios


def score(lines: list[dict[str, Any]], heard: list[str]) -> dict[str, Errors]:
    """Count the errors by group, and for all, all seen and all unseen voices."""
    groups: dict[str, list[Errors]] = defaultdict(list)
    for line, text in zip(lines, heard, strict=True):
        errors = compare(line["text"], text)
        for name in (line["group"], "all", "all seen" if line["seen"] else "all unseen"):
            groups[name].append(errors)
    return {name: total(items) for name, items in groups.items()}


def false_words(model: Any, look_ahead: list[int], seconds: int = 60) -> dict[str, tuple[int, int]]:
    """Count the words (transducer, CTC) heard in digital silence and in noise at -30 dBFS."""
    generator = np.random.default_rng(5)
    audios = [np.zeros(RATE * seconds, np.float32)]
    audios += [noise(generator, RATE * seconds, kind) * np.float32(10 ** (-30 / 20)) for kind in _NOISES]
    rnnt, ctc = transcribe(model, audios, look_ahead)
    names = ("silence", *(f"{kind} noise" for kind in _NOISES))
    return {name: (len(a.split()), len(b.split())) for name, a, b in zip(names, rnnt, ctc, strict=True)}


def evaluate(
    path: Path, folder: Path, look_aheads: list[list[int]] | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Return the report: WER by look-ahead, decoder and group, and the false words."""
    model = load(path, device)
    lines, audios = read_set(folder)
    report: dict[str, Any] = {"model": path.name, "utterances": len(lines), "wer": {}, "false_words": {}}
    for look_ahead in look_aheads or [list(pair) for pair in LOOK_AHEADS]:
        name = f"{look_ahead[0]},{look_ahead[1]}"
        rnnt, ctc = transcribe(model, audios, look_ahead)
        report["wer"][name] = {
            decoder: {group: errors.as_dict() for group, errors in score(lines, heard).items()}
            for decoder, heard in (("rnnt", rnnt), ("ctc", ctc))
        }
        report["false_words"][name] = false_words(model, look_ahead)
        if name == "70,1":
            report["mistakes"] = [
                {"id": line["id"], "reference": line["text"], "heard": text}
                for line, text in zip(lines, rnnt, strict=True)
                if line["text"] != text
            ]
    return report


def table(report: dict[str, Any]) -> str:
    """Lay the report out as a Markdown table: a row a group, a column a look-ahead and decoder."""
    columns = [(name, decoder) for name in report["wer"] for decoder in report["wer"][name]]
    groups = list(next(iter(next(iter(report["wer"].values())).values())))
    rows = ["| WER % | " + " | ".join(f"[{name}] {decoder}" for name, decoder in columns) + " |"]
    rows.append("| --- |" + " ---: |" * len(columns))
    for group in groups:
        cells = [f"{report['wer'][name][decoder][group]['wer']:.1f}" for name, decoder in columns]
        rows.append(f"| {group} | " + " | ".join(cells) + " |")
    for kind in next(iter(report["false_words"].values())):
        cells = [str(report["false_words"][name][kind][decoder != "rnnt"]) for name, decoder in columns]
        rows.append(f"| words in 60 s of {kind} | " + " | ".join(cells) + " |")
    return "\n".join(rows)
