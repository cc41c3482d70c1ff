"""The tokens that GPUs are held to are NeMo's own, and the torch step gives them on a CPU."""

from __future__ import annotations

import random

import pytest
import torch

from asr_service.core.model_settings import ModelSettings
from asr_service.model.loading import assemble
from asr_service.model.locate import find_model
from asr_service.model.reading import read_model
from asr_service.model.reference.nemo_model import read_nemo
from asr_service.model.torch_encoder.cuda_graphs import EagerRecorder
from testbed.golden import MODEL, Stepped, golden, recordings, step_streams
from tests.model import reference
from tests.support.nemo_reads import nemo_reads

# A draw is enough: each is checked in the course of time, and the tokens change only when they are written anew.
ONE = random.choice([one for one in golden() if not one.boosted])
CPU = torch.device("cpu")


@nemo_reads
def test_golden_tokens_are_those_of_nemo() -> None:
    nemo = read_nemo(find_model(MODEL), CPU, "the comparison")
    found = [reference.tokens(nemo, audio, ONE.look_ahead, ONE.decoder) for audio in recordings()]
    assert found == ONE.tokens, ONE


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@pytest.mark.parametrize("boosted", [False, True])
@pytest.mark.parametrize("fixed", [False, True], ids=["as they come", "of fixed shapes"])
def test_the_torch_step_gives_the_golden_tokens(decoder: str, boosted: bool, fixed: bool) -> None:
    """What runs on a GPU, on the CPU."""
    parts = read_model(MODEL, CPU)
    one = next(
        o for o in golden() if (o.look_ahead, o.decoder, bool(o.boosted)) == ((70, 1), decoder, boosted)
    )
    model = assemble(parts, ModelSettings(MODEL, one.look_ahead, decoder, encoder="torch"), CPU, 8)
    if fixed:
        model.record_with(EagerRecorder())
    assert step_streams(model, [Stepped(a, one.boosts) for a in recordings()], together=8) == one.tokens


def test_boosting_changes_some_of_them() -> None:
    for decoder in ("rnnt", "ctc"):
        plain, boosted = (
            [o.tokens for o in golden() if o.decoder == decoder and bool(o.boosted) == which]
            for which in (False, True)
        )
        assert plain != boosted
