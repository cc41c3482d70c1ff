"""The service with a null model that fails when it hears a full-scale sample, in the way that FAULT names.

load: the model never finishes loading. raise: the step raises. die: the engine thread ends. hang: the step never
returns. slow: every step takes 20 ms longer. rows: every step takes 20 ms longer for each of its streams.
burn: every step takes 10 ms of CPU time for each of its streams, and once
the model is warm the engine's process stops itself until it is told to go on (SIGCONT).
memory: the device has no memory for a step of more than two. watch: a task that watches the service fails.
punctuation: no fault; it writes each word with a capital and a full stop.
languages: no fault; the model is `polyglot`'s, but one named "english" is the null model, which then offers that alone.

IDLE_TIMEOUT_S, where given, is taken although it is less than the settings allow. KEEPALIVE_S, where given, is how long
a connection may be silent before it is pinged, and how long the answer may take. RESTART_S, where given, is when a
process that has ended is started again, however often it has. LINK_BYTES, where given, is what the links between
engines and front ends hold, so that few answers fill them.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

sys.path.pop(0)  # this folder, whose riva.py would stand in for NVIDIA's package

from asr_common import restarts
from asr_common.control_channel import ControlChannel
from asr_service import model
from asr_service.__main__ import main
from asr_service.app import service, supervisor
from asr_service.app.service import serve
from asr_service.config import Settings
from asr_service.core.model import ModelInfo, OutOfMemory, StreamingModel
from asr_service.core.model_settings import ModelSettings
from asr_service.model.null import NullModel
from asr_service.model.slot_budget import host_slots
from testbed.by_request import StepRequest, StepResult
from tests.support.polyglot import PolyglotModel
from tests.support.requested import RequestedModel

FAULT = os.environ.get("FAULT", "")
HEARD = mmap.mmap(-1, 1)  # shared by all processes of the service
IDLE_TIMEOUT_S = float(os.environ.get("IDLE_TIMEOUT_S", "0"))
KEEPALIVE_S = float(os.environ.get("KEEPALIVE_S", "0"))
RESTART_S = float(os.environ.get("RESTART_S", "0"))
LINK_BYTES = int(os.environ.get("LINK_BYTES", "0"))
make_model = model.make_model


class FaultyModel(RequestedModel):
    @property
    def info(self) -> ModelInfo:
        if FAULT != "punctuation":
            return super().info
        words = tuple(f"\u2581{piece[1:].capitalize()}." for piece in super().info.pieces[1:])
        return dataclasses.replace(super().info, pieces=("<unk>", *words))

    def warm_up(self, max_batch: int, progress: Callable[[str], None]) -> None:
        if FAULT == "burn":
            os.kill(os.getpid(), signal.SIGSTOP)

    def step(self, requests: Sequence[StepRequest]) -> list[StepResult]:
        if len(requests) > 2 and FAULT == "memory":
            raise OutOfMemory
        if FAULT == "slow":
            time.sleep(0.02)
        elif FAULT == "burn":
            until = time.thread_time() + 0.01 * len(requests)
            while time.thread_time() < until:
                pass
        elif FAULT == "rows":
            time.sleep(0.02 * len(requests))
        elif any(request.samples.size and request.samples.max() > 0.999 for request in requests):
            if FAULT == "raise":
                raise ValueError("a secret of the inside")
            if FAULT == "die":
                raise SystemExit
            if FAULT == "watch":
                HEARD[0] = 1
                return super().step(requests)
            threading.Event().wait()
        return super().step(requests)


class EnglishModel(NullModel):
    @property
    def info(self) -> ModelInfo:
        return dataclasses.replace(super().info, name="english", languages=("en-US",))


def serve_impatiently(settings: Settings) -> int:
    return serve(settings.model_copy(update={"idle_timeout_s": IDLE_TIMEOUT_S}))


def make_faulty(settings: ModelSettings) -> StreamingModel:
    if FAULT == "load":
        threading.Event().wait()
    if not FAULT:
        return make_model(settings)
    slots = settings.slots or host_slots(sharers=settings.sharers)
    if FAULT != "languages":
        return FaultyModel(slots=slots)
    if settings.name == "english":
        return EnglishModel(slots=slots)
    return PolyglotModel(slots=slots)


def run_faulty_front_end(number: int, control: ControlChannel, **options: Any) -> int:
    """Runs a front end with faults; what they are made in comes into its process alone."""
    from asr_service.api import listen
    from asr_service.app import front_end
    from asr_service.observability.metrics import Metrics

    class FaultyMetrics(Metrics):
        def loop_lag(self, seconds: float) -> None:
            if HEARD[0]:
                HEARD[0] = 0
                raise ValueError("a secret of the inside")
            super().loop_lag(seconds)

    if FAULT == "watch":
        front_end.Metrics = FaultyMetrics  # type: ignore[attr-defined]
    if KEEPALIVE_S:
        listen.KEEPALIVE_MS = listen.KEEPALIVE_TIMEOUT_MS = round(1000 * KEEPALIVE_S)
    return front_end.run_front_end(number, control, **options)


def small_pair() -> tuple[socket.socket, socket.socket]:
    """A pair of sockets that hold little."""
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LINK_BYTES)
    return ends


if __name__ == "__main__":
    # Where it looks for them, not where they are.
    model.make_model = make_faulty
    service.run_front_end = run_faulty_front_end
    if IDLE_TIMEOUT_S:
        service.serve = serve_impatiently
    if RESTART_S:
        restarts.FIRST_WAIT_S = restarts.LONGEST_WAIT_S = RESTART_S
        restarts.MOST_IN_A_ROW = 1_000_000
    if LINK_BYTES:
        # It makes no other sockets than these.
        supervisor.socket = SimpleNamespace(socketpair=small_pair)  # type: ignore[assignment,attr-defined]
    sys.exit(main(sys.argv[1:]))
