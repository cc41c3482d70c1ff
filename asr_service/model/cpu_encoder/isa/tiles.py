"""What a product asks of a tile unit, whichever unit that is: the processor's, or loops in its place.

A unit multiplies 16 rows of 32 bfloat16 numbers by 32 x 16 of them and adds the products to 16 x 16 float32 sums. Here
two such tiles stand side by side: up to 32 rows and `COLUMNS` columns are summed at a time. `sums` is the address of
the float32 [32, 32] where the sums lie after `store_sums`; before that it is the unit's own.

Compiled code is made for the type of the unit it is given: `AmxTiles` becomes the instructions of `amx.py`,
`EmulatedTiles` the loops of `emulated_tiles.py`, which do the same on every machine, slowly: they are how the products
on tiles are tested without a tile unit. Addresses, strides and planes are int64, in bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from asr_service.model.cpu_encoder.compiling import Array, Int
from asr_service.model.cpu_encoder.isa import amx, emulated_tiles
from asr_service.model.cpu_encoder.isa.amx import ROWS, TILE
from asr_service.model.cpu_encoder.machine_code import target
from asr_service.model.cpu_encoder.processors import has_tiles


class AmxTiles(NamedTuple):
    """The processor's tile unit.

    Attributes:
        configuration: address of the 64 bytes that set it up.
    """

    configuration: Int


class EmulatedTiles(NamedTuple):
    """Loops that do what a tile unit does.

    Attributes:
        configuration: not used.
    """

    configuration: Int


class NoTiles(NamedTuple):
    """No tile unit: products on tiles cannot be compiled for it.

    Attributes:
        configuration: not used.
    """

    configuration: Int


TileUnit = AmxTiles | EmulatedTiles | NoTiles

# Threads read it as long as the process lives.
_CONFIGURATION: Array = amx.tile_configuration()


def find_tiles() -> AmxTiles | NoTiles:
    """The tile unit that this process may use, and whose instructions its code may have."""
    return amx_tiles() if target().may_have_tiles and has_tiles() else NoTiles(0)


def amx_tiles() -> AmxTiles:
    """The processor's tile unit, which must be there."""
    return AmxTiles(int(_CONFIGURATION.ctypes.data))


def _refuse(*arguments: Any) -> Any:
    raise AssertionError("only compiled code calls this")


def start_tiles(tiles: TileUnit) -> None:
    """Sets up the calling thread's tile registers."""
    _refuse(tiles)


@overload(start_tiles, inline="always")
def _start_tiles(tiles):  # type: ignore[no-untyped-def]
    if tiles.instance_class is AmxTiles:
        return lambda tiles: amx.configure(np.int64(tiles.configuration))
    return lambda tiles: None


def stop_tiles(tiles: TileUnit) -> None:
    """Gives the tile registers back, so that the thread's state is small again when it is switched."""
    _refuse(tiles)


@overload(stop_tiles, inline="always")
def _stop_tiles(tiles):  # type: ignore[no-untyped-def]
    if tiles.instance_class is AmxTiles:
        return lambda tiles: amx.release()
    return lambda tiles: None


def zero_sums(tiles: TileUnit, sums: Int) -> None:
    """The sums = 0."""
    _refuse(tiles, sums)


@overload(zero_sums, inline="always")
def _zero_sums(tiles, sums):  # type: ignore[no-untyped-def]
    if tiles.instance_class is AmxTiles:
        return lambda tiles, sums: amx.zero()
    return lambda tiles, sums: emulated_tiles.zero(sums)


def multiply_16(tiles: TileUnit, sums: Int, rows: Int, stride: Int, weights: Int) -> None:
    """The sums of the first 16 rows += 16 rows x 32 inputs times 32 inputs x 32 columns.

    Args:
        tiles: the unit.
        sums: address of the sums.
        rows: address of bfloat16 [16, at least 32], rows `stride` bytes apart.
        stride: bytes.
        weights: address of bfloat16 [2, 16, 16, 2]: half of the columns, pair of inputs, column, input of the pair.
    """
    _refuse(tiles, sums, rows, stride, weights)


@overload(multiply_16, inline="always")
def _multiply_16(tiles, sums, rows, stride, weights):  # type: ignore[no-untyped-def]
    if tiles.instance_class is AmxTiles:
        return lambda tiles, sums, rows, stride, weights: amx.multiply_16(rows, stride, weights)
    return lambda tiles, sums, rows, stride, weights: emulated_tiles.multiply(
        sums, TILE, rows, stride, weights
    )


def multiply_32(tiles: TileUnit, sums: Int, rows: Int, stride: Int, weights: Int) -> None:
    """As `multiply_16`, for all 32 rows."""
    _refuse(tiles, sums, rows, stride, weights)


@overload(multiply_32, inline="always")
def _multiply_32(tiles, sums, rows, stride, weights):  # type: ignore[no-untyped-def]
    if tiles.instance_class is AmxTiles:
        return lambda tiles, sums, rows, stride, weights: amx.multiply_32(rows, stride, weights)
    return lambda tiles, sums, rows, stride, weights: emulated_tiles.multiply(
        sums, ROWS, rows, stride, weights
    )


def multiply_parts_16(tiles: TileUnit, sums: Int, rows: Int, stride: Int, plane: Int, weights: Int) -> None:
    """As `multiply_16`, of numbers in three parts: the six products of parts that a float32 sum can tell.

    Part p of the rows lies at rows + p x plane, of the weights at weights + p x 2 x TILE_BYTES.
    """
    _refuse(tiles, sums, rows, stride, plane, weights)


@overload(multiply_parts_16, inline="always")
def _multiply_parts_16(tiles, sums, rows, stride, plane, weights):  # type: ignore[no-untyped-def]
    if tiles.instance_class is AmxTiles:
        return lambda tiles, sums, rows, stride, plane, weights: amx.multiply_parts_16(
            rows, stride, plane, weights
        )
    return lambda tiles, sums, rows, stride, plane, weights: emulated_tiles.multiply_parts(
        sums, TILE, rows, stride, plane, weights
    )


def multiply_parts_32(tiles: TileUnit, sums: Int, rows: Int, stride: Int, plane: Int, weights: Int) -> None:
    """As `multiply_parts_16`, for all 32 rows."""
    _refuse(tiles, sums, rows, stride, plane, weights)


@overload(multiply_parts_32, inline="always")
def _multiply_parts_32(tiles, sums, rows, stride, plane, weights):  # type: ignore[no-untyped-def]
    if tiles.instance_class is AmxTiles:
        return lambda tiles, sums, rows, stride, plane, weights: amx.multiply_parts_32(
            rows, stride, plane, weights
        )
    return lambda tiles, sums, rows, stride, plane, weights: emulated_tiles.multiply_parts(
        sums, ROWS, rows, stride, plane, weights
    )


def store_sums(tiles: TileUnit, sums: Int) -> None:
    """Writes the sums, float32 [32, 32], to their address."""
    _refuse(tiles, sums)


@overload(store_sums, inline="always")
def _store_sums(tiles, sums):  # type: ignore[no-untyped-def]
    if tiles.instance_class is AmxTiles:
        return lambda tiles, sums: amx.store(sums)
    return lambda tiles, sums: None
