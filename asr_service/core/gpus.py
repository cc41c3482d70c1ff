"""Says whether this machine seems to have a GPU, without the libraries that would know."""

from __future__ import annotations

from pathlib import Path


def sees_gpu(devices: Path = Path("/dev")) -> bool:
    """Returns whether NVIDIA's driver shows this process a GPU, which need not work.

    Args:
        devices: the folder of the machine's devices.
    """
    # The latter is that of Linux within Windows.
    return any(devices.glob("nvidia[0-9]*")) or (devices / "dxg").exists()
