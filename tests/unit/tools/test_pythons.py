"""Which Pythons `make test-pythons` chooses among those that are there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asr_service.doctor import installation
from tools.pythons import Interpreter, candidates, choose, look, wanted

MINORS = ["3.11", "3.12", "3.13"]


def there(*versions: str) -> list[Interpreter]:
    numbers = [tuple(map(int, version.split("."))) for version in versions]
    return [Interpreter((one[0], one[1], one[2]), Path(f"/there/{one}")) for one in sorted(numbers)]


@pytest.mark.parametrize(
    ("found", "chosen", "missing"),
    [
        ((), (), ["3.11.2", "3.11", "3.12", "3.13"]),
        (("3.11.2",), ("3.11.2",), ["3.12", "3.13"]),
        (
            ("3.11.2", "3.11.7", "3.11.15", "3.12.1", "3.13.0"),
            ("3.11.2", "3.11.15", "3.12.1", "3.13.0"),
            [],
        ),
        (("3.11.1", "3.11.9", "3.12.4"), ("3.11.9", "3.12.4"), ["3.11.2", "3.13"]),
        (("3.11.1",), (), ["3.11.2", "3.11", "3.12", "3.13"]),
    ],
)
def test_the_oldest_and_the_newest_of_each_minor_version(
    found: tuple[str, ...], chosen: tuple[str, ...], missing: list[str]
) -> None:
    assert choose(there(*found), "3.11.2", MINORS) == (there(*chosen), missing)


def test_those_that_are_meant_are_those_that_the_doctor_knows() -> None:
    oldest, minors = wanted()
    assert oldest == ".".join(map(str, installation.OLDEST_PYTHON))
    assert minors[-1] == ".".join(map(str, installation.NEWEST_PYTHON))


def test_programs_say_which_python_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    minor = f"3.{sys.version_info.minor}"
    for folder, text in (
        ("works", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'),
        # As pyenv's do for a version that is not chosen.
        ("refuses", "#!/bin/sh\necho not chosen >&2\nexit 127\n"),
        ("babbles", "#!/bin/sh\necho hello\n"),
    ):
        program = tmp_path / folder / f"python{minor}"
        program.parent.mkdir()
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", ":".join(str(tmp_path / name) for name in ("refuses", "babbles", "works")))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    (found,) = look([path for path in candidates([minor]) if path.is_relative_to(tmp_path)])
    assert found == Interpreter(sys.version_info[:3], tmp_path / "works" / f"python{minor}")
