"""The shipped model loads with plain NeMo and hears the demo clips right."""

from __future__ import annotations

import json

import pytest
import soundfile
import torch

from demo_model.__main__ import CLIPS, SHIPPED
from demo_model.evaluate import load, transcribe
from demo_model.model import LOOK_AHEADS


@pytest.mark.slow
def test_clips_are_heard_right() -> None:
    assert SHIPPED.stat().st_size <= 18_000_000
    model = load(SHIPPED)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert [list(pair) for pair in model.cfg.encoder.att_context_size] == list(LOOK_AHEADS)
    clips = [json.loads(line) for line in (CLIPS / "clips.jsonl").read_text(encoding="utf-8").splitlines()]
    audios = [soundfile.read(CLIPS / clip["file"], dtype="float32")[0] for clip in clips]
    rnnt, _ = transcribe(model, audios, [70, 1])
    assert rnnt == [clip["text"] for clip in clips]
