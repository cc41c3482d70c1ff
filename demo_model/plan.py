"""What a training run does: the defaults of the command line and of the loop, without what the loop imports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What a training run does; steps count from 0."""

    start: str = ""  # a .nemo to begin with, as wide or narrower
    minutes: float = 108.0
    seed: int = 7
    frames: int = 11000
    peak_lr: float = 1.8e-3
    # Of the utterances of a batch, where there are such shards; the rest is by espeak-ng and flite.
    natural_share: float = 0.22
    distilled_share: float = 0.48
    warmup: int = 200
    hold: float = 0.5  # share of the budget before the rate falls along a cosine
    short_until: int = 250
    ctc_until: int = 700
    regularise_from: int = 20000  # dropout and masks slow a small model down: for much longer runs
    dropout: float = 0.05
    export_every: float = 20.0  # minutes of compute
    save_every: int = 50  # steps between checkpoints, which are what a killed run loses at most
    device: str = "cpu"
    max_steps: int = 0
    deadline: float = (
        0.0  # time.time() at which the schedule ends, whatever stood still meanwhile; 0: `minutes` counts
    )
