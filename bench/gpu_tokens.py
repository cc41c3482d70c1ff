"""Holds a device's tokens to those that are right: the bundled model's to committed ones, other shapes' to the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from asr_service.core.model import ModelInfo, OutOfMemory
from asr_service.core.model_settings import ModelSettings
from asr_service.core.step import StepAnswers, StepBatch
from asr_service.core.values import PhraseBoost, Samples
from asr_service.model.devices import cpu_has_bf16
from asr_service.model.loading import assemble
from asr_service.model.nemo_file.weights import WeightReader
from asr_service.model.reading import ModelParts, read_model
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.torch_encoder.cuda_graphs import EagerRecorder
from bench.gpu import Section
from demo_model.wer import compare, total
from testbed.babble import babble
from testbed.by_request import StepRequest, step
from testbed.golden import MODEL, Golden, Stepped, golden, recordings, step_streams
from testbed.random_parts import random_parts
from testbed.shapes import SHAPES

_SHAPES = ("tiny", "small", "odd", "nemotron-3.5", "parakeet-eou", "tied", "wide")
_SLOTS = 24
# What a rehearsal steps of the bundled model: recordings; look-ahead, decoder, whether phrases are boosted.
_QUICK_AUDIOS = slice(2, None)
_QUICK = (((70, 1), "rnnt", False), ((70, 1), "rnnt", True), ((70, 6), "ctc", False))


def check(section: Section) -> None:
    """Checks the tokens."""
    device = torch.device(section.device)
    cuda = device.type == "cuda"
    right = golden()
    audios = recordings()
    # Twice, so that neighbours, slots and batches differ.
    times = 1 if section.quick else 2
    if section.quick:
        audios = audios[_QUICK_AUDIOS]
        right = [
            replace(one, tokens=one.tokens[_QUICK_AUDIOS])
            for one in right
            if (one.look_ahead, one.decoder, bool(one.boosted)) in _QUICK
        ]
    parts = read_model(MODEL, device)

    def model(one: Golden, precision: str = "fp32", encoder: str = "torch") -> NemoStreamingModel:
        settings = ModelSettings(MODEL, one.look_ahead, one.decoder, precision=precision, encoder=encoder)
        return fixed_shapes(assemble(parts, settings, device, _SLOTS))

    def against_golden(one: Golden, encoder: str) -> None:
        made = model(one, encoder=encoder)
        streams = [Stepped(audio, one.boosts) for audio in audios * times]
        found = step_streams(made, streams, together=13, seed=3)
        wrong = sum(a != b for a, b in zip(found, one.tokens * times, strict=True))
        section.row(
            "golden", look_ahead=str(one.look_ahead), decoder=one.decoder, boosted=bool(one.boosted), encoder=encoder,
            wrong=wrong, recorded=_recorded(made), right=wrong == 0,
        )  # fmt: skip

    for one in right:
        what = f"golden {one.look_ahead} {one.decoder}"
        section.attempt(what, partial(against_golden, one, "torch"))
        if cuda and not one.boosted and (one.decoder == "rnnt" or one.look_ahead == (70, 1)):
            section.attempt(f"{what} fused", partial(against_golden, one, "fused"))

    def changed(what: str, precision: str, encoder: str) -> None:
        _precision(section, audios, model(usual, precision, encoder), usual, what)

    usual = next(
        one for one in right if one.look_ahead == (70, 1) and one.decoder == "rnnt" and not one.boosted
    )
    precisions = ("fp32", "tf32", "bf16") if cuda else ("fp32",)
    section.attempt(
        "recorded and launched",
        lambda: _recorded_equals_launched(section, audios, lambda p: model(usual, p), precisions),
    )
    for encoder in ("torch", "fused") if cuda else ("torch",):
        for precision in ("tf32", "bf16") if cuda else ("bf16",) * cpu_has_bf16():
            what = f"{precision} {encoder}"
            section.attempt(what, partial(changed, what, precision, encoder))
    section.attempt("a row that is not finite", lambda: _broken_row(section, audios, model(usual), usual))
    for name in _SHAPES[:1] if section.quick else _SHAPES:
        section.attempt(f"shape {name}", partial(_shape, section, name, device))
    if cuda:
        # The last, since it may leave the device in a bad state.
        section.attempt("out of memory", lambda: _out_of_memory(section, audios, lambda: model(usual), usual))


def fixed_shapes(model: NemoStreamingModel) -> NemoStreamingModel:
    """Has a model step as on a GPU, where the recorder is not there too."""
    if model.info.device == "cpu":
        model.record_with(EagerRecorder())
    return model


def _recorded(model: NemoStreamingModel) -> str:
    return ",".join(map(str, model.readings().recorded or ())) or "no"


def _recorded_equals_launched(
    section: Section,
    audios: Sequence[Samples],
    make: Callable[[str], NemoStreamingModel],
    precisions: Sequence[str],
) -> None:
    for precision in precisions:
        recorded, launched, by_host = (make(precision) for _ in range(3))
        launched.record_with(EagerRecorder())
        # Neither recorded nor of fixed shapes: the host drives the decoder.
        by_host._recorded = None
        found = [
            step_streams(one, [Stepped(audio) for audio in audios], together=8, seed=5)
            for one in (recorded, launched, by_host)
        ]
        right = _recorded(recorded) != "no" and found[0] == found[1] == found[2]
        section.row("recorded", precision=precision, sizes=_recorded(recorded), right=right)


def _precision(
    section: Section, audios: Sequence[Samples], model: NemoStreamingModel, one: Golden, precision: str
) -> None:
    """Counts what another precision changes; words are made of tokens, and compared with those in fp32."""
    found = step_streams(model, [Stepped(audio) for audio in audios], together=8, seed=4)
    changed = sum(a != b for a, b in zip(found, one.tokens, strict=True))
    errors = [
        compare(_text(model.info.pieces, right), _text(model.info.pieces, got))
        for got, right in zip(found, one.tokens, strict=True)
        if right
    ]
    section.row(
        "precision", precision=precision, changed=changed, of=len(found), wer=round(total(errors).wer, 2)
    )


def _text(pieces: Sequence[str], tokens: Sequence[int]) -> str:
    return " ".join("".join(pieces[token] for token in tokens).replace("\u2581", " ").split())


def _broken_row(section: Section, audios: Sequence[Samples], model: NemoStreamingModel, one: Golden) -> None:
    """A stream whose samples are not finite ends alone, and its slot is as good as new."""
    info = model.info
    audio = audios[0]
    bad = np.full(info.first_chunk_samples, np.nan, np.float32)
    good = StepRequest(0, audio[: info.first_chunk_samples], True, False)
    answers = step(model, [good, StepRequest(1, bad, True, False)])
    alone = not answers[0].broken and answers[1].broken
    found = step_streams(model, [Stepped(audio) for audio in audios], together=8, seed=6)
    section.row("not finite", alone=alone, after=found == one.tokens, right=alone and found == one.tokens)


def _out_of_memory(
    section: Section, audios: Sequence[Samples], make: Callable[[], NemoStreamingModel], one: Golden
) -> None:
    """With the memory taken away, a step says so; with it back, the model goes on."""
    model, device = make(), torch.device(section.device)
    model.warm_up(2, lambda _: None)
    torch.cuda.empty_cache()
    taken, size = [], torch.cuda.mem_get_info(device)[0]
    while size > 2**16:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device=device))
        except torch.OutOfMemoryError:
            size //= 2
    told = ""
    try:
        model.warm_up(16, lambda _: None)
        told = "nothing"
    except OutOfMemory as error:
        told = str(error)
    kept = _recorded(model)
    taken.clear()
    torch.cuda.empty_cache()
    found = step_streams(model, [Stepped(audio) for audio in audios], together=8, seed=7)
    section.row(
        "out of memory",
        told=told,
        kept=kept,
        after=_recorded(model),
        right=told != "nothing" and found == one.tokens,
    )


def _shape(section: Section, name: str, device: torch.device) -> None:
    """Tokens of a shape with random weights on this device and on the CPU, in fp32 and by the same torch operations."""
    shape = SHAPES[name]
    cpu = torch.device("cpu")
    on_cpu, weights = random_parts(shape, cpu)
    there = {key: value.to(device) for key, value in weights.items()}
    seconds = (4.0, 0.5, 2.2, 0.1, 3.3, 0.0, 1.7)
    audios = [babble(4.0, seed)[: int(16_000 * s)] for seed, s in enumerate(seconds)]
    prompt = shape.prompts[0][1] if shape.prompts else -1
    for look_ahead in shape.look_aheads[1:2] if section.quick else shape.look_aheads:
        for decoder in shape.decoders:
            found = []
            for parts, where in ((on_cpu, cpu), (_moved(on_cpu, there), device)):
                settings = ModelSettings(name, look_ahead, decoder, encoder="torch")
                model = _Prompted(assemble(_fresh(parts), settings, where, 8), prompt)
                found.append(step_streams(model, [Stepped(audio) for audio in audios], together=6, seed=2))
            section.row(
                "shapes", shape=name, look_ahead=str(look_ahead), decoder=decoder,
                tokens=sum(map(len, found[0])), right=found[0] == found[1],
            )  # fmt: skip


def _moved(parts: ModelParts, weights: dict[str, Any]) -> ModelParts:
    from asr_service.model.prompts import read_prompts

    reader = WeightReader(weights, "random weights")
    prompts = read_prompts(reader, parts.architecture.encoder.d_model)
    return replace(parts, weights=reader, prompts=prompts)


def _fresh(parts: ModelParts) -> ModelParts:
    return replace(parts)


class _Prompted:
    """A model whose streams all name one language prompt."""

    def __init__(self, inner: NemoStreamingModel, prompt: int) -> None:
        self._inner, self._prompt = inner, prompt

    @property
    def info(self) -> ModelInfo:
        """See `StreamingModel`."""
        return self._inner.info

    @property
    def slots(self) -> int:
        """See `StreamingModel`."""
        return self._inner.slots

    def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
        """See `StreamingModel`."""
        self._inner.warm_up(max_batch, progress)

    @property
    def most_submitted(self) -> int:
        """See `BatchStepper`."""
        return self._inner.most_submitted

    def open(self, slot: int, prompt: int = -1, boosts: Sequence[PhraseBoost] = ()) -> None:
        """See `BatchStepper`."""
        self._inner.open(slot, self._prompt, boosts)

    def submit(self, batch: StepBatch) -> None:
        """See `BatchStepper`."""
        self._inner.submit(batch)

    def collect(self) -> StepAnswers:
        """See `BatchStepper`."""
        return self._inner.collect()
