"""The training corpus: text and voices drawn from a seed, spoken, and stored as shards of features.

A shard is of one source: `shard_0000.npz` and so on hold espeak-ng and flite, `natural_0000.npz` and so on Kokoro,
`distilled_0000.npz` and so on hibari.
It is one `.npz` with every utterance's frames back to back:
`clean`, `noisy` float16 [frames, 80] log-mels; `phones` uint8 [frames]; `starts` int64 [utterances + 1];
`texts`, `voices` str [utterances]. Shards are independent of each other, so they are made in parallel
and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo_model import grammar, phones, voices
from demo_model.augment import distort, set_peak
from demo_model.features import RATE, log_mel, resample

SHARD, NATURAL, DISTILLED = "shard", "natural", "distilled"
# Utterances of a shard. Kokoro takes long, and what a killed run loses is the shard it was at.
SIZES = {SHARD: 500, NATURAL: 100, DISTILLED: 500}
# What sets a source's random numbers apart from those of espeak-ng's and flite's shard of the same number.
_APART = {SHARD: "", NATURAL: "natural/", DISTILLED: "distilled/"}
_DRAW = {SHARD: voices.draw, NATURAL: voices.draw_natural, DISTILLED: voices.draw_distilled}
# What people say alone: single numbers, days and commands, which no sentence around them helps to hear.
SHORT_TEMPLATES = (
    "{digit}", "{digit}", "{tens}", "{scale}", "{small}", "{num}", "{ordinal}", "{ordinal}", "{day}", "{month}",
    "{month}", "{date}", "{clock}", "{digits3}", "{digits4}", "{nato}", "{city}", "{rank} of {suit}",
    "{small} {rank} of {suit}", "go {direction} {small} {unit}",
)  # fmt: skip
PAUSE_MS = 150  # silence kept around an utterance; training adds its own


def draw_text(rng: random.Random, kind: str, vocab: tuple[str, ...]) -> str:
    """Draw the text of one utterance: `short` (one or two words), `words` (no grammar) or `sentence`."""
    if kind == "short":
        if rng.random() < 0.6:
            while grammar.is_held_out(text := grammar.expand(rng, rng.choice(SHORT_TEMPLATES))):
                pass
            return text
        return grammar.random_words(rng, vocab, 1, 2)
    if kind == "words":
        return grammar.random_words(rng, vocab, 3, 8)
    return grammar.sentence(rng)


def trim(audio: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """Cut leading and trailing silence but `PAUSE_MS`; return the audio and how many ms went at the start."""
    loud = np.flatnonzero(np.abs(audio) > 0.01 * max(1e-6, float(np.abs(audio).max(initial=0.0))))
    if len(loud) == 0:
        return audio, 0.0
    pause = rate * PAUSE_MS // 1000
    first = max(0, int(loud[0]) - pause)
    return audio[first : int(loud[-1]) + pause], 1000.0 * first / rate


def shard_kind(index: int) -> str:
    """Say what shard `index` holds: every fifth is short words, every fifth random words, the rest sentences."""
    return {0: "short", 3: "words"}.get(index % 5, "sentence")


@dataclass(frozen=True)
class Job:
    """One shard to make: its source and number, the corpus's seed and folder, and the natural voices' packages."""

    source: str
    index: int
    seed: int
    folder: Path
    packages: Path | None = None
    utterances: int = 0  # 0: as many as a shard of this source has

    @property
    def path(self) -> Path:
        """Where the shard lies."""
        return self.folder / f"{self.source}_{self.index:04d}.npz"


def draws(job: Job) -> Iterator[tuple[str, voices.Voice]]:
    """Yield the text and the voice of every utterance of a shard; they depend on seed, source and number alone."""
    rng = random.Random(f"{job.seed}/{_APART[job.source]}{job.index}")
    vocab = grammar.vocabulary()
    for _ in range(job.utterances or SIZES[job.source]):
        text = draw_text(rng, shard_kind(job.index), vocab)
        yield text, _DRAW[job.source](rng)


def make_shard(job: Job) -> tuple[Path, float]:
    """Speak and store one shard; return its path and its seconds of speech, 0 if it was there."""
    if job.path.exists():
        return job.path, 0.0
    import torch

    torch.set_num_threads(1)
    apart = list(SIZES).index(job.source)
    generator = np.random.default_rng([job.seed, job.index, *([apart] if apart else [])])
    speaker = voices.Speaker(job.packages)
    clean, noisy, labels, texts, names, starts = [], [], [], [], [], [0]
    for text, voice in draws(job):
        spoken = speaker.say(text, voice)
        audio, cut = trim(spoken.audio, spoken.rate)
        audio = set_peak(resample(audio, spoken.rate), -3.0)
        frames = log_mel(audio)
        clean.append(frames.astype(np.float16))
        noisy.append(log_mel(distort(generator, audio)).astype(np.float16))
        shifted = tuple((name, start - cut) for name, start in spoken.phonemes)
        labels.append(phones.frame_labels(shifted, len(frames)))
        texts.append(text)
        names.append(voice.label)
        starts.append(starts[-1] + len(frames))
    partial = job.path.with_suffix(".part.npz")
    np.savez(
        partial, clean=np.concatenate(clean), noisy=np.concatenate(noisy), phones=np.concatenate(labels),
        starts=np.array(starts), texts=np.array(texts), voices=np.array(names),
    )  # fmt: skip
    partial.rename(job.path)
    return job.path, starts[-1] / 100


def make_corpus(
    folder: Path, shards: Mapping[str, int], seed: int, processes: int, packages: Path | None = None
) -> None:
    """Make so many shards of each source under `folder`, with a line of progress for each."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [Job(source, index, seed, folder, packages) for source in SIZES for index in range(shards[source])]
    seconds = 0.0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, (path, added) in enumerate(pool.imap_unordered(make_shard, jobs), 1):
            seconds += added
            print(f"speech {done}/{len(jobs)}: {path.name}, {seconds / 3600:.2f} h new", flush=True)


__all__ = [
    "DISTILLED", "NATURAL", "RATE", "SHARD", "SIZES", "Job", "draw_text", "draws", "make_corpus", "make_shard",
    "shard_kind", "trim",
]  # fmt: skip
