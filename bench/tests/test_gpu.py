"""`bench.gpu` rehearses on a CPU what it does on a GPU, in its shortest form; what is wrong fails the run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the model's packages are not installed: make setup")

from bench import gpu, gpu_rounds, gpu_service, gpu_steps, gpu_tokens
from bench.gpu_search import NEAR, most_carried
from testbed.golden import golden
from testbed.processes import ROOT, START_S, clean_environment


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
        assert min(row["wall_ms"], row["step_ms"], row["encoder_ms"], row["decoder_ms"]) > 0


@pytest.mark.parametrize("holds", [0, 1, 7, 100, 913, 5000])
@pytest.mark.parametrize("first", [1, 64, 5000])
def test_a_search_finds_what_is_carried(holds: int, first: int) -> None:
    tried: list[int] = []

    def carry(streams: int) -> bool:
        tried.append(streams)
        return streams <= holds

    low, high = most_carried(carry, first, 5000, lambda: True)
    assert low <= holds < high
    assert high - low <= 1 or high / low <= NEAR
    assert len(tried) == len(set(tried)) <= 20


def test_a_search_ends_when_its_time_is_over() -> None:
    assert most_carried(lambda streams: True, 8, 100, lambda: False) == (8, 101)
    assert most_carried(lambda streams: False, 8, 100, lambda: False) == (0, 8)


def test_batches_and_rounds_of_them_are_measured() -> None:
    section = rehearsal()
    extent = gpu_rounds.Extent("tiny", 12, (2, 4), {"fp32": (4,)}, 4, 0.7)
    gpu_rounds.measure(section, extent)
    assert gpu.failures({"rounds": {"failed": "", "rows": section.rows}}) == []
    assert [row["batch"] for row in rows(section, "batch")] == [2, 4]
    (found,) = rows(section, "rounds")
    assert 0 <= found["streams"] <= 12 and found["tries"] > 0


def test_the_service_is_measured_with_paced_streams() -> None:
    section = rehearsal()
    settings: dict[str, object] = {"ASR_MAX_STREAMS": 8, "ASR_MAX_BATCH": 8}
    gpu_service.measure(section, gpu_service.Extent("demo", settings, 2, 2.0, 1))
    assert gpu.failures({"service": {"failed": "", "rows": section.rows}}) == []
    (found,) = rows(section, "try")
    assert found["outcomes"] == "2 ok"
    assert found["interim_p99_ms"] > 0 and found["final_p99_ms"] > 0
    assert rows(section, "steps of the service")[0]["steps"] > 0


def test_what_the_service_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    for name in [name for name in sys.modules if name.startswith(("asr_service.app", "asr_service.api"))]:
        monkeypatch.delitem(sys.modules, name)
    section = rehearsal()
    gpu_service.measure(section)
    (found,) = section.rows
    assert found["kind"] == "not measured" and "grpc is not installed" in found["why"]


BARE = """
import sys
from importlib.machinery import PathFinder

NEEDED = {"torch", "triton", "numpy", "sentencepiece", "yaml", "bench", "asr_service", "asr_common", "testbed", "tests",
          "demo_model"}
# What torch and pytest import of others.
THEIRS = {"typing_extensions", "sympy", "mpmath", "filelock", "networkx", "jinja2", "markupsafe", "fsspec", "functorch",
          "torchgen", "setuptools", "pkg_resources", "_distutils_hack", "pytest", "_pytest", "pluggy", "iniconfig",
          "pygments", "packaging", "py", "cuda", "nvidia", "_yaml", "opt_einsum", "optree", "psutil"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        known = top in NEEDED | THEIRS or top in sys.stdlib_module_names
        known = known or top.startswith(("__editable__", "_sysconfigdata"))
        return super().find_spec(name, path, target) if known else None

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""Of what an image with torch for CUDA has, these are all that is imported."""


def test_a_bare_environment_has_what_it_takes(tmp_path: Path) -> None:
    """Every section but the service's, the making of its model's file, and the tests for a GPU."""
    program = f"""{BARE}
import importlib, io, time
from pathlib import Path
from bench import gpu
sections = [gpu.Section("cpu", True, time.monotonic() + 600, io.StringIO(), Path({str(tmp_path)!r})) for _ in range(4)]
for section, (module, function, _) in zip(sections, list(gpu.SECTIONS.values())[:4]):
    work = getattr(importlib.import_module(module), function)
    if module != "bench.gpu_rounds":
        section.attempt(module, lambda: work(section))
    print(module, [row for row in section.rows if row["kind"] in ("error", "left out")])
import testbed.random_file, tests.gpu.test_gpu
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{module} []" for module, _, _ in list(gpu.SECTIONS.values())[:4]]


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
