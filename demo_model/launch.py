"""Starting the training: one process on a GPU, or one process for each CPU core with averaged gradients.

Small models on a CPU lose most of their time to threads waiting for each other in every little operation,
the more so on a shared machine; single-threaded processes that meet once a step do not.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch
from torch.multiprocessing.spawn import spawn

from demo_model.corpus import SIZES
from demo_model.plan import Plan
from demo_model.train import train


def _worker(rank: int, workers: int, port: int, plan: Plan, folder: Path) -> None:
    import logging

    import torch.distributed as dist
    from nemo.utils import logging as nemo_logging

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    nemo_logging.setLevel(logging.ERROR)
    dist.init_process_group("gloo", rank=rank, world_size=workers)
    try:
        train(plan, folder, rank)
    finally:
        dist.destroy_process_group()


def launch(plan: Plan, folder: Path, workers: int) -> Path:
    """Train `plan` with `workers` processes (a GPU takes one); return the `.nemo` file."""
    # Five shards in a row hold every kind of utterance, and each worker needs every kind.
    shards = max(len(list((folder / "corpus").glob(f"{source}_????.npz"))) for source in SIZES)
    workers = max(1, min(workers, shards // 5))
    if workers == 1 or torch.device(plan.device).type != "cpu":
        return train(plan, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn(_worker, (workers, port, plan, folder), nprocs=workers)  # type: ignore[no-untyped-call]
    return folder / "demo.nemo"
