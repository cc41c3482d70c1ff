"""Training: one loop over batches with a schedule in compute time, resumable, with a curve on disk.

Phases, as they were found to work: phone labels, CTC and mostly short utterances first (without them the CTC
loss stays where it is for a long time), then everything with CTC, then the transducer with CTC beside it.
"""

from __future__ import annotations

import csv
import math
import os
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional

from demo_model import stem
from demo_model.corpus import DISTILLED, NATURAL, SHARD
from demo_model.data import Batch, Batches, Corpus
from demo_model.grow import grow
from demo_model.model import build, set_dropout
from demo_model.phones import COUNT, IGNORE
from demo_model.plan import Plan
from demo_model.rnnt_loss import transducer_loss, valid_nodes

CHECKPOINT = "last.ckpt"
SHORT = {"short": 0.6, "sentence": 0.36, "empty": 0.04}
FULL = {"sentence": 0.48, "words": 0.12, "short": 0.15, "joined": 0.15, "empty": 0.1}
_PAUSE = 5.0  # a step that takes longer was stopped from outside; the excess is no compute time
_OFFSETS = (7, 4, 1)  # mel frames before the newest one an encoder frame sees, for its three phone labels


class Trainer:
    """The model with its auxiliary heads, optimiser, average and clock."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.device = torch.device(plan.device)
        torch.manual_seed(plan.seed)
        self.model: Any = build(folder / "tokenizer")
        if plan.start and not (folder / CHECKPOINT).exists():
            grow(Path(plan.start), self.model)
        self.model.to(self.device).train()
        set_dropout(self.model, 0.0)
        self.heads = torch.nn.Linear(self.model.cfg.encoder.d_model, len(_OFFSETS) * COUNT).to(self.device)
        if self.device.type == "cpu":
            stem.install(self.model.encoder.pre_encode.conv)
        layers = self.model.encoder.layers
        layers[len(layers) // 2].register_forward_hook(self._keep_middle)
        self._middle: torch.Tensor | None = None
        self.parameters = [*self.model.parameters(), *self.heads.parameters()]
        decayed = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
            lr=1.0, betas=(0.9, 0.98), eps=1e-9, fused=True,
        )  # fmt: skip
        self.average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.step, self.seconds, self.audio_hours, self.now = 0, 0.0, 0.0, 0.0
        self.workers = dist.get_world_size() if dist.is_initialized() else 1
        # A processor that has no products of bf16 does them several times slower than those of fp32.
        self._has_bf16 = self.device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()

    def _keep_middle(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._middle = output[0] if isinstance(output, tuple) else output

    def share(self) -> float:
        """Return how much of the schedule is over, 0 to 1."""
        total = 60 * self.plan.minutes
        if self.plan.deadline:
            total = min(total, self.seconds + max(0.0, self.plan.deadline - self.now))
        return min(1.0, self.seconds / max(1.0, total))

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        share = self.share()
        warm = min(1.0, (self.step + 1) / self.plan.warmup)
        fall = max(0.0, (share - self.plan.hold) / (1 - self.plan.hold))
        return self.plan.peak_lr * warm * max(0.004, 0.5 * (1 + math.cos(math.pi * fall)))

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the losses per piece (transducer, CTC) and per labelled frame (phones)."""
        features = batch.features.to(self.device)
        lengths, targets = batch.lengths.to(self.device), batch.targets.to(self.device)
        labels = batch.target_lengths.to(self.device)
        pieces = labels.sum().clamp(min=1)
        if self.step >= self.plan.regularise_from:
            features = mask(features, batch.lengths)
        found: dict[str, torch.Tensor] = {}
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._has_bf16):
            encoded, frames = self.model.encoder(audio_signal=features, length=lengths)
            log_probs = self.model.ctc_decoder(encoder_output=encoded)
            found["phones"] = self._phone_loss(batch.phones.to(self.device))
            if self.step >= self.plan.ctc_until:
                joint = self.model.joint
                states, _, _ = self.model.decoder(targets=targets, target_length=labels)
                nodes = valid_nodes(frames, labels)
                rows, times, places = nodes
                acoustic = joint.enc(encoded.transpose(1, 2))
                text = joint.pred(states.transpose(1, 2))
                logits = joint.joint_net(acoustic[rows, times] + text[rows, places])
        if self.step >= self.plan.ctc_until:
            blank = logits.shape[-1] - 1
            found["rnnt"] = transducer_loss(logits, nodes, targets, frames, labels, blank).sum() / pieces
        found["ctc"] = functional.ctc_loss(
            log_probs.float().transpose(0, 1), targets, frames, labels, blank=log_probs.shape[-1] - 1,
            reduction="none", zero_infinity=True,
        ).sum() / pieces  # fmt: skip
        return found

    def _phone_loss(self, phones: torch.Tensor) -> torch.Tensor:
        middle = self._middle
        assert middle is not None
        scores = self.heads(middle).float().view(*middle.shape[:2], len(_OFFSETS), COUNT)
        newest = torch.arange(middle.shape[1], device=phones.device) * 8
        wanted = []
        for offset in _OFFSETS:
            place = newest - offset
            picked = phones[:, place.clamp(0, phones.shape[1] - 1)].long()
            wanted.append(picked.masked_fill((place < 0) | (place >= phones.shape[1]), IGNORE))
        return functional.cross_entropy(
            scores.reshape(-1, COUNT), torch.stack(wanted, 2).reshape(-1), ignore_index=IGNORE
        )

    def update(self, batch: Batch) -> dict[str, float]:
        """Take one step; return the losses, the gradient's norm and the learning rate."""
        found = self.losses(batch)
        weight = (
            1.0 if self.step < self.plan.ctc_until else 0.3 if self.step < 2 * self.plan.ctc_until else 0.1
        )
        total = weight * found["phones"]
        total = total + (0.7 * found["rnnt"] + 0.3 * found["ctc"] if "rnnt" in found else found["ctc"])
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self._share_gradients()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0 if self.step > 100 else 5.0))
        rate = self.rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if math.isfinite(norm):
            self.optimizer.step()
        keep = min(0.995, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            values = [value.detach() for _, value in self.model.named_parameters()]
            torch._foreach_lerp_(list(self.average.values()), values, 1 - keep)
        self.step += 1
        self.audio_hours += self.workers * float(batch.lengths.sum()) / 360000
        return {**{name: float(value.detach()) for name, value in found.items()}, "norm": norm, "lr": rate}

    def _share_gradients(self) -> None:
        """Average the gradients over the workers, in one message."""
        if self.workers == 1:
            return
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= self.workers
        at = 0
        for grad in grads:
            grad.copy_(flat[at : at + grad.numel()].view_as(grad))
            at += grad.numel()

    def count_time(self, begun: float) -> None:
        """Add the time since `begun` to the clock, the same for all workers, without time spent stopped."""
        spent = torch.tensor([min(_PAUSE, time.monotonic() - begun), time.time()], dtype=torch.float64)
        if self.workers > 1:
            dist.broadcast(spent, 0)
        self.seconds += float(spent[0])
        self.now = float(spent[1])

    def save(self) -> None:
        """Write the checkpoint from which `resume` goes on."""
        state = {
            "plan": asdict(self.plan), "model": self.model.state_dict(), "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(), "average": self.average, "step": self.step,
            "seconds": self.seconds, "audio_hours": self.audio_hours,
        }  # fmt: skip
        partial = self.folder / "last.part"
        torch.save(state, partial)
        partial.rename(self.folder / CHECKPOINT)

    def resume(self) -> bool:
        """Load the last checkpoint if there is one."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step, self.seconds, self.audio_hours = state["step"], state["seconds"], state["audio_hours"]
        if self.step >= self.plan.regularise_from:
            set_dropout(self.model, self.plan.dropout)
        return True

    def export(self, path: Path) -> None:
        """Write the averaged weights as a `.nemo`."""
        from demo_model.export import write_nemo

        own = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(self.average[name])
        try:
            write_nemo(self.model, path)
        finally:
            with torch.no_grad():
                for name, value in self.model.named_parameters():
                    value.copy_(own[name])


def mask(features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Hide up to two bands of mels and some short stretches of time behind each example's own mean."""
    features = features.clone()
    for row, length in enumerate(lengths.tolist()):
        mean = features[row, :, :length].mean()
        for _ in range(2):
            width = int(torch.randint(0, 12, ()))
            low = int(torch.randint(0, features.shape[1] - width, ()))
            features[row, low : low + width] = mean
        for _ in range(length // 250):
            width = int(torch.randint(0, 12, ()))
            low = int(torch.randint(0, max(1, length - width), ()))
            features[row, :, low : low + width] = mean
    return features


def train(plan: Plan, folder: Path, rank: int = 0) -> Path:
    """Train until the budget is spent; return the final `.nemo` under `folder`."""
    random.seed(plan.seed)
    np.random.seed(plan.seed)
    workers = dist.get_world_size() if dist.is_initialized() else 1
    corpus = Corpus(folder / "corpus", folder / "tokenizer" / "tokenizer.model", rank, workers)
    print(f"training: {corpus.scan()} shards of speech", flush=True)
    trainer = Trainer(plan, folder)
    resumed = trainer.resume()
    size = sum(p.numel() for p in trainer.model.parameters())
    print(
        f"training: {size / 1e6:.2f} M parameters, {'resumed' if resumed else 'new'} at step {trainer.step}"
    )
    torch.manual_seed(1000 * plan.seed + trainer.step * workers + rank)
    shares = {
        SHARD: 1 - plan.natural_share - plan.distilled_share,
        NATURAL: plan.natural_share,
        DISTILLED: plan.distilled_share,
    }
    batches = Batches(corpus, plan.seed + trainer.step * workers + rank, plan.frames // workers, shares)
    full = trainer.step >= plan.short_until
    stream = batches.stream(FULL if full else SHORT)
    trainer.count_time(time.monotonic())
    sums: dict[str, list[float]] = {}
    next_export = plan.export_every * (math.floor(trainer.seconds / 60 / plan.export_every) + 1)
    mark = time.monotonic()
    with Path(folder / "curve.csv" if rank == 0 else os.devnull).open(
        "a", newline="", encoding="utf-8"
    ) as curve:
        writer = csv.writer(curve)
        if rank == 0 and curve.tell() == 0:
            writer.writerow(["step", "minutes", "hours_heard", "rnnt", "ctc", "phones", "lr"])
        while trainer.share() < 1.0 and (not plan.max_steps or trainer.step < plan.max_steps):
            if not full and trainer.step >= plan.short_until:
                full, stream = True, batches.stream(FULL)
            if trainer.step == plan.regularise_from:
                set_dropout(trainer.model, plan.dropout)
            begin = time.monotonic()
            for name, value in trainer.update(next(stream)).items():
                sums.setdefault(name, []).append(value)
            trainer.count_time(begin)
            if rank == 0 and trainer.step % 25 == 0:
                mean = {name: float(np.mean(values)) for name, values in sums.items()}
                speed = (time.monotonic() - mark) / 25
                mark, sums = time.monotonic(), {}
                shown = ", ".join(f"{name} {value:.3g}" for name, value in mean.items())
                minutes = trainer.seconds / 60
                print(f"step {trainer.step}, {minutes:.1f} min ({100 * trainer.share():.0f} %), {speed:.2f} s: {shown}",
                      flush=True)  # fmt: skip
                cells = [f"{mean[name]:.4f}" if name in mean else "" for name in ("rnnt", "ctc", "phones")]
                writer.writerow([trainer.step, f"{minutes:.2f}", f"{trainer.audio_hours:.2f}", *cells,
                                 f"{mean['lr']:.2e}"])  # fmt: skip
                curve.flush()
            if trainer.step % plan.save_every == 0:
                corpus.scan()
                if rank == 0:
                    trainer.save()
            if rank == 0 and trainer.seconds / 60 >= next_export:
                trainer.export(folder / f"demo_{next_export:03.0f}min.nemo")
                next_export += plan.export_every
    if rank == 0:
        trainer.save()
        trainer.export(folder / "demo.nemo")
    return folder / "demo.nemo"
