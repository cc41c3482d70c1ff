"""Measures how much silence to add to a final: whether last words are lost without it, or invented with it.

    python -m bench.trailing --table --json build/trailing.json

Steps the model in this process over the sentences whose word times are known, cut in three places: where the last word
ends, in the middle of the last word, and where the file ends (0.2 to 0.5 s after the last word). After the cut come so
many ms of digital silence, then the flush. Nothing added is the baseline of each look-ahead, in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from asr_service.core.model import ModelInfo, StreamingModel
from asr_service.core.model_settings import ModelSettings, parse_att_context
from asr_service.core.values import Samples
from asr_service.model import make_model
from asr_service.recognition.transcript import Transcript
from asr_service.recognition.vocabulary import Vocabulary, belongs_before, unpunctuated
from bench.options import parse, words_parser, write_report
from bench.score import Utterance
from bench.stepping import RATE, TOGETHER, Emitted, evaluation_set, step_all
from demo_model.wer import align, compare, total

LOOK_AHEADS = ("70,0", "70,1", "70,6", "70,13")
# Beside them one and two chunks of the look-ahead.
SILENCES_MS = (0, 80, 160)
AT_WORD_END, IN_WORD, AT_FILE_END = "word's end", "middle of the word", "file's end"


@dataclass(frozen=True)
class Row:
    """What one look-ahead makes of one cut and one amount of silence.

    Attributes:
        lost: utterances whose last whole word is missing.
        wrong: utterances whose last whole word is another.
        invented: utterances with words after the last whole one. In the middle of a word one such is what was heard of
            it; `completed` of them are the word as it would have been.
        wer: percent, over the words that are whole.
        marked: utterances whose text ends with a mark.
        steps: that the silence costs, on average.
    """

    look_ahead: str
    cut: str
    silence_ms: int
    utterances: int
    lost: int
    wrong: int
    invented: int
    completed: int
    wer: float
    marked: int
    steps: float


def cuts(utterance: Utterance, audio: Samples) -> Iterator[tuple[str, str, str, Samples]]:
    """Makes each cut: its name, the words before it, the word it falls into, the audio before it."""
    words = [word["text"] for word in utterance.words]
    last = utterance.words[-1]
    start, end = (round(last[name] * RATE / 1000) for name in ("start_ms", "end_ms"))
    yield AT_WORD_END, " ".join(words), "", audio[:end]
    yield IN_WORD, " ".join(words[:-1]), words[-1], audio[: (start + end) // 2]
    yield AT_FILE_END, " ".join(words), "", audio


def measure(
    model: StreamingModel,
    look_ahead: str,
    silences_ms: Sequence[int],
    chosen: Sequence[tuple[Utterance, Samples]],
) -> Iterator[Row]:
    """Measures the rows of one look-ahead, all of them in the same batches."""
    cases = [cut for utterance, audio in chosen for cut in cuts(utterance, audio)]
    added = [np.zeros(silence * RATE // 1000, np.float32) for silence in silences_ms]
    emitted = iter(step_all(model, [np.concatenate((audio, more)) for *_, audio in cases for more in added]))
    vocabulary = Vocabulary(model.info.pieces)
    texts = [[text_of(vocabulary, next(emitted)) for _ in added] for _ in cases]
    for name in (AT_WORD_END, IN_WORD, AT_FILE_END):
        of_cut = [
            (whole, broken, said, len(audio))
            for (cut, whole, broken, audio), said in zip(cases, texts, strict=True)
            if cut == name
        ]
        for place, (silence, more) in enumerate(zip(silences_ms, added, strict=True)):
            steps = [
                step_count(model.info, size + len(more)) - step_count(model.info, size) for *_, size in of_cut
            ]
            said_words = [(whole, broken, said[place]) for whole, broken, said, _ in of_cut]
            yield row_of(look_ahead, name, silence, said_words, sum(steps) / len(steps))


def text_of(vocabulary: Vocabulary, emitted: Emitted) -> str:
    """Makes the text that a client would get of a recording."""
    transcript = Transcript(vocabulary, 1.0, keep_words=False)
    for token in emitted.tokens:
        transcript.add(token, 0, 1.0)
    return transcript.text.strip()


def step_count(info: ModelInfo, samples: int) -> int:
    """Returns how many steps a segment of so many samples takes."""
    return 1 + max(0, -(-(samples - info.first_chunk_samples) // info.chunk_samples))


def row_of(
    look_ahead: str, cut: str, silence_ms: int, cases: Sequence[tuple[str, str, str]], steps: float
) -> Row:
    """Counts over the utterances, of which each is its whole words, the one that was cut, and what was heard."""
    lost = wrong = invented = completed = marked = 0
    for whole, broken, text in cases:
        heard = unpunctuated(text).split()
        operations = align(whole.split(), heard)
        stem = operations.rstrip("i")
        after = heard[len(heard) - (len(operations) - len(stem)) :]
        lost += stem.endswith("d")
        wrong += stem.endswith("s")
        invented += bool(after)
        completed += bool(broken) and broken in after
        marked += bool(text) and belongs_before(text[-1], after_space=False)
    rate = total(compare(whole, unpunctuated(text)) for whole, _, text in cases).wer
    counts = (len(cases), lost, wrong, invented, completed)
    return Row(look_ahead, cut, silence_ms, *counts, round(rate, 2), marked, round(steps, 2))


def _is_timed(utterance: Utterance) -> bool:
    """Tells whether it is one sentence whose last word's time is known."""
    return utterance.words[-1]["end_ms"] is not None and not utterance.id.startswith("long")


def table(rows: Sequence[Row]) -> str:
    """Lays out as Markdown: a line for each look-ahead and amount, the cuts side by side."""
    lines = [
        "| look-ahead | silence, ms | steps more "
        "| cut where the last word ends: lost / wrong / followed by an invented one, WER "
        "| cut in the middle of it: the word before it lost / wrong, something / the whole word made of it "
        "| file as it is: lost / wrong / followed by an invented one, WER |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    found = {(row.look_ahead, row.silence_ms, row.cut): row for row in rows}
    for look_ahead, silence in dict.fromkeys((row.look_ahead, row.silence_ms) for row in rows):
        ended, inside, file = (found[look_ahead, silence, cut] for cut in (AT_WORD_END, IN_WORD, AT_FILE_END))
        lines.append(
            f"| {look_ahead} | {silence} | {ended.steps:.2f} | {_counts(ended)} | {inside.lost} / {inside.wrong}, "
            f"{inside.invented} / {inside.completed} | {_counts(file)} |"
        )
    return "\n".join(lines)


def _counts(row: Row) -> str:
    marks = f", {row.marked} with a mark at the end" if row.marked else ""
    return f"{row.lost} / {row.wrong} / {row.invented}, {row.wer:.2f} %{marks}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = words_parser(__doc__)
    parser.add_argument("--decoder", default="rnnt", help="rnnt or ctc (default: rnnt)")
    parser.add_argument(
        "--att-ctx",
        action="append",
        metavar="PAIR",
        help=f"look-ahead; again for more (default: {LOOK_AHEADS})",
    )
    parser.add_argument(
        "--silence",
        action="append",
        type=int,
        metavar="MS",
        help=f"to add; again for more (default: {SILENCES_MS}, one chunk and two)",
    )
    parser.add_argument("--table", action="store_true", help="print a Markdown table at the end")
    options = parse(parser, arguments)
    chosen = [pair for pair in evaluation_set(options.limit) if _is_timed(pair[0])]
    rows: list[Row] = []
    for look_ahead in options.att_ctx or LOOK_AHEADS:
        model = make_model(
            ModelSettings(
                name=options.model,
                att_context=parse_att_context(look_ahead),
                decoder=options.decoder,
                device="cpu",
                slots=TOGETHER,
                threads=options.threads,
            )
        )
        chunk_ms = round(model.info.chunk_ms)
        silences = options.silence or [*SILENCES_MS, chunk_ms, 2 * chunk_ms]
        for row in measure(model, look_ahead, sorted({0, *silences}), chosen):
            rows.append(row)
            if not options.table:
                print(row, flush=True)
    if options.table:
        print(f"{len(chosen)} utterances, {options.model}, {options.decoder}\n\n{table(rows)}")
    report = {
        "model": options.model,
        "decoder": options.decoder,
        "baseline": "0 ms, same run",
        "rows": [asdict(row) for row in rows],
    }
    write_report(options.json, report)


if __name__ == "__main__":
    main()
