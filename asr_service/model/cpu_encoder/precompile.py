"""Compiles what the steps of an encoder call before they call it, in several processes at a time.

Numba compiles under a lock of its process, so that only processes can share the work. They are forked, since the time
to import a compiler anew is that of compiling several functions.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread, Timer

import torch

from asr_common.child_process import end_with_parent
from asr_service.core.cpus import usable_cpus
from asr_service.model.batch import Batch
from asr_service.model.chunk_plan import ChunkPlan
from asr_service.model.cpu_encoder.compiling import Call, noting_calls
from asr_service.model.cpu_encoder.encoder import CpuEncoder
from asr_service.model.cpu_encoder.kernels.gemm_choice import FEW_ROWS
from asr_service.model.cpu_encoder.machine_code import code_folder, target

_log = logging.getLogger(__name__)

# What takes longest begins first, so that all processes end at about the same time. Others follow as they are called.
_LONGEST_FIRST = ("run_layers", "attend", "first_stages", "convolve")

TELL_S = 10.0
"""How often it is told how far the compiling is."""
HELP_S = 180.0
"""How long other processes may help. One that hangs holds the lock of the function that it was at."""


def compile_missing(
    encoders: Sequence[tuple[CpuEncoder, ChunkPlan, int]], say: Callable[[str], None]
) -> list[Call]:
    """Compiles the functions that steps of these encoders call and that are not on disk yet.

    Args:
        encoders: each with its plan and the features of a mel frame. They are left at the start of all streams.
        say: told what is going on, if anything has to be compiled.

    Returns:
        The functions that were missing, with the types of their arguments.
    """
    noted = [call for encoder in encoders for call in _calls(*encoder)]
    missing = [call for call in dict.fromkeys(noted) if not call.is_compiled()]
    if not missing:
        return []
    missing.sort(key=lambda call: (*_LONGEST_FIRST, call.name).index(call.name))
    # Where nothing is kept, what other processes compile is of no use.
    processes = 1 if code_folder() is None else min(usable_cpus().threads, len(missing))
    kind = target().kind
    say(
        f"compiling the encoder step for {'this processor' if kind is None else kind.name}, some 10 to 40 s: "
        f"{len(missing)} functions in {processes} process{'es' if processes > 1 else ''}; `make setup` and the "
        "building of an image do it ahead"
    )
    began = time.monotonic()
    with helping_processes(processes - 1, missing), telling(missing, say):
        for call in missing:
            call.compile(wait=False)
        # Those that others are compiling, or were when they were stopped.
        for call in missing:
            call.compile()
    say(f"compiled in {time.monotonic() - began:.1f} s")
    return missing


@contextmanager
def telling(missing: Sequence[Call], say: Callable[[str], None]) -> Iterator[None]:
    """Tells every `TELL_S` seconds how far the compiling is, until the block ends."""
    began, over = time.monotonic(), Event()

    def tell() -> None:
        while not over.wait(TELL_S):
            done = sum(call.is_compiled() for call in missing)
            say(f"compiled {done} of {len(missing)} functions in {time.monotonic() - began:.0f} s")

    thread = Thread(target=tell, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def helping_processes(count: int, missing: Sequence[Call]) -> Iterator[Sequence[int]]:
    """Has other processes compile what nobody else is compiling, until the block ends and for `HELP_S` at most.

    They are killed then: they were forked from a process with threads, so that one may wait for a lock for ever. What
    a killed one was compiling is compiled by whoever needs it.

    Args:
        count: of the processes.
        missing: functions, in the order in which they are to be compiled.

    Yields:
        Their ids.
    """
    helpers = [_fork_helper(missing) for _ in range(count)]
    limit = Timer(HELP_S, _kill, [helpers])
    limit.daemon = True
    limit.start()
    try:
        yield helpers
    finally:
        limit.cancel()
        limit.join()
        _kill(helpers)
        for helper in helpers:
            os.waitpid(helper, 0)


def _calls(encoder: CpuEncoder, plan: ChunkPlan, mels: int) -> list[Call]:
    """What steps of few rows and of many rows call, of which nothing is compiled in this process yet."""
    with torch.inference_mode(), noting_calls() as calls:
        for rows in (1, FEW_ROWS + 1):
            # One slot for all, which every encoder has. Functions that are compiled do run.
            slots = torch.zeros(rows, dtype=torch.int64)
            batch = Batch(
                slots, torch.zeros_like(slots), None, torch.full_like(slots, plan.chunk_frames), True
            )
            encoder.step(batch, torch.zeros(rows, plan.chunk_mels, mels))
        encoder.clear(torch.zeros(1, dtype=torch.int64))
    return calls


def _fork_helper(missing: Sequence[Call]) -> int:
    """Forks a process that compiles whatever of these nobody else is compiling; returns its id."""
    parent = os.getpid()
    helper = os.fork()
    if helper:
        return helper
    code = 1
    try:
        end_with_parent(parent)
        for call in missing:
            call.compile(wait=False)
        code = 0
    except BaseException:
        # The parent meets the same and tells it.
        _log.debug("a process that compiles has failed", exc_info=True)
    finally:
        os._exit(code)


def _kill(helpers: Sequence[int]) -> None:
    """Kills processes that were not waited for yet, ended or not."""
    for helper in helpers:
        os.kill(helper, signal.SIGKILL)
