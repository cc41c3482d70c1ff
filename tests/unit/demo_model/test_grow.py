"""A model that was grown says what the smaller one does, and can learn with all of its units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from demo_model import model as recipe
from demo_model.__main__ import SHIPPED
from demo_model.export import write_nemo
from demo_model.grow import grow
from demo_model.tokenizer import unpack_tokenizer

pytestmark = pytest.mark.slow


def outputs(model: Any, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encoder frames [1, width, T], and the joint's values after a few pieces [1, T, U, pieces + 1]."""
    lengths = torch.tensor([features.shape[2]])
    encoded, _ = model.encoder(audio_signal=features, length=lengths)
    states, _, _ = model.decoder(targets=torch.tensor([[5, 80, 200]]), target_length=torch.tensor([3]))
    return encoded, model.joint.joint(encoded.transpose(1, 2), states.transpose(1, 2))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_tokenizer(SHIPPED, tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(("width", "hidden", "most"), [(96, 64, 0.0), (128, 96, 0.05)])
def test_a_grown_model_goes_on_from_the_smaller_one(
    tokenizer: Path, tmp_path: Path, width: int, hidden: int, most: float
) -> None:
    torch.manual_seed(1)
    small = recipe.build(tokenizer, 96, 64)
    with torch.no_grad():
        for value in small.parameters():
            value.copy_(value.half())  # as it is stored
    write_nemo(small, tmp_path / "small.nemo")
    large = recipe.build(tokenizer, width, hidden)
    grow(tmp_path / "small.nemo", large)
    features = torch.randn(1, 80, 400)
    for model in (small, large):
        model.eval()
        model.encoder.set_default_att_context_size([70, 1])
    with torch.no_grad():
        (frames, said), (grown, said_again) = (outputs(model, features) for model in (small, large))
    assert (grown[:, :96] - frames).norm() <= most * frames.norm()
    assert (said_again - said).norm() <= most * said.norm()

    # New units learn: after three steps every tensor that has become wider has gradients in most of its places.
    large.train()
    recipe.set_dropout(large, 0.0)
    steps = torch.optim.SGD(large.parameters(), 1e-3)
    for _ in range(3):
        steps.zero_grad()
        outputs(large, features)[1].square().mean().backward()  # type: ignore[no-untyped-call]
        steps.step()
    before = dict(small.named_parameters())
    for name, value in large.named_parameters():
        # Of embeddings, those of the three pieces.
        if value.shape != before[name].shape and value.grad is not None and "embed" not in name:
            assert (value.grad != 0).float().mean() > 0.5, name


def test_another_model_cannot_be_grown(tokenizer: Path, tmp_path: Path) -> None:
    small = recipe.build(tokenizer, 96, 64)
    write_nemo(small, tmp_path / "small.nemo")
    large = recipe.build(tokenizer)
    large.cfg.encoder.n_layers = 4
    with pytest.raises(ValueError, match="in width alone"):
        grow(tmp_path / "small.nemo", large)
