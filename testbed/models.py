"""Builds models with random weights of the streaming FastConformer family, for parity tests and measurements.

Random weights recognise nothing, but every tensor has the shape that the published model has, so a step costs the same.
The classes are NeMo's own, the files are those that NeMo saves.

    python -m testbed.models tiny build/tiny.nemo
    python -m testbed.models large build/large.nemo
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from testbed.babble import babble
from testbed.command_line import write_as_asked
from testbed.configs import model_config
from testbed.shapes import CLASSES, SHAPES, Shape
from testbed.tokenizers import call_wordpiece, labels, write_tokenizers

__all__ = ["SHAPES", "Shape", "babble", "build_model"]


def build_model(shape: Shape, seed: int = 0) -> Any:
    """Builds NeMo's model of this shape with random weights, in eval mode on the CPU.

    A model that streams emits about 0.4 tokens a frame, with a tag or an end token now and then where its vocabulary
    has them. The heads of those that do not stream are as NeMo initialises them.
    """
    import torch
    from omegaconf import OmegaConf

    from asr_service.observability.log import quiet_third_party

    quiet_third_party()
    import nemo.collections.asr.models as classes
    from nemo.collections.asr.models.multitalker_asr_models import EncDecMultiTalkerRNNTBPEModel
    from nemo.collections.asr.models.rnnt_bpe_models_prompt import EncDecRNNTBPEModelWithPrompt

    from testbed.heads import let_heads_speak

    named = {made.__name__: made for made in (EncDecMultiTalkerRNNTBPEModel, EncDecRNNTBPEModelWithPrompt)}
    name = CLASSES[shape.kind]
    torch.manual_seed(seed)
    if shape.tokenizer == "characters":
        tokenizer: dict[str, Any] | list[str] = labels(shape)
    else:
        # `save_to` later packs the tokenizer from this folder, so it must outlive the model.
        folder = Path(tempfile.mkdtemp(prefix="asr-tokenizer-"))
        tokenizer = write_tokenizers(shape, folder, seed)
    model = (named.get(name) or getattr(classes, name))(cfg=OmegaConf.create(model_config(shape, tokenizer)))
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.self_attn.pos_bias_u.normal_(0, 0.1)
            layer.self_attn.pos_bias_v.normal_(0, 0.1)
            if shape.conv_norm == "batch_norm":
                layer.conv.batch_norm.running_mean.normal_(0, 0.1)
                layer.conv.batch_norm.running_var.uniform_(0.5, 1.5)
    model.eval()
    model.preprocessor.featurizer.dither = 0.0
    if shape.tokenizer == "wordpiece":
        call_wordpiece(model)
    if shape.streams:
        let_heads_speak(model, shape, seed)
    return model


def _write(shape: Shape, path: Path, seed: int) -> None:
    build_model(shape, seed).save_to(str(path))


if __name__ == "__main__":
    write_as_asked(__doc__, _write)
