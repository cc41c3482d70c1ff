"""espeak-ng as a library: samples with the times of words and phonemes.

The command line gives no times, so the shared library is called through ctypes. Structures, event codes
and parameter numbers are those of the public header `speak_lib.h` (espeak-ng 1.50 and newer).
The library keeps its state in globals: one synthesis at a time per process.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass

import numpy as np

_RETRIEVAL, _PHONEME_EVENTS, _CHARS_UTF8, _ENDPAUSE = 1, 0x0001, 1, 0x1000
_RATE, _PITCH, _RANGE = 1, 3, 4
_WORD, _PHONEME = 1, 7


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Spoken:
    """What a synthesiser said.

    `audio` float32 [samples] in [-1, 1] at `rate` Hz; `words` (character offset, start ms);
    `phonemes` (mnemonic, start ms), empty where the synthesiser gives none.
    """

    audio: np.ndarray
    rate: int
    words: tuple[tuple[int, float], ...] = ()
    phonemes: tuple[tuple[str, float], ...] = ()


class Espeak:
    """The library, opened once in this process."""

    def __init__(self) -> None:
        path = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        self._lib = ctypes.CDLL(path)
        self._lib.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.rate = int(self._lib.espeak_Initialize(_RETRIEVAL, 200, None, _PHONEME_EVENTS))
        if self.rate <= 0:
            raise RuntimeError("espeak-ng could not be initialised: is its data installed?")
        self._chunks: list[np.ndarray] = []
        self._words: list[tuple[int, float]] = []
        self._phonemes: list[tuple[str, float]] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds only a bare pointer
        self._lib.espeak_SetSynthCallback(self._callback)
        self._voice = ""

    def _receive(
        self, wav: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]
    ) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(wav, (count,)).copy())
        index = 0
        while events[index].type != 0:
            event = events[index]
            start = 1000.0 * event.sample / self.rate
            if event.type == _WORD:
                self._words.append((event.text_position - 1, start))
            elif event.type == _PHONEME:
                self._phonemes.append((event.id.string.decode("utf-8", "replace"), start))
            index += 1
        return 0

    def say(self, text: str, voice: str, rate: int = 175, pitch: int = 50, spread: int = 50) -> Spoken:
        """Speak `text`; `voice` is `accent+variant`, `rate` words a minute, `pitch` and `spread` 0 to 100."""
        if voice != self._voice:
            if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {voice!r}")
            self._voice = voice
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, spread)):
            self._lib.espeak_SetParameter(parameter, value, 0)
        self._chunks, self._words, self._phonemes = [], [], []
        data = text.encode()
        self._lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
        self._lib.espeak_Synchronize()
        samples = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)
        audio = samples.astype(np.float32) / 32768.0
        return Spoken(audio, self.rate, tuple(self._words), tuple(self._phonemes))
