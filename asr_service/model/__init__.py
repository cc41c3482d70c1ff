"""Models behind the `StreamingModel` protocol. Importing this package is cheap: `load_model` brings torch and NeMo."""

from __future__ import annotations

from pathlib import Path

from asr_service.core.errors import ModelError
from asr_service.core.model import StreamingModel
from asr_service.model.look_ahead import choose_context
from asr_service.model.slot_budget import host_slots

DEMO_MODEL = Path(__file__).parents[1] / "assets" / "demo.nemo"


def model_file(model: str) -> Path | None:
    """The `.nemo` file a model setting names, None if it names a model of a hub.

    Raises:
        ModelError: if it names a file that does not exist.
    """
    path = DEMO_MODEL if model == "demo" else Path(model).expanduser()
    if path.suffix != ".nemo":
        return None
    if not path.is_file():
        raise ModelError(f"ASR_MODEL names a file that does not exist: {path}", field="ASR_MODEL")
    return path


def load_model(
    *, model: str, att_context: str, decoder: str, device: str | None, precision: str, encoder: str,
    slots: int | None, threads: int | None,
) -> StreamingModel:  # fmt: skip
    """Loads a model and allocates state for `slots` streams.

    Args:
        model: hub name, path of a `.nemo` file, "demo" for the packaged demo model, or "null" for no recognition.
        att_context: look-ahead as "left,right" in encoder frames; see `asr_service.model.look_ahead`.
        decoder: "rnnt" or "ctc".
        device: "cpu", "cuda:N", or None for the first GPU if there is one and the CPU otherwise.
        precision: "fp32", "tf32" (GPUs) or "bf16".
        encoder: "fast", or "nemo" for NeMo's own step.
        slots: streams that can be open at the same time; None for what memory holds, `asr_service.model.slot_budget`.
        threads: CPU threads of a step, None for torch's choice.

    Raises:
        SettingsError: if a value cannot be served; `field` names the environment variable.
        ModelError: if the model cannot be loaded or cannot stream.
    """
    if model == "null":
        from asr_service.model.null import CONTEXTS, FRAME_MS, NullModel

        return NullModel(
            slots=slots or host_slots(), att_context=choose_context(att_context, CONTEXTS, FRAME_MS)
        )
    model_file(model)  # a name that is mistyped is told before NeMo's import, which takes seconds
    from asr_service.model.loading import load_nemo

    return load_nemo(
        model=model, att_context=att_context, decoder=decoder, device=device, precision=precision, encoder=encoder,
        slots=slots, threads=threads,
    )  # fmt: skip
