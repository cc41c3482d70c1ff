"""Says which engines and how many front ends the settings mean on a machine. Pure: what the machine is, is an argument.

There is an engine for each model with each of its look-aheads on each device, in this order, and several of it where
the device is a CPU and the settings say so. The order is that of the defaults: a stream that asks for nothing gets what
the first engine serves.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise, product
from typing import TypeVar

from asr_service.config import Settings
from asr_service.core.cpus import Cpus, usable_cores, usable_cpus
from asr_service.core.gpus import sees_gpu
from asr_service.core.model_settings import ModelSettings

MOST_FRONT_ENDS = 8
"""Most front ends unless they are set: so many links are what engines have been measured with (decision 10), and each
takes the memory of a process. Who has streams for more of them sets it."""
_GPU_CORES = 1
"""Cores that an engine on a GPU works on: its loop, which prepares steps and waits for them."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine gives to the service.

    Attributes:
        cores: numbers of the CPUs that may be used, those of a core together; empty where no process can be bound to
            them.
        cpus: how many there are, and the quota.
        sees_gpu: whether there seems to be a GPU.
        shares_port: whether several processes can share the gRPC port.
    """

    cores: tuple[tuple[int, ...], ...]
    cpus: Cpus
    sees_gpu: bool
    shares_port: bool


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """One engine.

    Attributes:
        name: for the log.
        model: says how it makes its model. `threads` is None for as many as the engine finds suitable for the CPUs that
            it runs on.
        cpus: numbers of the CPUs that its process is to be bound to before torch is imported; None for all.
    """

    name: str
    model: ModelSettings
    cpus: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Deployment:
    """The processes that the service consists of.

    Attributes:
        engines: in the order in which they are the defaults.
        front_ends: how many there are.
        notes: sentences for the log, about settings that are not as they were meant.
    """

    engines: tuple[EnginePlan, ...]
    front_ends: int
    notes: tuple[str, ...]


def this_machine() -> Machine:
    """Returns what this machine gives to this process."""
    return Machine(usable_cores(), usable_cpus(), sees_gpu(), shares_port=sys.platform == "linux")


def plan_deployment(settings: Settings, machine: Machine) -> Deployment:
    """Makes the plan of a service."""
    models = _with_sharers(_models(settings, machine), machine)
    on_cpu = [index for index, model in enumerate(models) if _is_on_cpu(model, machine)]
    bound: dict[int, tuple[int, ...]] = {}
    if len(on_cpu) > 1:
        for index, (cpus, threads) in zip(on_cpu, _shares(machine, len(on_cpu)), strict=True):
            models[index] = replace(models[index], threads=settings.threads or threads)
            if cpus:
                bound[index] = cpus
    names = [f"engine {index}" for index in range(len(models))]
    if len(models) > 1:
        names = [f"{name} ({_told(model)})" for name, model in zip(names, models, strict=True)]
    notes = []
    if settings.engines > 1 and not on_cpu:
        notes.append(
            f"ASR_ENGINES={settings.engines} is of CPUs, and no engine runs on one: for several engines on a GPU, name "
            "it several times in ASR_DEVICE"
        )
    front_ends = settings.front_ends or _front_ends(models, machine)
    if front_ends > 1 and not machine.shares_port:
        if settings.front_ends:
            notes.append(
                f"ASR_FRONT_ENDS={front_ends}: processes can share a port on Linux only; there is one"
            )
        front_ends = 1
    engines = [
        EnginePlan(name, model, bound.get(index))
        for index, (name, model) in enumerate(zip(names, models, strict=True))
    ]
    return Deployment(tuple(engines), front_ends, tuple(notes))


def _models(settings: Settings, machine: Machine) -> list[ModelSettings]:
    """Returns the settings of every engine's model, in order."""
    models = []
    for name, context, device in product(
        settings.models, settings.att_contexts or (None,), settings.devices or (None,)
    ):
        model = replace(settings.model_settings, name=name, att_context=context, device=device)
        models += [model] * (settings.engines if _is_on_cpu(model, machine) else 1)
    return models


def _with_sharers(models: Sequence[ModelSettings], machine: Machine) -> list[ModelSettings]:
    """Tells each engine how many share its memory: that of the host, or of one GPU."""
    memories = ["cpu" if _is_on_cpu(model, machine) else _gpu(model.device) for model in models]
    sharers = Counter(memories)
    return [replace(model, sharers=sharers[memory]) for model, memory in zip(models, memories, strict=True)]


def _gpu(device: str | None) -> str:
    """Spells the name of a GPU as others do that mean the same one."""
    return f"cuda:{int((device or '').partition(':')[2] or 0)}"


def _is_on_cpu(model: ModelSettings, machine: Machine) -> bool:
    """Whether an engine computes on the CPU; where no device is set, as it seems."""
    if model.name == "null":
        return True
    return model.device == "cpu" or (model.device is None and not machine.sees_gpu)


def _shares(machine: Machine, engines: int) -> list[tuple[tuple[int, ...], int | None]]:
    """Divides the cores between engines; more of them than there are CPUs share some.

    Neighbours stay together, since they share caches, and so do a core's two hardware threads while there are enough
    cores.

    Returns:
        For each engine the CPUs to be bound to, none where that cannot be, and the threads of a step: None for what
        suits these CPUs, fewer where the quota allows no more.
    """
    cores: Sequence[tuple[int, ...]] = machine.cores
    if len(cores) < engines:
        cores = [(cpu,) for core in cores for cpu in core]
    quotas = [len(part) for part in _divide(range(machine.cpus.threads), engines)]
    if not cores:
        return [((), threads) for threads in quotas]
    parts = _divide(cores, engines)
    return [
        # A thread for each core is what an engine takes by itself.
        (tuple(sorted(chain.from_iterable(part))), threads if threads < len(part) else None)
        for part, threads in zip(parts, quotas, strict=True)
    ]


def _divide(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Divides items into so many parts of neighbours, as equal as can be; some overlap where there are too few."""
    starts = [index * len(items) // count for index in range(count + 1)]
    return [items[start : max(end, start + 1)] for start, end in pairwise(starts)]


def _front_ends(models: Sequence[ModelSettings], machine: Machine) -> int:
    """Returns how many front ends suit: one for each core that the engines leave, at least one.

    An engine on a CPU takes as many as it has threads, which is all of them unless they are set: more front ends would
    take their time from its steps.
    """
    available = machine.cpus.threads
    taken = sum(
        (model.threads or available) if _is_on_cpu(model, machine) else _GPU_CORES for model in models
    )
    return max(1, min(MOST_FRONT_ENDS, available - taken))


def _told(model: ModelSettings) -> str:
    """What tells an engine from others, in short, as far as it is set."""
    name = model.name.rstrip("/").rpartition("/")[2].removesuffix(".nemo")
    context = "" if model.att_context is None else ",".join(map(str, model.att_context))
    return ", ".join(filter(None, (model.device, name, context)))
