"""torch is imported without what no step uses, and has it for whoever wants it."""

from __future__ import annotations

import textwrap

import pytest

from tests.support.process import printed

PART = "torch._meta_registrations"


def run(program: str) -> str:
    """Runs a program in a process of its own, since torch is imported once; what it printed."""
    start = f"import sys; from asr_service.model.torch_import import *; PART = {PART!r}\n"
    return printed("-c", start + textwrap.dedent(program))


def test_a_model_is_made_and_stepped_without_it() -> None:
    program = """
        import numpy as np
        from asr_service.core.model_settings import ModelSettings
        from testbed.by_request import StepRequest, step
        from asr_service.model import make_model

        model = make_model(ModelSettings(name="demo", device="cpu", slots=2))
        model.warm_up(2, lambda text: None)
        samples = np.zeros(model.info.first_chunk_samples, np.float32)
        (result,) = step(model, [StepRequest(0, samples, True, False)])
        print(result.frames, type(sys.modules[PART]).__name__)
    """
    assert run(program) == "2 _Later"


@pytest.mark.parametrize(
    "wanted",
    ["import_all_of_torch()", "from torch._meta_registrations import meta_mm"],
    ids=["all", "a name of it"],
)
def test_whoever_wants_it_gets_it(wanted: str) -> None:
    program = f"""
        import_torch()
        import torch
        {wanted}
        made = torch.ops.aten.mm(torch.empty(2, 3, device="meta"), torch.empty(3, 4, device="meta"))
        norm = torch.ops.aten._pdist_forward(torch.empty(5, 3, device="meta"), 2.0)
        print(tuple(made.shape), tuple(norm.shape), hasattr(sys.modules[PART], "meta_mm"))
    """
    assert run(program) == "(2, 4) (10,) True"


def test_torch_that_is_imported_is_left_as_it_is() -> None:
    program = """
        import gc, torch
        import_torch()
        print(type(sys.modules[PART]).__name__, gc.isenabled())
    """
    assert run(program) == "module True"
