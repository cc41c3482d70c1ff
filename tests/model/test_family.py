"""Every published class and shape, from the file that NeMo saves: what NeMo's own class says, or refused with a reason.

Each row is a shape of `testbed.shapes` with random weights; docs/models.md says which public model it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from asr_service.core.errors import ModelError, SettingsError
from asr_service.core.model_settings import ModelSettings
from asr_service.model import make_model
from asr_service.model.batch import SPARE_ROWS
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from asr_service.model.reading import ModelParts
from asr_service.model.reference.nemo_encoder import NemoEncoder
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.torch_encoder.encoder import TorchEncoder
from asr_service.model.weights import read_encoder
from asr_service.recognition.transcript import Transcript
from asr_service.recognition.vocabulary import Vocabulary
from testbed.models import SHAPES, babble
from tests.model import reference
from tests.model.driver import frames_by_slot, joined, run
from tests.support.nemo_reads import nemo_reads

SECONDS = (4.0, 2.2, 0.9, 3.1, 5.2, 0.1, 0.0, 1.7, 2.9)
PUBLIC = ("nemotron-en", "nemotron-3.5", "parakeet-eou")
"""Those that stand for one public model are run with each of its look-aheads."""
VARIANTS = (
    "rnnt", "ctc", "hybrid-prompt", "rnnt-characters", "ctc-characters", "byte-fallback", "aggregate", "tied", "wide",
    "batch-norm",
)  # fmt: skip
ROWS = [
    (name, context, decoder)
    for names, contexts in ((PUBLIC, lambda shape: shape.look_aheads), (VARIANTS, lambda _: (None,)))
    for name in names
    for decoder in SHAPES[name].decoders
    for context in contexts(SHAPES[name])
]


def _audios() -> list[npt.NDArray[np.float32]]:
    return [babble(6.0, 40 + seed)[: int(16_000 * s)] for seed, s in enumerate(SECONDS)]


def _make(path: Path, **changes: Any) -> NemoStreamingModel:
    model = make_model(ModelSettings(str(path), device="cpu", slots=len(SECONDS), threads=1, **changes))
    assert isinstance(model, NemoStreamingModel)
    return model


Said = list[tuple[Tensor, list[int]]]
Says = Callable[[str, tuple[int, int], str, tuple[int, ...]], Said]


@pytest.fixture(scope="module")
def expected(nemo_model: Callable[[str], Any]) -> Says:
    """What NeMo's own class says of each audio, frames and tokens, by shape, look-ahead, decoder and prompts.

    Worked out once for all steps.
    """

    @cache
    def says(shape: str, context: tuple[int, int], decoder: str, prompts: tuple[int, ...]) -> Said:
        nemo = nemo_model(shape)
        frames = [
            reference.encode(nemo, audio, context, prompt)
            for audio, prompt in zip(_audios(), prompts, strict=True)
        ]
        return list(zip(frames, reference.decode(nemo, frames, decoder), strict=True))

    return says


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("shape", "context", "decoder", "step"),
    # A convolution that is normalised over batches is NeMo's to step on every device.
    [
        pytest.param(*row, step, marks=nemo_reads if step == "nemo" else ())
        for row in ROWS
        for step in (["nemo"] if row[0] == "batch-norm" else ["cpu", "torch"])
    ],
)
def test_streams_get_what_nemos_class_says(
    model_file: Callable[[str], Path],
    model_parts: Callable[[str], ModelParts],
    nemo_model: Callable[[str], Any],
    expected: Says,
    shape: str,
    context: tuple[int, int] | None,
    decoder: str,
    step: str,
) -> None:
    """Frames within 1e-5 of the offline ones, tokens equal, streams of all languages in the same batches."""
    model = _make(model_file(shape), att_context=context, decoder=decoder)
    info = model.info
    assert isinstance(model._encoder, NemoEncoder if step == "nemo" else CpuEncoder)
    if step == "torch":
        parts, plan = model_parts(shape), model._plan
        mels = parts.architecture.features.mels
        weights = read_encoder(parts.weights, parts.architecture.encoder, plan, mels)
        model._encoder = TorchEncoder(
            weights, plan, model.slots + SPARE_ROWS, torch.device("cpu"), torch.float32
        )
    given = frames_by_slot(model)
    prompts = tuple(islice(cycle([index for _, index in info.prompts] or [-1]), len(SECONDS)))
    streams = run(model, _audios(), seed=11, together=6, prompts=prompts)
    worst, tokens, heard = 0.0, 0, set()
    for stream, (frames, said) in zip(
        streams, expected(shape, info.att_context, decoder, prompts), strict=True
    ):
        mine = joined(given[stream.slot], frames.shape[1])
        worst = max(worst, reference.distance(mine, frames))
        assert reference.are_nemos(nemo_model(shape), stream.tokens, said, mine, decoder)
        tokens += len(stream.tokens)
        heard |= set(stream.tokens)
    assert worst <= 1e-5
    # Neither silence nor the same token for ever: there was something to be equal.
    assert tokens > 30
    assert len(heard) > 8
    print(f"{shape} {info.att_context} {decoder} {step}: {tokens} tokens, {worst:.1e}")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("decoder", SHAPES["hybrid-prompt"].decoders)
@pytest.mark.parametrize("shape", ["nemotron-3.5", "hybrid-prompt"])
def test_the_language_changes_the_words(model_file: Callable[[str], Path], shape: str, decoder: str) -> None:
    """Of the same audio in one batch, by prompt and by nothing else; a slot takes its next stream's prompt."""
    if decoder not in SHAPES[shape].decoders:
        decoder = SHAPES[shape].decoders[0]
    model = _make(model_file(shape), decoder=decoder)
    prompts = dict(model.info.prompts)
    assert prompts["en"] == prompts["en-US"] and prompts["auto"] == 101
    languages = ["en-US", "de-DE", "ja-JP", "auto", "en-US", "es-ES"]
    audio = babble(5.0, 7)
    for seed in (1, 2):
        streams = run(
            model, [audio] * 6, seed=seed, together=6, prompts=[prompts[language] for language in languages]
        )
        heard = {language: stream.tokens for language, stream in zip(languages, streams, strict=True)}
        assert streams[0].tokens == streams[4].tokens
        assert len({tuple(tokens) for tokens in heard.values()}) == len(heard)


@pytest.mark.parametrize(
    "shape", [*PUBLIC, "rnnt", "ctc", "rnnt-characters", "ctc-characters", "byte-fallback", "aggregate"]
)
def test_pieces_and_text_are_those_of_nemos_tokenizer(
    nemo_model: Callable[[str], Any], model_file: Callable[[str], Path], shape: str
) -> None:
    """All pieces by id; and the text of any tokens but those that are no text."""
    nemo, info = nemo_model(shape), _make(model_file(shape)).info
    sizes = SHAPES[shape].vocabulary
    assert len(info.pieces) == sizes
    rng = np.random.default_rng(3)
    by_value = {token for token, piece in enumerate(info.pieces) if piece.startswith("<0x")}
    # A space alone is what is left of a word before a tag; NeMo writes the unknown piece in two ways.
    words = [
        token
        for token in rng.integers(0, sizes, 400).tolist()
        if info.pieces[token] != "\u2581" and (info.pieces[token][0] != "<" or token in by_value)
    ]
    vocabulary = Vocabulary(info.pieces)
    transcript = Transcript(vocabulary, info.frame_ms, keep_words=False)
    transcript.start_segment(0.0)
    for frame, token in enumerate(words):
        transcript.add(token, frame, 1.0)
    if "characters" in shape:
        labels = list(nemo.cfg.labels if "labels" in nemo.cfg else nemo.cfg.decoder.vocabulary)
        assert [piece.replace("\u2581", " ") for piece in info.pieces] == labels
        text = "".join(labels[token] for token in words)
    else:
        assert list(info.pieces) == nemo.tokenizer.ids_to_tokens(list(range(sizes)))
        text = nemo.tokenizer.ids_to_text(words)
    assert transcript.text.split() == text.split()
    assert len(text) > 300


def test_a_model_without_a_setting_uses_its_own_look_ahead_and_decoder(
    model_file: Callable[[str], Path],
) -> None:
    """70,1 where there is one, else the file's first; the decoder that is there."""
    for shape, context, decoder in (
        ("nemotron-en", (70, 1), "rnnt"),
        ("nemotron-3.5", (56, 3), "rnnt"),
        ("parakeet-eou", (70, 1), "rnnt"),
        ("ctc", (70, 6), "ctc"),
        ("hybrid-prompt", (56, 3), "rnnt"),
    ):
        info = _make(model_file(shape)).info
        assert (info.att_context, info.decoder) == (context, decoder), shape


@pytest.mark.parametrize(
    ("shape", "decoder", "reason"),
    [
        ("rnnt", "ctc", "has no CTC head: leave ASR_DECODER unset, or set it to rnnt"),
        ("nemotron-3.5", "ctc", "has no CTC head: leave ASR_DECODER unset, or set it to rnnt"),
        ("ctc", "rnnt", "has no RNN-T decoder: leave ASR_DECODER unset, or set it to ctc"),
    ],
)
def test_a_decoder_that_is_not_there_is_said_to_be_so(
    model_file: Callable[[str], Path], shape: str, decoder: str, reason: str
) -> None:
    with pytest.raises((ModelError, SettingsError), match=reason) as caught:
        _make(model_file(shape), decoder=decoder)
    assert caught.value.field == "ASR_DECODER"


@pytest.mark.parametrize("decoder", [None, "rnnt"])
@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ("tdt", "durations of tokens .TDT."),
        ("stateless", "its prediction network is StatelessTransducerDecoder"),
        ("multitalker", "speaker"),
        ("buffered", "chunked_limited_with_rc"),
        ("wordpiece", "it is of type 'wpe'"),
        ("normalized", "normalised over the whole recording"),
    ],
)
def test_what_cannot_be_run_exactly_is_refused(
    model_file: Callable[[str], Path], shape: str, reason: str, decoder: str | None
) -> None:
    """With the reason, before anything is stepped, whatever decoder is set."""
    with pytest.raises(ModelError, match=reason) as caught:
        _make(model_file(shape), decoder=decoder)
    assert caught.value.field == "ASR_MODEL"
    assert str(model_file(shape)) in str(caught.value)
