"""Records encoder steps as CUDA graphs, which replay some 1,500 kernel launches in one call.

The launches of a step cost the host more time than they take on a large GPU. A graph records them once for a batch
size and replays them; it reads and writes fixed memory. So a step copies its inputs into static tensors, replays, and
reads a static output. Batches are padded to few sizes (`NemoStreamingModel._bucket`); each is recorded when it is first
met, which warm-up does for all of them.

Only `CudaRecorder` needs a GPU; all else here runs on any device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asr_service.core.errors import first_line
from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.torch_encoder.encoder import TorchEncoder

_log = logging.getLogger(__name__)

# How loud the frames are that a recording is checked with; log-mels are between about -17 and 5.
_MEL_NOISE = 4.0
# Between a recorded step and a launched one, for which a library may choose other kernels, in bf16.
_MOST_DIFFERENCE = 2e-2


class Recorder(Protocol):
    """Records work on fixed memory, so that it can be replayed."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Records the work, which it runs at least once.

        Returns:
            A function that replays the work and returns its output, in the same tensor each time.

        Raises:
            RuntimeError: the work cannot be recorded.
        """
        ...


class CudaRecorder:
    """Records CUDA graphs of one device that share one pool of memory.

    Graphs may share it since one is replayed at a time, and its output is read before the next.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # Of this device: torch's own stream for recordings belongs to the device that was current when it was made.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Recorder.record`."""
        with torch.cuda.device(self._device):
            current, side = torch.cuda.current_stream(self._device), self._stream
            # Libraries choose their kernels in the first runs, which are not recorded, on the stream that is recorded.
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(3):
                    work()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate meanwhile; that does not spoil the recording.
            with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                out = work()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


class EagerRecorder:
    """Records nothing, and does the work again into the same output. For devices without graphs, and for tests."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """See `Recorder.record`."""
        out = work().clone()

        def replay() -> Tensor:
            return out.copy_(work())

        return replay


@dataclass(frozen=True, slots=True)
class _Recording:
    """The static inputs of one batch size, and the function that replays its step."""

    batch: Batch
    mel: Tensor
    replay: Callable[[], Tensor]


class RecordedEncoder:
    """Replays the steps of a torch encoder, recorded by batch size.

    Args:
        inner: the encoder; nothing of it is recorded yet.
        plan: geometry of the model.
        mels: features of a mel frame.
        slots: rows of pooled state; the last one is the spare.
        device: of the encoder.
        recorder: records the steps.
    """

    def __init__(
        self,
        inner: TorchEncoder,
        plan: ChunkPlan,
        mels: int,
        slots: int,
        device: torch.device,
        recorder: Recorder,
    ) -> None:
        self._inner = inner
        self._plan = plan
        self._mels = mels
        self._spare = slots - 1
        self._device = device
        # None once recording has failed.
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
        """Encodes one chunk of each row, as `TorchEncoder.step` does; the result is valid until the next step."""
        recording = self._recording_of(len(batch.slots))
        if recording is None:
            return self._inner.step(batch, mel)
        static = recording.batch
        static.slots.copy_(batch.slots)
        static.steps.copy_(batch.steps)
        recording.mel.copy_(mel)
        assert static.masks is not None
        for layer, mask in enumerate(static.masks):
            # One recording serves all batches of its size, with masks also where every frame is real.
            if batch.masks is None:
                mask.fill_(True)
            else:
                mask.copy_(batch.masks[layer])
        return recording.replay()

    def _recording_of(self, size: int) -> _Recording | None:
        """Returns the recording for batches of this size, made if it is not there; None if recording does not work.

        That there is no memory for it is raised as it came.
        """
        found = self._recordings.get(size)
        if found is not None or self._recorder is None:
            return found
        static = self._static_batch(size)
        mel = torch.zeros(size, self._plan.chunk_mels, self._mels, device=self._device)
        try:
            replay = self._recorder.record(lambda: self._inner.step(static, mel))
            self._check(static, mel, replay)
        except RuntimeError as error:
            if is_out_of_memory(error):
                # There is none for batches of this size; the recordings of smaller ones stay.
                raise
            _log.warning(
                "steps cannot be recorded on %s (%s): each is launched kernel by kernel, which is slower",
                self._device, first_line(error),
            )  # fmt: skip
            self._recorder = None
            self._recordings.clear()
            return None
        self._recordings[size] = found = _Recording(static, mel, replay)
        # Recording has written to the spare slot; nothing of that should stay there.
        mel.zero_()
        self._inner.clear(torch.tensor([self._spare], device=self._device))
        return found

    def _check(self, static: Batch, mel: Tensor, replay: Callable[[], Tensor]) -> None:
        """Raises RuntimeError if a recorded step does not do what a launched one does, on frames like those of noise.

        All rows are the spare slot, and alike, so that it does not matter in which order they write.
        """
        spare = torch.tensor([self._spare], device=self._device)
        mel.copy_(_MEL_NOISE * torch.randn(mel.shape[1:], device=self._device))
        outputs = []
        for step in (self._inner.step, lambda batch, mel: replay()):
            self._inner.clear(spare)
            # The second sees the state that the first leaves.
            outputs.append([step(static, mel).clone() for _ in range(2)])
        for launched, recorded in zip(*outputs, strict=True):
            differs = (launched - recorded).norm() / launched.norm()
            # Written such that NaN does not pass.
            if not differs <= _MOST_DIFFERENCE:
                raise RuntimeError(
                    f"a recorded step differs from a launched one by {differs:.1e} of its norm"
                )

    def _static_batch(self, size: int) -> Batch:
        """Makes a batch of spare rows in static memory.

        It counts as young, so that the recorded work always looks for hidden keys.
        """
        plan = self._plan
        return Batch(
            slots=torch.full((size,), self._spare, device=self._device),
            steps=torch.full((size,), self.ring_chunks, device=self._device),
            masks=[
                torch.ones(size, plan.chunk_mels >> layer, dtype=torch.bool, device=self._device)
                for layer in range(plan.sampling_layers + 1)
            ],
            frames=torch.full((size,), plan.chunk_frames, device=self._device),
            any_young=True,
        )

    def reset(self, slots: Tensor) -> None:
        """Puts the given slots, int64 [n], at the start of a stream."""
        self._inner.reset(slots)

    def clear(self, slots: Tensor) -> None:
        """Overwrites all state of the given slots, int64 [n]."""
        self._inner.clear(slots)

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        return self._inner.state_bytes()
