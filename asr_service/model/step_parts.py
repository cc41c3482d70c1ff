"""What `NemoStreamingModel` asks of the parts that a step goes through."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

from torch import Tensor

from asr_service.model.batch import Batch
from asr_service.model.decoders.boosting_tables import BoostTables
from asr_service.model.decoders.boosting_tree import BoostingTree
from asr_service.model.decoders.emissions import Emissions
from asr_service.model.decoders.rounds import Rounds


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

    def step(self, slots: Tensor, encoded: Tensor, frames: Tensor) -> Emissions:
        """Decodes one chunk of each row.

        Args:
            slots: int64 [B].
            encoded: fp32 [B, chunk_frames, d_model].
            frames: real frames of each row, int64 [B]; the others are not decoded.
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


class DeviceDecoder(Decoder, Protocol):
    """A `Decoder` that can also work by operations of fixed shapes, without the host."""

    blank: int

    @property
    def host_boosted(self) -> Set[int]:
        """The slots that `step` alone boosts."""
        ...

    def use(self, tables: BoostTables) -> None:
        """Has the slots whose trees there is room for in tables be boosted by `rounds` alone."""
        ...

    def rounds(self, tables: BoostTables, rows: int, frames: int) -> Rounds:
        """Makes a decoder of fixed shapes for batches of so many rows."""
        ...
