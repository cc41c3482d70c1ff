"""Measures on the evaluation set how far confidence can be trusted, of words and of utterances.

    python -m bench.confidence --table --json build/confidence.json

Steps the model in this process, once for each measure of a token's confidence: its probability, or one less its
normalised entropy (Laptev and Ginsburg, "Fast Entropy-Based Methods of Word-Level Confidence Estimation for End-to-End
Automatic Speech Recognition", arXiv 2212.08703; the Tsallis entropy of order 1/3 with exponential normalisation is
NeMo's default). The baseline is what the service does.

AUC: how often a right word has more confidence than a wrong one (0.5: no better than chance). ECE: expected calibration
error, the mean distance of confidence from the share that is right, over ten bins of equal width. A word is right if
the alignment with the reference says so. An utterance's confidence is held against the share of its words that are
right, its AUC against whether all are. For what the service does, the exponent that calibrates best is fitted too, on
every other word or utterance, and tried on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_service.core.model_settings import ModelSettings, parse_att_context
from asr_service.model import make_model
from asr_service.recognition.vocabulary import Vocabulary
from bench.options import parse, words_parser, write_report
from bench.score import Utterance
from bench.stepping import TOGETHER, Emitted, evaluation_set, step_all, text_of
from demo_model.wer import align

Values = npt.NDArray[np.float64]
ORDER = 1 / 3
BINS = 10


def gibbs(scores: Any, _chosen: Any) -> Any:
    """1 - H / log V, of scores [..., V]."""
    logs = scores.log_softmax(dim=-1)
    return (1 + (logs.exp() * logs).sum(dim=-1) / math.log(scores.shape[-1])).clamp(0, 1)


def tsallis(scores: Any, _chosen: Any) -> Any:
    """1 - T / T_max for the Tsallis entropy T = (sum p^a - 1) / (1 - a), of scores [..., V]."""
    powers = (scores.log_softmax(dim=-1) * ORDER).exp().sum(dim=-1)
    return (1 - (powers - 1) / (scores.shape[-1] ** (1 - ORDER) - 1)).clamp(0, 1)


def tsallis_exp(scores: Any, _chosen: Any) -> Any:
    """(exp(-T) - exp(-T_max)) / (1 - exp(-T_max)): more of the range for what is nearly sure."""
    powers = (scores.log_softmax(dim=-1) * ORDER).exp().sum(dim=-1)
    least = math.exp((1 - scores.shape[-1] ** (1 - ORDER)) / (1 - ORDER))
    return ((((1 - powers) / (1 - ORDER)).exp() - least) / (1 - least)).clamp(0, 1)


MEASURES: dict[str, Callable[[Any, Any], Any] | None] = {
    "probability": None,
    "Gibbs entropy": gibbs,
    "Tsallis entropy": tsallis,
    "Tsallis entropy, exponential": tsallis_exp,
}
AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda values: sum(values) / len(values),
    "product": math.prod,
}
SERVED = ("probability", "mean", "mean")
"""What the service does: measure, aggregation of tokens to words, of words to utterances."""


@dataclass(frozen=True)
class Row:
    """What one way of telling confidence scored."""

    decoder: str
    level: str
    measure: str
    tokens: str
    words: str
    count: int
    right: float
    mean: float
    auc: float
    ece: float
    power: float | None = None
    ece_half: float | None = None
    ece_half_power: float | None = None


def words_of(vocabulary: Vocabulary, emitted: Emitted) -> list[list[float]]:
    """Groups the confidences of the tokens by word."""
    words: list[list[float]] = []
    for token, prob in zip(emitted.tokens, emitted.probs, strict=True):
        if vocabulary.starts_word[token] or not words:
            words.append([])
        words[-1].append(prob)
    return words


def right_words(reference: str, heard: str) -> list[bool]:
    """Tells of each word that was heard whether it is right."""
    return [operation == "=" for operation in align(reference.split(), heard.split()) if operation != "d"]


def auc(values: Values, right: Values) -> float:
    """Gives the share of (right, wrong) pairs in which the right one has more; ties count half."""
    good, bad = values[right > 0.5], values[right <= 0.5]
    if not good.size or not bad.size:
        return float("nan")
    more = (good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean()
    return float(more)


def ece(values: Values, right: Values) -> float:
    """Computes the expected calibration error."""
    places = np.minimum((values * BINS).astype(int), BINS - 1)
    gaps = [
        abs(values[places == place].mean() - right[places == place].mean()) * (places == place).mean()
        for place in np.unique(places)
    ]
    return float(sum(gaps))


def best_power(values: Values, right: Values) -> float:
    """Finds the exponent with the least calibration error."""
    return min((0.05 * step for step in range(2, 121)), key=lambda power: ece(values**power, right))


@dataclass(frozen=True)
class Heard:
    """One utterance: confidences of its words' tokens, and which words are right."""

    words: list[list[float]]
    right: list[bool]


def rows_of(decoder: str, measure: str, heard: Sequence[Heard]) -> list[Row]:
    """Scores all aggregations of one measure."""
    rows = []

    def add(level: str, tokens: str, words: str, pairs: list[tuple[float, float]], told: Values) -> None:
        values, right = np.array(pairs).T
        fitted: tuple[float, float, float] | tuple[()] = ()
        if (measure, tokens, words or SERVED[2]) == SERVED:
            half = np.arange(len(values)) % 2 == 0
            found = best_power(values[half], right[half])
            fitted = (
                round(found, 2), round(ece(values[~half], right[~half]), 4),
                round(ece(values[~half] ** found, right[~half]), 4),
            )  # fmt: skip
        rows.append(Row(
            decoder, level, measure, tokens, words, len(values), round(float(right.mean()), 4),
            round(float(values.mean()), 4), round(auc(values, told), 4), round(ece(values, right), 4), *fitted,
        ))  # fmt: skip

    for tokens, joined in AGGREGATIONS.items():
        of_words = [[joined(word) for word in one.words] for one in heard]
        pairs = [
            (value, float(good))
            for values, one in zip(of_words, heard, strict=True)
            for value, good in zip(values, one.right, strict=True)
        ]
        add("word", tokens, "", pairs, np.array([good for _, good in pairs]))
        for words, together in AGGREGATIONS.items():
            said = [(values, one.right) for values, one in zip(of_words, heard, strict=True) if values]
            shares = [(together(values), sum(right) / len(right)) for values, right in said]
            add("utterance", tokens, words, shares, np.array([float(all(right)) for _, right in said]))
    return rows


def measure_decoder(
    model_name: str, att_context: str, decoder: str, threads: int | None, limit: int
) -> list[Row]:
    """All rows of one decoder."""
    model: Any = make_model(
        ModelSettings(
            name=model_name,
            att_context=parse_att_context(att_context),
            decoder=decoder,
            device="cpu",
            slots=TOGETHER,
            threads=threads,
        )
    )
    vocabulary = Vocabulary(model.info.pieces)
    chosen: list[tuple[Utterance, Any]] = evaluation_set(limit)
    as_served = model._decoder.confidence
    rows: list[Row] = []
    for name, measure in MEASURES.items():
        model._decoder.confidence = measure or as_served
        heard = []
        for (utterance, _), emitted in zip(
            chosen, step_all(model, [audio for _, audio in chosen]), strict=True
        ):
            words = words_of(vocabulary, emitted)
            right = right_words(utterance.text, text_of(model.info.pieces, emitted.tokens))
            if len(words) == len(right):  # a lone space mark is no word
                heard.append(Heard(words, right))
        rows += rows_of(decoder, name, heard)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Lays out as Markdown: measures of words and of utterances, ways to join words, the exponents."""
    decoders = list(dict.fromkeys(row.decoder for row in rows))
    found = {(row.decoder, row.level, row.measure, row.tokens, row.words): row for row in rows}
    heads = [f"{level}s, {decoder}: AUC / ECE" for decoder in decoders for level in ("word", "utterance")]
    lines = [_line("token's confidence", "word's from tokens", *heads), _rule(2 + len(heads))]
    for measure in MEASURES:
        for tokens in AGGREGATIONS:
            cells = []
            for decoder in decoders:
                of_words = found[decoder, "word", measure, tokens, ""]
                cells += [
                    _quality(of_words),
                    _quality(found[decoder, "utterance", measure, tokens, SERVED[2]]),
                ]
            served = (measure, tokens) == SERVED[:2]
            lines.append(_line(*(f"**{text}**" if served else text for text in (measure, tokens)), *cells))
    lines += ["", _line("utterance's from words", *(f"{decoder}: AUC / ECE" for decoder in decoders))]
    lines.append(_rule(1 + len(decoders)))
    for words in AGGREGATIONS:
        joined = [found[decoder, "utterance", *SERVED[:2], words] for decoder in decoders]
        name = f"**{words}**" if words == SERVED[2] else words
        lines.append(_line(name, *map(_quality, joined)))
    lines.append("")
    for row in rows:
        if row.power is not None:
            lines.append(
                f"- {row.decoder}, {row.level}s ({row.count}): {row.right:.3f} are right, mean confidence "
                f"{row.mean:.3f}; exponent of one half {row.power:g}, ECE of the other half {row.ece_half:.3f} "
                f"without it and {row.ece_half_power:.3f} with it"
            )
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(columns: int) -> str:
    return _line(*["---"] * columns)


def _quality(row: Row) -> str:
    return f"{row.auc:.3f} / {row.ece:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = words_parser(__doc__)
    parser.add_argument("--att-ctx", default="70,1", help="look-ahead (default: 70,1)")
    parser.add_argument("--decoder", help="rnnt or ctc (default: both)")
    parser.add_argument("--table", action="store_true", help="print Markdown tables")
    options = parse(parser, arguments)
    rows: list[Row] = []
    for decoder in (options.decoder,) if options.decoder else ("rnnt", "ctc"):
        rows += measure_decoder(options.model, options.att_ctx, decoder, options.threads, options.limit)
    if options.table:
        print(table(rows))
    else:
        for row in rows:
            print(row)
    report = {
        "model": options.model,
        "att_ctx": options.att_ctx,
        "baseline": ", ".join(SERVED),
        "rows": [asdict(row) for row in rows],
    }
    write_report(options.json, report)


if __name__ == "__main__":
    main()
