"""Where a step waits for its device, by what torch is asked to do: the host may not want to know a tensor's content."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from asr_service.core.step import ChunkFlags, StepBatch
from asr_service.core.values import PhraseBoost
from asr_service.model.streaming import NemoStreamingModel
from asr_service.model.torch_encoder.cuda_graphs import EagerRecorder
from asr_service.recognition.vocabulary import SPACE_MARK
from testbed.models import babble

# Operations whose result's size, or whose next one, depends on what is in a tensor.
WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "is_nonzero",
    "equal",
    "repeat_interleave",
)
# Operations of a middle step of the tiny model, which has two layers: up to the decoder, and in each of its rounds.
MOST_OPERATIONS, MOST_IN_A_ROUND = 260, 70

# Of the same in recordings: up to the decoder, and in a few of its rounds, which serve all frames. A step is both.
MOST_IN_FRAMES, MOST_IN_ROUNDS = 235, {"rnnt": 260, "ctc": 80}
# What makes no kernel.
VIEWS = (
    "view", "_unsafe_view", "slice", "select", "unsqueeze", "squeeze", "expand", "permute", "transpose", "t", "detach",
    "alias", "split", "chunk", "unbind", "unfold", "_reshape_alias", "as_strided", "empty", "real", "imag",
    "view_as_real", "split_with_sizes", "lift_fresh",
)  # fmt: skip
Out = TypeVar("Out")

# Two of the streams end with a step and begin anew with the next.
EDGES = {4: ChunkFlags.LAST, 5: ChunkFlags.FIRST}


class Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which operations are done.

    Attributes:
        names: of the operations, in order.
        numbers_put: how often one number was put where a tensor says. One of Python is a tensor of the host, which
            goes to a GPU in a copy that is waited for, and that no recording can hold.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.numbers_put = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.names.append(func.overloadpacket.__name__.removesuffix("_numpy"))
        if func.overloadpacket.__name__ in ("index", "index_put_"):
            places = [one for one in args[1] if one is not None]
            # Such an index is turned into numbers, of which there are as many as it has ones.
            self.names += ["nonzero"] * any(one.dtype == torch.bool for one in places)
        if func.overloadpacket.__name__ == "index_put_" and not args[2].dim():
            self.numbers_put += 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> list[str]:
        return [name for name in self.names if name in WAITING]


class Replayed(EagerRecorder):
    """Replays work as one operation; notes what is in it when it is recorded."""

    def __init__(self) -> None:
        self.replays = 0
        self.works: list[list[str]] = []

    def record(self, work: Callable[[], Out]) -> Callable[[], Out]:
        with Noted() as noted:
            work()
        assert (noted.waits, noted.numbers_put) == ([], 0), "a recording cannot wait"
        self.works.append([name for name in noted.names if name not in VIEWS])

        def replay() -> Out:
            self.replays += 1
            with _disable_current_modes():
                return work()

        return replay


def batches(model: NemoStreamingModel) -> Iterator[StepBatch]:
    """Steps of eight streams, of which two end and begin anew."""
    info, slots = model.info, np.arange(8, dtype=np.int32)
    audio, size = babble(6.0, 3), info.chunk_samples
    for number in range(8):
        flags = np.full(8, ChunkFlags.FIRST if number == 0 else 0, np.uint8)
        if number in EDGES:
            flags[3:5] = EDGES[number]
        first = (flags & ChunkFlags.FIRST) != 0
        counts = np.where(first, info.first_chunk_samples, size).astype(np.int32)
        counts[(flags & ChunkFlags.LAST) != 0] = 700
        rows = np.stack([audio[p : p + size] for p in (1600 * slots + size * number)])
        rows[first, : size - info.first_chunk_samples] = 0.0
        rows[(flags & ChunkFlags.LAST) != 0, 700:] = 0.0
        yield StepBatch(slots, rows, slots, counts, flags)


@pytest.mark.parametrize("boosted", [False, True])
@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_a_recorded_step_is_one_replay_and_two_copies(
    streaming: Callable[..., NemoStreamingModel], decoder: str, boosted: bool
) -> None:
    """Boosted rows or not, edges of segments or none; one replay more for each few tokens that a row has beyond few."""
    model = streaming("tiny", (70, 1), decoder=decoder, encoder="torch", slots=8)
    recorder = Replayed()
    model.record_with(recorder)
    phrase = model.info.pieces[-1].replace(SPACE_MARK, " ").strip()
    for slot in range(0, 8, 2) if boosted else ():
        model.open(slot, boosts=(PhraseBoost((phrase,), 5.0),))
    tokens = 0
    for number, batch in enumerate(batches(model)):
        before = recorder.replays
        with Noted() as noted:
            model.submit(batch)
            answers = model.collect()
        replays = recorder.replays - before
        # Of two frames there are four rounds, of which the last says that there is nothing more.
        most = int(answers.counts.max()) if decoder == "rnnt" else 0
        # The first step is recorded, and what is recorded is tried.
        assert number == 0 or replays == 1 + most // 4
        if number and not (boosted and (batch.flags & ChunkFlags.FIRST).any()):
            assert noted.waits == []
            # To the device, to where the recording reads it, and back after each run of the decoder.
            done = [name for name in noted.names if name not in VIEWS]
            assert done == ["to", "copy_"] + ["copy_"] * replays
        tokens += int(answers.counts.sum())
    assert tokens
    step, rounds = map(len, recorder.works)
    assert rounds <= MOST_IN_ROUNDS[decoder] and step <= MOST_IN_FRAMES + MOST_IN_ROUNDS[decoder]


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_a_step_waits_once_a_round_of_the_decoder(
    streaming: Callable[..., NemoStreamingModel], decoder: str
) -> None:
    model = streaming("tiny", (70, 1), decoder=decoder, encoder="torch", slots=8)
    # Any that is no CPU, whose host looks at once whether all is finite. The arithmetic stays where it is.
    model._device = torch.device("meta")
    for batch in batches(model):
        with Noted() as noted:
            model.submit(batch)
            assert noted.waits == [], "the host is free once a batch is submitted"
            begun = len(noted.names)
            answers = model.collect()
        rounds = 1 + (int(answers.counts.max()) if decoder == "rnnt" else 0)
        assert noted.waits == ["nonzero"] * rounds
        if not batch.flags.any():
            assert begun <= MOST_OPERATIONS
            assert len(noted.names) - begun <= MOST_IN_A_ROUND * (rounds + 1)
    assert len(answers.tokens)
