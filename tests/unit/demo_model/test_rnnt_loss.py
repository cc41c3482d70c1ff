"""The vectorised transducer loss equals the recursion of its definition, values and gradients."""

from __future__ import annotations

import pytest
import torch

from demo_model.rnnt_loss import transducer_loss, valid_nodes

BLANK = 5


def by_definition(logits: torch.Tensor, labels: list[int]) -> torch.Tensor:
    """Negative log likelihood of one utterance, node by node; logits [T, U+1, V]."""
    scores = logits.log_softmax(-1)
    alpha = {(0, 0): scores.new_zeros(())}
    for t in range(logits.shape[0]):
        for u in range(len(labels) + 1):
            ways = []
            if t:
                ways.append(alpha[t - 1, u] + scores[t - 1, u, BLANK])
            if u:
                ways.append(alpha[t, u - 1] + scores[t, u - 1, labels[u - 1]])
            if ways:
                alpha[t, u] = torch.logsumexp(torch.stack(ways), 0)
    return -(alpha[logits.shape[0] - 1, len(labels)] + scores[-1, len(labels), BLANK])


@pytest.mark.parametrize("scale", [0.1, 3.0, 20.0])
def test_loss_and_gradient_equal_the_recursion(scale: float) -> None:
    torch.manual_seed(1)
    frames, labels = torch.tensor([7, 5, 1, 6]), torch.tensor([5, 3, 2, 0])
    targets = torch.randint(0, BLANK, (4, 5))
    grid = scale * torch.randn(4, 7, 6, BLANK + 1)
    mine, theirs = grid.clone().requires_grad_(), grid.clone().requires_grad_()
    nodes = valid_nodes(frames, labels)
    found = transducer_loss(mine[nodes], nodes, targets, frames, labels, BLANK)
    wanted = torch.stack(
        [
            by_definition(theirs[row, : frames[row], : labels[row] + 1], targets[row, : labels[row]].tolist())
            for row in range(4)
        ]
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    weights = torch.randn(4)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_nodes_outside_an_utterance_are_not_computed() -> None:
    rows, times, places = valid_nodes(torch.tensor([2, 3]), torch.tensor([1, 0]))
    assert list(zip(rows.tolist(), times.tolist(), places.tolist(), strict=True)) == [
        (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 2, 0),
    ]  # fmt: skip
