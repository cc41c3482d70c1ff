"""Model files that are whole, packed otherwise, damaged, or made to harm: read, or refused with the member's name."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_service.core.errors import ModelError
from asr_service.core.model_settings import ModelSettings
from asr_service.model.loading import assemble
from asr_service.model.locate import DEMO_MODEL
from asr_service.model.nemo_file.archive import open_nemo
from asr_service.model.nemo_file.members import CONFIG_BYTES
from asr_service.model.nemo_file.names import CONFIG, WEIGHTS
from asr_service.model.reading import ModelParts, read_model
from tests.support.nemo_files import changed, members, write

CPU = torch.device("cpu")


def read(path: Path) -> ModelParts:
    return read_model(str(path), CPU)


@pytest.fixture(scope="module")
def content() -> dict[str, bytes]:
    return members(DEMO_MODEL)


@pytest.fixture(scope="module")
def expected() -> ModelParts:
    return read(DEMO_MODEL)


def tokenizer_member(content: dict[str, bytes]) -> str:
    return next(name for name in content if name.endswith("tokenizer.model"))


def test_gzipped_unpacked_and_plain_files_hold_the_same(
    content: dict[str, bytes], expected: ModelParts, tmp_path: Path
) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    plain, gzipped = (
        write(tmp_path / "plain.nemo", content),
        write(tmp_path / "gzipped.nemo", content, "w:gz"),
    )
    for path in (plain, gzipped, folder):
        found = read(path)
        assert found.architecture == expected.architecture
        assert found.tokenizer.pieces == expected.tokenizer.pieces
        name = "encoder.layers.3.feed_forward1.linear1.weight"
        assert torch.equal(found.weights.take(name, -1, -1), expected.weights.take(name, -1, -1))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS, "tokenizer"])
def test_a_missing_member_is_named(
    content: dict[str, bytes], tmp_path: Path, missing: str, mode: str
) -> None:
    name = tokenizer_member(content) if missing == "tokenizer" else missing
    path = write(tmp_path / "m.nemo", {n: data for n, data in content.items() if n != name}, mode)
    with pytest.raises(ModelError) as caught:
        read(path)
    assert str(path) in caught.value.message and f"{name}: it is missing" in caught.value.message
    assert caught.value.field == "ASR_MODEL"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("name", ["../outside.yaml", "/etc/outside.yaml", "a/../../outside.yaml"])
def test_a_path_that_leaves_the_archive_is_refused(
    content: dict[str, bytes], tmp_path: Path, name: str, mode: str
) -> None:
    path = tmp_path / "m.nemo"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member, data in {**content, name: b"x"}.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(ModelError, match="leads out of the archive") as caught:
        read(path)
    assert name in caught.value.message
    assert [file.name for file in tmp_path.iterdir()] == ["m.nemo"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_an_archive_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "m.nemo"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(CONFIG)
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ModelError, match=f"{CONFIG}: it leads out of the archive"):
        read(path)


def test_a_link_in_a_folder_leads_nowhere_else(content: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    secret = tmp_path / "secret"
    secret.write_bytes(content[tokenizer_member(content)])
    (folder / tokenizer_member(content)).unlink()
    (folder / tokenizer_member(content)).symlink_to(secret)
    with pytest.raises(ModelError, match="lies outside the folder"):
        read(folder)


def test_a_file_that_the_configuration_names_elsewhere_is_not_read(tmp_path: Path) -> None:
    def elsewhere(values: dict[str, Any]) -> None:
        values["tokenizer"]["model_path"] = "/etc/hostname"

    path = changed(DEMO_MODEL, tmp_path / "m.nemo", config=elsewhere)
    with pytest.raises(ModelError, match=r"'/etc/hostname', which is not in the archive"):
        read(path)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = changed(DEMO_MODEL, tmp_path / "m.nemo", config=lambda c: c["tokenizer"].update(type="wpe"))
    with pytest.raises(
        ModelError, match=r"model_config\.yaml: tokenizer cannot be served: it is of type 'wpe'"
    ):
        read(path)


def test_a_huge_configuration_is_refused(content: dict[str, bytes], tmp_path: Path) -> None:
    path = write(tmp_path / "m.nemo", {**content, CONFIG: bytes(CONFIG_BYTES + 1)})
    with pytest.raises(ModelError, match=f"{CONFIG}: it has {CONFIG_BYTES + 1} bytes"):
        read(path)


def test_a_configuration_runs_no_code(content: dict[str, bytes], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    text = f"target: !!python/object/apply:os.system ['touch {mark}']\n"
    path = write(tmp_path / "m.nemo", {**content, CONFIG: text.encode()})
    with pytest.raises(ModelError, match=f"{CONFIG}: it is not plain YAML"):
        read(path)
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_file_that_was_cut_short_is_told(
    content: dict[str, bytes], tmp_path: Path, share: float, mode: str
) -> None:
    path = write(tmp_path / "m.nemo", content, mode)
    data = path.read_bytes()
    end = len(data) if mode != "w" else data.rindex(content[WEIGHTS][-64:]) + 64
    path.write_bytes(data[: int(share * end)])
    with pytest.raises(ModelError, match=r"cut short|damaged|is missing") as caught:
        read(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.pop("encoder.layers.2.norm_out.bias"), "encoder.layers.2.norm_out.bias is missing"),
        (
            lambda w: w.update({"joint.enc.weight": torch.zeros(3, 4)}),
            r"joint.enc.weight has the shape \[3, 4\] .* it should be \[192, 192\]",
        ),
        (
            lambda w: w.update({"encoder.pre_encode.out.bias": torch.zeros(192, dtype=torch.int64)}),
            r"pre_encode.out.bias has the shape \[192\] \(int64\)",
        ),
        (
            lambda w: w.update({"decoder.prediction.dec_rnn.lstm.weight_hh_l0": torch.zeros(4)}),
            r"lstm.weight_hh_l0 has the shape \[4\] .* it should be \[any, any\]",
        ),
        (lambda w: w.update({"spk_kernels.0.weight": torch.zeros(2)}), "whose use is not known here .*spk_kernels"),
    ],
)  # fmt: skip
def test_a_wrong_weight_is_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], told: str
) -> None:
    path = changed(DEMO_MODEL, tmp_path / "m.nemo", weights=change)
    with pytest.raises(ModelError, match=told):
        assemble(read(path), ModelSettings(str(path)), CPU, 1)


def test_a_file_is_closed_after_it_was_read(tmp_path: Path) -> None:
    with open_nemo(DEMO_MODEL) as file:
        assert file.config.section("encoder").integer("n_layers") == 8
        with pytest.raises(ModelError, match="is missing"):
            file.artifact("nemo:no-such-file")
