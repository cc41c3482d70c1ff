"""Marks tests that have NeMo itself read a model's file, which takes a newer Python than all else."""

from __future__ import annotations

import pytest

from asr_service.model.packages import why_not_nemo

nemo_reads = pytest.mark.skipif(why_not_nemo() != "", reason=why_not_nemo())
