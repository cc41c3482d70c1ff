"""Compares the words' times with the synthesiser's, on the evaluation set.

    python -m bench.word_times --model demo
    python -m bench.word_times --model demo --decoder ctc --att-ctx 70,13 --raw

Steps the model in this process, and looks at words that were recognized and whose times the synthesiser gives, in the
clean groups of the set. `--raw` leaves the lag on, which is how `asr_service.model.loading.WORD_LAG_MS` is measured:
median of start and end errors. Also counts how many frames lie between the tokens of a word: an endpoint after fewer
frames of silence may fall into a word.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from asr_service.core.model import StreamingModel
from asr_service.core.model_settings import ModelSettings, parse_att_context
from asr_service.core.values import Result, StreamConfig
from asr_service.model import make_model
from asr_service.recognition.vocabulary import Vocabulary
from bench.options import parse, words_parser, write_report
from bench.score import Utterance
from bench.stepping import utterances
from testbed.by_request import step
from testbed.stepped_stream import SteppedStream

GROUPS = ("seen", "unseen")
SHARES = (5, 25, 50, 75, 95)


def timed(most: int) -> list[Utterance]:
    """Reads utterances with known times, evenly spread; 0: all."""
    found = [
        one
        for one in utterances()
        if one.groups[0] in GROUPS and any(word["start_ms"] is not None for word in one.words)
    ]
    most = most or max(1, len(found))
    return found[:: max(1, len(found) // most)][:most]


def recognized(model: StreamingModel, utterance: Utterance, gaps: Counter[int], *, raw: bool) -> Result:
    """Recognizes an utterance; returns its final."""
    info = dataclasses.replace(model.info, word_lag_ms=(0.0, 0.0)) if raw else model.info
    vocabulary = Vocabulary(info.pieces)
    config = StreamConfig("", sample_rate=utterance.rate, word_times=True)
    stream = SteppedStream(config, info, vocabulary)
    stream.audio(utterance.pcm, 0.0)
    results = stream.half_close(0.0, 0)
    last = -1
    while stream.ready_at is not None:
        (answer,) = step(model, [stream.request()])
        for token, frame in zip(answer.tokens, answer.token_frames, strict=True):
            if last >= 0 and not vocabulary.starts_word[token]:
                gaps[frame - last] += 1
            last = frame
        results += stream.take(answer, 0.0, 0)
    return results[-1]


def errors(utterance: Utterance, final: Result) -> Iterator[tuple[float, float]]:
    """Gives the error in ms of start and end of each word that was recognized and has known times."""
    matcher = SequenceMatcher(
        None, [w["text"] for w in utterance.words], [w.text for w in final.words], autojunk=False
    )
    for block in matcher.get_matching_blocks():
        for at in range(block.size):
            truth, word = utterance.words[block.a + at], final.words[block.b + at]
            if truth["start_ms"] is not None:
                yield word.start_ms - truth["start_ms"], word.end_ms - truth["end_ms"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = words_parser(__doc__, limit=100, threads=1)
    parser.add_argument("--decoder", default="rnnt", help="rnnt or ctc (default: rnnt)")
    parser.add_argument("--att-ctx", default="70,1", help="look-ahead (default: 70,1)")
    parser.add_argument("--raw", action="store_true", help="times with the model's lag")
    options = parse(parser, arguments)
    model = make_model(
        ModelSettings(
            name=options.model,
            att_context=parse_att_context(options.att_ctx),
            decoder=options.decoder,
            slots=1,
            threads=options.threads,
        )
    )
    gaps: Counter[int] = Counter()
    found: list[tuple[float, float]] = []
    chosen = timed(options.limit)
    for utterance in chosen:
        found += errors(utterance, recognized(model, utterance, gaps, raw=options.raw))
    report: dict[str, Any] = {
        "model": options.model,
        "decoder": options.decoder,
        "att_ctx": options.att_ctx,
        "files": len(chosen),
        "words": len(found),
    }
    for name, values in zip(("start_ms", "end_ms"), np.array(found).T, strict=True):
        report[name] = {f"p{share}": round(float(np.percentile(values, share)), 1) for share in SHARES}
        report[name]["mean_abs"] = round(float(np.abs(values).mean()), 1)
    report["frames_between_tokens_of_a_word"] = dict(sorted(gaps.items()))
    print(json.dumps(report, indent=1))
    write_report(options.json, report)


if __name__ == "__main__":
    main()
