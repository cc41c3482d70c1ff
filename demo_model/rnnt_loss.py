"""The transducer loss, vectorised over the label axis, with its gradient written out.

NeMo's own loss compiles CUDA kernels; on a CPU it takes seconds a batch. Here the forward and the backward
variables are computed one encoder frame at a time for the whole batch: with C[u] the sum of the label
scores before u at this frame, moving up by any number of labels is one `logcumsumexp`.
"""

from __future__ import annotations

from typing import Any

import torch

_NEVER = -1e30


def _forward(blank: torch.Tensor, climb: torch.Tensor) -> torch.Tensor:
    """Compute alpha [B, T, U+1] from blank scores [B, T, U+1] and exclusive label sums `climb` [B, T, U+1]."""
    alpha = torch.empty_like(blank)
    alpha[:, 0] = climb[:, 0]
    for t in range(1, blank.shape[1]):
        stay = alpha[:, t - 1] + blank[:, t - 1]
        alpha[:, t] = climb[:, t] + torch.logcumsumexp(stay - climb[:, t], dim=1)
    return alpha


def _backward(
    blank: torch.Tensor, climb: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Compute beta [B, T, U+1]: the log probability of all that follows node (t, u)."""
    batch, steps, nodes = blank.shape
    beta = torch.full_like(blank, _NEVER)
    rows = torch.arange(batch, device=blank.device)
    later = torch.full((batch, nodes), _NEVER, dtype=blank.dtype, device=blank.device)
    last = torch.full_like(later, _NEVER)
    last[rows, labels] = 0.0  # after the last frame's blank only the complete label sequence counts
    for t in range(steps - 1, -1, -1):
        after = torch.where((frames - 1 == t)[:, None], last, later)
        stay = blank[:, t] + after + climb[:, t]
        beta[:, t] = torch.logcumsumexp(stay.flip(1), dim=1).flip(1) - climb[:, t]
        later = torch.where((t < frames)[:, None], beta[:, t], torch.full_like(later, _NEVER))
    return beta


class _Transducer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, blank: torch.Tensor, label: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        blank64, label64 = blank.double(), label.double()
        position = torch.arange(label.shape[2], device=label.device)
        valid = position[None, None, :] < labels[:, None, None]
        label64 = label64.masked_fill(~valid, -1e4)  # finite: sums and differences of it stay exact enough
        climb = torch.nn.functional.pad(label64.cumsum(2), (1, 0))
        alpha = _forward(blank64, climb)
        beta = _backward(blank64, climb, frames, labels)
        total = beta[:, 0, 0]
        rows = torch.arange(blank.shape[0], device=blank.device)
        time = torch.arange(blank.shape[1], device=blank.device)[None, :, None]
        inside = time < frames[:, None, None]
        after = torch.full_like(beta, _NEVER)
        after[:, :-1] = beta[:, 1:]
        after[rows, frames - 1] = _NEVER
        after[rows, frames - 1, labels] = 0.0
        norm = total[:, None, None]
        grad_blank = torch.exp(alpha + blank64 + after - norm).masked_fill(~inside, 0.0)
        grad_label = torch.exp(alpha[:, :, :-1] + label64 + beta[:, :, 1:] - norm).masked_fill(
            ~(inside & valid), 0.0
        )
        ctx.save_for_backward(grad_blank.to(blank.dtype), grad_label.to(label.dtype))
        return (-total).to(blank.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        grad_blank, grad_label = ctx.saved_tensors
        scale = grads[0][:, None, None]
        return -grad_blank * scale, -grad_label * scale, None, None


def transducer_nll(
    blank: torch.Tensor, label: torch.Tensor, frames: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the negative log likelihood [B] of each label sequence.

    blank: [B, T, U+1] log probability of blank at every node; label: [B, T, U] of the next label;
    frames, labels: int64 [B], how many of T and U are valid (frames >= 1).
    """
    loss: torch.Tensor = _Transducer.apply(blank, label, frames, labels)  # type: ignore[no-untyped-call]
    return loss


class _NodeScores(torch.autograd.Function):
    """Log probabilities of blank and of the next label from logits [N, V], without keeping float32 copies."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, blank: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        norm = torch.logsumexp(logits.float(), dim=1)
        ctx.save_for_backward(logits, target, norm)
        ctx.blank = blank
        return logits[:, blank].float() - norm, logits.gather(1, target[:, None]).squeeze(1).float() - norm

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, target, norm = ctx.saved_tensors
        to_blank, to_label = grads
        grad = torch.sub(logits, norm[:, None]).exp_().mul_(-(to_blank + to_label)[:, None])
        grad[:, ctx.blank] += to_blank
        grad.scatter_add_(1, target[:, None], to_label[:, None].to(grad.dtype))
        return grad.to(logits.dtype), None, None


def valid_nodes(
    frames: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """List the nodes inside each utterance's own lattice as (row, frame, label) indices, each [N]."""
    time = torch.arange(int(frames.max()), device=frames.device)[None, :, None] < frames[:, None, None]
    label = torch.arange(int(labels.max()) + 1, device=frames.device)[None, None, :] <= labels[:, None, None]
    rows, times, places = torch.nonzero(time & label, as_tuple=True)
    return rows, times, places


def transducer_loss(
    logits: torch.Tensor,
    nodes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    targets: torch.Tensor,
    frames: torch.Tensor,
    labels: torch.Tensor,
    blank: int,
) -> torch.Tensor:
    """Return the loss [B] from joint outputs `logits` [N, V] at `nodes` only; targets int64 [B, U]."""
    rows, times, places = nodes
    shape = (len(frames), int(frames.max()), int(labels.max()) + 1)
    following = torch.nn.functional.pad(targets[:, : shape[2] - 1], (0, 1))[rows, places]
    to_blank, to_label = _NodeScores.apply(logits, following, blank)  # type: ignore[no-untyped-call]
    grid = torch.full(shape, -1e4, dtype=to_blank.dtype, device=logits.device)
    blanks = grid.index_put((rows, times, places), to_blank)
    climbs = grid.index_put((rows, times, places), to_label)[:, :, :-1]
    return transducer_nll(blanks, climbs, frames, labels)
