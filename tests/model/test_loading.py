"""What is accepted, what is refused, and what the refusal says."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr_service.core.errors import ModelError, SettingsError
from asr_service.core.model_settings import ModelSettings
from asr_service.model import loading, make_model
from asr_service.model.look_ahead import choose_att_context
from asr_service.model.reading import ModelParts
from asr_service.model.slot_budget import MOST_SLOTS, SLOT_BYTES, slots_in
from asr_service.model.streaming import NemoStreamingModel
from testbed.models import babble
from tests.model import reference
from tests.model.driver import run
from tests.support.nemo_reads import nemo_reads

OFFERED = [(70, 13), (70, 6), (70, 1), (70, 0)]


def _load(model: str, **changes: Any) -> Any:
    return make_model(replace(ModelSettings(model, device="cpu", slots=2, threads=1), **changes))


def test_a_nemo_file_loads_and_streams(tiny_nemo: Path, nemo_model: Callable[[str], Any]) -> None:
    model = _load(str(tiny_nemo))
    audio = babble(4.0, 3)
    assert run(model, [audio], seed=1, together=1)[0].tokens == reference.tokens(
        nemo_model("tiny"), audio, (70, 1), "rnnt"
    )
    assert model.info.att_context == (70, 1) and model.info.chunk_ms == 160 and model.info.look_ahead_ms == 80
    assert len(model.info.pieces) == 64 and any(piece.startswith("\u2581") for piece in model.info.pieces)


def test_without_a_setting_the_default_is_used_where_the_model_has_it() -> None:
    assert choose_att_context(None, OFFERED, 80.0) == (70, 1)
    assert choose_att_context(None, [(56, 3), (56, 0)], 80.0) == (56, 3)


@pytest.mark.parametrize("pair", OFFERED)
def test_listed_contexts_are_used_as_they_are(pair: tuple[int, int]) -> None:
    assert choose_att_context(pair, OFFERED, 80.0) == pair


@pytest.mark.parametrize(("pair", "meant"), [((70, 16), (70, 6)), ((70, 33), (70, 13))])
def test_documented_names_mean_the_models_own(
    caplog: pytest.LogCaptureFixture, pair: tuple[int, int], meant: tuple[int, int]
) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_att_context(pair, OFFERED, 80.0) == meant
    assert len(caplog.records) == 1 and f"{meant[0]},{meant[1]}" in caplog.text


@pytest.mark.parametrize("pair", [(70, 2), (16, 70), (70, -1)])
def test_other_contexts_list_what_there_is(pair: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=r"70,13 .*70,6 .*70,1 .*70,0") as caught:
        choose_att_context(pair, OFFERED, 80.0)
    assert caught.value.field == "ASR_ATT_CTX"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"device": "cuda:93"}, "ASR_DEVICE"),
        ({"device": "tpu"}, "ASR_DEVICE"),
        ({"decoder": "beam"}, "ASR_DECODER"),
        ({"precision": "int3"}, "ASR_PRECISION"),
        ({"encoder": "slow"}, "ASR_ENCODER"),
        ({"att_context": (70, 5)}, "ASR_ATT_CTX"),
        ({"att_context": (70, 0), "encoder": "nemo"}, "ASR_ATT_CTX"),
    ],
)
def test_bad_settings_name_their_variable(tiny_nemo: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SettingsError, match=field) as caught:
        _load(str(tiny_nemo), **changes)
    assert caught.value.field == field


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        _load(str(tmp_path / "no.nemo"))
    broken = tmp_path / "broken.nemo"
    broken.write_bytes(b"not an archive")
    with pytest.raises(ModelError, match="archive, or damaged"):
        _load(str(broken))


def test_a_mistyped_path_is_told_before_anything_heavy_is_imported() -> None:
    program = (
        "import sys\n"
        "from asr_service.core.errors import ModelError\n"
        "from asr_service.core.model_settings import ModelSettings\n"
        "from asr_service.model import make_model\n"
        "try:\n"
        "    make_model(ModelSettings('no/such.nemo', device='cpu', slots=1, threads=1))\n"
        "except ModelError as error:\n"
        "    print(error.field, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ASR_MODEL", "False"]


def test_steps_keep_to_the_number_of_threads_that_was_set(tiny_nemo: Path) -> None:
    """In a process of its own: it is at their first start that the loops' threads would change torch's number."""
    program = (
        "import sys\n"
        "import numba, torch\n"
        "import numpy as np\n"
        "from testbed.by_request import StepRequest, step\n"
        "from asr_service.core.model_settings import ModelSettings\n"
        "from asr_service.model import make_model\n"
        "model = make_model(ModelSettings(sys.argv[1], (70, 13), device='cpu', slots=1, threads=1))\n"
        "step(model, [StepRequest(0, np.zeros(model.info.first_chunk_samples, np.float32), True, False)])\n"
        "print(torch.get_num_threads(), numba.get_num_threads())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_nemo)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1"]


def test_the_null_model_takes_the_look_ahead_too() -> None:
    assert _load("null", att_context=(70, 33)).info.att_context == (70, 13)
    with pytest.raises(SettingsError, match="70,13"):
        _load("null", att_context=(70, 5))


def test_without_a_number_of_streams_memory_decides(tiny_nemo: Path) -> None:
    assert 1 <= _load("null", slots=None).slots <= MOST_SLOTS
    assert 1 <= _load(str(tiny_nemo), slots=None).slots <= MOST_SLOTS
    crowd = {"slots": None, "sharers": 1 << 40}
    assert _load("null", **crowd).slots == _load(str(tiny_nemo), **crowd).slots == 1, "each has its share"
    assert slots_in(None, 0.5) == slots_in(1 << 50, 0.5) == MOST_SLOTS
    assert slots_in(100 * SLOT_BYTES, 0.25) == 25
    assert slots_in(0, 0.5) == 1
    assert slots_in(100 * SLOT_BYTES, 0.25, 2 * SLOT_BYTES) == 12


@pytest.mark.parametrize("shape", ["tiny", "small", "odd"])
def test_memory_for_slots_is_that_of_the_model(
    model_parts: Callable[[str], ModelParts], streaming: Callable[..., NemoStreamingModel], shape: str
) -> None:
    """The estimate bounds what a slot takes, at each look-ahead."""
    from testbed.shapes import SHAPES

    for context in SHAPES[shape].look_aheads:
        settings = ModelSettings(shape, context)
        assert streaming(shape, context).state_bytes() <= loading._slot_bytes(model_parts(shape), settings)


def full_gpu() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory")


def full_host() -> None:
    import torch

    torch.empty(1 << 60)


def full_host_for_numpy() -> None:
    np.empty(1 << 50, np.int8)


FULL = (full_gpu, full_host, full_host_for_numpy)


@pytest.mark.parametrize("full", FULL)
@pytest.mark.parametrize(
    ("held", "tried"), [(512, [512]), (200, [512, 256, 128]), (1, [512 >> n for n in range(10)])]
)
def test_half_of_the_slots_are_tried_until_there_is_memory(
    held: int, tried: list[int], full: Callable[[], None]
) -> None:
    from asr_service.model.loading import make_within_memory
    from asr_service.model.out_of_memory import is_out_of_memory

    asked: list[int] = []

    def make(slots: int) -> int:
        asked.append(slots)
        if slots > held:
            full()
        return slots

    assert make_within_memory(make, 512) == tried[-1]
    assert asked == tried
    held = 0
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        make_within_memory(make, 512)
    assert is_out_of_memory(caught.value)


def test_another_error_is_not_tried_again() -> None:
    from asr_service.model.loading import make_within_memory

    asked: list[int] = []

    def make(slots: int) -> None:
        asked.append(slots)
        raise RuntimeError("expected a tensor of another shape")

    with pytest.raises(RuntimeError, match="another shape"):
        make_within_memory(make, 512)
    assert asked == [512]


def test_more_streams_than_there_is_memory_for(tiny_nemo: Path) -> None:
    with pytest.raises(SettingsError, match="no memory for the model and 1000000000000 streams") as caught:
        _load(str(tiny_nemo), slots=10**12)
    assert caught.value.field == "ASR_MAX_STREAMS"


@pytest.mark.parametrize("full", FULL)
def test_a_model_too_large_for_the_device_is_no_mistaken_name(
    tiny_nemo: Path, monkeypatch: pytest.MonkeyPatch, full: Callable[[], None]
) -> None:
    import torch

    monkeypatch.setattr(torch, "load", lambda *_, **__: full())
    with pytest.raises(SettingsError, match="has no memory for the model"):
        _load(str(tiny_nemo))


@nemo_reads
def test_an_unknown_layer_falls_back_to_nemos_step(
    model_file: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A convolution normalised over batches: NeMo's step gives the reference's tokens, and the log says so once."""
    from asr_service.model.reference.nemo_encoder import NemoEncoder
    from asr_service.model.reference.nemo_model import read_nemo
    from tests.support.nemo_files import batch_normalized

    path = batch_normalized(model_file("tiny"), tmp_path / "batch-norm.nemo")
    with caplog.at_level(logging.WARNING):
        made = _load(str(path))
    assert isinstance(made._encoder, NemoEncoder)
    assert len([r for r in caplog.records if "NeMo's own step" in r.message]) == 1
    import torch

    audio = babble(3.0, 3)
    nemo = read_nemo(path, torch.device("cpu"), "the reference")
    assert run(made, [audio], seed=1, together=1)[0].tokens == reference.tokens(nemo, audio, (70, 1), "rnnt")
