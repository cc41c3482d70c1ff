"""What one process writes to the board, others read."""

from __future__ import annotations

import os

from asr_service.app.board import Board, EngineRecord
from asr_service.engine.contract import EngineState


def test_a_forked_process_writes_its_numbers_and_others_read_them() -> None:
    board = Board(engines=2, front_ends=3)
    pid = os.fork()
    if pid == 0:
        board.engines[1] = EngineRecord(state=EngineState.RUNNING, leased=7, limit=40, load=0.75, beat=1.5)
        board.front_ends[2].streams = 7
        board.service.is_serving = 1
        os._exit(0)
    os.waitpid(pid, 0)
    assert (board.streams, board.stream_limit, board.load) == (7, 40, 0.75)
    assert board.engines[1].beat == 1.5
    assert [front_end.streams for front_end in board.front_ends] == [0, 0, 7]
    assert board.service.is_serving
    assert not board.is_serving, "no front end listens"
    board.front_ends[0].beat = 2.5
    assert board.is_serving
    board.clear_engine(1)
    assert not board.is_serving
    board.clear_front_end(2)
    assert (board.streams, board.stream_limit, board.load) == (0, 0, 0.0)
    assert not board.engines[1].is_running
