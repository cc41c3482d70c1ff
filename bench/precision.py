"""Measures what bf16 costs in words: token agreement and word error rate against fp32 on the evaluation set.

    python -m bench.precision --json build/precision.json

The baseline is the same model in fp32 over the same audio in the same run. Utterances go through the whole streaming
step, many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from asr_service.core.model_settings import ModelSettings, parse_att_context
from asr_service.core.values import Samples
from asr_service.model import make_model
from bench.options import parse, words_parser, write_report
from bench.score import Utterance
from bench.stepping import evaluation_set, step_all, text_of
from demo_model.wer import compare, total

TOGETHER = 32


def measure(
    model: str,
    look_ahead: str,
    decoder: str,
    chosen: Sequence[tuple[Utterance, Samples]],
    threads: int | None,
) -> dict[str, object]:
    """One row: both precisions over the whole set."""
    tokens: dict[str, list[list[int]]] = {}
    rates: dict[str, float] = {}
    for precision in ("fp32", "bf16"):
        loaded = make_model(
            ModelSettings(
                name=model,
                att_context=parse_att_context(look_ahead),
                decoder=decoder,
                device="cpu",
                precision=precision,
                slots=TOGETHER,
                threads=threads,
            )
        )
        tokens[precision] = [one.tokens for one in step_all(loaded, [audio for _, audio in chosen])]
        errors = [
            compare(utterance.text, text_of(loaded.info.pieces, one))
            for (utterance, _), one in zip(chosen, tokens[precision], strict=True)
        ]
        rates[precision] = total(errors).wer
    equal = sum(a == b for a, b in zip(tokens["fp32"], tokens["bf16"], strict=True))
    return {
        "look_ahead": look_ahead,
        "decoder": decoder,
        "utterances": len(chosen),
        "identical": equal,
        "wer_fp32": round(rates["fp32"], 2),
        "wer_bf16": round(rates["bf16"], 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    options = parse(words_parser(__doc__), arguments)
    chosen = evaluation_set(options.limit)
    rows = []
    for look_ahead, decoder in (("70,1", "rnnt"), ("70,0", "rnnt"), ("70,1", "ctc")):
        rows.append(measure(options.model, look_ahead, decoder, chosen, options.threads))
        print(rows[-1], flush=True)
    write_report(options.json, {"baseline": "fp32, same run", "rows": rows})


if __name__ == "__main__":
    main()
