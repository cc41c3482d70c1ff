"""Training batches: utterances joined, warped, sent through lines and given noise as log-mels, padded by length.

Working on features rather than samples costs milliseconds a batch. Power adds, so noise and silence can be
mixed into log-mels; a shift of the mel axis stands for another vocal tract, a stretch of time for another rate.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch

from demo_model.augment import music, noise
from demo_model.corpus import SIZES, shard_kind
from demo_model.features import LOG_FLOOR, MELS, RATE, log_mel
from demo_model.lines import line
from demo_model.phones import IGNORE, SILENCE


@dataclass(frozen=True)
class Batch:
    """features float32 [B, 80, T]; lengths int64 [B] (frames); targets int64 [B, U]; target_lengths int64 [B];
    phones uint8 [B, T]."""

    features: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    target_lengths: torch.Tensor
    phones: torch.Tensor


@dataclass(frozen=True)
class Utterance:
    """Log-mels float16 [frames, 80] as spoken and as distorted, phone classes [frames], pieces of the text."""

    clean: np.ndarray
    noisy: np.ndarray
    phones: np.ndarray
    pieces: tuple[int, ...]


class Corpus:
    """Every shard of this worker found so far, in memory (32 kB a second of speech)."""

    def __init__(self, folder: Path, tokenizer: Path, rank: int = 0, workers: int = 1) -> None:
        self._folder, self._rank, self._workers = folder, rank, workers
        self._seen: set[Path] = set()
        self._tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        self.sources: dict[str, dict[str, list[Utterance]]] = {
            source: {"short": [], "words": [], "sentence": []} for source in SIZES
        }

    def scan(self) -> int:
        """Load this worker's shards that are new; return how many are loaded."""
        paths = (path for source in self.sources for path in sorted(self._folder.glob(f"{source}_????.npz")))
        for path in paths:
            source, _, number = path.stem.partition("_")
            index = int(number)
            if (
                path in self._seen or (index // 5) % self._workers != self._rank
            ):  # 5: every worker has every kind
                continue
            self._seen.add(path)
            with np.load(path) as shard:
                clean, noisy, phones = shard["clean"], shard["noisy"], shard["phones"]
                starts, texts = shard["starts"], shard["texts"]
            kind = self.sources[source][shard_kind(index)]
            for low, high, text in zip(starts[:-1], starts[1:], texts, strict=True):
                pieces = tuple(self._tokenizer.encode(str(text)))
                kind.append(Utterance(clean[low:high], noisy[low:high], phones[low:high], pieces))
        return len(self._seen)

    def pick(self, rng: random.Random, kind: str, shares: Mapping[str, float]) -> Utterance:
        """Draw an utterance of a kind; of the sources that have this kind, each with its share of their `shares`."""
        there = [source for source in shares if self.sources[source][kind]]
        (source,) = rng.choices(there, [shares[source] for source in there]) if len(there) > 1 else there
        return rng.choice(self.sources[source][kind])


class Batches:
    """An endless, seeded stream of batches of at most `frames` padded mel frames."""

    def __init__(self, corpus: Corpus, seed: int, frames: int, shares: Mapping[str, float]) -> None:
        self._corpus, self._frames, self._shares = corpus, frames, shares
        self._rng = random.Random(f"{seed}/batches")
        self._np = np.random.default_rng([seed, 77])
        # Bands whose level wanders come nearest to speech, so there are most of them.
        kinds = ("white", "pink", "brown", "hum", "band", "band", "band", "music")
        self._noises = [log_mel(self._sound(kinds[i % 8])) for i in range(240)]

    def _sound(self, kind: str) -> np.ndarray:
        return music(self._np, RATE * 10) if kind == "music" else noise(self._np, RATE * 10, kind)

    def stream(self, mixture: dict[str, float], pool: int = 256) -> Iterator[Batch]:
        """Yield batches; `mixture` gives the share of each kind, and of `joined` and `empty` examples."""
        kinds, weights = list(mixture), list(mixture.values())
        while True:
            items = [self._example(self._rng.choices(kinds, weights)[0]) for _ in range(pool)]
            items.sort(key=lambda item: len(item[0]))
            groups: list[list[tuple[np.ndarray, np.ndarray, tuple[int, ...]]]] = [[]]
            for item in items:
                if len(item[0]) * (len(groups[-1]) + 1) > self._frames and groups[-1]:
                    groups.append([])
                groups[-1].append(item)
            if len(groups) > 1:
                groups = groups[:-1]  # the last group holds few, the longest: dropped to keep batches even
            self._rng.shuffle(groups)
            yield from (_collate(group) for group in groups)

    def _example(self, kind: str) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
        rng = self._rng
        parts: list[np.ndarray] = []
        phones: list[np.ndarray] = []
        pieces: tuple[int, ...] = ()
        if kind == "empty":
            _append_silence(parts, phones, rng.randint(100, 800))
        else:
            count = rng.choice((2, 2, 2, 3, 4)) if kind == "joined" else 1
            # One in three begins and ends with up to a second and a half of room.
            longest = 150 if rng.random() < 1 / 3 else 80
            # One in three begins, and one in three ends, where its sound does: recordings are often cut so.
            tight_start, tight_end = rng.random() < 1 / 3, rng.random() < 1 / 3
            if not tight_start:
                _append_silence(parts, phones, int(rng.random() ** 2 * longest))
            for index in range(count):
                pick = (
                    rng.choices(("sentence", "words", "short"), (0.7, 0.15, 0.15))[0]
                    if kind == "joined"
                    else kind
                )
                utterance = self._corpus.pick(rng, pick, self._shares)
                if index:
                    _append_silence(parts, phones, rng.randint(0, 120))
                features, labels = self._warp(utterance)
                first, last = _sounding(labels)
                if tight_start and index == 0:
                    features, labels = features[first:], labels[first:]
                    last -= first
                if tight_end and index == count - 1:
                    features, labels = features[:last], labels[:last]
                parts.append(features)
                phones.append(labels)
                pieces += utterance.pieces
            if not tight_end:
                _append_silence(parts, phones, rng.randint(0, longest))
        features = np.concatenate(parts)
        return self._mix(features, kind == "empty"), np.concatenate(phones), pieces

    def _warp(self, utterance: Utterance) -> tuple[np.ndarray, np.ndarray]:
        """Stretch time and the mel axis, change the level and the spectrum's shape, and send it through a line."""
        rng = self._rng
        features = (utterance.noisy if rng.random() < 0.4 else utterance.clean).astype(np.float32)
        labels = utterance.phones
        if rng.random() < 0.6:
            count = max(8, round(len(features) * rng.uniform(0.85, 1.22)))
            place = np.linspace(0, len(features) - 1, count)
            low = np.minimum(place.astype(np.int64), len(features) - 2)
            part = (place - low).astype(np.float32)[:, None]
            features = features[low] * (1 - part) + features[low + 1] * part
            labels = labels[np.round(place).astype(np.int64)]
        if rng.random() < 0.7:
            place = np.clip(
                np.arange(MELS) * rng.uniform(0.88, 1.12) + rng.uniform(-1.0, 1.0), 0, MELS - 1.001
            )
            low = place.astype(np.int64)
            part = (place - low).astype(np.float32)
            features = features[:, low] * (1 - part) + features[:, low + 1] * part
        shape = self._shape()
        level = -6.0 * rng.random() ** 2 + rng.uniform(-0.3, 0.3)  # natural log of power: 6 is 26 dB
        return line(self._np, np.maximum(features + level + shape, LOG_FLOOR)), labels

    def _shape(self) -> np.ndarray:
        """Draw a microphone's and a room's frequency response, natural log of power, float32 [80]."""
        rng = self._rng
        shape = np.linspace(-1, 1, MELS, dtype=np.float32) * rng.uniform(-1.2, 1.2)
        if rng.random() < 0.7:
            for waves in range(2, 7):
                swing = rng.gauss(0.0, 0.35)
                shape += swing * np.cos(
                    np.pi * (waves * np.arange(MELS, dtype=np.float32) / MELS + 2 * rng.random())
                )
        return shape.astype(np.float32)

    def _mix(self, features: np.ndarray, empty: bool) -> np.ndarray:
        """Add noise in the power domain; of four examples in ten, half get a quiet room and half stay as they are."""
        rng = self._rng
        if rng.random() < (0.15 if empty else 0.4):
            if rng.random() < 0.5:
                return features
            return self._add(features, rng.uniform(-16.0, -9.0))
        if empty:
            return self._add(features, rng.uniform(-16.0, 0.0))
        return self._add(features, rng.uniform(-16.0, -4.0), louder=rng.uniform(1.0, 7.0))

    def _add(self, features: np.ndarray, level: float, louder: float | None = None) -> np.ndarray:
        """Add noise at `level`, natural log of power; `louder`: by so much the speech has to be above it at least."""
        bank = self._noises[self._rng.randrange(len(self._noises))]
        start = self._rng.randrange(len(bank))
        picked = bank[(start + np.arange(len(features))) % len(bank)]
        if louder is not None:
            loud = float(np.percentile(features.mean(axis=1), 80))
            level = min(level, loud - float(picked.mean()) - louder)
        mixed: np.ndarray = np.logaddexp(features, picked + np.float32(level))
        return mixed.astype(np.float32)


def _sounding(labels: np.ndarray) -> tuple[int, int]:
    """Return the first frame that is not silence, and the one after the last, two frames wider on each side."""
    sounding = np.flatnonzero((labels != SILENCE) & (labels != IGNORE))
    if not len(sounding):
        return 0, len(labels)
    return max(0, int(sounding[0]) - 2), min(len(labels), int(sounding[-1]) + 3)


def _append_silence(parts: list[np.ndarray], phones: list[np.ndarray], frames: int) -> None:
    parts.append(np.full((frames, MELS), LOG_FLOOR, np.float32))
    phones.append(np.full(frames, SILENCE, np.uint8))


def _collate(items: list[tuple[np.ndarray, np.ndarray, tuple[int, ...]]]) -> Batch:
    longest = max(len(item[0]) for item in items)
    labels = max(1, max(len(item[2]) for item in items))
    features = torch.zeros(len(items), MELS, longest)
    phones = torch.full((len(items), longest), IGNORE, dtype=torch.uint8)
    targets = torch.zeros(len(items), labels, dtype=torch.long)
    for row, (frames, classes, pieces) in enumerate(items):
        features[row, :, : len(frames)] = torch.from_numpy(frames.T)
        phones[row, : len(classes)] = torch.from_numpy(classes)
        targets[row, : len(pieces)] = torch.tensor(pieces, dtype=torch.long)
    return Batch(
        features,
        torch.tensor([len(item[0]) for item in items]),
        targets,
        torch.tensor([len(item[2]) for item in items]),
        phones,
    )
