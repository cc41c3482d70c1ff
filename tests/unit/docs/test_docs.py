"""What the documents say is true of the tree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_service import __version__
from asr_service.config import Settings
from asr_service.recognition.states import tables
from tests.support.audio import speechlike
from tests.support.bridge import Bridge
from tests.support.process import PATIENCE_S, ROOT, AsrService, clean_environment
from tools.settings_tables import updated
from ws_bridge.config import Settings as BridgeSettings

README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
INSIDE = [ROOT / "proto/python/README.md", *sorted(ROOT.glob("asr_service/**/README.md"))]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *INSIDE, *PAGES]
README_WORDS = 1600
"""What somebody reads before the first try; the rest has pages of its own."""
PROGRAMS = ("asr_service", "ws_bridge", "asr_common")
OTHER_VARIABLES = {"ASR_IMAGE", "ASR_API_KEY", "ASR_SHARED_MODELS"}
"""Of docker/*.sh, of the clients and of the hub's cache, not among the settings of the servers."""


def blocks(document: Path, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def anchors(document: Path) -> set[str]:
    """Names that links may give after `#`: those that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_settings_tables_are_those_of_the_programs() -> None:
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert text == updated(text), "run: python tools/settings_tables.py --write"


def test_the_state_tables_are_those_of_the_code() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert f"<!-- states -->\n{tables().strip()}\n<!-- states:end -->" in text


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= README_WORDS
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    assert {"make demo", "make test"} <= set(lines)


def test_the_version_has_release_notes() -> None:
    notes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(__version__)}\b", notes, re.MULTILINE)


def test_the_figures_of_the_step_are_those_that_were_measured() -> None:
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    measured = json.loads((ROOT / "bench/results/engine-cpu-2cores-amx.json").read_text())["rows"]
    found = {(row["look_ahead"], row["batch"], row["precision"]): row for row in measured}
    for look_ahead, batch in dict.fromkeys((row["look_ahead"], row["batch"]) for row in measured):
        fp32, bf16 = found[look_ahead, batch, "fp32"], found[look_ahead, batch, "bf16"]
        expected = [row[name] for row in (fp32, bf16) for name in ("step_ms", "speedup")]
        expected += [bf16["whole_ms"], bf16["realtime_streams"], fp32["realtime_streams"]]
        line = re.search(rf"^\| {look_ahead} \| {batch} \| (.*) \|$", text, re.MULTILINE)
        assert line is not None, (look_ahead, batch)
        for shown, value in zip(line[1].split(" | "), expected, strict=True):
            # Rounded to the digits that are shown; what ends in 5 either way.
            half = 0.5 * 10.0 ** -len(shown.partition(".")[2])
            assert abs(float(shown) - value) <= half + 1e-9, (look_ahead, batch, shown, value)


@pytest.mark.parametrize("index", ["docs/README.md", "docs/decisions/README.md"])
def test_an_index_lists_every_page_beside_it(index: str) -> None:
    listed = set(re.findall(r"\]\(([^)#]+)", (ROOT / index).read_text(encoding="utf-8")))
    assert {path.name for path in (ROOT / index).parent.glob("*.md")} - {"README.md"} <= listed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    commands = lines + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    asked = {match.group(1) for line in commands if (match := re.match(r"(?:\w+=\S+ )*make ([a-z-]+)", line))}
    assert asked <= targets
    known = {f"ASR_{name.upper()}" for kind in (Settings, BridgeSettings) for name in kind.model_fields}
    assert set(re.findall(r"\bASR_[A-Z_]+[A-Z]\b", text)) <= known | OTHER_VARIABLES
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        target = document.parent / link if link else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"
    for module in re.findall(r"-m ((?:clients|bench|demo_model)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module
    for script in re.findall(r"python ([\w/]+\.py)", text):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if path != ARCHITECTURE],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_files_that_a_document_names_exist(document: Path) -> None:
    """Paths from the repository's root or the document's folder; the architecture has a test of its own."""
    text = document.read_text(encoding="utf-8")
    kinds = "py|md|sh|cfg|conf|ya?ml|json|csv|html|toml|lock|proto|nemo"
    for name in set(re.findall(rf"`((?:[\w.-]+/)+[\w.-]+\.(?:{kinds}))`", text)):
        found = any((folder / name).exists() for folder in (ROOT, document.parent))
        assert found or name.startswith("build/"), name


def test_the_sources_that_the_architecture_names_exist() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    folders = (ROOT, ROOT / "asr_service", ROOT / "ws_bridge")
    for name in set(re.findall(r"`([\w/]+\.py)`", text)):
        assert any((folder / name).exists() for folder in folders), name


@pytest.mark.parametrize("package", ["asr_service", "ws_bridge"])
def test_the_architecture_names_every_source(package: str) -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    for path in (ROOT / package).rglob("*.py"):
        name = path.relative_to(ROOT / package).as_posix()
        named = re.search(rf"(?<![\w/])({package}/)?{re.escape(name)}", text) is not None
        # A room may have a page of its own.
        page = next(folder / "README.md" for folder in path.parents if (folder / "README.md").exists())
        if page != ROOT / "README.md":
            named |= path.name in page.read_text(encoding="utf-8")
        assert named or path.name.startswith("__"), name


def test_the_layers_are_those_that_are_checked() -> None:
    text = " ".join(ARCHITECTURE.read_text(encoding="utf-8").split())
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.split(r" [|:] ", layer) for layer in contracts[0]["layers"]]
    told = re.search(r"`([a-z_]+(?:(?:, | > )[a-z_]+)+)`", text)
    assert told is not None
    assert [layer.split(", ") for layer in told[1].split(" > ")] == layers[1:]


def test_the_messages_in_the_troubleshooting_are_those_of_the_programs() -> None:
    """Spans of code with several words are messages, or commands of make; dots or N stand for what varies."""
    sources = [path for name in PROGRAMS for path in sorted((ROOT / name).rglob("*.py"))]
    # A message may go over several literals, and has braces for what varies.
    said = re.sub(r'"\s*f?"', "", " ".join(path.read_text(encoding="utf-8") for path in sources))
    said = re.sub(r"\{[^{}]*\}", "...", said)
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    spans = {span for row in rows for span in re.findall(r"`([^`]+)`", "|".join(row[1:3]))}
    messages = {span for span in spans if " " in span and "make " not in span}
    assert messages
    for message in messages:
        for part in re.split(r"\.\.\.|\bN\b|'cuda:0'|\bno usable\b", message):
            assert part.strip() in said, message


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with AsrService() as process:
        yield process.target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where snippets run: with the file they read."""
    with wave.open(str(tmp_path / "hello.wav"), "wb") as wav:
        wav.setparams((1, 2, 16_000, 0, "NONE", ""))
        wav.writeframes(speechlike(1.0, seed=1))
    return tmp_path


def python(snippet: str, folder: Path) -> str:
    environment = clean_environment()
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_grpc_snippet_runs(service: str, folder: Path) -> None:
    (snippet,) = (block for block in blocks(README, "python") if "import grpc" in block)
    said = python(snippet.replace("localhost:50051", service), folder)
    final = re.search(r"^final (\w.*)$", said, re.MULTILINE)
    assert final is not None
    words = re.findall(r"^ +\d+ +\d+ \d\.\d\d (\w+)$", said, re.MULTILINE)
    assert words == final.group(1).split()


def test_the_websocket_snippet_runs(service: str, folder: Path) -> None:
    (snippet,) = blocks(ROOT / "docs/websocket.md", "python")
    with Bridge(service) as bridge:
        said = python(snippet.replace("ws://localhost:8080", bridge.url), folder)
    assert "'op': 'interim'" in said
    assert re.search(r"'op': 'final', 'sid': 'call-17', 'text': '\w", said.splitlines()[-1])


def test_the_snippet_of_the_stubs_runs(service: str, folder: Path) -> None:
    (snippet,) = blocks(ROOT / "proto/python/README.md", "python")
    use = f"\nprint(recognize([open('hello.wav', 'rb').read()[44:]], {service!r}))"
    assert re.search(r"\w", python(snippet + use, folder))


def test_the_buf_commands_run(service: str, folder: Path) -> None:
    buf = shutil.which("buf") or shutil.which("buf", path=str(Path(sys.executable).parent))
    if buf is None or shutil.which("bash") is None:
        pytest.skip("needs buf and bash")
    (commands,) = (block for block in blocks(ROOT / "docs/grpc.md", "sh") if block.startswith("buf curl"))
    environment = clean_environment(HOME=folder)
    environment["PATH"] = f"{Path(buf).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands.replace("localhost:50051", service)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert "asr.v1.SpeechService/Recognize" in done.stdout
    assert '"decoder"' in done.stdout
    assert '"FINAL_REASON_END_OF_STREAM"' in done.stdout
