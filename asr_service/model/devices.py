"""Chooses the device that a model runs on, by the rules of `ASR_DEVICE`, and lists the devices there are.

`python -m asr_service.model.devices [DEVICE ...]` prints a survey for each as JSON, one a line, for programs that do
not import torch.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, dataclass

import torch

from asr_service.core.errors import SettingsError
from asr_service.model.threads import step_threads

_log = logging.getLogger(__name__)


def choose_device(device: str | None) -> torch.device:
    """Chooses the device that a setting names; without one the first GPU if there is one, else the CPU.

    Raises:
        SettingsError: the device is set and not there.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        _log.warning("no GPU found: the model runs on the CPU (set ASR_DEVICE=cpu to say that this is meant)")
        return torch.device("cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise SettingsError(f"ASR_DEVICE is {device!r}: write cpu or cuda:N", field="ASR_DEVICE") from None
    if wanted.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (wanted.index or 0) >= count:
            raise SettingsError(
                f"ASR_DEVICE is {device!r}, but this machine has {count or 'no'} usable GPU{'s' * (count != 1)}: "
                "check the driver, or set ASR_DEVICE=cpu",
                field="ASR_DEVICE",
            )
        # Always with its number: without one it would mean whichever is current.
        return torch.device("cuda", wanted.index or 0)
    if wanted.type != "cpu":
        raise SettingsError(f"ASR_DEVICE is {device!r}: write cpu or cuda:N", field="ASR_DEVICE")
    return wanted


def ask_device(device: torch.device) -> None:
    """Has a device add two numbers, and waits for them.

    Raises:
        RuntimeError: it does not: an error that a GPU has once met in a process may come back from every call.
    """
    if int(torch.ones((), dtype=torch.int64, device=device) + 1) != 2:
        raise RuntimeError("one and one are not two")


def cpu_has_bf16() -> bool:
    """Returns whether torch has bf16 kernels for this CPU."""
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True, slots=True)
class Survey:
    """The devices that torch finds on this machine, and the one that a setting names.

    Attributes:
        threads: CPU threads of a step unless they are set.
        cuda: version of CUDA that torch was built for, "" for none.
        gpus: name and memory of each GPU that can be used.
        cpu_has_bf16: whether torch has bf16 kernels for this CPU.
        device: the one that `choose_device` chooses; "" if it refuses the setting.
        problem: why it refuses the setting.
    """

    threads: int
    cuda: str
    gpus: tuple[str, ...]
    cpu_has_bf16: bool
    device: str
    problem: str


def survey(device: str | None) -> Survey:
    """Surveys the devices of this machine; `device` is the setting's value, None if it is not set."""
    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(
            f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        )
    chosen = problem = ""
    try:
        chosen = str(choose_device(device))
    except SettingsError as error:
        problem = error.message
    return Survey(step_threads(), torch.version.cuda or "", tuple(gpus), cpu_has_bf16(), chosen, problem)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or (None,):
        sys.stdout.write(json.dumps(asdict(survey(wanted))) + "\n")
