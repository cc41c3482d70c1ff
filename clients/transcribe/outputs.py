"""What is written for a recording: names, what is there already, and files that are whole or not there at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.captions import Utterance, as_json, as_srt, as_text, as_vtt, captions

FORMATS = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
"""How files of each format end."""


class Unwritable(Exception):
    """A file is not written; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was recognized in one channel of a recording.

    Attributes:
        channel: from 1, of a recording whose channels are transcribed separately; None for one that is mixed.
        utterances: its finals.
        audio_ms: how much audio it is the transcript of.
    """

    channel: int | None
    utterances: Sequence[Utterance]
    audio_ms: int

    def written(self, form: str, source: Path) -> str:
        """Returns it in one of `FORMATS`."""
        if form == "text":
            return as_text(self.utterances)
        if form == "json":
            about: dict[str, object] = {"file": source.name, "audio_ms": self.audio_ms}
            return as_json(
                self.utterances, about if self.channel is None else about | {"channel": self.channel}
            )
        shown = captions(word for utterance in self.utterances for word in utterance.words)
        return as_srt(shown) if form == "srt" else as_vtt(shown)


@dataclass(frozen=True, slots=True)
class Job:
    """A recording and where its transcripts go.

    Attributes:
        source: the recording.
        folder: of its transcripts.
        formats: names of `FORMATS`.
        replace: whether transcripts that are there are written anew.
    """

    source: Path
    folder: Path
    formats: tuple[str, ...]
    replace: bool = False

    @property
    def stem(self) -> Path:
        """The path of the transcripts without what each adds to it."""
        return self.folder / self.source.stem

    def path(self, form: str, channel: int | None = None) -> Path:
        """Names a transcript: talk.srt, and of separate channels talk.1.srt and talk.2.srt."""
        middle = "" if channel is None else f".{channel}"
        return self.stem.with_name(f"{self.stem.name}{middle}{FORMATS[form]}")

    def missing(self, channels: Sequence[int | None]) -> list[tuple[str, int | None]]:
        """Lists which transcripts are to be written, by format and channel.

        Raises:
            Unwritable: what is in the place of one is not to be replaced.
            OSError: the recording is not there.
        """
        recorded = self.source.stat().st_mtime_ns
        wanted = []
        for channel in channels:
            for form in self.formats:
                path = self.path(form, channel)
                if path.exists() and path.samefile(self.source):
                    raise Unwritable(f"{self.source}: its {form} transcript would be written over itself")
                if path.exists() and not self.replace:
                    if path.stat().st_mtime_ns < recorded:
                        raise Unwritable(
                            f"{self.source}: {path} is older than the recording; --force writes it anew"
                        )
                    continue
                wanted.append((form, channel))
        return wanted


def write_whole(texts: dict[Path, str]) -> None:
    """Writes files that are there with all they hold, or not at all, whenever the program is stopped.

    Raises:
        Unwritable: one cannot be written.
    """
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in texts}
    path = None
    try:
        for path, text in texts.items():
            with parts[path].open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            part.replace(path)
    except OSError as error:
        raise Unwritable(f"{path}: {error.strerror or error}") from error
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
