"""An engine's process, from the fork to its end: it alone imports torch."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable

from asr_common import stacks
from asr_common.control_channel import ControlChannel
from asr_common.metric_pages import page_of
from asr_service.app.board import Board
from asr_service.app.control import FromEngine, ToEngine
from asr_service.core.errors import ModelUnavailable, SettingsError
from asr_service.core.model import ModelInfo, StreamingModel
from asr_service.engine.contract import EngineSettings, EngineState
from asr_service.engine.engine import Engine
from asr_service.engine.engine_links import EngineLinks
from asr_service.engine.sample_pool import SamplePool
from asr_service.observability.engine_metrics import EngineMetrics

log = logging.getLogger(__name__)


def run_engine(
    number: int,
    control: ControlChannel,
    *,
    make_model: Callable[[], StreamingModel],
    settings: EngineSettings,
    board: Board,
    pinned_name: Callable[[], str],
) -> int:
    """Runs an engine in the process that was forked for it; returns the exit code.

    Args:
        number: of the engine.
        control: to the supervisor.
        make_model: makes the model.
        settings: how it is stepped.
        board: the engine keeps its record there.
        pinned_name: once the model is made, says how it is named so that another process makes the same one; "" where
            its name as set says that.
    """
    stacks.show_on_signal()
    return _EngineProcess(number, control, make_model, settings, board, pinned_name).run()


class _EngineProcess:
    """Runs the engine, and does what the supervisor asks between its turns."""

    def __init__(
        self,
        number: int,
        control: ControlChannel,
        make_model: Callable[[], StreamingModel],
        settings: EngineSettings,
        board: Board,
        pinned_name: Callable[[], str],
    ) -> None:
        self._control = control
        self._pinned_name = pinned_name
        self._links = EngineLinks()
        self._links.watch(control.fileno())
        record = board.engines[number]
        self._metrics = EngineMetrics(record, lambda: self._engine.readings)
        self._engine = Engine(
            make_model,
            settings,
            links=self._links,
            record=record,
            on_made=self._on_made,
            on_state=self._on_state,
            on_watched=self._read_control,
            metrics=self._metrics,
        )

    def run(self) -> int:
        """Runs until the engine ends."""
        self._engine.run()
        failure = self._engine.failure
        if failure is None:
            return 0
        if isinstance(failure, SettingsError | ModelUnavailable):
            self._control.send((FromEngine.FAILED, pickle.dumps(failure)))
        return 1

    def _on_made(self, info: ModelInfo, pool: SamplePool) -> None:
        model = pickle.dumps((info, pool.slots))
        self._control.send((FromEngine.MADE, model, self._pinned_name()), [pool.descriptor])

    def _on_state(self, state: EngineState) -> None:
        if state is EngineState.RUNNING:
            self._control.send((FromEngine.RUNNING,))

    def _read_control(self) -> None:
        control = self._control
        if control.has_unsent:
            control.send_rest()
        for message, descriptors in control.read():
            match message:
                case (ToEngine.LINK, _):
                    self._links.add(socket.socket(fileno=descriptors[0]))
                case (ToEngine.SCRAPE, number):
                    control.send((FromEngine.PAGE, number, page_of(self._metrics.registry)))
                case (ToEngine.STOP,):
                    self._engine.stop()
        if not control.is_open:
            # The supervisor is gone: nobody is left to serve.
            os._exit(1)
