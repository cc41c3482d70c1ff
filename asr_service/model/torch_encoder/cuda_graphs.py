"""The encoder step as recorded work: on a GPU, one launch for a few hundred.

A step of the torch encoder is some 1,500 kernel launches, which cost the host more than they cost a large GPU. CUDA
graphs record the launches once for each batch size and play them in one call; what is recorded reads and writes fixed
memory. So a step copies its inputs into static tensors, plays, and reads a static output. Batches come padded to few
sizes (`NemoStreamingModel._bucket`); each is recorded when it is first met, which warm-up does for all of them.

What decides and what copies is here and runs on any device; only `CudaRecorder` needs a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.torch_encoder.encoder import TorchEncoder

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Records work on fixed memory, to be played again."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Runs the work at least once.

        Returns:
            Does the work again and returns the tensor that it returned, the same one each time.

        Raises:
            RuntimeError: if the work cannot be recorded.
        """
        ...


class CudaRecorder:
    """CUDA graphs that share one pool of memory: one plays at a time, and its output is used up before the next."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Recorder.record`. Libraries choose their kernels in unrecorded runs on a stream of their own."""
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile; that is no reason to give up.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = work()

        def play() -> Tensor:
            graph.replay()
            return out

        return play


class EagerRecorder:
    """Records nothing: does the work again, into the same output. For devices without graphs, and for tests."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Recorder.record`."""
        out = work().clone()

        def play() -> Tensor:
            return out.copy_(work())

        return play


@dataclass(frozen=True, slots=True)
class _Recording:
    """Static inputs of one batch size, and what plays it."""

    batch: Batch
    mel: Tensor
    play: Callable[[], Tensor]


class RecordedEncoder:
    """A torch encoder whose steps are recorded by batch size. Its last slot is the spare one."""

    def __init__(
        self,
        inner: TorchEncoder,
        plan: ChunkPlan,
        mels: int,
        slots: int,
        device: torch.device,
        recorder: Recorder,
    ) -> None:
        """Records nothing yet."""
        self._inner = inner
        self._plan = plan
        self._mels = mels
        self._spare = slots - 1
        self._device = device
        self._recorder: Recorder | None = recorder
        self._recordings: dict[int, _Recording] = {}

    @property
    def ring_chunks(self) -> int:
        """Chunks of the past that attention sees."""
        return self._inner.ring_chunks

    @property
    def recorded(self) -> tuple[int, ...]:
        """Batch sizes recorded so far."""
        return tuple(sorted(self._recordings))

    def step(self, batch: Batch, mel: Tensor) -> Tensor:
        """As `TorchEncoder.step`; the result is valid until the next step."""
        recording = self._recording(len(batch.slots))
        if recording is None:
            return self._inner.step(batch, mel)
        static = recording.batch
        static.slots.copy_(batch.slots)
        static.steps.copy_(batch.steps)
        recording.mel.copy_(mel)
        assert static.masks is not None
        for layer, mask in enumerate(static.masks):
            # One recording serves all batches: where every frame is real, the masks say so.
            if batch.masks is None:
                mask.fill_(True)
            else:
                mask.copy_(batch.masks[layer])
        return recording.play()

    def _recording(self, size: int) -> _Recording | None:
        """The recording for batches of this size, made if it is not there; None if recording does not work.

        That there is no memory for it is raised as it came.
        """
        found = self._recordings.get(size)
        if found is not None or self._recorder is None:
            return found
        static = self._static(size)
        mel = torch.zeros(size, self._plan.chunk_mels, self._mels, device=self._device)
        try:
            play = self._recorder.record(lambda: self._inner.step(static, mel))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise  # for batches of this size; what is recorded of smaller ones stays
            _log.warning(
                "steps cannot be recorded on %s (%s): each is launched kernel by kernel, which is slower",
                self._device, str(error).strip().partition("\n")[0],
            )  # fmt: skip
            self._recorder = None
            self._recordings.clear()
            return None
        self._recordings[size] = found = _Recording(static, mel, play)
        # What recording wrote went to the spare slot; nothing of it should stay there.
        self._inner.clear(torch.tensor([self._spare], device=self._device))
        return found

    def _static(self, size: int) -> Batch:
        """A batch of spare rows in memory that stays. It counts as young, so that hidden keys are looked at always."""
        plan = self._plan
        return Batch(
            slots=torch.full((size,), self._spare, device=self._device),
            steps=torch.full((size,), self.ring_chunks, device=self._device),
            masks=[
                torch.ones(size, plan.chunk_mels >> layer, dtype=torch.bool, device=self._device)
                for layer in range(plan.sampling_layers + 1)
            ],
            frames=[plan.chunk_frames] * size,
            any_young=True,
        )

    def reset(self, slots: Tensor) -> None:
        """Forgets the past of the given slots, int64 [n]."""
        self._inner.reset(slots)

    def clear(self, slots: Tensor) -> None:
        """Overwrites everything the given slots hold."""
        self._inner.clear(slots)

    def state_bytes(self) -> int:
        """Bytes of state per slot."""
        return self._inner.state_bytes()
