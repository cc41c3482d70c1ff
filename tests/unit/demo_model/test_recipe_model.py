"""A model as the recipe makes it is small enough to ship, and goes through the service's compiled CPU step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_service.core.model_settings import ModelSettings
from asr_service.model.cpu_encoder.compiled_encoder import CompiledLayers
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from asr_service.model.loading import assemble
from asr_service.model.reading import read_model
from demo_model import model as recipe
from demo_model.__main__ import SHIPPED
from demo_model.tokenizer import unpack_tokenizer
from testbed.models import babble
from tests.model import reference
from tests.model.driver import frames_by_slot, joined, run


def test_all_widths_are_multiples_of_32() -> None:
    for width in (recipe.D_MODEL, recipe.CHANNELS, recipe.HIDDEN):
        assert width % 32 == 0


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_an_untrained_model_is_served_by_the_compiled_step_and_equals_nemo(tmp_path: Path) -> None:
    from demo_model.evaluate import load
    from demo_model.export import write_nemo

    tokenizer = unpack_tokenizer(SHIPPED, tmp_path / "tokenizer")
    torch.manual_seed(3)
    path = tmp_path / "untrained.nemo"
    write_nemo(recipe.build(tokenizer), path)
    assert path.stat().st_size <= 18_000_000

    nemo = load(path)
    audios = [babble(seconds, seed) for seed, seconds in enumerate((3.0, 0.05, 1.7, 2.2))]
    parts = read_model(str(path), torch.device("cpu"))
    for context in recipe.LOOK_AHEADS:
        left, right = context
        model = assemble(parts, ModelSettings(str(path), (left, right)), torch.device("cpu"), 4)
        encoder = model._encoder
        assert isinstance(encoder, CpuEncoder) and isinstance(encoder._layers, CompiledLayers)
        given = frames_by_slot(model)
        streams = run(model, audios, seed=1, together=3)
        encoded = [reference.encode(nemo, audio, (left, right)) for audio in audios]
        expected = reference.decode(nemo, encoded, "rnnt")
        for stream, frames, said in zip(streams, encoded, expected, strict=True):
            mine = joined(given[stream.slot], frames.shape[1])
            assert reference.distance(mine, frames) <= 1e-5
            assert reference.are_nemos(nemo, stream.tokens, said, mine, "rnnt")
