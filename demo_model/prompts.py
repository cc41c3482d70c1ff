"""Prompts of one professional speaker, for evaluation: fetched when they are wanted, never part of the repository.

They are Asterisk's core sounds (English, Allison Smith, CC-BY-SA-3.0), of Debian's package. The texts are their names.
Moonshine's tiny model was asked whether these are what is said: names of which another text is spoken are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from demo_model import grammar, numbers, words
from demo_model.evalset import listed, write_manifest
from demo_model.features import RATE

PACKAGE = "asterisk-core-sounds-en-g722"
INSTALLED = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
LICENCE = "CC-BY-SA-3.0"
_PAUSE_S = 0.3  # silence put around a prompt, which is cut close to its words
_NATO = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey yankee zulu"
).split()  # fmt: skip
_PHRASES = (
    "hello", "goodbye", "hello-world", "call-waiting", "call-forwarding", "do-not-disturb", "enabled", "disabled",
    "extension", "hours", "minute", "minutes", "second", "seconds", "number", "location", "time",
    "telephone-number", "please-try-again", "one-moment-please", "im-sorry", "cancelled", "removed", "added",
    "activated", "calling", "is-in-use", "to-call-this-number", "you-entered", "vm-goodbye", "vm-message",
    "vm-messages", "vm-password", "vm-extension", "vm-no", "vm-and", "vm-from", "vm-first",
    "vm-last",
)  # fmt: skip


class PromptsError(RuntimeError):
    """The prompts cannot be had."""


def texts() -> Iterator[tuple[str, str, str]]:
    """Yield group, name (below the folder of sounds, without its ending) and text of every prompt that is used."""
    for number in (*range(21), *range(30, 100, 10)):
        yield "prompts-numbers", f"digits/{number}", numbers.cardinal(number)
    for number in (*range(1, 21), 30):
        yield "prompts-numbers", f"digits/h-{number}", numbers.ordinal(number)
    for scale in ("hundred", "thousand", "million"):
        yield "prompts-numbers", f"digits/{scale}", scale
    for index, month in enumerate(words.MONTHS):
        yield "prompts-numbers", f"digits/mon-{index}", month
    for index, day in enumerate(
        ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
    ):
        yield "prompts-numbers", f"digits/day-{index}", day
    for name in ("today", "tomorrow", "yesterday", "oh", "dollars"):
        yield "prompts-numbers", f"digits/{name}", name
    for word in _NATO:
        yield "prompts-letters", f"phonetic/{word[0]}_p", word
    for name in _PHRASES:
        yield "prompts-phrases", name, name.removeprefix("vm-").replace("im-", "i'm-").replace("-", " ")


def fetch(folder: Path) -> Path:
    """Return the folder of sounds: installed, or unpacked under `folder`; PromptsError says how to have it."""
    if INSTALLED.is_dir():
        return INSTALLED
    unpacked = folder / "package"
    sounds = unpacked / INSTALLED.relative_to("/")
    if sounds.is_dir():
        return sounds
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            subprocess.run(
                ["apt-get", "download", PACKAGE], cwd=partial, check=True, capture_output=True, text=True
            )
            (archive,) = Path(partial).glob("*.deb")
            subprocess.run(
                ["dpkg-deb", "-x", str(archive), f"{partial}/x"], check=True, capture_output=True, text=True
            )
            shutil.rmtree(unpacked, ignore_errors=True)
            Path(partial, "x").rename(unpacked)
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise PromptsError(
            f"the prompts of people could not be fetched ({why}): install Debian's package {PACKAGE}, or unpack it so "
            f"that {sounds} is there"
        ) from error
    return sounds


def decode(path: Path) -> np.ndarray:
    """Read a G.722 file as float32 [samples] at 16 kHz."""
    import av

    found: list[np.ndarray] = []
    with av.open(str(path), format="g722") as container:
        resampler = av.AudioResampler("s16", "mono", RATE)
        for frame in container.decode(audio=0):
            found += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        found += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(found).astype(np.float32) / 32768


def make_prompts_set(folder: Path) -> None:
    """Write the prompts as a set under `folder`, as `evalset.py` describes one; PromptsError if they cannot be had."""
    sounds = fetch(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pause = np.zeros(round(_PAUSE_S * RATE), np.float32)
    lines = []
    for group, name, text in texts():
        path = sounds / f"{name}.g722"
        if not path.exists():
            raise PromptsError(f"{sounds} is of another edition of {PACKAGE}: it has no {name}.g722")
        audio = np.concatenate((pause, decode(path), pause))
        file = f"{name.replace('/', '-')}.flac"
        soundfile.write(folder / file, audio, RATE, format="FLAC", subtype="PCM_16")
        lines.append({
            "id": f"prompt-{name}", "file": file, "group": group, "voice": "person:allison-smith", "seen": False,
            "rate": RATE, "seconds": round(len(audio) / RATE, 3), "text": text, "words": listed(text),
            "source": f"{PACKAGE} (Debian), {name}.g722", "licence": LICENCE,
        })  # fmt: skip
    write_manifest(folder, lines)


def unknown_words() -> tuple[str, ...]:
    """List the words of the prompts that the demo model's text never holds."""
    known = set(grammar.vocabulary())
    return tuple(sorted({word for _, _, text in texts() for word in text.split()} - known))
