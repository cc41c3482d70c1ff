"""Makes the NeMo configuration of a model, after the published recipes of streaming FastConformer models."""

from __future__ import annotations

from typing import Any

from testbed.shapes import NUM_PROMPTS, Shape


def model_config(shape: Shape, tokenizer: dict[str, Any] | list[str]) -> dict[str, Any]:
    """Makes the configuration of a model of this shape.

    Args:
        shape: of the model.
        tokenizer: the section that names its tokenizer, or the labels of a character model.
    """
    config: dict[str, Any] = {
        "sample_rate": 16000,
        "log_prediction": False,
        "model_defaults": {
            "enc_hidden": shape.d_model,
            "pred_hidden": shape.hidden,
            "joint_hidden": shape.hidden,
        },
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": shape.normalize,
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": shape.mels,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "encoder": _encoder(shape),
        "optim": {"name": "adamw", "lr": 1e-3},
    }
    config["labels" if isinstance(tokenizer, list) else "tokenizer"] = tokenizer
    if shape.prompts:
        config["model_defaults"] |= {
            "initialize_prompt_feature": True,
            "num_prompts": NUM_PROMPTS,
            "prompt_dictionary": dict(shape.prompts),
        }
    if shape.kind == "multitalker":
        config |= {"spk_kernel_type": "ff", "spk_kernel_layers": [0], "add_bg_spk_kernel": True}
    if "rnnt" in shape.decoders:
        config |= _transducer(shape)
    else:
        config |= {"decoder": _ctc_head(), "decoding": {"strategy": "greedy_batch"}}
        if isinstance(tokenizer, list):
            config["decoder"] |= {"num_classes": len(tokenizer), "vocabulary": tokenizer}
    # The published model with prompts has this section too, though its class has no such head.
    if "ctc" in shape.decoders[1:] or shape.prompts:
        config["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": "mean_batch",
            "decoder": _ctc_head(),
            "decoding": {"strategy": "greedy_batch"},
        }
    return config


def _encoder(shape: Shape) -> dict[str, Any]:
    pairs = [list(pair) for pair in shape.look_aheads]
    config = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": shape.mels,
        "feat_out": -1,
        "n_layers": shape.layers,
        "d_model": shape.d_model,
        "use_bias": shape.use_bias,
        "subsampling": "dw_striding",
        "subsampling_factor": shape.subsampling,
        "subsampling_conv_channels": shape.channels,
        "causal_downsampling": True,
        "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos",
        "n_heads": shape.heads,
        "att_context_size": pairs if len(pairs) > 1 else pairs[0],
        "att_context_style": shape.att_style,
        "xscaling": shape.xscaling,
        "untie_biases": shape.untie_biases,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": shape.kernel,
        "conv_norm_type": shape.conv_norm,
        "conv_context_size": "causal",
        "dropout": 0.1,
        "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0,
        "dropout_att": 0.1,
    }
    if shape.att_style == "chunked_limited_with_rc":
        config["att_chunk_context_size"] = [[70], [14], [13]]
    return config


def _ctc_head() -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": None,
        "num_classes": -1,
        "vocabulary": [],
    }


def _transducer(shape: Shape) -> dict[str, Any]:
    """Makes the sections of prediction network, joint, greedy decoding and loss."""
    prediction: dict[str, Any] = {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "normalization_mode": None,
        "random_state_sampling": False,
        "blank_as_pad": True,
        "prednet": {
            "pred_hidden": shape.hidden,
            "pred_rnn_layers": shape.prediction_layers,
            "t_max": None,
            "dropout": 0.2,
        },
    }
    if shape.stateless:
        prediction = {
            "_target_": "nemo.collections.asr.modules.StatelessTransducerDecoder",
            "context_size": 2,
            "normalization_mode": None,
            "prednet": {"pred_hidden": shape.hidden, "dropout": 0.2},
        }
    joint: dict[str, Any] = {
        "_target_": "nemo.collections.asr.modules.RNNTJoint",
        "log_softmax": None,
        "preserve_memory": False,
        "fuse_loss_wer": False,
        "jointnet": {
            "joint_hidden": shape.hidden,
            "activation": shape.activation,
            "dropout": 0.2,
            "encoder_hidden": shape.d_model,
            "pred_hidden": shape.hidden,
        },
    }
    decoding: dict[str, Any] = {"strategy": "greedy_batch", "greedy": {"max_symbols": shape.max_symbols}}
    loss: dict[str, Any] = {
        "loss_name": "default",
        "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0},
    }
    if shape.durations:
        durations = list(shape.durations)
        joint["num_extra_outputs"] = len(durations)
        decoding |= {"model_type": "tdt", "durations": durations}
        loss = {
            "loss_name": "tdt",
            "tdt_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0, "durations": durations},
        }
    return {"decoder": prediction, "joint": joint, "decoding": decoding, "loss": loss}
