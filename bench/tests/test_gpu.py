"""`bench.gpu` rehearses on a CPU what it does on a GPU, in its shortest form; what is wrong fails the run."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the model's packages are not installed: make setup")

from bench import gpu, gpu_steps, gpu_tokens
from testbed.golden import golden


def rehearsal() -> gpu.Section:
    return gpu.Section("cpu", True, time.monotonic() + 600, io.StringIO())


def rows(section: gpu.Section, kind: str) -> list[dict[str, Any]]:
    return [row for row in section.rows if row["kind"] == kind]


def test_the_tokens_of_a_device_are_held_to_those_that_are_right() -> None:
    section = rehearsal()
    gpu_tokens.check(section)
    assert gpu.failures({"tokens": {"failed": "", "rows": section.rows}}) == []
    assert [row["boosted"] for row in rows(section, "golden")] == [False, True, False]
    assert {row["decoder"] for row in rows(section, "shapes")} == {"rnnt", "ctc"}
    assert rows(section, "not finite")[0]["right"]


def test_a_wrong_token_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    one = next(one for one in golden() if one.look_ahead == (70, 0) and one.decoder == "ctc")
    one.tokens[-1].append(1)
    monkeypatch.setattr(gpu_tokens, "golden", lambda: [one])
    monkeypatch.setattr(gpu_tokens, "_QUICK", (((70, 0), "ctc", bool(one.boosted)),))
    monkeypatch.setattr(gpu_tokens, "_SHAPES", ())
    section = rehearsal()
    with pytest.raises(StopIteration):
        gpu_tokens.check(section)
    (found,) = rows(section, "golden")
    assert (found["wrong"], found["right"]) == (1, False)


def test_a_step_is_timed_by_stage() -> None:
    section = rehearsal()
    gpu_steps.measure(section)
    assert gpu.failures({"steps": {"failed": "", "rows": section.rows}}) == []
    for row in rows(section, "step"):
        assert min(row["wall_ms"], row["features_ms"], row["encoder_ms"], row["decoder_ms"]) > 0


def test_sections_run_in_processes_of_their_own_and_leave_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--device", "cpu", "--quick", "--only", "machine", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    kinds = {row["kind"] for row in found["sections"]["machine"]["rows"]}
    assert {"versions", "copy", "peak"} <= kinds
    assert "nothing failed" in capsys.readouterr().out


def test_a_section_that_fails_fails_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--only", "machine", "--most", "1", "--out", str(tmp_path)]) == 1
    assert "no time was left" in capsys.readouterr().out
