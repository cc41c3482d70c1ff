from __future__ import annotations

from pathlib import Path

import pytest

from asr_service.core.gpus import sees_gpu


@pytest.mark.parametrize(
    ("names", "seen"),
    [
        ((), False),
        (("nvidiactl", "null", "nvidia-uvm"), False),
        (("nvidia0", "nvidiactl"), True),
        (("dxg",), True),
    ],
)
def test_a_gpu_is_a_device_of_the_driver(tmp_path: Path, names: tuple[str, ...], seen: bool) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert sees_gpu(tmp_path) is seen


def test_a_machine_without_devices_has_none(tmp_path: Path) -> None:
    assert not sees_gpu(tmp_path / "none")
