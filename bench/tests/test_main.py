"""`make bench` runs everything there is to run."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from bench.__main__ import BENCHMARKS
from bench.options import QUICK_LIMIT, parse, words_parser, write_report
from bench.stepping import utterances
from testbed.processes import ROOT

ALONE = {"score"}
"""Needs a running service."""


def test_every_benchmark_is_among_all() -> None:
    """Programs that write a report; the others are parts of them."""
    sources = {path.stem: path.read_text() for path in (ROOT / "bench").glob("[!_]*.py")}
    programs = {name for name, source in sources.items() if '__name__ == "__main__"' in source}
    reporting = {name for name in programs if '"--json"' in sources[name] or "words_parser(" in sources[name]}
    assert reporting - ALONE == set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_takes_what_it_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    main = importlib.import_module(f"bench.{name}").main
    with pytest.raises(SystemExit) as ended:
        main([*BENCHMARKS[name], "--quick", "--json", "out.json", "--help"])
    assert ended.value.code == 0
    assert "--quick" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "limit"),
    [([], 100), (["--quick"], QUICK_LIMIT), (["--quick", "--limit", "7"], 7), (["--limit", "0"], 0)],
)
def test_quick_runs_have_fewer_utterances_unless_told_how_many(given: list[str], limit: int) -> None:
    assert parse(words_parser("Words.", limit=100), given).limit == limit


def test_a_report_makes_its_folder(tmp_path: Path) -> None:
    write_report(tmp_path / "new" / "out.json", {"rows": [1]})
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == {"rows": [1]}
    write_report(None, {"rows": []})


def test_without_the_evaluation_set_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.stepping.EVAL", tmp_path)
    with pytest.raises(SystemExit, match=r"evaluation set.*manifest\.jsonl"):
        utterances()
