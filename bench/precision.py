"""What bf16 costs in words: token agreement and word error rate against fp32 on the evaluation set.

    python -m bench.precision --json build/precision.json

The baseline is the same model in fp32 over the same audio in the same run. Utterances go through the whole streaming
step, many at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr

from asr_service.core import Samples, StepRequest, StreamingModel
from asr_service.model import load_model
from bench.score import EVAL, read_set
from demo_model.wer import compare, total

TOGETHER = 32


def transcribe(model: StreamingModel, audios: Sequence[Samples]) -> list[list[int]]:
    """Tokens of each recording, `TOGETHER` at a time; audio float32 at the model's rate."""
    info = model.info
    found: list[list[int]] = [[] for _ in audios]
    for start in range(0, len(audios), TOGETHER):
        live = {slot: start + slot for slot in range(min(TOGETHER, len(audios) - start))}
        places = dict.fromkeys(live, 0)
        first = True
        while live:
            need = info.first_chunk_samples if first else info.chunk_samples
            requests = []
            for slot, number in live.items():
                samples = audios[number][places[slot] : places[slot] + need]
                places[slot] += len(samples)
                requests.append(StepRequest(slot, samples, first, len(samples) < need))
            for request, result in zip(requests, model.step(requests), strict=True):
                found[live[request.slot]] += result.tokens
                if request.is_last:
                    del live[request.slot]
            first = False
    return found


def _text(pieces: Sequence[str], tokens: Sequence[int]) -> str:
    return "".join(pieces[token] for token in tokens).replace("\u2581", " ").strip()


def measure(model: str, look_ahead: str, decoder: str) -> dict[str, object]:
    """One row: both precisions over the whole set."""
    utterances = read_set(EVAL)
    audios: list[Samples] = []
    for utterance in utterances:
        samples = np.frombuffer(utterance.pcm, dtype="<i2").astype(np.float32) / 32768
        audios.append(np.asarray(soxr.resample(samples, utterance.rate, 16_000), dtype=np.float32))
    tokens: dict[str, list[list[int]]] = {}
    rates: dict[str, float] = {}
    for precision in ("fp32", "bf16"):
        loaded = load_model(
            model=model, att_context=look_ahead, decoder=decoder, device="cpu", precision=precision, encoder="fast",
            slots=TOGETHER, threads=None,
        )  # fmt: skip
        tokens[precision] = transcribe(loaded, audios)
        errors = [
            compare(utterance.text, _text(loaded.info.pieces, one))
            for utterance, one in zip(utterances, tokens[precision], strict=True)
        ]
        rates[precision] = total(errors).wer
    equal = sum(a == b for a, b in zip(tokens["fp32"], tokens["bf16"], strict=True))
    return {
        "look_ahead": look_ahead,
        "decoder": decoder,
        "utterances": len(audios),
        "identical": equal,
        "wer_fp32": round(rates["fp32"], 2),
        "wer_bf16": round(rates["bf16"], 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="model to measure (default: demo)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the rows")
    options = parser.parse_args(arguments)
    rows = []
    for look_ahead, decoder in (("70,1", "rnnt"), ("70,0", "rnnt"), ("70,1", "ctc")):
        rows.append(measure(options.model, look_ahead, decoder))
        print(rows[-1], flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"baseline": "fp32, same run", "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
