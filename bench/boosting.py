"""Measures what boosted phrases do to words, and what they cost.

    python -m bench.boosting --json FILE              # --quick: the default boost alone, fewer steps
    python -m bench.boosting --table FILE             # the tables of an earlier run, as Markdown
    python -m bench.boosting --table FILE --write     # the same, into docs/boosting.md

Rare words are found, not chosen: names and things that the demo model's training text holds seldom and the evaluation
set holds. Each boost is measured with two lists: an utterance's own rare words (what a client knows that has a calendar
or an order at hand) and those of the whole set for every utterance (a directory: most of it is not spoken). The
baseline is the same model without phrases in the same run. The encoder does not see phrases, so it runs once and the
decoder once for each row of the table.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_service.api import limits
from asr_service.core.model_settings import ModelSettings, parse_att_context
from asr_service.core.values import DEFAULT_BOOST, PhraseBoost, Samples
from asr_service.model import make_model
from asr_service.model.decoders.boosting_tree import BoostingTree
from asr_service.model.streaming import NemoStreamingModel
from bench.options import parse, words_parser, write_report
from bench.stepping import evaluation_set, text_of
from demo_model import grammar
from demo_model.wer import align, compare, total
from testbed.by_request import StepRequest, step

TOGETHER = 32
LISTS = (
    "first",
    "last",
    "city",
    "country",
    "company",
    "thing",
    "place",
    "person",
    "animal",
    "food",
    "subject",
)
SENTENCES = 20_000  # of training text that frequencies are counted in
RARE = 0.0035  # most sentences that hold a rare item, as a share: about every name
BOOSTS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)
SHARES = (0.0, 0.5, 1.0)
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "boosting.md"
MARK, END_MARK = "<!-- boosting -->", "<!-- boosting:end -->"

Words = list[str]


def places(item: Words, words: Words) -> list[int]:
    """Finds where an item stands in a text."""
    return [at for at in range(len(words) - len(item) + 1) if words[at : at + len(item)] == item]


def rare_items(texts: Sequence[Words]) -> list[str]:
    """Picks names and things of the grammar that are in these texts and seldom in the training text."""
    names = {item for name in LISTS for item in grammar.LISTS[name]}
    heads: dict[str, list[str]] = {}
    for item in names:
        heads.setdefault(item.split()[0], []).append(item)
    rng = random.Random(0)
    seen: Counter[str] = Counter()
    for _ in range(SENTENCES):
        words = grammar.sentence(rng).split()
        seen.update({item for word in words for item in heads.get(word, ()) if places(item.split(), words)})
    found = {item for item in names for words in texts if places(item.split(), words)}
    return sorted(item for item in found if seen[item] < RARE * SENTENCES)


class Recording:
    """Keeps the evaluation set as the encoder leaves it, and a decoder to try things with."""

    def __init__(self, model: NemoStreamingModel, audios: Sequence[Samples]) -> None:
        """Audio float32 at the model's rate."""
        self.model = model
        self.decoder = model._decoder
        self.encoded: list[Tensor] = []
        found: dict[int, list[Tensor]] = {}
        inner = self.decoder.step

        def keep(slots: Tensor, encoded: Tensor, frames: Tensor) -> Any:
            for row, (slot, count) in enumerate(zip(slots.tolist(), frames.tolist(), strict=True)):
                found.setdefault(slot, []).append(encoded[row, :count].clone())
            return inner(slots, encoded, frames)

        self.decoder.step = keep  # type: ignore[method-assign]
        try:
            for start in range(0, len(audios), TOGETHER):
                found.clear()
                feed(model, audios[start : start + TOGETHER])
                self.encoded += [torch.cat(found[slot]) for slot in sorted(found)]
        finally:
            self.decoder.step = inner  # type: ignore[method-assign]

    @torch.inference_mode()
    def texts(self, trees: Sequence[BoostingTree | None]) -> list[Words]:
        """Decodes what each utterance says with its tree."""
        info = self.model.info
        device = torch.device(info.device)
        said: list[Words] = []
        for start in range(0, len(self.encoded), TOGETHER):
            group = self.encoded[start : start + TOGETHER]
            slots = torch.arange(len(group), device=device)
            self.decoder.reset(slots)
            for slot, tree in enumerate(trees[start : start + TOGETHER]):
                self.decoder.boost(slot, tree)
            tokens: list[list[int]] = [[] for _ in group]
            for at in range(0, max(map(len, group)), info.chunk_frames):
                parts = [one[at : at + info.chunk_frames] for one in group]
                encoded = torch.zeros(len(group), info.chunk_frames, group[0].shape[1], device=device)
                for row, part in enumerate(parts):
                    encoded[row, : len(part)] = part
                real = torch.tensor([len(part) for part in parts], device=device)
                emitted = self.decoder.step(slots, encoded, real)
                for row, token in zip(emitted.rows.tolist(), emitted.tokens.tolist(), strict=True):
                    tokens[row].append(token)
            said += [text_of(info.pieces, one).split() for one in tokens]
        return said


def feed(model: NemoStreamingModel, audios: Sequence[Samples]) -> None:
    """Steps whole recordings, each in the slot of its place."""
    info = model.info
    live, at, first = dict(enumerate(audios)), 0, True
    while live:
        need = info.first_chunk_samples if first else info.chunk_samples
        requests = []
        for slot, audio in list(live.items()):
            part = audio[at : at + need]
            requests.append(StepRequest(slot, part, first, len(part) < need))
            if len(part) < need:
                del live[slot]
        step(model, requests)
        at, first = at + need, False


def counts(references: Sequence[Words], heard: Sequence[Words], items: Sequence[str]) -> dict[str, Any]:
    """Counts the recall of the items, their false insertions, and errors in all other words."""
    spoken = found = false = errors = others = 0
    parts = [item.split() for item in items]
    for reference, words in zip(references, heard, strict=True):
        rare, boosted = set(), set()
        for item in parts:
            there, here = places(item, reference), places(item, words)
            spoken += len(there)
            found += min(len(there), len(here))
            false += max(0, len(here) - len(there))
            rare |= {at + offset for at in there for offset in range(len(item))}
            boosted |= {at + offset for at in here for offset in range(len(item))}
        others += len(reference) - len(rare)
        i = j = 0
        for operation in align(reference, words):
            if operation == "i":
                errors += j not in boosted
            elif operation != "=":
                errors += i not in rare
            i += operation in "=sd"
            j += operation in "=si"
    wer = total(compare(" ".join(a), " ".join(b)) for a, b in zip(references, heard, strict=True)).wer
    return {
        "spoken": spoken,
        "found": found,
        "recall": round(100 * found / max(1, spoken), 1),
        "false_insertions": false,
        "other_words": others,
        "other_wer": round(100 * errors / max(1, others), 2),
        "wer": round(wer, 2),
    }


def accuracy(recording: Recording, references: Sequence[Words], boosts: Sequence[float]) -> dict[str, Any]:
    """Makes one row for each list and boost."""
    items = rare_items(references)
    own = [tuple(item for item in items if places(item.split(), words)) for words in references]
    rows = []

    def row(name: str, boost: float, lists: Sequence[tuple[str, ...]]) -> None:
        trees = [
            recording.model._trees.tree((PhraseBoost(phrases, boost),) if phrases and boost else ())
            for phrases in lists
        ]
        result = counts(references, recording.texts(trees), items)
        rows.append({"list": name, "boost": boost, **result})
        print(rows[-1], flush=True)

    row("none", 0.0, own)
    for boost in boosts:
        row("own", boost, own)
        row("all", boost, [tuple(items)] * len(own))
    return {"items": items, "utterances": len(references), "rows": rows}


def cost(model: NemoStreamingModel, audio: Samples, items: Sequence[str], rounds: int) -> dict[str, Any]:
    """Times a step of `TOGETHER` streams, some of them boosted; groups are stepped in turn over the same audio."""
    info = model.info
    boosts = (PhraseBoost(tuple(items)),)
    groups = [
        [(index * TOGETHER + row, boosts if row < share * TOGETHER else ()) for row in range(TOGETHER)]
        for index, share in enumerate(SHARES)
    ]
    spent: list[list[float]] = [[] for _ in SHARES]
    decoder: list[list[float]] = [[] for _ in SHARES]
    at, first = 0, True
    for turn in range(rounds):
        need = info.first_chunk_samples if first else info.chunk_samples
        if at + need > len(audio):
            at = 0
        part = audio[at : at + need]
        for index in (*range(turn % len(SHARES), len(SHARES)), *range(turn % len(SHARES))):
            requests = [StepRequest(slot, part, first, False, phrases) for slot, phrases in groups[index]]
            before = dict(model.readings().stages)["decoder"]
            begun = time.perf_counter()
            step(model, requests)
            if not first:
                spent[index].append(time.perf_counter() - begun)
                decoder[index].append(dict(model.readings().stages)["decoder"] - before)
        at, first = at + need, False
    rows = [
        {
            "boosted": round(100 * share),
            "step_ms": round(1000 * statistics.median(spent[index]), 2),
            "decoder_ms": round(1000 * statistics.median(decoder[index]), 2),
        }
        for index, share in enumerate(SHARES)
    ]
    compiled = {}
    for count in (len(items), limits.PHRASES.phrases):
        names = [items[number % len(items)] for number in range(count)]
        names = (
            names
            if count == len(items)
            else [f"{a} {b}" for a, b in zip(names, reversed(names), strict=True)]
        )
        begun = time.process_time()
        model._trees._kept.clear()
        tree = model._trees.tree((PhraseBoost(tuple(names)),))
        compiled[str(count)] = {
            "ms": round(1000 * (time.process_time() - begun), 1),
            "nodes": len(tree) if tree else 0,
        }
    return {
        "streams": TOGETHER,
        "steps": rounds - 1,
        "phrases": len(items),
        "rows": rows,
        "compile": compiled,
    }


def tables(report: dict[str, Any]) -> str:
    """Lays the report out as Markdown."""
    words, price = report["words"], report.get("cost")
    lines = [
        f"{report['model']} ({report['decoder']}, {report['att_context']}), {words['utterances']} utterances; "
        f"{len(words['items'])} rare words and phrases, spoken {words['rows'][0]['spoken']} times:",
        "",
        "| list | boost | recall of rare words | put where they were not spoken | WER of the other words | WER |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in words["rows"]:
        mark = " (default)" if row["boost"] == report["default_boost"] else ""
        lines.append(
            f"| {row['list']} | {row['boost']:g}{mark} | {row['recall']:.1f} % ({row['found']}) "
            f"| {row['false_insertions']} | {row['other_wer']:.2f} % | {row['wer']:.2f} % |"
        )
    if price is None:
        return "\n".join(lines)
    lines += [
        "",
        f"A step of {price['streams']} streams, {price['phrases']} phrases each ({report['machine']}, "
        f"{report['threads']} threads, median of {price['steps']} steps):",
        "",
        "| boosted streams | step, ms | of it decoder, ms |",
        "| ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['boosted']} % | {row['step_ms']:.2f} | {row['decoder_ms']:.2f} |" for row in price["rows"]
    ]
    made = ", ".join(f"{count} phrases: {one['ms']:g} ms" for count, one in price["compile"].items())
    lines += ["", f"Making the tree, once for each list: {made}."]
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Makes the whole report."""
    chosen = sorted(evaluation_set(options.limit), key=lambda pair: len(pair[1]))  # a batch ends together
    audios = [audio for _, audio in chosen]
    model = make_model(
        ModelSettings(
            name=options.model,
            att_context=parse_att_context(options.att_ctx),
            decoder=options.decoder,
            device=options.device,
            slots=TOGETHER * len(SHARES),
            threads=options.threads,
        )
    )
    assert isinstance(model, NemoStreamingModel)
    references = [utterance.text.split() for utterance, _ in chosen]
    begun = time.monotonic()
    recording = Recording(model, audios)
    print(f"encoded {len(audios)} utterances in {time.monotonic() - begun:.0f} s", flush=True)
    boosts = (DEFAULT_BOOST,) if options.quick else BOOSTS
    words = accuracy(recording, references, boosts)
    return {
        "model": options.model,
        "decoder": options.decoder,
        "att_context": options.att_ctx,
        "machine": f"{model.info.device}, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "default_boost": DEFAULT_BOOST,
        "words": words,
        "cost": cost(
            model, np.concatenate(audios), words["items"], options.steps or (40 if options.quick else 200)
        ),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = words_parser(__doc__)
    parser.add_argument("--decoder", default="rnnt", choices=("rnnt", "ctc"))
    parser.add_argument("--att-ctx", default="70,1", help="look-ahead (default: 70,1)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=0, help="steps whose time is taken (200, quick: 40)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of this report and end")
    parser.add_argument("--write", action="store_true", help="with --table: also into docs/boosting.md")
    options = parse(parser, arguments)
    if options.table:
        text = tables(json.loads(options.table.read_text()))
        if options.write:
            before, _, rest = DOCUMENT.read_text().partition(MARK)
            _, end, after = rest.partition(END_MARK)
            assert end, f"{DOCUMENT} has no {MARK} ... {END_MARK}"
            DOCUMENT.write_text(f"{before}{MARK}\n\n{text}\n\n{END_MARK}{after}")
        print(text)
        return
    report = measure(options)
    write_report(options.json, report)
    print(tables(report))


if __name__ == "__main__":
    main()
