from __future__ import annotations

import importlib.metadata
import platform
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from asr_service.config import Settings
from asr_service.core.cpus import usable_cpus
from asr_service.doctor import Finding, Verdict, examine
from asr_service.doctor.installation import check_packages, check_python
from asr_service.doctor.machine import cpu_precision
from asr_service.doctor.model import check_models
from asr_service.model.locate import DEMO_MODEL
from tests.support import hub
from tests.support.certificates import Authority
from tests.support.process import clean_environment, run_python
from tests.support.rights import without_rights


def found(subject: str, **settings: object) -> list[Finding]:
    """What is found about a subject, with a model that needs no torch unless told otherwise."""
    chosen = Settings(**({"model": "null", "host": "127.0.0.1", "grpc_port": 0} | settings))  # type: ignore[arg-type]
    return [finding for finding in examine(chosen) if finding.subject == subject]


def verdicts(findings: list[Finding]) -> list[Verdict]:
    assert all(finding.advice for finding in findings if finding.verdict is not Verdict.OK)
    return [finding.verdict for finding in findings]


def test_a_taken_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert verdicts(found("port", grpc_port=port)) == [Verdict.WRONG]
    assert verdicts(found("port", grpc_port=port)) == [Verdict.OK]


def test_models(tmp_path: Path) -> None:
    pointer = tmp_path / "pointer.nemo"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    archive = tmp_path / "archive.nemo"
    archive.write_bytes(b"\x1f\x8b" + bytes(100))
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    (unpacked / "model_config.yaml").touch()
    for model, verdict in (
        ("null", Verdict.NOTE),
        (str(tmp_path / "none.nemo"), Verdict.WRONG),
        (str(pointer), Verdict.WRONG),
        (str(archive), Verdict.OK),
        (str(tmp_path), Verdict.WRONG),
        (str(unpacked), Verdict.OK),
        ("a name of nothing", Verdict.WRONG),
    ):
        # The device is another check, which would import torch.
        settings = Settings(model=model, host="127.0.0.1", grpc_port=0)
        findings = [next(one for one in examine(settings) if one.subject == "model")]
        assert verdicts(findings) == [verdict], model


def test_a_model_that_may_not_be_looked_for(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "model.nemo").touch()
    settings = Settings(model=str(folder / "model.nemo"))
    for closed in (folder, folder / "model.nemo"):
        with without_rights(closed):
            (finding,) = check_models(settings)
        assert verdicts([finding]) == [Verdict.WRONG]
        assert f"{settings.model} cannot be read: Permission denied" in finding.found


@pytest.mark.parametrize(
    ("missing", "settings", "verdict", "advice"),
    [
        ((), {}, Verdict.OK, ""),
        # No image has it.
        (("nemo_toolkit",), {}, Verdict.OK, ""),
        (("nemo_toolkit",), {"encoder": "nemo"}, Verdict.WRONG, "'asr-service[nemo]'"),
        (("nemo_toolkit",), {"encoder": "nemo", "model": "null"}, Verdict.OK, ""),
        *(
            ((name,), {}, Verdict.WRONG, "'asr-service[model]'")
            for name in ("torch", "numba", "pyyaml", "sentencepiece", "huggingface_hub")
        ),
        (("torch", "numba"), {"model": "null"}, Verdict.OK, ""),
        (("numpy",), {"model": "null"}, Verdict.WRONG, "make setup"),
        (("av",), {}, Verdict.NOTE, "'asr-service[compressed]'"),
    ],
)
def test_packages(
    monkeypatch: pytest.MonkeyPatch,
    missing: tuple[str, ...],
    settings: dict[str, str],
    verdict: Verdict,
    advice: str,
) -> None:
    def version(name: str) -> str:
        if name in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    (finding,) = check_packages(Settings(**({"model": "demo"} | settings)))  # type: ignore[arg-type]
    assert verdicts([finding]) == [verdict] and advice in finding.advice
    assert all(f"{name} missing" in finding.found for name in missing)


@pytest.mark.parametrize(
    ("version", "system", "verdict", "said"),
    [
        ((3, 11, 2), ("Linux", "x86_64"), Verdict.OK, "Linux x86_64"),
        ((3, 13, 9), ("Linux", "aarch64"), Verdict.OK, "Linux aarch64"),
        ((3, 12, 0), ("Darwin", "arm64"), Verdict.OK, "Darwin arm64"),
        ((3, 11, 1), ("Linux", "x86_64"), Verdict.WRONG, "too old"),
        ((3, 14, 0), ("Linux", "x86_64"), Verdict.NOTE, "newer than what is tested"),
        ((3, 12, 0), ("Darwin", "x86_64"), Verdict.NOTE, "no packages are pinned for this system"),
    ],
)
def test_python_and_system(
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int, int],
    system: tuple[str, str],
    verdict: Verdict,
    said: str,
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(platform, "system", lambda: system[0])
    monkeypatch.setattr(platform, "machine", lambda: system[1])
    (finding,) = check_python(Settings(model="null"))
    assert verdicts([finding]) == [verdict] and said in finding.found
    assert verdict is Verdict.OK or "3.11.2 to 3.13" in finding.advice or "macOS on arm64" in finding.advice


def test_a_python_with_which_nemo_reads_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    assert verdicts(list(check_packages(Settings(model="demo")))) == [Verdict.OK]
    (finding,) = check_packages(Settings(model="demo", encoder="nemo"))
    assert verdicts([finding]) == [Verdict.WRONG] and "Python does from 3.11.4 on" in finding.found


def test_every_model_of_a_list_is_looked_at(tmp_path: Path) -> None:
    findings = found("model", model=f"demo; {tmp_path / 'none.nemo'};null")
    assert verdicts(findings) == [Verdict.OK, Verdict.WRONG, Verdict.NOTE]
    with_null = list(check_packages(Settings(model="null;demo", encoder="nemo")))
    assert with_null == list(check_packages(Settings(model="demo", encoder="nemo")))


@pytest.mark.parametrize(
    ("model", "att_ctx", "told"),
    [
        ("null", None, [("ok", "null: 80 ms (70,1)")]),
        ("demo", None, [("ok", "demo: 80 ms (70,1)")]),
        ("demo", "70,13; 70,16", [("ok", "demo: 1040 ms (70,13) and 480 ms (70,6)")]),
        (
            "null",
            "70,5;70,6",
            [("wrong", "null: ASR_ATT_CTX=70,5: this model does not have it"), ("ok", "null: 480 ms (70,6)")],
        ),
        ("demo;null", "70,0", [("ok", "demo: 0 ms (70,0)"), ("ok", "null: 0 ms (70,0)")]),
    ],
)
def test_every_look_ahead_of_a_list_is_looked_for(
    model: str, att_ctx: str | None, told: list[tuple[str, str]]
) -> None:
    pytest.importorskip("yaml", reason="the model's packages are not installed: make setup")
    findings = [
        one for one in check_models(Settings(model=model, att_ctx=att_ctx)) if one.subject == "look-ahead"
    ]
    verdicts(findings)
    assert len(findings) == len(told)
    for finding, (verdict, words) in zip(findings, told, strict=True):
        assert finding.verdict.value == verdict and finding.found.startswith(words)


def test_a_model_that_cannot_stream_is_told(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="the model's packages are not installed: make setup")
    (tmp_path / "model_config.yaml").write_text("target: nemo.collections.asr.models.EncDecMultiTaskModel\n")
    whole, look_ahead = check_models(Settings(model=str(tmp_path)))
    assert verdicts([whole, look_ahead]) == [Verdict.OK, Verdict.WRONG]
    assert "EncDecMultiTaskModel" in look_ahead.found


def test_no_torch_is_needed_to_look_at_models() -> None:
    program = (
        "import sys\n"
        "from asr_service.config import Settings\n"
        "from asr_service.doctor.model import check_models\n"
        "print([one.verdict.value for one in check_models(Settings(model='demo;null'))], 'torch' in sys.modules)\n"
    )
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=clean_environment())
    assert done.stdout == "['ok', 'ok', 'note', 'ok'] False\n"


def test_every_device_of_a_list_is_looked_for() -> None:
    pytest.importorskip("torch", reason="the model's packages are not installed: make setup")
    told = run("--model", "demo;null", "--device", "cpu,cuda:99,cpu").stdout
    assert told.count("device: the CPU") == 1
    assert told.count("device: ASR_DEVICE is 'cuda:99', but this machine has") == 1


def test_more_threads_than_can_run() -> None:
    can_run = usable_cpus().threads
    assert verdicts(found("CPU", threads=can_run)) == [Verdict.OK]
    (finding,) = found("CPU", threads=can_run + 1)
    assert finding.verdict is Verdict.NOTE
    assert f"ASR_THREADS={can_run + 1}" in finding.advice


def test_a_model_of_the_hub_is_looked_for_where_it_is_kept(tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads its variables when it is imported."""
    pytest.importorskip("huggingface_hub", reason="the model's packages are not installed: make setup")
    program = (
        "from asr_service.config import Settings\n"
        "from asr_service.doctor import examine\n"
        "findings = examine(Settings(model='org/name', host='127.0.0.1', grpc_port=0))\n"
        "model = next(one for one in findings if one.subject == 'model')\n"
        "print(model.verdict.value, model.found)\n"
    )

    def told(**more: str) -> str:
        environment = clean_environment(**hub.environment("http://127.0.0.1:1", tmp_path, **more))
        argv = [sys.executable, "-c", program]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout

    kept = tmp_path / "hub/models--org--name"
    assert told() == f"note org/name is not in {tmp_path / 'hub'}\n"
    assert told(HF_HUB_OFFLINE="1") == f"wrong org/name is not in {tmp_path / 'hub'}\n"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text("0123")
    assert told().startswith("note "), "a fetch that was not finished"
    (kept / "snapshots/0123").mkdir(parents=True)
    (kept / "snapshots/0123/name.nemo").write_bytes(b"\x1f\x8b")
    assert told() == f"ok org/name, fetched before ({kept / 'snapshots/0123/name.nemo'})\n"
    shared = told(HF_HUB_CACHE=str(tmp_path / "none"), ASR_SHARED_MODELS=str(tmp_path / "hub"))
    assert shared == f"ok org/name, fetched before ({kept / 'snapshots/0123/name.nemo'})\n"
    (kept / "snapshots/0123/name.nemo").unlink()
    damaged = kept / "blobs" / ("0" * 64)
    damaged.parent.mkdir()
    damaged.touch()
    (kept / "snapshots/0123/name.nemo").symlink_to(damaged)
    assert told() == f"note {damaged} is damaged\n"
    assert told(HF_HUB_OFFLINE="1") == f"wrong {damaged} is damaged\n"
    # What lies there is no file's name.
    (kept / "refs/main").unlink()
    (kept / "refs/main").symlink_to("main")
    assert told().startswith(f"wrong HF_HOME: the cache of models {kept} cannot be used (Too many levels")


@pytest.mark.parametrize("where", ["HF_HUB_CACHE", "ASR_SHARED_MODELS"])
def test_the_look_aheads_of_a_model_of_the_hub_are_looked_for_where_it_is_kept(
    tmp_path: Path, where: str
) -> None:
    """Be that the second cache, as in an image."""
    pytest.importorskip("huggingface_hub", reason="the model's packages are not installed: make setup")
    program = (
        "from asr_service.config import Settings\n"
        "from asr_service.doctor.model import check_models\n"
        "for one in check_models(Settings(model='org/name', att_ctx='7,7')):\n"
        "    print(one.verdict.value, one.subject, one.found)\n"
    )
    kept = tmp_path / "kept/models--org--name"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text("0123")
    (kept / "snapshots/0123").mkdir(parents=True)
    (kept / "snapshots/0123/name.nemo").write_bytes(DEMO_MODEL.read_bytes())
    variables = hub.environment("http://127.0.0.1:1", tmp_path, **{where: str(tmp_path / "kept")})
    argv = [sys.executable, "-c", program]
    environment = clean_environment(**variables)
    told = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout
    model, look_ahead = told.splitlines()
    assert model.startswith("ok model org/name, fetched before (")
    assert look_ahead.startswith("wrong look-ahead org/name: ASR_ATT_CTX=7,7: this model does not have it")


@pytest.mark.parametrize(
    ("precision", "bf16", "flags", "verdict"),
    [
        ("fp32", False, set(), Verdict.OK),
        ("tf32", True, {"amx_bf16"}, Verdict.WRONG),
        ("bf16", False, set(), Verdict.WRONG),
        ("bf16", True, {"avx512f"}, Verdict.NOTE),
        ("bf16", True, {"avx512f", "avx512_bf16"}, Verdict.OK),
    ],
)
def test_precisions_on_a_cpu(precision: str, bf16: bool, flags: set[str], verdict: Verdict) -> None:
    assert verdicts(list(cpu_precision(precision, bf16=bf16, flags=flags))) == [verdict]


def test_a_precision_that_would_not_start_is_told(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the model's packages are not installed: make setup")
    archive = tmp_path / "archive.nemo"
    archive.write_bytes(b"\x1f\x8b" + bytes(100))
    ill = run("--model", str(archive), "--device", "cpu", "--precision", "tf32")
    assert ill.returncode == 1
    assert "wrong  precision: tf32" in ill.stdout and "It cannot serve" in ill.stdout


def test_certificates(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    cert, key = ca.issue("server", days=90)
    key.chmod(0o600)
    assert verdicts(found("TLS", tls_cert=cert, tls_key=key, tls_client_ca=ca.cert)) == [Verdict.OK]
    key.chmod(0o644)
    assert verdicts(found("TLS", tls_cert=cert, tls_key=key)) == [Verdict.OK, Verdict.NOTE]
    soon, its_key = ca.issue("soon", days=3)
    its_key.chmod(0o600)
    assert verdicts(found("TLS", tls_cert=soon, tls_key=its_key)) == [Verdict.NOTE]
    expired, its_key = ca.issue("expired", days=-1)
    its_key.chmod(0o600)
    assert verdicts(found("TLS", tls_cert=expired, tls_key=its_key)) == [Verdict.WRONG]
    assert verdicts(found("TLS", tls_cert=cert, tls_key=its_key)) == [Verdict.WRONG]
    assert verdicts(found("TLS", tls_cert=cert)) == [Verdict.WRONG]


def test_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    assert verdicts(found("API keys", api_keys_file=path)) == [Verdict.WRONG]
    path.write_text("# nobody\n")
    assert verdicts(found("API keys", api_keys_file=path)) == [Verdict.NOTE]
    path.write_text("someone:" + "0" * 64)
    assert verdicts(found("API keys", api_keys_file=path)) == [Verdict.OK]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "asr_service", "doctor", "--host", "127.0.0.1", "--grpc-port", "0", *argv)


def test_the_command_line() -> None:
    well = run("--model", "null")
    assert well.returncode == 0, well.stdout + well.stderr
    assert "CPU: " in well.stdout and "It can serve" in well.stdout
    ill = run("--model", "null", "--api-keys-file", "/no/such [file]")
    assert ill.returncode == 1
    assert "/no/such [file]: No such file" in ill.stdout and "It cannot serve" in ill.stdout
