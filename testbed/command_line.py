"""The command line of the programs that write a model's file: which shape, where to, from which seed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from testbed.shapes import SHAPES, Shape


def write_as_asked(description: str | None, write: Callable[[Shape, Path, int], object]) -> None:
    """Reads the command line and has the file written.

    Args:
        description: of the program.
        write: is given the shape, the path of the `.nemo` file and the seed.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "shape", choices=sorted(SHAPES), help="the model; `large` and `0.6b` have the sizes of NVIDIA's"
    )
    parser.add_argument("out", type=Path, help="the .nemo file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default 0)")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write(SHAPES[arguments.shape], arguments.out, arguments.seed)
