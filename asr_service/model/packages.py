"""Says which of the packages that models need are not installed. Imports none of them."""

from __future__ import annotations

import importlib.util
import sys
import tarfile

from asr_service.core.errors import SettingsError, first_line

MODEL_PACKAGES = {
    "torch": "torch",
    "numba": "numba",
    "pyyaml": "yaml",
    "sentencepiece": "sentencepiece",
    "huggingface_hub": "huggingface_hub",
}
"""The extra `model`: modules by the packages that have them."""
NEMO_PYTHON = (3, 11, 4)
"""The oldest Python with whose `tarfile` NeMo unpacks models."""


def check_installed(model: str) -> None:
    """Refuses a model for which there are no packages.

    Args:
        model: as set.

    Raises:
        SettingsError: with what to install.
    """
    missing = [package for package, module in MODEL_PACKAGES.items() if not _is_there(module)]
    if missing:
        raise SettingsError(
            f"ASR_MODEL={model}: recognition needs {', '.join(missing)}, not installed here: pip install "
            "'asr-service[model]', of torch first the build for your device (or set ASR_MODEL=null, which recognizes "
            "nothing)",
            field="ASR_MODEL",
        )


def not_importable(model: str, package: str, error: Exception) -> SettingsError:
    """The error of a package that is installed, and cannot be imported.

    Args:
        model: as set.
        package: that fails.
        error: that it fails with.
    """
    return SettingsError(
        f"ASR_MODEL={model}: {package} is installed and cannot be imported ({first_line(error)}): install it again, in "
        "the build for this machine",
        field="ASR_MODEL",
    )


def why_not_nemo() -> str:
    """Says why NeMo cannot read a model with this Python; "" where it can."""
    # Debian 12 has 3.11.2; some distributions have brought the filters to an older one.
    if hasattr(tarfile, "data_filter"):
        return ""
    least, this = ".".join(map(str, NEMO_PYTHON)), sys.version.partition(" ")[0]
    return f"NeMo unpacks models as Python does from {least} on, and this is {this}"


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
