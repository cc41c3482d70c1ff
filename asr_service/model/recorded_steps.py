"""Runs whole steps of fixed shapes, recorded once for each size of batch and replayed: what a GPU serves with.

The launches of a step cost the host more time than they take on a large GPU. A recording does them in one call; it
reads and writes fixed memory. Of each size there are two: one is the step, from the samples that were uploaded to the
tokens of a few rounds of decoding, and the other decodes a few rounds more. It is replayed while a row may have more to
say, which comes back with the tokens. So a step is one copy to the device, one replay, and one copy back, and as much
as that again only for rows that say much at a time.

Rows whose boosted phrases have no room on the device are left to the decoder that the host drives.

All of this runs on any device. Where recording fails, the same work is launched kernel by kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from asr_service.core.errors import first_line
from asr_service.core.step import StepAnswers
from asr_service.model.batch import FixedInput, Positions
from asr_service.model.decoders.boosting_tables import BoostTables
from asr_service.model.decoders.emissions import answers_from
from asr_service.model.decoders.rounds import HEAD, Rounds, decoded, goes_on
from asr_service.model.features import FeatureExtractor
from asr_service.model.out_of_memory import is_out_of_memory
from asr_service.model.prompts import PromptProjection
from asr_service.model.step_parts import DeviceDecoder, Encoder
from asr_service.model.torch_encoder.cuda_graphs import EagerRecorder, Recorder

_log = logging.getLogger(__name__)

# How loud the samples are that a recording is checked with.
_NOISE = 0.1
# Between a recorded step and a launched one, for which a library may choose other kernels, in bf16.
_MOST_DIFFERENCE = 2e-2


@dataclass(frozen=True, slots=True)
class _Recording:
    """What is there for one size of batch.

    Attributes:
        memory: what is uploaded goes there.
        step: makes `encoded`, has `rounds` begin with it, and does the first few of them.
        more: does a few more.
        rounds: decodes.
        host, told: where `rounds.out` is copied to, pinned for a GPU, and the same as an array.
        uses: memory that the recordings read and write besides, which has to stay.
    """

    memory: Tensor
    step: Callable[[], tuple[Tensor, Tensor, Tensor]]
    more: Callable[[], object]
    rounds: Rounds
    host: Tensor
    told: npt.NDArray[np.int32]
    uses: Tensor


@dataclass(slots=True)
class _Step:
    """A step that was begun.

    Attributes:
        recording: that it runs in.
        given: what it was given.
        encoded: fp32 [B, chunk_frames, d_model].
        slots, real: int64 [B]: slots, and frames to decode; none of a row that is not finite.
        apart: rows that the host decodes.
        copied: of the copy back, for a GPU.
    """

    recording: _Recording
    given: FixedInput
    encoded: Tensor
    slots: Tensor
    real: Tensor
    apart: list[int]
    copied: Any = None


class RecordedSteps:
    """Runs the steps of a model, one at a time.

    Args:
        positions: lays out the batches, by rows.
        features, encoder, decoder, prompts: the parts of a step.
        device: where they run.
        recorder: records the steps.
        table_rows: of the tables of boosted phrases; as many as fit their memory unless told otherwise.
    """

    def __init__(
        self, positions: Positions, features: FeatureExtractor, encoder: Encoder, decoder: DeviceDecoder,
        prompts: PromptProjection | None, device: torch.device, recorder: Recorder, table_rows: int | None = None,
    ) -> None:  # fmt: skip
        self._positions = positions
        self._features, self._encoder, self._decoder = features, encoder, decoder
        self._prompts = prompts
        self._device = device
        self._recorder = recorder
        self._recordings: dict[int, _Recording] = {}
        self._is_recorded = True
        self._tables = BoostTables(positions.rows, decoder.blank, device, table_rows)
        decoder.use(self._tables)
        self._had_apart = False
        self._step: _Step | None = None
        # Slots of steps that have failed at their end.
        self._unfinished: list[npt.NDArray[np.int32]] = []

    @property
    def recorded(self) -> tuple[int, ...]:
        """Sizes of batches recorded so far; none once recording has failed."""
        return tuple(sorted(self._recordings)) if self._is_recorded else ()

    def begin(self, given: FixedInput) -> None:
        """Begins a step: what it was given is on the device, and phrases are set."""
        while self._unfinished:
            self._clear(torch.from_numpy(self._unfinished[-1].astype(np.int64)).to(self._device))
            self._unfinished.pop()
        one = self._recording_of(given.rows)
        apart = [row for row, slot in enumerate(given.slots.tolist()) if slot in self._decoder.host_boosted]
        if apart or self._had_apart:
            # Of all sizes: none may keep rows that were skipped before.
            for recording in self._recordings.values():
                recording.rounds.skipped.zero_()
            rows = torch.tensor(apart, dtype=torch.int64, device=self._device)
            one.rounds.skipped.index_fill_(0, rows, True)
            self._had_apart = bool(apart)
        one.memory.copy_(given.memory)
        if given.more_fresh is not None:
            self._reset(given.more_fresh)
        encoded, slots, real = one.step()
        self._step = _Step(one, given, encoded, slots, real, apart)
        self._download(self._step)

    def finish(self) -> tuple[StepAnswers, Tensor | None]:
        """Waits for the step that was begun; returns its answers, and the slots that were not finite, None for none.

        The slots of a step for whose end there is no memory are cleared before the next one.
        """
        step, self._step = self._step, None
        assert step is not None
        try:
            return self._finish(step)
        except Exception:
            # Whether their numbers were finite is not known, and what is not would spoil the next stream of the slot.
            self._unfinished.append(step.given.slots)
            raise

    def _finish(self, step: _Step) -> tuple[StepAnswers, Tensor | None]:
        count, outs = len(step.given.frames), [self._downloaded(step)]
        while goes_on(outs[-1], count):
            # The next run writes over it.
            outs[-1] = outs[-1].copy()
            step.recording.more()
            self._download(step)
            outs.append(self._downloaded(step))
        found = decoded(outs, count)
        rows, at, tokens, probs = found.rows, found.frames, found.tokens, found.probs
        if step.apart:
            apart = self._decode_apart(step)
            told: tuple[npt.NDArray[Any], ...] = (rows, at, tokens, probs)
            rows, at, tokens, probs = (np.concatenate(both) for both in zip(told, apart, strict=True))
        # Of a row without a frame nothing is told, whatever its samples were; its slot is cleared like others.
        told_finite = found.finite | (step.given.frames == 0)
        answers = answers_from(rows, at, tokens, probs, told_finite, step.given.frames)
        if found.finite.all():
            return answers, None
        return answers, torch.from_numpy(step.given.slots[~found.finite].astype(np.int64)).to(self._device)

    def _decode_apart(self, step: _Step) -> list[npt.NDArray[Any]]:
        """Decodes the rows whose phrases the host follows."""
        rows = torch.tensor(step.apart, device=self._device)
        emissions = self._decoder.step(step.slots[rows], step.encoded[rows], step.real[rows])
        found = (rows[emissions.rows], emissions.frames, emissions.tokens, emissions.probs)
        return [one.cpu().numpy() for one in found]

    def _download(self, step: _Step) -> None:
        step.recording.host.copy_(step.recording.rounds.out, non_blocking=True)
        if self._device.type == "cuda":
            step.copied = torch.cuda.current_stream(self._device).record_event()

    def _downloaded(self, step: _Step) -> npt.NDArray[np.int32]:
        if step.copied is not None:
            step.copied.synchronize()
        return step.recording.told

    def _reset(self, slots: Tensor) -> None:
        for part in (self._features, self._encoder, self._decoder):
            part.reset(slots)

    # ------------------------------------------------------------------------------------------------- recordings

    def _recording_of(self, rows: int) -> _Recording:
        """Returns the recording for batches of so many rows, made if it is not there.

        That there is no memory for it is raised as it came.
        """
        found = self._recordings.get(rows)
        if found is None:
            try:
                found = self._record(rows)
            except RuntimeError as error:
                if is_out_of_memory(error) or not self._is_recorded:
                    # There is none for batches of this size; the recordings of smaller ones stay.
                    raise
                _log.warning(
                    "steps cannot be recorded on %s (%s): each is launched kernel by kernel, which is slower",
                    self._device, first_line(error),
                )  # fmt: skip
                self._recorder, self._is_recorded = EagerRecorder(), False
                self._recordings.clear()
            # Outside the handler, since the error's traceback keeps alive what was made so far.
            found = self._recordings[rows] = found or self._record(rows)
        return found

    def _record(self, rows: int) -> _Recording:
        positions, device = self._positions, self._device
        memory = positions.static_memory(rows)
        rounds = self._decoder.rounds(self._tables, rows, positions.chunk_frames)

        def launch() -> tuple[Tensor, Tensor, Tensor]:
            made = self._make_frames(memory, rows, rounds)
            rounds.run()
            return made

        step = self._recorder.record(launch)
        more = self._recorder.record(rounds.run)
        host = torch.zeros(rounds.out.shape, dtype=torch.int32, pin_memory=device.type == "cuda")
        recording = _Recording(memory, step, more, rounds, host, host.numpy(), self._features.working_memory)
        if self._is_recorded:
            self._check(recording, launch)
        # Recording has written to the spare row; nothing of that should stay there.
        self._clear(torch.tensor([positions.spare], device=device))
        return recording

    def _clear(self, rows: Tensor) -> None:
        """Puts rows of the pools, int64 [n], at the start of a stream, with nothing of what they held."""
        self._encoder.clear(rows)
        self._reset(rows)

    def _make_frames(self, memory: Tensor, rows: int, rounds: Rounds) -> tuple[Tensor, Tensor, Tensor]:
        """Makes encoder frames of what lies in some memory; returns them, the slots, and the frames to decode."""
        given = self._positions.on_device(memory, rows)
        batch = given.batch
        assert given.fresh is not None
        self._reset(given.fresh)
        mel = self._features.step(batch.slots, given.audio, given.ends)
        encoded = self._encoder.step(batch, mel)
        # One pass: a sum of normalised frames is finite if all of them are.
        finite = encoded.flatten(1).sum(1).isfinite()
        # The decoder's state stays finite; that of the encoder is cleared once the host knows.
        encoded, real = encoded.masked_fill(~finite[:, None, None], 0.0), batch.frames * finite
        if self._prompts:
            encoded = self._prompts.step(given.prompts, encoded)
        rounds.begin(batch.slots, encoded, real, finite)
        return encoded, batch.slots, real

    def _check(self, one: _Recording, launch: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> None:
        """Raises RuntimeError if a recorded step does not do what a launched one does, on frames like those of noise.

        What is compared are rows that have a row of the pools each. Others share the spare one, and kernels that read
        and write the pools in place may do so for one of them after another.
        """
        positions, rows = self._positions, len(one.rounds.skipped)
        which, pooled = positions.fill_with_noise(one.memory, rows, _NOISE)
        found = []
        for step, more in ((launch, one.rounds.run), (one.step, one.more)):
            self._clear(pooled)
            # The second step sees the state that the first leaves.
            for _ in range(2):
                encoded = step()[0][which]
                first = one.rounds.out[:HEAD, which]
                more()
                found.append((encoded, (first, one.rounds.out[:HEAD, which])))
        half = len(found) // 2
        for (launched, said), (recorded, said_again) in zip(found[:half], found[half:], strict=True):
            differs = (launched - recorded).norm() / launched.norm()
            # Written such that NaN does not pass.
            if not differs <= _MOST_DIFFERENCE:
                raise RuntimeError(
                    f"a recorded step differs from a launched one by {differs:.1e} of its norm"
                )
            # Where libraries have chosen other kernels, a row may say a token more or less.
            if launched.equal(recorded) and not all(map(torch.equal, said, said_again)):
                raise RuntimeError("a recorded step goes on decoding where a launched one does not")
        self._clear(pooled)
        positions.fill_static(one.memory, rows)
