"""Machine code for kinds of processors: a process takes that of its own kind, and never another one's."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asr_service.model.cpu_encoder import processors
from asr_service.model.cpu_encoder.processors import KINDS, Kind, kind_of_processor
from tests.support.process import printed

AMX, V4, V3 = KINDS
Pretend = Callable[..., Kind | None]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pretend]:
    """Makes the process take its processor for one with other flags."""

    def pretend(flags: frozenset[str], *, tiles: bool = False) -> Kind | None:
        file = tmp_path / "cpuinfo"
        file.write_text(
            f"processor\t: 0\nflags\t\t: {' '.join(sorted(flags))}\nbugs\t\t:\n\nprocessor\t: 1\n"
        )
        monkeypatch.setattr(processors, "CPU_INFO", file)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        processors.processor_flags.cache_clear()
        # Whether the kernel gives the permission is not for a file to say.
        monkeypatch.setattr(processors, "has_tiles", lambda: tiles)
        return kind_of_processor()

    yield pretend
    processors.processor_flags.cache_clear()


def test_a_processor_is_of_the_most_able_kind_whose_instructions_it_has(processor: Pretend) -> None:
    assert processor(AMX.flags | {"more"}, tiles=True) is AMX
    assert processor(AMX.flags, tiles=False) is V4, "without the permission"
    assert processor(V4.flags) is V4
    assert processor(V3.flags) is V3
    assert processor(frozenset({"sse2"})) is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_one_instruction_less_is_another_kind(kind: Kind, processor: Pretend) -> None:
    """Of any level: a virtual machine may hide single ones."""
    for flag in kind.flags:
        assert processor(kind.flags - {flag}, tiles=kind.has_tiles) is not kind


def test_another_architecture_is_of_no_kind(processor: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(AMX.flags, tiles=True)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert kind_of_processor() is None


@pytest.mark.skipif(platform.machine() != "x86_64", reason="kinds are of x86-64")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_code_for_a_kind_has_its_instructions_and_no_others(kind: Kind, tmp_path: Path) -> None:
    """By the registers that the machine code names: zmm and masks are of AVX-512, ymm of AVX2."""
    program = """
        import re, numba
        from asr_service.model.cpu_encoder.kernels.rows import exponential
        from asr_service.model.cpu_encoder.machine_code import target
        row = numba.float32[::1]
        exponential.compile((row, row, numba.int64))
        (code,) = exponential.inspect_asm().values()
        print(target().key, *sorted(set(re.findall(r"%([xyz]mm|k[1-7])", code))))
    """
    told = {"NUMBA_CPU_NAME": kind.cpu, "NUMBA_CPU_FEATURES": kind.features, "NUMBA_CACHE_DIR": tmp_path}
    key, *registers = printed("-c", textwrap.dedent(program), **told).split()
    assert key == kind.name
    assert "ymm" in registers or "zmm" in registers
    if kind is V3:
        assert not {"zmm", "k1", "k2", "k3"} & set(registers)
