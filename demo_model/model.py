"""The NeMo model: NVIDIA's streaming multi look-ahead configuration at a fraction of its size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel

LOOK_AHEADS = ([70, 13], [70, 6], [70, 1], [70, 0])  # [left, right] encoder frames of 80 ms
# Widths are multiples of 32, which the service's compiled CPU step asks for (asr_service/model/cpu_encoder).
D_MODEL, LAYERS, HEADS, CHANNELS, HIDDEN, PIECES = 192, 8, 4, 64, 192, 256


def config(tokenizer_dir: Path, width: int = D_MODEL, hidden: int = HIDDEN) -> dict[str, Any]:
    """Return the model configuration; only sizes differ from stt_en_fastconformer_hybrid_large_streaming_multi."""
    asr = "nemo.collections.asr.modules"
    return {
        "sample_rate": 16000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "rnnt_reduction": "mean_volume",
        "skip_nan_grad": False,
        "model_defaults": {"enc_hidden": width, "pred_hidden": hidden, "joint_hidden": hidden},
        "tokenizer": {"dir": str(tokenizer_dir), "type": "bpe"},
        "preprocessor": {
            "_target_": f"{asr}.AudioToMelSpectrogramPreprocessor", "sample_rate": 16000, "normalize": "NA",
            "window_size": 0.025, "window_stride": 0.01, "window": "hann", "features": 80, "n_fft": 512,
            "frame_splicing": 1, "dither": 1e-5, "pad_to": 0,
        },
        "spec_augment": {
            "_target_": f"{asr}.SpectrogramAugmentation", "freq_masks": 2, "time_masks": 10, "freq_width": 27,
            "time_width": 0.05,
        },
        "encoder": {
            "_target_": f"{asr}.ConformerEncoder", "feat_in": 80, "feat_out": -1, "n_layers": LAYERS,
            "d_model": width, "subsampling": "dw_striding", "subsampling_factor": 8,
            "subsampling_conv_channels": CHANNELS, "causal_downsampling": True, "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos", "n_heads": HEADS,
            "att_context_size": [list(pair) for pair in LOOK_AHEADS], "att_context_style": "chunked_limited",
            "xscaling": True, "untie_biases": True, "pos_emb_max_len": 5000, "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm", "conv_context_size": "causal", "dropout": 0.1,
            "dropout_pre_encoder": 0.1, "dropout_emb": 0.0, "dropout_att": 0.1,
        },
        "decoder": {
            "_target_": f"{asr}.RNNTDecoder", "normalization_mode": None, "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": hidden, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.1},
        },
        "joint": {
            "_target_": f"{asr}.RNNTJoint", "log_softmax": None, "preserve_memory": False,
            "fuse_loss_wer": False, "fused_batch_size": -1,
            "jointnet": {"joint_hidden": hidden, "activation": "relu", "dropout": 0.1},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "aux_ctc": {
            "ctc_loss_weight": 0.3, "use_cer": False, "ctc_reduction": "mean_batch",
            "decoder": {
                "_target_": f"{asr}.ConvASRDecoder", "feat_in": None, "num_classes": -1, "vocabulary": [],
            },
            "decoding": {"strategy": "greedy"},
        },
        "interctc": {"loss_weights": [], "apply_at_layers": []},
        "loss": {"loss_name": "default"},
        "train_ds": None,
        "validation_ds": None,
        "optim": {"name": "adamw", "lr": 1e-3},
    }  # fmt: skip


def build(tokenizer_dir: Path, width: int = D_MODEL, hidden: int = HIDDEN) -> EncDecHybridRNNTCTCBPEModel:
    """Make the model with fresh weights; seed torch before."""
    from nemo.collections.asr.models import EncDecHybridRNNTCTCBPEModel
    from omegaconf import OmegaConf

    return EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(config(tokenizer_dir, width, hidden)))


def set_dropout(model: Any, rate: float) -> None:
    """Set every dropout of the model (the attention's own are modules too)."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
