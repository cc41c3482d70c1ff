"""Compiles everything that uses tiles for a processor that has them, and prints what came out: JSON, for a test.

Nothing of it is run. Numba reads NUMBA_CPU_NAME and NUMBA_CPU_FEATURES when it is imported: hence a program.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.typing.typeof import typeof

from asr_service.model.cpu_encoder.isa import amx
from asr_service.model.cpu_encoder.isa.tiles import amx_tiles, start_tiles, stop_tiles
from asr_service.model.cpu_encoder.kernels import gemm_bf16_amx, gemm_fp32, gemm_fp32_amx
from asr_service.model.cpu_encoder.kernels.gemm import BlockScratch, Finish, Product


def _instructions(dispatcher: Any, arguments: tuple[Any, ...]) -> Counter[str]:
    """What the compiled function consists of, without its wrapper for Python."""
    dispatcher.compile(arguments)
    assembly = dispatcher.inspect_asm(dispatcher.signatures[-1])
    found = re.search(r"\.type\t(\S+),@function\n\1:(.*?)\n\.Lfunc_end0:", assembly, re.DOTALL)
    assert found is not None
    lines = (line.strip() for line in found.group(2).splitlines())
    return Counter(line.split()[0] for line in lines if line and not line.startswith("."))


def _block(kind: Any, inputs: Any, weights: Any, out: Any) -> Counter[str]:
    floats, table = np.zeros(1, np.float32), np.zeros((1, 1), np.float32)
    product = Product(1, 1, inputs, weights, 1, floats, Finish.ADD, out, table)
    scratch = BlockScratch(floats, np.zeros(1, np.uint8))
    signature = (typeof(amx_tiles()), typeof(product), types.int64, types.int64, typeof(scratch))
    return _instructions(kind.block, signature)


@njit
def _start_and_stop(tiles):  # type: ignore[no-untyped-def]
    start_tiles(tiles)
    stop_tiles(tiles)


def main() -> None:
    """Prints how often each instruction occurs in each function."""
    i64 = types.int64
    halves, floats = np.zeros(1, np.uint16), np.zeros(1, np.float32)
    tables, planes = np.zeros((1, 1), np.uint16), np.zeros((3, 1, 1), np.uint16)
    found = {
        "configure": _instructions(njit(lambda a: amx.configure(a)), (i64,)),
        "release": _instructions(njit(lambda: amx.release()), ()),
        "zero": _instructions(njit(lambda: amx.zero()), ()),
        "store": _instructions(njit(lambda a: amx.store(a)), (i64,)),
        "multiply_16": _instructions(njit(lambda a, s, w: amx.multiply_16(a, s, w)), (i64,) * 3),
        "multiply_32": _instructions(njit(lambda a, s, w: amx.multiply_32(a, s, w)), (i64,) * 3),
        "multiply_parts_16": _instructions(
            njit(lambda a, s, p, w: amx.multiply_parts_16(a, s, p, w)), (i64,) * 4
        ),
        "multiply_parts_32": _instructions(
            njit(lambda a, s, p, w: amx.multiply_parts_32(a, s, p, w)), (i64,) * 4
        ),
        "start and stop": _instructions(_start_and_stop, (typeof(amx_tiles()),)),
        "gemm_bf16_amx": _block(gemm_bf16_amx, tables, halves, tables),
        "gemm_fp32_amx": _block(gemm_fp32_amx, planes, floats, planes),
        "gemm_fp32": _block(gemm_fp32, np.zeros((1, 1), np.float32), floats, np.zeros((1, 1), np.float32)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
