"""Measures where utterances end by themselves on the evaluation set: too early, inside words, and how late.

    python -m bench.endpoints --table --json build/endpoints.json

Steps the model once over the set, each file followed by 1.6 s of its own background, and replays what it emitted
through the endpointer: with the levels of the audio, as the service does, and without them, the baseline. Split: the
utterance after an end starts with a piece that goes on with a word. Early: an end before the last word has begun, in
single sentences whose word times are known; of the others, how long after the last word's end the last end comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from asr_service.core.model import ModelInfo
from asr_service.core.model_settings import ModelSettings, parse_att_context
from asr_service.core.values import EndpointingConfig, Samples
from asr_service.model import make_model
from asr_service.recognition.endpointing import Endpointer, frame_levels
from asr_service.recognition.vocabulary import Vocabulary
from bench.options import parse, words_parser, write_report
from bench.score import Utterance
from bench.stepping import RATE, TOGETHER, Emitted, evaluation_set, step_all

SILENCES_MS = (200, 320, 500, 800)
LEAD_S, TAIL_S = 0.2, 1.6  # before the first word there is background only, in every file


@dataclass(frozen=True)
class Row:
    """One length of silence, with or without levels."""

    silence_ms: int
    levels: bool
    ends: int
    splits: int
    early: int
    late_p50_ms: float
    late_p95_ms: float


def ends_of(
    info: ModelInfo,
    vocabulary: Vocabulary,
    emitted: Emitted,
    audio: Samples,
    silence_ms: int,
    *,
    levels: bool,
) -> tuple[list[int], int]:
    """Finds the frames of the ends, step by step as in the service, and counts those that split a word."""
    endpointer = Endpointer(EndpointingConfig(silence_ms, 0, 0), info.frame_ms)
    tokens = list(zip(emitted.tokens, emitted.frames, strict=True))
    found: list[int] = []
    splits, frames, place, is_open = 0, 0, 0, False
    while True:
        need = info.chunk_samples if frames else info.first_chunk_samples
        samples = audio[place : place + need]
        if len(samples) < need:
            return found, splits
        place += need
        if levels:
            endpointer.add_levels(frame_levels(samples, info.chunk_frames, info.frame_samples))
        frames += info.chunk_frames
        while tokens and tokens[0][1] < frames:
            token, frame = tokens.pop(0)
            starts_word = vocabulary.starts_word[token]
            if endpointer.before_token(frame, starts_word=starts_word):
                found.append(frame)
                endpointer.start_utterance(frame)
                is_open = False
            splits += bool(found) and not is_open and not starts_word
            if vocabulary.is_spoken[token]:
                endpointer.add_token(frame)
            is_open = True
        if endpointer.after_frames(frames):
            found.append(frames)
            endpointer.start_utterance(frames)
            is_open = False


def measure(model_name: str, att_context: str, threads: int | None, limit: int) -> list[Row]:
    """Measures all rows."""
    model = make_model(
        ModelSettings(
            name=model_name,
            att_context=parse_att_context(att_context),
            device="cpu",
            slots=TOGETHER,
            threads=threads,
        )
    )
    info, vocabulary = model.info, Vocabulary(model.info.pieces)
    chosen = evaluation_set(limit)
    repeats = round(TAIL_S / LEAD_S)
    audios = [np.concatenate((audio, np.tile(audio[: round(LEAD_S * RATE)], repeats))) for _, audio in chosen]
    emitted = step_all(model, audios)
    rows = []
    for silence_ms in SILENCES_MS:
        for levels in (False, True):
            ends = splits = early = 0
            late = []
            for (utterance, _), one, audio in zip(chosen, emitted, audios, strict=True):
                found, split = ends_of(info, vocabulary, one, audio, silence_ms, levels=levels)
                ends, splits = ends + len(found), splits + split
                if (last := _last_word(utterance)) and found:
                    early += sum(frame * info.frame_ms < last[0] for frame in found)
                    late.append(found[-1] * info.frame_ms - last[1])
            p50, p95 = (round(float(value), 0) for value in np.percentile(late, [50, 95]))
            rows.append(Row(silence_ms, levels, ends, splits, early, p50, p95))
    return rows


def _last_word(utterance: Utterance) -> tuple[int, int] | None:
    """Gives start and end of a single sentence's last word in ms, if they are known."""
    word = utterance.words[-1]
    known = word["start_ms"] is not None and not utterance.id.startswith("long")
    return (word["start_ms"], word["end_ms"]) if known else None


def table(rows: Sequence[Row]) -> str:
    """Lays the rows out as Markdown."""
    lines = [
        "| silence, ms | ends by | ends | inside a word | before the last word | after the last word, ms: p50 / p95 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        by = "tokens and levels" if row.levels else "tokens alone"
        lines.append(
            f"| {row.silence_ms} | {by} | {row.ends} | {row.splits} | {row.early} | "
            f"{row.late_p50_ms:g} / {row.late_p95_ms:g} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = words_parser(__doc__)
    parser.add_argument("--att-ctx", default="70,1", help="look-ahead (default: 70,1)")
    parser.add_argument("--table", action="store_true", help="print a Markdown table")
    options = parse(parser, arguments)
    rows = measure(options.model, options.att_ctx, options.threads, options.limit)
    print(table(rows) if options.table else "\n".join(map(str, rows)))
    report = {
        "model": options.model,
        "att_ctx": options.att_ctx,
        "baseline": "tokens alone, same run",
        "rows": [asdict(row) for row in rows],
    }
    write_report(options.json, report)


if __name__ == "__main__":
    main()
