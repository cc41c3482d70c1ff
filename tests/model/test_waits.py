"""Where a step waits for its device, by what torch is asked to do: the host may not want to know a tensor's content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from asr_service.core.step import ChunkFlags, StepBatch
from asr_service.model.streaming import NemoStreamingModel
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

# Two of the streams end with a step and begin anew with the next.
EDGES = {4: ChunkFlags.LAST, 5: ChunkFlags.FIRST}


class Noted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which operations are done."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

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
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> list[str]:
        return [name for name in self.names if name in WAITING]


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
def test_a_step_waits_once_a_round_of_the_decoder(
    streaming: Callable[..., NemoStreamingModel], decoder: str
) -> None:
    model = streaming("tiny", (70, 1), decoder=decoder, encoder="torch", slots=8)
    # Any that is no CPU, whose host looks at once whether all is finite. The arithmetic stays where it is.
    model._device = torch.device("meta")
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
        with Noted() as noted:
            model.submit(StepBatch(slots, rows, slots, counts, flags))
            assert noted.waits == [], "the host is free once a batch is submitted"
            begun = len(noted.names)
            answers = model.collect()
        rounds = 1 + (int(answers.counts.max()) if decoder == "rnnt" else 0)
        assert noted.waits == ["nonzero"] * rounds
        if not flags.any():
            assert begun <= MOST_OPERATIONS
            assert len(noted.names) - begun <= MOST_IN_A_ROUND * (rounds + 1)
    assert len(answers.tokens)
