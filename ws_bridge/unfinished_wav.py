"""Mends WAV files whose header was never finished, for libsndfile, which would read nothing of them, or the beginning.

Who writes a file to a pipe cannot come back to write its sizes. Where what follows the audio's stated end is no other
chunk, the audio goes on to the last byte.
"""

from __future__ import annotations

import struct
from typing import IO

from ws_bridge.file_start import LONGEST_START

_MOST_CHUNKS = 64
_RIFF_BYTES = 12
_CHUNK_BYTES = 8
_MOST_SIZE = 0xFFFFFFFF


def mend_wav(file: IO[bytes], size: int) -> None:
    """Writes the true size of the audio into a WAV file of so many bytes, if its header has none."""
    file.seek(0)
    start = file.read(LONGEST_START)
    if start[:4] != b"RIFF" or start[8:12] != b"WAVE":
        return
    place = _RIFF_BYTES
    for _ in range(_MOST_CHUNKS):
        if place + _CHUNK_BYTES > len(start):
            return
        name, stated = struct.unpack_from("<4sI", start, place)
        place += _CHUNK_BYTES
        if name == b"data":
            break
        place += stated + stated % 2
    else:
        return
    left = size - place
    if left <= stated or left > _MOST_SIZE or _follows(file, place + stated + stated % 2, size):
        return
    file.seek(place - 4)
    file.write(struct.pack("<I", left))


def _follows(file: IO[bytes], place: int, size: int) -> bool:
    """Whether another chunk, as far as one can tell, or padding alone, is at this place."""
    file.seek(place)
    head = file.read(_CHUNK_BYTES)
    if len(head) < _CHUNK_BYTES:
        return True
    name, stated = struct.unpack("<4sI", head)
    return bool(
        name.isascii() and name.decode("ascii").isprintable() and place + _CHUNK_BYTES + stated <= size + 1
    )
