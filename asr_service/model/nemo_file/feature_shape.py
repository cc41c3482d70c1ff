"""Says how a model's features are made, and refuses those that cannot be made while audio is still coming.

The names and the defaults are those of NeMo 3.0 (nemo/collections/asr/modules: `AudioToMelSpectrogramPreprocessor`).
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_service.model.nemo_file.config import Section, nemo_class, shown

_UNNORMALIZED = (None, False, "", "NA", "None")
# Of float32, as torch.finfo has them.
_GUARDS = {"tiny": 2.0**-126, "eps": 2.0**-23}


@dataclass(frozen=True, slots=True)
class FeatureShape:
    """The constants of a model's mel features.

    Attributes:
        sample_rate: Hz.
        window, hop, n_fft: samples.
        mels: features of a frame.
        preemphasis: factor of the sample before.
        log: whether the logarithm is taken.
        guard_added: whether `guard` is added before the logarithm; else it is the least value.
        guard: keeps the logarithm finite.
        power: of the magnitudes, 2 for a power spectrum.
        has_window: whether the window is another than the rectangle.
    """

    sample_rate: int
    window: int
    hop: int
    n_fft: int
    mels: int
    preemphasis: float
    log: bool
    guard_added: bool
    guard: float
    power: float
    has_window: bool


def read_features(config: Section) -> FeatureShape:
    """Reads how a model's features are made.

    Args:
        config: of the whole model.

    Raises:
        ModelError: they cannot be made of audio that is still coming, or not exactly.
    """
    section = config.section("preprocessor")
    kind = nemo_class(section, "_target_")
    if kind != "AudioToMelSpectrogramPreprocessor":
        raise config.refused(
            f"its features are made by {kind}, not by NeMo's AudioToMelSpectrogramPreprocessor"
        )
    normalize = section.get("normalize") if section.given("normalize") else "per_feature"
    if normalize not in _UNNORMALIZED:
        raise config.refused(
            f"its features are normalised over the whole recording (normalize: {shown(normalize)}), which is not known "
            "while audio is still coming"
        )
    sample_rate = section.integer("sample_rate", 16_000)
    window = _samples(section, "n_window_size", "window_size", 0.02, sample_rate)
    hop = _samples(section, "n_window_stride", "window_stride", 0.01, sample_rate)
    if section.flag("exact_pad", False) or section.integer("frame_splicing", 1) != 1 or window % 2:
        raise config.refused("its features have exact padding, splicing or an odd window")
    n_fft = section.integer("n_fft", 1 << max(window - 1, 0).bit_length())
    if not 0 < hop <= window <= n_fft:
        raise section.refused(
            f"a window of {window} samples does not fit between the hop of {hop} and n_fft of {n_fft}"
        )
    guard = section.get("log_zero_guard_value")
    if isinstance(guard, str):
        if guard not in _GUARDS:
            raise section.wrong("log_zero_guard_value", f"a number, {' or '.join(_GUARDS)}")
        guard = _GUARDS[guard]
    else:
        guard = section.number("log_zero_guard_value", 2.0**-24)
    # An explicit null turns the pre-emphasis off.
    preemphasis = section.number("preemph", 0.0 if section.given("preemph") else 0.97)
    return FeatureShape(
        sample_rate=sample_rate,
        window=window,
        hop=hop,
        n_fft=n_fft,
        mels=section.integer("features", 64),
        preemphasis=preemphasis,
        log=section.flag("log", True),
        guard_added=section.text("log_zero_guard_type", "add") == "add",
        guard=guard,
        power=section.number("mag_power", 2.0),
        has_window=section.text("window", "hann") in ("hann", "hamming", "blackman", "bartlett"),
    )


def _samples(section: Section, in_samples: str, in_seconds: str, default_s: float, rate: int) -> int:
    """Reads a duration that is given in samples or in seconds."""
    if in_samples in section:
        return section.integer(in_samples)
    return int(section.number(in_seconds, default_s) * rate)
