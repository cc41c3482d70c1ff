"""The tile units that tests of the CPU's encoder run on: the processor's where there is one, and the emulated one."""

from __future__ import annotations

import pytest

from asr_service.model.cpu_encoder.isa.tiles import EmulatedTiles, NoTiles, find_tiles
from tests.support.instruction_sets import NO_TILES

TILES = [
    pytest.param(
        find_tiles(),
        id="processor's tiles",
        marks=pytest.mark.skipif(isinstance(find_tiles(), NoTiles), reason=NO_TILES),
    ),
    pytest.param(EmulatedTiles(0), id="emulated tiles"),
]
