"""A loaded NeMo model behind the `StreamingModel` protocol: features, encoder and decoder in one batched step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asr_service.core.model import ModelInfo, OutOfMemory, Readings, StepRequest, StepResult
from asr_service.core.values import PhraseBoost
from asr_service.model.batch import Batch, Positions
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.decoders.boosting_tree import BoostingTree, TreeMaker
from asr_service.model.decoders.rnnt import Emission
from asr_service.model.features import FeatureExtractor
from asr_service.model.out_of_memory import is_out_of_memory


class Encoder(Protocol):
    """Mel frames of one chunk to encoder frames, state by slot."""

    @property
    def ring_chunks(self) -> int:
        """Chunks of the past that attention sees."""
        ...

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """fp32 [B, chunk_mels, mels] to fp32 [B, chunk_frames, d_model]."""
        ...

    def reset(self, slots: Tensor) -> None:
        """Forgets the past of slots."""
        ...

    def clear(self, slots: Tensor) -> None:
        """Overwrites whatever slots hold, also numbers that are not finite."""
        ...

    def state_bytes(self) -> int:
        """Bytes per slot."""
        ...


class Decoder(Protocol):
    """Encoder frames to tokens, state by slot."""

    def step(self, slots: Tensor, encoded: Tensor, frames: Sequence[int]) -> list[Emission]:
        """Decodes one chunk of each row."""
        ...

    def boost(self, slot: int, tree: BoostingTree | None) -> None:
        """What a slot listens for from its next step on, None for nothing."""
        ...

    def reset(self, slots: Tensor) -> None:
        """Forgets the past of slots."""
        ...

    def state_bytes(self) -> int:
        """Bytes per slot."""
        ...


_STAGES = ("features", "encoder", "decoder")
_BROKEN = StepResult((), (), (), 0, broken=True)


class NemoStreamingModel:
    """Implements `asr_service.core.model.StreamingModel` for the FastConformer Hybrid family.

    Row `slots` of every pool is a spare: rows that pad a batch to its bucket use it.
    """

    def __init__(
        self, info: ModelInfo, plan: ChunkPlan, features: FeatureExtractor, encoder: Encoder, decoder: Decoder,
        slots: int, device: torch.device, trees: TreeMaker,
    ) -> None:  # fmt: skip
        """Parts must have pools of slots + 1 rows; `trees` makes boosted phrases into what the decoder looks up."""
        self._info = info
        self._plan = plan
        self._features = features
        self._encoder = encoder
        self._decoder = decoder
        self._slots = slots
        self._device = device
        self._trees = trees
        self._positions = Positions(plan, slots + 1)
        self._frames_before = np.zeros(slots + 1, dtype=np.int64)
        self._spent = dict.fromkeys(_STAGES, 0.0)

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        return self._info

    @property
    def slots(self) -> int:
        """Rows of pooled state."""
        return self._slots

    def state_bytes(self) -> int:
        """Bytes of state a slot takes."""
        return self._features.state_bytes() + self._encoder.state_bytes() + self._decoder.state_bytes()

    def readings(self) -> Readings:
        """See `asr_service.core.model.Instrumented`."""
        used = total = 0
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            used = total - free
        return Readings(tuple(self._spent.items()), used, total)

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """See `StreamingModel.step`.

        Raises:
            OutOfMemory: the batch does not fit into memory.
        """
        try:
            return self._step(requests) if requests else []
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(f"no memory on {self._device} for a step of {len(requests)}")

    @torch.inference_mode()
    def _step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        fresh = [request for request in requests if request.is_first]
        if fresh:
            self._restart([request.slot for request in fresh])
            for request in fresh:
                self._decoder.boost(request.slot, self._trees.tree(request.boosts))
        batch, audio, ends = self._positions.gather(
            requests, self._bucket(len(requests)), self._device, self._encoder.ring_chunks
        )
        if not any(batch.frames):
            return [StepResult((), (), (), 0) for _ in requests]
        begun = time.perf_counter()
        mel = self._features.step(batch.slots, audio, ends)
        featured = time.perf_counter()
        encoded = self._encoder.step(batch, mel)
        finite = torch.isfinite(encoded).flatten(1).all(1)
        whole = finite.tolist()  # waits for the device, so that the times are true
        if not all(whole):
            self._encoder.clear(batch.slots[~finite])
            encoded = encoded.masked_fill(~finite[:, None, None], 0.0)  # the decoder's state stays finite
        coded = time.perf_counter()
        emissions = self._decoder.step(batch.slots, encoded, batch.frames)
        for stage, seconds in zip(
            _STAGES, (featured - begun, coded - featured, time.perf_counter() - coded), strict=True
        ):
            self._spent[stage] += seconds
        results = [self._result(*row) for row in zip(requests, emissions, batch.frames, strict=True)]
        return [result if fine else _BROKEN for result, fine in zip(results, whole, strict=False)]

    def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
        """Steps batches of growing sizes, every other row boosted, through the start, middle and end of a stream.

        On a GPU these are all sizes that live steps are padded to. On a CPU another size later costs a few
        milliseconds once, for the products to be laid out.
        """
        chunk = np.zeros(self._plan.chunk_samples, dtype=np.float32)
        first = chunk[: self._plan.first_chunk_samples]
        most = min(max_batch, self._slots)
        phrase = (PhraseBoost((self._info.pieces[-1].replace("\u2581", " "),)),)
        sizes = {most} | {1 << power for power in range(most.bit_length()) if 1 << power < most}
        for rows in sorted(sizes):
            progress(f"batch of {rows}")
            for samples, is_first, is_last in (
                (first, True, False),
                (chunk, False, False),
                (chunk[:1], False, True),
            ):
                self.step(
                    [
                        StepRequest(slot, samples, is_first, is_last, phrase * (slot % 2))
                        for slot in range(rows)
                    ]
                )

    def _restart(self, slots: list[int]) -> None:
        self._positions.restart(slots)
        self._frames_before[slots] = 0
        index = torch.tensor(slots, device=self._device)
        self._features.reset(index)
        self._encoder.reset(index)
        self._decoder.reset(index)

    def _bucket(self, size: int) -> int:
        """Rows a batch is padded to: the next power of two on a GPU; none on a CPU, where every row costs."""
        return size if self._device.type == "cpu" else 1 << (size - 1).bit_length()

    def _result(self, request: StepRequest, emission: Emission, frames: int) -> StepResult:
        before = int(self._frames_before[request.slot])
        self._frames_before[request.slot] = before + frames
        return StepResult(
            tuple(emission.tokens),
            tuple(before + frame for frame in emission.frames),
            tuple(emission.probs),
            frames,
        )
