"""python -m tests.support.compile_step: compiles the encoder step of CPUs, in fp32; its machine code is kept on disk.

A service with a real model that starts afterwards waits for NeMo only.
"""

from __future__ import annotations

import torch

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from tests.support.encoder_weights import made_up_weights


def main() -> None:
    plan = ChunkPlan(160, 400, 8, 2, 70)
    encoder = CpuEncoder(made_up_weights(plan), plan, 2, torch.float32)
    with torch.inference_mode():
        batch = Batch(torch.tensor([0]), torch.tensor([0]), None, [plan.chunk_frames], True)
        encoder.step(batch, torch.randn(1, 8 * plan.chunk_frames, 80))


if __name__ == "__main__":
    main()
