"""Steps many streams through a NeMo model: features, encoder and decoder in one batched step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr_service.core.errors import first_line
from asr_service.core.model import DeviceLost, ModelInfo, OutOfMemory, Readings
from asr_service.core.step import ChunkFlags, Int32, StepAnswers, StepBatch, no_answers
from asr_service.core.values import PhraseBoost
from asr_service.model.batch import FixedInput, Positions, StepInput
from asr_service.model.batch_sizes import padded_size
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.decoders.boosting_tree import BoostingTree, TreeMaker
from asr_service.model.decoders.emissions import answers_of
from asr_service.model.devices import ask_device
from asr_service.model.features import FeatureExtractor
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.prompts import PromptProjection
from asr_service.model.recorded_steps import RecordedSteps
from asr_service.model.stage_times import StageTimes
from asr_service.model.step_parts import Decoder, DeviceDecoder, Encoder
from asr_service.model.threads import Team
from asr_service.model.torch_encoder.cuda_graphs import Recorder
from asr_service.recognition.vocabulary import SPACE_MARK

# Streams of a batch that has many rows for the encoder steps of CPUs, at any look-ahead.
_MANY_ON_CPU = 8
_Made = TypeVar("_Made")


def _fresh(chunks: StepBatch) -> Int32:
    """Returns the slots that a segment begins in."""
    fresh: Int32 = chunks.slots[(chunks.flags & ChunkFlags.FIRST) != 0]
    return fresh


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A step that is laid out and on its way to the device.

    Attributes:
        given: what the step takes.
        fresh: slots in which a segment begins.
    """

    given: StepInput | FixedInput
    fresh: list[int]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A step of fixed shapes of so many chunks that `RecordedSteps` has begun."""

    chunks: int


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A step that the decoder has still to do.

    Attributes:
        slots: of the batch, int64 [B].
        encoded: fp32 [B, chunk_frames, d_model]; 0 in rows that are not finite.
        finite: whether each row was finite, bool [B].
        real: frames to decode of each row, int64 [B]; none of a row that is not finite.
        frames: real frames of each chunk, int32 [N], on the host.
    """

    slots: Tensor
    encoded: Tensor
    finite: Tensor
    real: Tensor
    frames: Int32


class NemoStreamingModel:
    """Implements `asr_service.core.step.BatchStepper` for NeMo's cache-aware FastConformer models.

    What a step takes goes to the device in one copy, and what comes of it comes back in one, for which the host waits.
    Where steps are of fixed shapes it waits for nothing else, unless a row says more than usual. Elsewhere it asks
    after each round of the decoder whether there is another, and follows the tokens of boosted rows round by round.

    Row `slots` of every pool is a spare: rows that pad a batch to its bucket use it. In those after it, recordings are
    checked.

    Args:
        info: describes the model.
        plan: its geometry.
        features, encoder, decoder: the parts of a step, with pools of slots + `SPARE_ROWS` rows.
        slots: streams that can be open at the same time.
        device: where the parts run.
        trees: makes the trees by which the decoder boosts phrases.
        prompts: conditions the encoder's frames on a language, for models with language prompts.
        recorder: records steps of fixed shapes, by which the model then steps; None for steps as they come, which suit
            a CPU. It takes a `DeviceDecoder` and an encoder whose work can be recorded.
    """

    def __init__(
        self, info: ModelInfo, plan: ChunkPlan, features: FeatureExtractor, encoder: Encoder, decoder: Decoder,
        slots: int, device: torch.device, trees: TreeMaker, prompts: PromptProjection | None = None,
        recorder: Recorder | None = None,
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
        self._positions = Positions(plan, slots, encoder.ring_chunks, device)
        # What `open` said of slots, and what their segments have, which began before or after it.
        self._opened_prompts = np.full(self._positions.rows, -1, dtype=np.int64)
        self._opened_trees: dict[int, BoostingTree] = {}
        self._slot_prompts = self._opened_prompts.copy()
        self._boosted: set[int] = set()
        # Steps that are not collected, the oldest first: its encoder has begun, that of the next one begins once it is
        # decoded, so that its tokens do not wait for another step.
        self._pending: deque[_Prepared | _Encoded | _Begun | StepAnswers | Exception] = deque()
        self._most_submitted = 2 if device.type == "cuda" else 1
        self._recorded: RecordedSteps | None = None
        if recorder is not None:
            self.record_with(recorder)
        self._team = Team()
        self._times = StageTimes(device)

    def record_with(self, recorder: Recorder, table_rows: int | None = None) -> None:
        """Steps by recordings from now on; for a model that has not stepped yet. Arguments as of `RecordedSteps`."""
        self._recorded = RecordedSteps(
            self._positions, self._features, self._encoder, cast(DeviceDecoder, self._decoder), self._prompts,
            self._device, recorder, table_rows,
        )  # fmt: skip

    @property
    def info(self) -> ModelInfo:
        """The description of the model."""
        return self._info

    @property
    def slots(self) -> int:
        """Rows of pooled state."""
        return self._slots

    @property
    def most_submitted(self) -> int:
        """See `BatchStepper.most_submitted`: a CPU is busy with a step itself."""
        return self._most_submitted

    def state_bytes(self) -> int:
        """Returns the bytes of state of a slot."""
        return self._features.state_bytes() + self._encoder.state_bytes() + self._decoder.state_bytes()

    def readings(self) -> Readings:
        """See `asr_service.core.model.Instrumented`."""
        used = total = 0
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            used = total - free
        # A GPU's steps that are not recorded, NeMo's own, are launched kernel by kernel.
        recorded: tuple[int, ...] | None = None if self._device.type == "cpu" else ()
        if self._recorded is not None:
            recorded = self._recorded.recorded
        return Readings(tuple(self._times.seconds.items()), used, total, recorded)

    def open(self, slot: int, prompt: int = -1, boosts: Sequence[PhraseBoost] = ()) -> None:
        """See `BatchStepper.open`.

        Raises:
            ValueError: there is no such prompt.
        """
        if self._prompts and not 0 <= prompt < self._prompts.prompts:
            raise ValueError(f"slot {slot}: prompt {prompt}; there are {self._prompts.prompts}")
        self._opened_prompts[slot] = prompt
        tree = self._trees.tree(tuple(boosts))
        if tree is None:
            self._opened_trees.pop(slot, None)
        else:
            self._opened_trees[slot] = tree

    def submit(self, batch: StepBatch) -> None:
        """See `BatchStepper.submit`. A second batch is laid out beside the first one's step."""
        if len(self._pending) >= self._most_submitted:
            raise RuntimeError(f"{len(self._pending)} batches are submitted and not collected")
        prepared = self._run(len(batch), lambda: self._prepare(batch))
        if not self._pending and isinstance(prepared, _Prepared):
            self._pending.append(self._run(len(batch), lambda: self._encode(prepared)))
        else:
            self._pending.append(prepared)

    def collect(self) -> StepAnswers:
        """See `BatchStepper.collect`."""
        if not self._pending:
            raise RuntimeError("no batch is submitted")
        oldest = self._pending.popleft()
        try:
            if isinstance(oldest, Exception):
                raise oldest
            if isinstance(oldest, StepAnswers):
                return oldest
            if isinstance(oldest, _Begun):
                return self._run(oldest.chunks, self._finish)
            assert isinstance(oldest, _Encoded)
            return self._run(len(oldest.frames), lambda: self._decode(oldest))
        finally:
            if self._pending:
                self._pending[0] = self._begin(self._pending[0])

    def _begin(
        self, step: _Prepared | _Encoded | _Begun | StepAnswers | Exception
    ) -> _Prepared | _Encoded | _Begun | StepAnswers | Exception:
        """Begins the encoder of a step that is prepared; an error is kept for its `collect`."""
        if not isinstance(step, _Prepared):
            return step
        try:
            return self._run(len(step.given.frames), lambda: self._encode(step))
        except Exception as error:
            return error

    def _run(self, rows: int, work: Callable[[], _Made]) -> _Made:
        """Does a part of a step; an error is told apart by what can be done about it."""
        try:
            with self._team.apart(rows * self._plan.chunk_frames), torch.inference_mode():
                return work()
        except Exception as error:
            if not is_out_of_memory(error):
                self._check_device(error)
                raise
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(f"no memory on {self._device} for a step of {rows}")

    def _check_device(self, error: Exception) -> None:
        """Raises DeviceLost if the device does nothing more after an error, such as an access to no memory.

        OutOfMemory where it has none for the question: then the error was of that kind too, in a library's own words.
        """
        try:
            ask_device(self._device)
        except RuntimeError as lost:
            if is_out_of_memory(lost):
                raise OutOfMemory(f"no memory on {self._device} ({first_line(error)})") from error
            raise DeviceLost(f"{self._device} answers no more ({first_line(lost)})") from error

    def _prepare(self, chunks: StepBatch) -> _Prepared | StepAnswers:
        count = len(chunks)
        if not count:
            return no_answers(0)
        prompts = self._prompts_of(chunks) if self._prompts else None
        lay_out = self._positions.lay_out_fixed if self._recorded else self._positions.lay_out
        return _Prepared(lay_out(chunks, self._bucket(count), prompts), _fresh(chunks).tolist())

    def _encode(self, step: _Prepared) -> _Encoded | _Begun | StepAnswers:
        given = step.given
        if isinstance(given, FixedInput):
            return self._begin_fixed(given, step.fresh)
        # What a step that has failed has left.
        self._times.forget()
        if given.fresh is not None:
            for part in (self._features, self._encoder, self._decoder):
                part.reset(given.fresh)
            if self._opened_trees or self._boosted:
                self._boost(step.fresh)
        if not given.frames.any():
            return no_answers(len(given.frames))
        batch = given.batch
        self._times.begin()
        mel = self._features.step(batch.slots, given.audio, given.ends)
        self._times.end("features")
        with self._team.together():
            encoded = self._encoder.step(batch, mel)
        # One pass: a sum of normalised frames is finite if all of them are.
        finite = encoded.flatten(1).sum(1).isfinite()
        slots, real = batch.slots, batch.frames
        if self._most_submitted > 1 and self._device.type == "cpu":
            # They lie where the next batch is laid out.
            slots, real = slots.clone(), real.clone()
        # The decoder's state stays finite; that of the encoder is cleared once the host knows. A CPU's host knows now.
        if self._device.type != "cpu" or not finite.all():
            encoded, real = encoded.masked_fill(~finite[:, None, None], 0.0), real * finite
        if self._prompts:
            encoded = self._prompts.step(given.prompts, encoded)
        self._times.end("encoder")
        return _Encoded(slots, encoded, finite, real, given.frames)

    def _begin_fixed(self, given: FixedInput, fresh: list[int]) -> _Begun | StepAnswers:
        assert self._recorded is not None
        self._times.forget()
        if fresh and (self._opened_trees or self._boosted):
            self._boost(fresh)
        if not given.frames.any():
            # Segments that begin here end here too: what begins in their slots next finds them at the start.
            return no_answers(len(given.frames))
        self._times.begin()
        with self._team.together():
            self._recorded.begin(given)
        self._times.end("step")
        return _Begun(len(given.frames))

    def _finish(self) -> StepAnswers:
        assert self._recorded is not None
        answers, broken = self._recorded.finish()
        self._times.count()
        if broken is not None:
            self._encoder.clear(broken)
        return answers

    def _prompts_of(self, chunks: StepBatch) -> npt.NDArray[np.int64]:
        """Returns the index of each chunk's language prompt, int64 [N]. Raises ValueError if `open` did not say one."""
        fresh = _fresh(chunks)
        self._slot_prompts[fresh] = self._opened_prompts[fresh]
        prompts = self._slot_prompts[chunks.slots]
        if (prompts < 0).any():
            raise ValueError(f"slot {chunks.slots[prompts < 0][0]} has no language prompt")
        return prompts

    def _boost(self, fresh: list[int]) -> None:
        """Has the decoder boost what `open` said, in slots whose segments begin."""
        for slot in fresh:
            tree = self._opened_trees.get(slot)
            if tree is None and slot not in self._boosted:
                continue
            # Until the decoder has done it, what it boosts there is not known: the next segment sets it anew.
            self._boosted.add(slot)
            self._decoder.boost(slot, tree)
            if tree is None:
                self._boosted.discard(slot)

    def _decode(self, submitted: _Encoded) -> StepAnswers:
        count = len(submitted.frames)
        self._times.begin()
        slots = submitted.slots[:count]
        try:
            emissions = self._decoder.step(slots, submitted.encoded[:count], submitted.real[:count])
        except Exception:
            # All of its streams end; numbers that are not finite would spoil the next ones of their slots.
            self._encoder.clear(slots)
            raise
        self._times.end("decoder")
        answers = answers_of(emissions, submitted.finite, submitted.frames)
        self._times.count()
        if answers.broken.any():
            self._encoder.clear(submitted.slots[~submitted.finite])
        return answers

    def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
        """Steps batches of several sizes, every other row boosted, through the start, middle and end of a stream.

        On a GPU these are all the sizes that live steps are padded to, the largest first: the memory that it takes
        serves the others too, and if there is none for it, that is known at once. On a CPU they are two, of few rows
        and of many, which take all ways through the code; any other size costs a few milliseconds once, when it is
        first met, since the products are laid out for it.
        """
        plan = self._plan
        most = min(max_batch, self._slots)
        phrase = (PhraseBoost((self._info.pieces[-1].replace(SPACE_MARK, " "),)),)
        sizes = {min(self._bucket(rows), most) for rows in range(1, most + 1)}
        # No size is padded to another.
        if len(sizes) == most:
            sizes = {1, min(_MANY_ON_CPU, most)}
        silence = np.zeros((1, plan.chunk_samples), np.float32)
        for slot in range(most):
            self.open(slot, self._info.first_prompt, phrase * (slot % 2))
        for rows in sorted(sizes, reverse=True):
            progress(f"batch of {rows}")
            slots, none = np.arange(rows, dtype=np.int32), np.zeros(rows, np.int32)
            for samples, flags in (
                (plan.first_chunk_samples, ChunkFlags.FIRST),
                (plan.chunk_samples, 0),
                (1, ChunkFlags.LAST),
            ):
                counts = np.full(rows, samples, np.int32)
                self.submit(StepBatch(slots, silence, none, counts, np.full(rows, flags, np.uint8)))
                self.collect()
        self._opened_trees.clear()

    def _bucket(self, size: int) -> int:
        """Returns how many rows a batch is padded to: one of few sizes on a GPU; no more on a CPU, where each costs."""
        return padded_size(size) if self._recorded is not None or self._device.type != "cpu" else size
