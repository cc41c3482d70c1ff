"""The processes that a service consists of: what is to run, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from asr_common.control_channel import ControlChannel
from asr_common.process_group import Child
from asr_common.restarts import Restarts


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run.

    Attributes:
        engines: names of the engines, for the log.
        front_ends: how many there are.
        run_engine, run_front_end: run one, by its number and with its channel, in a process that was forked for it;
            return its exit code. An engine's third argument is the `pinned` of its `Process`.
        drain_s: how long streams may go on once the service is to end.
        watchdog_s: how long a process may give no sign of life.
        on_ready: called with the front ends' port each time that everything runs which is to run; at first, and after
            each restart.
        answer_scrapes: answers the metrics port, with its channel, in a process that was forked for it; None where
            there is no such port.
    """

    engines: Sequence[str]
    front_ends: int
    run_engine: Callable[[int, ControlChannel, str], int]
    run_front_end: Callable[[int, ControlChannel], int]
    drain_s: float
    watchdog_s: float
    on_ready: Callable[[int], None]
    answer_scrapes: Callable[[ControlChannel], int] | None = None


@dataclass(slots=True)
class Process:
    """One engine or front end, over all its restarts.

    Attributes:
        is_engine: which of the two it is.
        number: among its kind.
        name: for the log.
        child: that runs; None while it does not.
        is_ready: whether it runs (an engine), or listens (a front end).
        start_at: monotonic time of its next start; None if it runs or is not to be started.
        kill_at: when it is killed because it hangs; None if it does not.
        failure: the error that it told of.
        port: of a front end that listens.
        model, pool: of an engine: the description of its model (`FromEngine.MADE`), and the descriptor of its pool.
        pinned: of an engine: the name, with its commit, of the hub's model that it has made; "" before, and for others.
            It makes the same one when it is started again, whatever the hub has by then.
    """

    is_engine: bool
    number: int
    name: str
    child: Child | None = None
    is_ready: bool = False
    start_at: float | None = 0.0
    kill_at: float | None = None
    failure: BaseException | None = None
    port: int = 0
    model: bytes = b""
    pinned: str = ""
    pool: int | None = None
    restarts: Restarts = field(default_factory=Restarts)
