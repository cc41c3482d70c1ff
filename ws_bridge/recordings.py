"""Makes streams' audio of recordings: what the service takes as it is, is passed on as it comes; the rest is decoded.

libsndfile decodes, a second at a time at most, in one thread for all; it needs the whole file, which lies in the
temporary folder meanwhile. Rate and channels are what the file says of itself: they are held to limits before anything
is sized by them.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

from ws_bridge.fields import RATE_LIMITS
from ws_bridge.file_start import MOST_CHANNELS, AudioFormat, as_stream, may_be_wav, read_start
from ws_bridge.status import Failure, Refused
from ws_bridge.unfinished_wav import mend_wav

IN_MEMORY = 1024 * 1024
"""Bytes of a file up to which none is written."""

_MAGIC_BYTES = 12
_PIECE_BYTES = 64 * 1024
_BLOCK_S = 1.0
_BLOCK_SAMPLES = int(RATE_LIMITS.max)
"""Samples of all channels together that are decoded at once."""
_MOST_MIXED = 64
"""Channels that are mixed to one: more than any recorder has."""
_FULL_SCALE = 32_768

_decoder = ThreadPoolExecutor(1, "decoder")


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as a stream: the format of its audio, and the audio."""

    format: AudioFormat
    pieces: AsyncIterator[bytes]


class Body:
    """A recording's bytes as they come, or as they are read of a file (`Body.of_file`).

    Args:
        read: gives the next bytes, b"" at the end.
        limit: most bytes there may be.
        file: where all of them are, if they are in a file already.

    Attributes:
        tap: is shown the bytes of the recording as they are read.
        size: bytes that were read.
    """

    def __init__(
        self, read: Callable[[], Awaitable[bytes]], limit: int, file: IO[bytes] | None = None
    ) -> None:
        self.file = file
        self.tap: Callable[[bytes], None] = lambda data: None
        self._read = read
        self._limit = limit
        self.size = 0
        self._pushed_back = b""

    @classmethod
    def of_file(cls, file: IO[bytes], limit: int) -> Body:
        """Makes the body of a file that is there already, from its place on; others have turns while it is read."""

        async def read() -> bytes:
            # Nothing is waited for here, and whoever reads all of it looks at hundreds of megabytes.
            await asyncio.sleep(0)
            return file.read(_PIECE_BYTES)

        return cls(read, limit, file)

    async def read(self) -> bytes:
        """Reads the next bytes; b"" at the end.

        Raises:
            Refused: there are more than may be.
        """
        if self._pushed_back:
            data, self._pushed_back = self._pushed_back, b""
            return data
        data = await self._read()
        self.size += len(data)
        if self.size > self._limit:
            raise too_large(self._limit)
        self.tap(data)
        return data

    async def start(self, size: int) -> bytes:
        """Reads until so many bytes are there, or all; they stay to be read."""
        start = self._pushed_back
        self._pushed_back = b""
        while len(start) < size and (more := await self.read()):
            start += more
        self._pushed_back = start
        return start

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the rest as it comes."""
        while data := await self.read():
            yield data


def too_large(limit: int) -> Refused:
    """A recording of more bytes than may be."""
    message = f"the recording has more than {limit} bytes: send it in parts, or compressed"
    return Refused(Failure("invalid_argument", message, "audio", http=413))


async def open_recording(body: Body, raw: AudioFormat | None, *, separate_channels: bool) -> Recording:
    """Opens a recording: raw audio, or a file of a kind that streams take or that libsndfile reads.

    Raises:
        Refused: it is empty, or none of these; also while pieces are taken.
    """
    start = await body.start(1 if raw else _MAGIC_BYTES)
    if not start:
        raise _bad_audio("is empty: send the recording as the request's body")
    if raw is not None:
        return Recording(raw, body.pieces())
    while (found := read_start(start)) is None:
        longer = await body.start(len(start) + 1)
        if longer == start:
            kind = "a WAV file" if may_be_wav(start) else "a file"
            raise _bad_audio(f"is {kind} that ends in its header")
        start = longer
    if streamed := as_stream(found, separate_channels=separate_channels):
        return Recording(streamed, body.pieces())
    return await _decode(body, separate_channels=separate_channels)


async def _decode(body: Body, *, separate_channels: bool) -> Recording:
    loop = asyncio.get_running_loop()
    # Closed with the last piece.
    file: IO[bytes] = body.file or tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
    try:
        while data := await body.read():
            if body.file is None:
                file.write(data)
        mend_wav(file, body.size)
        file.seek(0)
        opened = await loop.run_in_executor(_decoder, _open, file, separate_channels)
    except BaseException:
        file.close()
        raise

    async def pieces() -> AsyncIterator[bytes]:
        with file:
            while piece := await loop.run_in_executor(_decoder, opened.next):
                yield piece

    return Recording(opened.format, pieces())


class _Decoder:
    """Decodes a file block by block; not on the event loop.

    Args:
        file: a `soundfile.SoundFile` whose rate and channels are within the limits.
        mixes: whether its channels are mixed to one.
    """

    def __init__(self, file: Any, *, mixes: bool) -> None:
        self._file = file
        self._mixes = mixes
        self._frames = min(int(_BLOCK_S * file.samplerate), _BLOCK_SAMPLES // file.channels)
        self.format = AudioFormat("linear16", file.samplerate, 1 if mixes else file.channels)

    def next(self) -> bytes:
        """Decodes the next block; b"" at the end. Raises Refused if the file is damaged."""
        import numpy as np
        import soundfile

        try:
            block = self._file.read(self._frames, "float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _bad_audio(f"cannot be decoded to its end: {error.error_string}") from None
        if self._mixes:
            block = block.mean(axis=1, dtype=np.float32)
        # As the service rounds what it decodes.
        scaled = np.rint(np.clip(np.nan_to_num(block), -1, 1) * np.float32(_FULL_SCALE))
        return bytes(np.minimum(scaled, _FULL_SCALE - 1).astype("<i2").tobytes())


def _open(file: IO[bytes], separate_channels: bool) -> _Decoder:
    # Takes a while to import, and only recordings that are decoded need it.
    import soundfile

    class File(soundfile.SoundFile):  # type: ignore[misc]  # untyped base
        """A file that is read from start to end: soundfile seeks after each block else, which not all kinds bear."""

        def seekable(self) -> bool:
            """Keeps soundfile from seeking."""
            return False

    try:
        sound = File(_FromStart(file))
    except soundfile.LibsndfileError as error:
        raise _bad_audio(f"is no file that can be read: {error.error_string}") from None
    low, high = int(RATE_LIMITS.min), int(RATE_LIMITS.max)
    if not low <= sound.samplerate <= high:
        raise _bad_audio(f"says that its rate is {sound.samplerate} Hz: it should be from {low} to {high} Hz")
    if sound.channels > _MOST_MIXED:
        raise _bad_audio(f"says that it has {sound.channels} channels: at most {_MOST_MIXED} are mixed")
    if separate_channels and sound.channels > MOST_CHANNELS:
        raise _bad_audio(f"has {sound.channels} channels: at most {MOST_CHANNELS} are recognized separately")
    return _Decoder(sound, mixes=not separate_channels and sound.channels > 1)


class _FromStart:
    """A file for libsndfile, which seeks before the start of spoiled ones; that should not be told on the console."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read = file.read
        self.tell = file.tell
        self._file = file

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves, to the start at least."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return self._file.seek(0)

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer as far as there are bytes; returns how many."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, _data: bytes) -> int:
        """Writes nothing."""
        return 0


def _bad_audio(problem: str) -> Refused:
    return Refused(Failure("invalid_argument", f"audio {problem}", field="audio"))
