"""Steps many streams through a NeMo model: features, encoder and decoder in one batched step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asr_service.core.errors import first_line
from asr_service.core.model import DeviceLost, ModelInfo, OutOfMemory, Readings, StepRequest, StepResult
from asr_service.core.values import PhraseBoost
from asr_service.model.batch import Batch, Positions
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.decoders.boosting_tree import BoostingTree, TreeMaker
from asr_service.model.decoders.rnnt import Emission
from asr_service.model.devices import ask_device
from asr_service.model.features import FeatureExtractor
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.prompts import PromptProjection
from asr_service.model.threads import Team
from asr_service.recognition.vocabulary import SPACE_MARK


class Encoder(Protocol):
    """Makes encoder frames of mel frames, a chunk at a time; keeps the state of each slot."""

    @property
    def ring_chunks(self) -> int:
        """Chunks of the past that attention sees."""
        ...

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """Encodes one chunk of each row.

        Args:
            batch: the step's batch.
            mel: fp32 [B, chunk_mels, mels].

        Returns:
            fp32 [B, chunk_frames, d_model]; frames that are not real hold anything finite.
        """
        ...

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], at the start of a stream."""
        ...

    def clear(self, slots: Tensor) -> None:
        """Overwrites all state of the given slots, int64 [n], also numbers that are not finite."""
        ...

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        ...


class Decoder(Protocol):
    """Makes tokens of encoder frames, a chunk at a time; keeps the state of each slot."""

    def step(self, slots: Tensor, encoded: Tensor, frames: Sequence[int]) -> list[Emission]:
        """Decodes one chunk of each row.

        Args:
            slots: int64 [B].
            encoded: fp32 [B, chunk_frames, d_model].
            frames: real frames of each row; rows beyond these are padding.

        Returns:
            One emission per entry of `frames`.
        """
        ...

    def boost(self, slot: int, tree: BoostingTree | None) -> None:
        """Sets the tree of the phrases that are boosted in a slot from its next step on; None for none."""
        ...

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], at the start of a stream."""
        ...

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        ...


_STAGES = ("features", "encoder", "decoder")
# Streams of a batch that has many rows for the encoder steps of CPUs, at any look-ahead.
_MANY_ON_CPU = 8
_BROKEN = StepResult((), (), (), 0, broken=True)


class NemoStreamingModel:
    """Implements `asr_service.core.model.StreamingModel` for NeMo's cache-aware FastConformer models.

    Row `slots` of every pool is a spare: rows that pad a batch to its bucket use it.

    Args:
        info: describes the model.
        plan: its geometry.
        features, encoder, decoder: the parts of a step, with pools of slots + 1 rows.
        slots: streams that can be open at the same time.
        device: where the parts run.
        trees: makes the trees by which the decoder boosts phrases.
        prompts: conditions the encoder's frames on a language, for models with language prompts.
    """

    def __init__(
        self, info: ModelInfo, plan: ChunkPlan, features: FeatureExtractor, encoder: Encoder, decoder: Decoder,
        slots: int, device: torch.device, trees: TreeMaker, prompts: PromptProjection | None = None,
    ) -> None:  # fmt: skip
        self._info = info
        self._plan = plan
        self._features = features
        self._encoder = encoder
        self._decoder = decoder
        self._slots = slots
        self._device = device
        self._trees = trees
        self._prompts = prompts
        self._positions = Positions(plan, slots + 1)
        self._frames_before = np.zeros(slots + 1, dtype=np.int64)
        self._team = Team()
        self._stage_seconds = dict.fromkeys(_STAGES, 0.0)

    @property
    def info(self) -> ModelInfo:
        """The description of the model."""
        return self._info

    @property
    def slots(self) -> int:
        """Rows of pooled state."""
        return self._slots

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        own = self._features.state_bytes() + self._encoder.state_bytes() + self._decoder.state_bytes()
        return own + (self._prompts.state_bytes() if self._prompts else 0)

    def readings(self) -> Readings:
        """See `asr_service.core.model.Instrumented`."""
        used = total = 0
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            used = total - free
        return Readings(tuple(self._stage_seconds.items()), used, total)

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        """See `StreamingModel.step`.

        Raises:
            OutOfMemory: the batch does not fit into memory.
            DeviceLost: the device answers no more.
        """
        try:
            with self._team.apart(len(requests) * self._plan.chunk_frames):
                return self._step(requests) if requests else []
        except Exception as error:
            if not is_out_of_memory(error):
                self._check_device(error)
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(f"no memory on {self._device} for a step of {len(requests)}")

    def _check_device(self, error: Exception) -> None:
        """Raises DeviceLost if the device does nothing more after an error, such as an access to no memory."""
        try:
            ask_device(self._device)
        except RuntimeError as lost:
            raise DeviceLost(f"{self._device} answers no more ({first_line(lost)})") from error

    @torch.inference_mode()
    def _step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        fresh = [request for request in requests if request.is_first]
        if fresh:
            self._restart([request.slot for request in fresh])
            for request in fresh:
                self._decoder.boost(request.slot, self._trees.tree(request.boosts))
            if self._prompts:
                self._prompts.set([request.slot for request in fresh], [request.prompt for request in fresh])
        batch, audio, ends = self._positions.lay_out(
            requests, self._bucket(len(requests)), self._device, self._encoder.ring_chunks
        )
        if not any(batch.frames):
            return [StepResult((), (), (), 0) for _ in requests]
        times = [time.perf_counter()]
        mel = self._features.step(batch.slots, audio, ends)
        times.append(time.perf_counter())
        with self._team.together():
            encoded = self._encoder.step(batch, mel)
        finite = torch.isfinite(encoded).flatten(1).all(1)
        # Waits for the device, so that the encoder's time is that of its work, not of its launch.
        finite_rows = finite.tolist()
        if not all(finite_rows):
            self._encoder.clear(batch.slots[~finite])
            # The decoder's state stays finite.
            encoded = encoded.masked_fill(~finite[:, None, None], 0.0)
        if self._prompts:
            encoded = self._prompts.step(batch.slots, encoded)
        times.append(time.perf_counter())
        emissions = self._decoder.step(batch.slots, encoded, batch.frames)
        times.append(time.perf_counter())
        for stage, (start, end) in zip(_STAGES, pairwise(times), strict=True):
            self._stage_seconds[stage] += end - start
        results = [self._result(*row) for row in zip(requests, emissions, batch.frames, strict=True)]
        # There may be more rows than requests: the others pad the batch.
        return [
            result if is_finite else _BROKEN for result, is_finite in zip(results, finite_rows, strict=False)
        ]

    def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
        """Steps batches of growing sizes, every other row boosted, through the start, middle and end of a stream.

        On a GPU these are all the sizes that live steps are padded to. On a CPU they are two, of few rows and of many,
        which take all ways through the code; any other size costs a few milliseconds once, when it is first met, since
        the products are laid out for it.
        """
        chunk = np.zeros(self._plan.chunk_samples, dtype=np.float32)
        first = chunk[: self._plan.first_chunk_samples]
        most = min(max_batch, self._slots)
        prompt = self._info.first_prompt
        phrase = (PhraseBoost((self._info.pieces[-1].replace(SPACE_MARK, " "),)),)
        sizes = {min(self._bucket(rows), most) for rows in range(1, most + 1)}
        # No size is padded to another.
        if len(sizes) == most:
            sizes = {1, min(_MANY_ON_CPU, most)}
        for rows in sorted(sizes):
            progress(f"batch of {rows}")
            for samples, is_first, is_last in (
                (first, True, False),
                (chunk, False, False),
                (chunk[:1], False, True),
            ):
                self.step(
                    [
                        StepRequest(slot, samples, is_first, is_last, phrase * (slot % 2), prompt)
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
        """Returns how many rows a batch is padded to: a power of two on a GPU; no more on a CPU, where each costs."""
        return size if self._device.type == "cpu" else 1 << (size - 1).bit_length()

    def _result(self, request: StepRequest, emission: Emission, frames: int) -> StepResult:
        """Makes a row's result; its frames count from the segment's start."""
        before = int(self._frames_before[request.slot])
        self._frames_before[request.slot] = before + frames
        return StepResult(
            tuple(emission.tokens),
            tuple(before + frame for frame in emission.frames),
            tuple(emission.probs),
            frames,
        )
