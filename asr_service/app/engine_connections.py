"""Connects a front end to engines as the supervisor says: to those that are there, and those that are started again."""

from __future__ import annotations

import pickle
import socket
from functools import lru_cache

from asr_service.app.board import Board
from asr_service.config import Settings
from asr_service.core.lease import EngineLink
from asr_service.core.model import ModelInfo
from asr_service.engine.front_link import FrontLink
from asr_service.engine.sample_pool import SamplePool
from asr_service.recognition.chunk_cutter import finalize_silence_ms
from asr_service.recognition.vocabulary import Vocabulary
from asr_service.sessions.engines import Engines, LinkedEngine, NoLink


class EngineConnections:
    """Makes the links of a front end.

    Args:
        settings: of the service.
        board: where engines tell of themselves.

    Attributes:
        engines: those that are known.
    """

    def __init__(self, settings: Settings, board: Board) -> None:
        self.engines = Engines(len(board.engines))
        self._silence_ms = settings.finalize_silence_ms
        self._board = board

    def connect(self, number: int, model: bytes, pool: int, link: socket.socket) -> None:
        """Takes a link to an engine that has made its model; the event loop has to run.

        Args:
            number: of the engine.
            model: pickled description of its model, and number of its slots.
            pool: descriptor of its `SamplePool`, which is the callee's from then on.
            link: connected to it.
        """
        info, slots = pickle.loads(model)
        memory = SamplePool(
            pool, slots, first_chunk_samples=info.first_chunk_samples, chunk_samples=info.chunk_samples
        )
        # What is mapped stays mapped.
        memory.close()
        self._add(number, info, FrontLink(link, memory))

    def know(self, number: int, model: bytes) -> None:
        """Takes what an engine serves that is away: streams for it are told so, and those for others are let in.

        Args:
            number, model: see `connect`.
        """
        info, _ = pickle.loads(model)
        self._add(number, info, NoLink())

    def _add(self, number: int, info: ModelInfo, link: EngineLink) -> None:
        vocabulary = _vocabulary(info.pieces)
        silence_ms = self._finalize_silence_ms(info, vocabulary)
        numbers = self._board.engines[number]
        self.engines.add(LinkedEngine(number, info, vocabulary, silence_ms, link, numbers))

    def _finalize_silence_ms(self, info: ModelInfo, vocabulary: Vocabulary) -> int:
        if self._silence_ms is not None:
            return self._silence_ms
        return finalize_silence_ms(info, punctuates=vocabulary.punctuates)


@lru_cache(maxsize=16)
def _vocabulary(pieces: tuple[str, ...]) -> Vocabulary:
    """Makes the vocabulary of a model; once for an engine that is started again, or several with one model."""
    return Vocabulary(pieces)
