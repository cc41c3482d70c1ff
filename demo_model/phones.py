"""Phone classes for the frame-wise auxiliary labels that help the encoder find its feet.

espeak-ng reports mnemonics with many allophones, flite the CMU set and Kokoro single letters of the phonetic alphabet;
all are folded into one small set.
"""

from __future__ import annotations

import numpy as np

SILENCE, IGNORE = 0, 255
_NAMES = (
    "_ p b t d k g f v T D s z S Z h m n N l r w j tS dZ I i: E a A: 0 O: U u: V 3: @ eI aI OI oU aU e@ i@ U@ "
    "O@ A@ @L"
).split()
_INDEX = {name: index for index, name in enumerate(_NAMES)}
COUNT = len(_NAMES)

_ESPEAK = {
    "i": "i:", "i@3": "i@", "I2": "I", "I#": "I", "@2": "@", "3": "@", "a#": "@", "@5": "@", "@-": "@", "e": "E",
    "aa": "a", "A": "A:", "O": "O:", "O2": "0", "o@": "O@", "o:": "O:", "aI2": "aI", "aI3": "aI", "aI@": "aI",
    "aU@": "aU", "IR": "3:", "VR": "3:", "E2": "E", "u": "u:", "uI": "u:", "o": "oU", "oU#": "oU", "e:": "eI",
    "a:": "A:", "V2": "V", "O1": "O:", "C": "h", "x": "h", "?": "t", "r-": "r", "R": "r", "R2": "r", "l#": "l",
    "L": "l", "n-": "n", "t[": "t", "t#": "t", "t2": "t", "d#": "d", "d2": "d", "w#": "w", "W": "w", "z#": "z",
    "s2": "s", "T2": "T", "v#": "v", "k2": "k", "g2": "g", "h2": "h", "ai": "aI", "au": "aU", "E@": "e@", "@u": "oU",
    "@U": "oU", "u@": "U@", "I@": "i@", "_:": "_", "_!": "_", "_|": "_", "_^_": "_", ";": "j",
}  # fmt: skip
_FLITE = {
    "pau": "_", "hh": "h", "ax": "@", "ah": "V", "aa": "A:", "ae": "a", "ao": "O:", "aw": "aU", "ay": "aI",
    "b": "b", "ch": "tS", "d": "d", "dh": "D", "eh": "E", "er": "3:", "ey": "eI", "f": "f", "g": "g", "ih": "I",
    "iy": "i:", "jh": "dZ", "k": "k", "l": "l", "m": "m", "n": "n", "ng": "N", "ow": "oU", "oy": "OI", "p": "p",
    "r": "r", "s": "s", "sh": "S", "t": "t", "th": "T", "uh": "U", "uw": "u:", "v": "v", "w": "w", "y": "j",
    "z": "z", "zh": "Z",
}  # fmt: skip
# No class for the space: some of its frames are silence and some are not.
_KOKORO = {
    "_": "_", ".": "_", ",": "_", "?": "_", "A": "eI", "I": "aI", "O": "oU", "Q": "oU", "W": "aU", "Y": "OI", "T": "t",
    "a": "a", "b": "b", "d": "d", "e": "E", "f": "f", "h": "h", "i": "i:", "j": "j", "k": "k", "l": "l", "m": "m",
    "n": "n", "p": "p", "s": "s", "t": "t", "u": "u:", "v": "v", "w": "w", "z": "z", "æ": "a", "ð": "D", "ŋ": "N",
    "ɐ": "@", "ɑ": "A:", "ɒ": "0", "ɔ": "O:", "ə": "@", "ɚ": "3:", "ɛ": "E", "ɜ": "3:", "ɡ": "g", "ɪ": "I", "ɹ": "r",
    "ɾ": "t", "ʃ": "S", "ʊ": "U", "ʌ": "V", "ʒ": "Z", "ʔ": "t", "ʤ": "dZ", "ʧ": "tS", "θ": "T", "ᵊ": "@", "ᵻ": "I",
}  # fmt: skip


def phone_class(mnemonic: str) -> int:
    """Fold a mnemonic of any synthesiser into a class, or `IGNORE`."""
    if mnemonic.startswith("flite:"):
        return _INDEX.get(_FLITE.get(mnemonic[6:], "?"), IGNORE)
    if mnemonic.startswith("kokoro:"):
        return _INDEX.get(_KOKORO.get(mnemonic[7:], "?"), IGNORE)
    if mnemonic in _INDEX:
        return _INDEX[mnemonic]
    folded = _ESPEAK.get(mnemonic)
    if folded is None:
        folded = _ESPEAK.get(mnemonic.rstrip("#-2345["), mnemonic.rstrip("#-2345["))
    return _INDEX.get(folded, IGNORE)


def frame_labels(phonemes: tuple[tuple[str, float], ...], frames: int, hop_ms: float = 10.0) -> np.ndarray:
    """Turn (mnemonic, start ms) into uint8 [frames] classes; silence before the first, `IGNORE` if none given."""
    if not phonemes:
        return np.full(frames, IGNORE, np.uint8)
    labels = np.full(frames, SILENCE, np.uint8)
    for mnemonic, start in phonemes:
        labels[max(0, round(start / hop_ms)) :] = phone_class(mnemonic)
    return labels
