"""What a model's configuration describes, and which models are refused, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from asr_service.core.errors import DamagedModel, ModelError
from asr_service.model.locate import DEMO_MODEL
from asr_service.model.nemo_file.architecture import Architecture, read_architecture
from asr_service.model.nemo_file.config import Section, read_config
from asr_service.model.nemo_file.names import CONFIG
from tests.support.nemo_files import members

WHERE = f"m.nemo: {CONFIG}"
MODELS, MODULES = "nemo.collections.asr.models", "nemo.collections.asr.modules"


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return dict(read_config(members(DEMO_MODEL)[CONFIG], WHERE)._values)


def read(values: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> Architecture:
    changed = deepcopy(values)
    change(changed)
    return read_architecture(Section(changed, WHERE))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["preprocessor"].update(normalize="per_feature"), "normalised over the whole"),
        (lambda c: c["preprocessor"].pop("normalize"), "normalised over the whole"),
        (lambda c: c["preprocessor"].update(_target_=f"{MODULES}.MFCC"), "made by MFCC, not by NeMo's AudioToMel"),
        (lambda c: c["preprocessor"].update(n_fft=256), "window of 400 samples does not fit .* n_fft of 256"),
        (lambda c: c["preprocessor"].update(window_stride=0.05), "does not fit between the hop of 800"),
        (lambda c: c["preprocessor"].update(window_stride=0.0), "does not fit between the hop of 0"),
        (lambda c: c["encoder"].update(att_context_style="regular"), "not limited to chunks"),
        (lambda c: c["encoder"].update(att_context_style="chunked_limited_with_rc"), "buffered"),
        (lambda c: c["encoder"].update(att_context_size=[-1, 13]), "not limited to chunks .*-1, 13"),
        (lambda c: c["encoder"].update(att_context_size=[70, -1]), "not limited to chunks .*70, -1"),
        (lambda c: c["encoder"].update(att_context_size=[[70, 1], [-1, 1]]), "not limited to chunks"),
        (lambda c: c["encoder"].update(att_context_size=[[70, 1], [70, -1]]), "not limited to chunks"),
        (lambda c: c["encoder"].pop("att_context_size"), "not limited to chunks"),
        (lambda c: c["encoder"].update(att_context_size=[[70, 1], [70, 3]]), r"left should be a multiple"),
        (lambda c: c["encoder"].update(att_context_size=[[70, 1], [0, 1]]), r"does not see the chunk before"),
        (lambda c: c["encoder"].update(att_context_size=[9999, 9998]), "may have more tokens than 65535"),
        (lambda c: c["encoder"].update(conv_norm_type="group_norm4"), "normalised over all of the audio .*group_norm4"),
        (lambda c: c["encoder"].update(conv_norm_type="instance_norm"), "normalised over all of the audio"),
        (lambda c: c["encoder"].update(conv_kernel_size=1, conv_context_size="causal"), "see a frame alone"),
        (lambda c: c["encoder"].update(reduction="pooling", reduction_factor=2), "reduces the frames .*pooling"),
        (lambda c: c["encoder"].update(feat_out=48), "ends with a projection"),
        (lambda c: c["encoder"].update(causal_downsampling=False), "not causal"),
        (lambda c: c["encoder"].update(conv_context_size=None), "not causal"),
        (lambda c: c["joint"].update(num_extra_outputs=5), "TDT"),
        (lambda c: c["decoder"].update(_target_=f"{MODULES}.StatelessTransducerDecoder"), "StatelessTransducerDecoder"),
        (lambda c: c["aux_ctc"]["decoder"].update(_target_=f"{MODULES}.LSTMDecoder"), "CTC head is LSTMDecoder"),
        (lambda c: c.update(target=f"{MODELS}.EncDecMultiTalkerRNNTBPEModel"), "diarization"),
        (lambda c: c.update(target=f"{MODELS}.SomethingElse"), "its class SomethingElse .* EncDecRNNTBPEModel"),
        (lambda c: c.update(adapters={"mine": {"dim": 3}}), "adapters .*mine"),
        # A class that is only called like one of NeMo's.
        (lambda c: c.update(target="nemo.EncDecRNNTBPEModel"), "its class nemo.EncDecRNNTBPEModel"),
        (lambda c: c.pop("target"), r"its class \(missing\)"),
        (lambda c: c["encoder"].update(_target_="mine.ConformerEncoder"), "its encoder is mine.ConformerEncoder"),
        (lambda c: c["decoder"].update(_target_="mine.RNNTDecoder"), "prediction network is mine.RNNTDecoder"),
        (lambda c: c["joint"].update(_target_="mine.RNNTJoint"), "its joint is mine.RNNTJoint"),
        (lambda c: c["preprocessor"].update(_target_="mine.AudioToMelSpectrogramPreprocessor"), "made by mine.Audio"),
        (lambda c: (c.pop("joint"), c["decoder"].update(_target_="mine.ConvASRDecoder")), "head is mine.ConvASR"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_run_exactly_are_refused(
    values: dict[str, Any], change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(ModelError, match=f"^ASR_MODEL: {WHERE}.* cannot be served: .*{reason}") as caught:
        read(values, change)
    assert not isinstance(caught.value, DamagedModel)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["encoder"].update(d_model="wide"), "encoder.d_model is 'wide'; it should be a whole number"),
        (lambda c: c["encoder"].update(d_model=150), "encoder.d_model is 150; .* an even multiple of the 4 heads"),
        (lambda c: c["encoder"].update(d_model=143, n_heads=1), "d_model is 143; .* an even multiple of the 1 heads"),
        (lambda c: c["encoder"].pop("n_layers"), "encoder.n_layers is missing"),
        (lambda c: c.update(encoder=[1]), "encoder is .*; it should be a mapping"),
        (lambda c: c["encoder"].update(subsampling_factor=6), "subsampling_factor is 6; .* a power of two"),
        (lambda c: c["encoder"].update(subsampling_factor=1), "subsampling_factor is 1; .* a power of two"),
        (lambda c: c["encoder"].update(att_context_size=[[70, "x"]]), "att_context_size is .* pair of whole numbers"),
        (lambda c: c["encoder"].update(att_context_size=[70]), "att_context_size is .* pair of whole numbers"),
        (lambda c: c["encoder"].update(att_context_size=[70, 10**9]), "att_context_size is .* at most 500000"),
        (lambda c: c["preprocessor"].update(preemph=[]), "preprocessor.preemph is .*; it should be a number"),
        (lambda c: c["preprocessor"].update(log_zero_guard_value="huge"), "'huge'; it should be a number, tiny or eps"),
        (lambda c: c["decoding"]["greedy"].update(max_symbols="abc"), "greedy.max_symbols is 'abc'; .* whole number"),
        (lambda c: c["decoding"]["greedy"].update(max_symbols=-1), "greedy.max_symbols is -1; .* whole number, 0"),
        (lambda c: c["decoding"]["greedy"].update(max_symbols=101), "max_symbols is 101; .* number, 100 at most"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(
    values: dict[str, Any], change: Callable[[dict[str, Any]], object], told: str
) -> None:
    with pytest.raises(ModelError, match=f"^ASR_MODEL: {WHERE}: .*{told}"):
        read(values, change)


def test_tokens_of_a_frame(values: dict[str, Any]) -> None:
    """By either name, and NeMo's own number where both are missing or nothing."""
    for greedy, expected in (
        ({"max_symbols": 3}, 3),
        ({"max_symbols_per_step": 4}, 4),
        ({"max_symbols": 0, "max_symbols_per_step": 5}, 5),
        ({"max_symbols": None}, 10),
        ({}, 10),
    ):
        changed = {**values, "decoding": {"greedy": greedy}}
        assert read_architecture(Section(changed, WHERE)).max_symbols == expected
