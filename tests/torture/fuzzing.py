"""Case 5: a million inputs for everything that reads what strangers send; only documented errors may come of it.

Three ways: structured input from hypothesis, coverage-guided input from atheris (libFuzzer) for the same parsers, and
some thousands of conversations with a real service and a real bridge over sockets. One process works at a time.
"""

from __future__ import annotations

import asyncio
import faulthandler
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.support.process import ROOT, clean_environment
from tests.torture import strangers
from tests.torture.parsers import TARGETS, WORDS, seeds
from tests.torture.structured import strategy

FOLDER = ROOT / "build" / "fuzz"
LOCK = ROOT / "requirements-fuzz.lock"
INPUT_S = 10
"""Longest time for one input, on however busy a machine: thousands of times what one takes."""
MEMORY_MB = 2048
SHARES = {
    "compressed": 0.06,
    "opus": 0.04,
    "websocket": 0.11,
    "twilio": 0.02,
    "form": 0.02,
    "recording": 0.01,
    "deepgram": 0.06,
    "realtime": 0.06,
    "config": 0.12,
    "riva": 0.10,
    "wav": 0.15,
    "file": 0.08,
    "forms": 0.02,
    "audio": 0.05,
    "status": 0.10,
}
"""Of the inputs, by how much there is to find and how long one takes."""
STRUCTURED = 0.04
SOCKETS = 0.005


class Finding(AssertionError):
    """An input that something undocumented came of."""


async def fuzz(
    _seconds: float, seed: int, *, inputs: int = 1_000_000, guided: bool = True, show: bool = True
) -> dict[str, Any]:
    """Tries `inputs` inputs; `guided` takes most of them from atheris, else all parsers' input is structured."""
    figures: dict[str, Any] = {"inputs": 0}
    if guided:
        fetch_atheris()
    talks = max(30, round(inputs * SOCKETS))
    for target, share in SHARES.items():
        here = round((inputs - talks) * share)
        first = round(here * STRUCTURED) if guided else here
        began = time.monotonic()
        tried = await asyncio.to_thread(structured, target, first, seed)
        if guided:
            tried += await asyncio.to_thread(by_coverage, target, here - first, seed)
        figures[target] = tried
        figures["inputs"] += tried
        if show:
            print(f"  {target}: {tried} inputs in {time.monotonic() - began:.0f} s", flush=True)
    outcomes = await strangers.visit(talks, seed, show=show)
    figures["over sockets"] = dict(sorted(outcomes.items()))
    figures["inputs"] += sum(outcomes.values())
    figures["undocumented errors, crashes, hangs"] = 0
    return figures


async def conversations(_seconds: float, seed: int, *, inputs: int = 1_000_000) -> dict[str, Any]:
    """The part of `fuzz` over sockets alone."""
    outcomes = await strangers.visit(max(30, round(inputs * SOCKETS)), seed, show=True)
    return {"inputs": sum(outcomes.values()), "over sockets": dict(sorted(outcomes.items()))}


def structured(target: str, count: int, number: int) -> int:
    """Input from hypothesis; how many there were."""
    tried = 0

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy(target))
    def attempt(data: bytes) -> None:
        nonlocal tried
        tried += 1
        # From a thread of C, so that it sees a hang that no signal would interrupt.
        faulthandler.dump_traceback_later(INPUT_S, exit=True)
        try:
            TARGETS[target](data)
        except Exception as error:
            raise Finding(f"{target}, seed {number}: {data!r} came to {error!r}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()

    attempt()
    return tried


def by_coverage(target: str, count: int, number: int) -> int:
    """Input from atheris, in a process that ends at the first finding; how many there were."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, found = Path(folder, "corpus"), Path(folder, "found")
        corpus.mkdir()
        found.mkdir()
        for at, data in enumerate(seeds(target)):
            (corpus / str(at)).write_bytes(data)
        words = Path(folder, "words")
        quoted = [word.replace("\\", "\\\\").replace('"', '\\"') for word in WORDS.get(target, ["id"])]
        words.write_text("".join(f'"{word}"\n' for word in quoted))
        environment = clean_environment(OMP_NUM_THREADS=1)
        environment["PYTHONPATH"] = f"{FOLDER}:{environment['PYTHONPATH']}"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.torture.guided", target),
                *(f"-runs={count}", f"-seed={number % 2**31 + 1}", f"-timeout={INPUT_S}", "-max_len=2048"),
                *(f"-rss_limit_mb={MEMORY_MB}", "-print_final_stats=1", f"-dict={words}"),
                *(f"-artifact_prefix={found}/", str(corpus)),
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        spoiled = [path.read_bytes() for path in found.iterdir()]
    said = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    if done.returncode != 0 or spoiled or said is None:
        raise Finding(f"{target}, seed {number}: {spoiled} came to\n{done.stderr[-3000:]}")
    return int(said[1])


def fetch_atheris() -> None:
    """Puts what the lock file pins into a folder of its own: most machines have no use for it."""
    stamp = FOLDER / "installed"
    if stamp.exists() and stamp.read_text() == LOCK.read_text():
        return
    print(f"  fetching {LOCK.name} into {FOLDER.relative_to(ROOT)}", flush=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--upgrade",
        "--target",
        str(FOLDER),
    ]
    subprocess.run([*command, "--requirement", str(LOCK)], check=True)
    stamp.write_text(LOCK.read_text())
