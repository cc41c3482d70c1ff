"""Compares the words' times with the synthesiser's, on the evaluation set.

    python -m bench.word_times --model demo
    python -m bench.word_times --model demo --decoder ctc --att-ctx 70,13 --raw

Steps the model in this process, and looks at words that were recognized and whose times the synthesiser gives, in the
clean groups of the set. `--raw` leaves the lag on, which is how `asr_service.model.loading.WORD_LAG_MS` is measured:
median of start and end errors. Also counts how many frames lie between the tokens of a word: an endpoint after fewer
frames of silence may fall into a word.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from asr_service.core import Result, StreamConfig, StreamingModel
from asr_service.model import load_model
from asr_service.stream import Stream
from asr_service.transcript import Vocabulary

EVAL = Path(__file__).resolve().parent.parent / "demo_model" / "eval"
GROUPS = ("seen", "unseen")
SHARES = (5, 25, 50, 75, 95)


def utterances(most: int) -> list[dict[str, Any]]:
    """Lines of the manifest with known times, evenly spread."""
    rows = [json.loads(line) for line in (EVAL / "manifest.jsonl").read_text().splitlines()]
    rows = [
        row for row in rows if row["group"] in GROUPS and any(w["start_ms"] is not None for w in row["words"])
    ]
    return rows[:: max(1, len(rows) // most)][:most]


def recognized(model: StreamingModel, path: Path, gaps: Counter[int], *, raw: bool) -> Result:
    """The final of a file."""
    info = dataclasses.replace(model.info, word_lag_ms=(0.0, 0.0)) if raw else model.info
    vocabulary = Vocabulary(info.pieces)
    pcm, rate = soundfile.read(path, dtype="int16")
    stream = Stream(1, StreamConfig("", sample_rate=rate, word_times=True), info, vocabulary, 0, 0.0)
    stream.audio(pcm.astype("<i2").tobytes(), 0.0)
    results = stream.half_close(0.0, 0)
    last = -1
    while stream.ready_at is not None:
        (step,) = model.step([stream.request()])
        for token, frame in zip(step.tokens, step.token_frames, strict=True):
            if last >= 0 and not vocabulary.starts_word[token]:
                gaps[frame - last] += 1
            last = frame
        results += stream.answer(step, 0.0, 0)
    return results[-1]


def errors(row: dict[str, Any], final: Result) -> Iterator[tuple[float, float]]:
    """Start and end error in ms of each word that was recognized and has known times."""
    matcher = SequenceMatcher(
        None, [w["text"] for w in row["words"]], [w.text for w in final.words], autojunk=False
    )
    for block in matcher.get_matching_blocks():
        for at in range(block.size):
            truth, word = row["words"][block.a + at], final.words[block.b + at]
            if truth["start_ms"] is not None:
                yield word.start_ms - truth["start_ms"], word.end_ms - truth["end_ms"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--decoder", default="rnnt")
    parser.add_argument("--att-ctx", default="70,1")
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--raw", action="store_true", help="times with the model's lag")
    options = parser.parse_args()
    model = load_model(
        model=options.model,
        att_context=options.att_ctx,
        decoder=options.decoder,
        device=None,
        precision="fp32",
        encoder="fast",
        slots=1,
        threads=1,
    )
    gaps: Counter[int] = Counter()
    found: list[tuple[float, float]] = []
    rows = utterances(options.files)
    for row in rows:
        found += errors(row, recognized(model, EVAL / row["file"], gaps, raw=options.raw))
    report: dict[str, Any] = {
        "model": options.model,
        "decoder": options.decoder,
        "att_ctx": options.att_ctx,
        "files": len(rows),
        "words": len(found),
    }
    for name, values in zip(("start_ms", "end_ms"), np.array(found).T, strict=True):
        report[name] = {f"p{share}": round(float(np.percentile(values, share)), 1) for share in SHARES}
        report[name]["mean_abs"] = round(float(np.abs(values).mean()), 1)
    report["frames_between_tokens_of_a_word"] = dict(sorted(gaps.items()))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
