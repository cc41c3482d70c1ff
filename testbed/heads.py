"""Makes random heads speak: tokens that depend on the audio, on each other and on the language prompt.

As NeMo initialises them, a random encoder answers with nearly the same vector everywhere, and random heads emit either
nothing or the most that they may on every frame. Here the layers after the encoder are scaled and shifted by what the
encoder says about some babble, and biases are set such that about 0.4 tokens a frame come out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from testbed.babble import babble
from testbed.shapes import Shape

TOKENS_PER_FRAME = 0.4
TAGS_PER_FRAME = 0.04
END_TOKENS_PER_FRAME = 0.03
NEAR = 0.03
"""By which part of it a rate may be missed."""
# By which streams and languages differ from each other on the whole; the others are left for the frames.
MOST_DIRECTIONS = 12


@torch.no_grad()
def let_heads_speak(model: Any, shape: Shape, seed: int) -> None:
    """Scales and shifts the layers of a model after its encoder, in place."""
    # What the heads are given, and what is decoded while biases are sought: [streams, frames, d_model].
    given = heard = torch.stack([_encode(model, seed + voice) for voice in range(shape.voices)])
    if shape.prompts:
        _stretch_prompts(model.prompt_kernel, given, seed)
        indices = sorted({index for _, index in shape.prompts})
        given = torch.cat([_prompted(model.prompt_kernel, heard, index) for index in indices])
        # Enough of it to count.
        heard = given[::3, :40]
    if "rnnt" in shape.decoders:
        joint = model.joint
        joint.joint_net[-1].weight.mul_(4.0)
        _discourage_repeats(model)
        _stretch(joint.enc.weight, joint.enc.bias, given)
        _set_rate(joint.joint_net[-1].bias, shape, lambda: _rnnt_tokens(model, heard), heard)
    if "ctc" in shape.decoders:
        head = ctc_head(model).decoder_layers[0]
        _stretch(head.weight, head.bias, given)
        _set_rate(head.bias, shape, lambda: _ctc_tokens(model, heard), heard)


def ctc_head(model: Any) -> Any:
    """Returns the CTC head, which NeMo calls `ctc_decoder` in hybrid models only."""
    return model.ctc_decoder if hasattr(model, "ctc_decoder") else model.decoder


def _encode(model: Any, seed: int) -> Tensor:
    """Encodes some babble without a prompt: [frames, d_model]."""
    audio = torch.tensor(babble(12.0, seed))[None]
    mel, length = model.preprocessor(input_signal=audio, length=torch.tensor([audio.shape[1]]))
    encoded, _ = model.encoder(audio_signal=mel, length=length)
    # The first frames, with little to attend to, differ from all others; the rest of the stream counts here.
    frames: Tensor = encoded[0, :, encoded.shape[2] // 2 :].t().contiguous()
    return frames


def _stretch(weight: Tensor, shift: Tensor, given: Tensor, deviation: float = 3.0) -> None:
    """Scales and shifts a product so that its outputs for [streams, frames, width] differ by frame, around zero.

    What tells one stream from another is taken out first: otherwise one would emit on every frame and another never.
    """
    flat = weight.view(weight.shape[0], -1)
    frames, means = given.flatten(0, 1), given.mean(dim=1)
    if len(given) > 1:
        _, _, directions = torch.linalg.svd(means - means.mean(dim=0), full_matrices=False)
        directions = directions[: min(len(given) - 1, MOST_DIRECTIONS)]
        flat.sub_(flat @ directions.t() @ directions)
    flat.mul_(deviation / (frames @ flat.t()).std(dim=0).mean())
    shift.copy_(-(flat @ frames.mean(dim=0)))


def _stretch_prompts(kernel: Any, given: Tensor, seed: int) -> None:
    """Makes the language count as much as the audio in the first product after the encoder."""
    up, width = kernel[0], given.shape[2]
    own = up.weight[:, :width].contiguous()
    _stretch(own, up.bias, given, 1.0)
    up.weight[:, :width] = own
    up.weight[:, width:].normal_(0, 0.7, generator=torch.Generator().manual_seed(seed))


def _prompted(kernel: Any, frames: Tensor, index: int) -> Tensor:
    """Conditions frames [streams, frames, d_model] on one language prompt."""
    prompt = torch.zeros(*frames.shape[:2], kernel[0].in_features - frames.shape[2])
    prompt[:, :, index] = 1.0
    out: Tensor = kernel(torch.cat([frames, prompt], dim=2))
    return out


def _discourage_repeats(model: Any, strength: float = 3.0) -> None:
    """Turns each token's row of the joint against what the prediction network says after that token.

    Otherwise a random prediction network falls into one token for ever.
    """
    out = model.joint.joint_net[-1]
    tokens = torch.arange(out.weight.shape[0] - 1)
    start, _ = model.decoder.predict(None, state=None, add_sos=False, batch_size=1)
    after, _ = model.decoder.predict(tokens[:, None], state=None, add_sos=False)
    change = model.joint.pred(after[:, 0]) - model.joint.pred(start[:, 0])
    # As loud as the encoder's part will be, so that a token changes what comes next.
    model.joint.pred.weight.mul_(4.0 / change.std())
    change = model.joint.pred(after[:, 0]) - model.joint.pred(start[:, 0])
    push = strength * out.weight.norm(dim=1).mean() * functional.normalize(change, dim=1)
    out.weight[:-1] -= push
    out.weight[-1] += push.mean(dim=0)


def _set_rate(bias: Tensor, shape: Shape, decode: Callable[[], list[int]], heard: Tensor) -> None:
    """Bisects the bias of blank, then those of tags and end tokens, until each comes as often as it should."""
    total = heard.shape[0] * heard.shape[1]
    blank = len(bias) - 1

    def bisect(ids: list[int], width: float, more: int, rate: float, count: Callable[[], int]) -> None:
        """`more` is 1 if a larger bias makes the count larger, -1 if it makes it smaller."""
        start, wanted = bias[ids].clone(), rate * total
        low, high = -width, width
        while high - low > 0.005:
            middle = (low + high) / 2
            bias[ids] = start + middle
            missing = more * (wanted - count())
            if abs(missing) <= NEAR * wanted:
                return
            low, high = (middle, high) if missing > 0 else (low, middle)

    bisect([blank], 400.0, -1, TOKENS_PER_FRAME, lambda: len(decode()))
    for ids, rate in special_tokens(shape):
        bisect(ids, 20.0, 1, rate, lambda ids=ids: sum(t in ids for t in decode()))  # type: ignore[misc]


def special_tokens(shape: Shape) -> list[tuple[list[int], float]]:
    """Returns the ids of tags and of end tokens, where there are any, each with how many come a frame."""
    found = []
    if shape.languages and shape.tokenizer != "aggregate":
        # Piece 0 is the unknown one.
        found.append((list(range(1, 1 + len(shape.languages))), TAGS_PER_FRAME))
    if shape.end_tokens:
        last = shape.vocabulary
        found.append((list(range(last - len(shape.end_tokens), last)), END_TOKENS_PER_FRAME))
    return found


def _rnnt_tokens(model: Any, heard: Tensor) -> list[int]:
    found = model.decoding.decoding(
        encoder_output=heard.transpose(1, 2),
        encoded_lengths=torch.full((heard.shape[0],), heard.shape[1]),
        partial_hypotheses=None,
    )
    return [int(token) for hypothesis in found[0] for token in hypothesis.y_sequence]


def _ctc_tokens(model: Any, heard: Tensor) -> list[int]:
    head = ctc_head(model)
    best = head(encoder_output=heard.transpose(1, 2)).argmax(dim=-1)
    new = (best[:, 1:] != best[:, :-1]) & (best[:, 1:] != head.num_classes_with_blank - 1)
    return [int(token) for token in best[:, 1:][new]]
