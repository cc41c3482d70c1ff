"""Says which sizes batches are padded to where steps are recorded: few of them, each near to any that may come."""

from __future__ import annotations

_DOUBLED_TO = 128


def padded_size(rows: int) -> int:
    """Returns how many rows a batch is padded to: a power of two up to 128, then a multiple of 128."""
    if rows <= _DOUBLED_TO:
        return 1 << (rows - 1).bit_length()
    return -(-rows // _DOUBLED_TO) * _DOUBLED_TO


def padded_sizes(most: int) -> list[int]:
    """Returns the sizes that batches of 1 to so many rows are padded to, ascending."""
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(padded_size(sizes[-1] + 1))
    return sizes
