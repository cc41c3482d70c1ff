"""Training batches of two sources of speech, and a training run that is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from demo_model.__main__ import SHIPPED
from demo_model.corpus import NATURAL, SHARD
from demo_model.data import Batches, Corpus
from demo_model.evaluate import load
from demo_model.phones import COUNT, SILENCE
from demo_model.plan import Plan
from demo_model.tokenizer import unpack_tokenizer
from demo_model.train import CHECKPOINT, Trainer, train
from tests.support.process import PATIENCE_S

KINDS = {"short": 0, "sentence": 1, "words": 3}  # a shard of each
MIXTURE = {"sentence": 0.5, "words": 0.1, "short": 0.1, "joined": 0.2, "empty": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a vocabulary and small shards of both sources; what is spoken in them is noise."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "corpus").mkdir()
    unpack_tokenizer(SHIPPED, folder / "tokenizer")
    rng = np.random.default_rng(1)
    for source in (SHARD, NATURAL):
        for index in KINDS.values():
            starts = np.arange(9) * 60
            frames = rng.normal(-6, 2, (480, 80)).astype(np.float16)
            np.savez(
                folder / "corpus" / f"{source}_{index:04d}.npz", clean=frames, noisy=frames + np.float16(0.1),
                phones=rng.integers(0, COUNT, 480).astype(np.uint8), starts=starts,
                texts=np.array(["call martin on monday"] * 8), voices=np.array([source] * 8),
            )  # fmt: skip
    return folder


def test_batches_depend_on_the_seed_alone_and_are_of_the_planned_size(folder: Path) -> None:
    corpus = Corpus(folder / "corpus", folder / "tokenizer" / "tokenizer.model")
    assert corpus.scan() == 6

    def first(seed: int) -> list[torch.Tensor]:
        stream = Batches(corpus, seed, 2000, {SHARD: 1.0}).stream(MIXTURE, pool=32)
        return [next(stream).features for _ in range(8)]

    one, two = first(5), first(5)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, first(6), strict=True))
    for features in one:
        assert torch.isfinite(features).all()
        assert len(features) == 1 or features.shape[0] * features.shape[2] <= 2000


def test_some_examples_begin_and_end_where_their_sound_does(tmp_path: Path) -> None:
    """Recordings are cut so; the silence that a shard keeps around its utterances would otherwise always be there."""
    unpack_tokenizer(SHIPPED, tmp_path / "tokenizer")
    (tmp_path / "corpus").mkdir()
    labels = np.repeat(np.array([SILENCE, 1, SILENCE], np.uint8), (15, 30, 15))
    frames = np.where(labels[:, None] == SILENCE, -16.0, -3.0).astype(np.float16).repeat(80, axis=1)
    np.savez(
        tmp_path / "corpus" / "shard_0001.npz", clean=frames, noisy=frames, phones=labels,
        starts=np.array([0, 60]), texts=np.array(["monday"]), voices=np.array(["one"]),
    )  # fmt: skip
    corpus = Corpus(tmp_path / "corpus", tmp_path / "tokenizer" / "tokenizer.model")
    corpus.scan()
    stream = Batches(corpus, 1, 4000, {SHARD: 1.0}).stream({"sentence": 1.0}, pool=64)
    edges = []
    for _ in range(12):
        batch = next(stream)
        for phones, length in zip(batch.phones, batch.lengths, strict=True):
            sounding = np.flatnonzero(phones[:length].numpy())
            edges.append((int(sounding[0]), int(length) - 1 - int(sounding[-1])))
    for tight in np.array(edges).T <= 2:
        assert 0.2 < tight.mean() < 0.5


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_its_model_is_read_by_nemo(folder: Path) -> None:
    """A process of its own gets SIGKILL after the transducer has begun; what goes on has its steps and its weights."""
    plan = Plan(frames=1500, ctc_until=2, save_every=3)
    program = f"""
from pathlib import Path
from demo_model.plan import Plan
from demo_model.train import train
train({plan!r}, Path({str(folder)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (folder / CHECKPOINT).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)  # a process that tells nobody when it has written
    finally:
        process.kill()
        process.wait()
    trainer = Trainer(plan, folder)
    assert trainer.resume()
    reached = trainer.step
    assert reached >= 3 and reached % 3 == 0
    assert trainer.optimizer.state

    last = reached + 2
    path = train(Plan(frames=1500, ctc_until=2, save_every=3, max_steps=last), folder)
    assert torch.load(folder / CHECKPOINT, weights_only=True)["step"] == last
    model, average = load(path), Trainer(plan, folder)
    average.resume()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, average.average[name].half().float())
