from __future__ import annotations

from pathlib import Path

import pytest

from asr_service.core.errors import ModelError
from asr_service.model.hub.names import choose_file, parse_hub_name
from asr_service.model.locate import DEMO_MODEL, find_model, local_path, mend_model
from tests.support.rights import without_rights


def test_the_models_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, unpacked = tmp_path / "some.nemo", tmp_path / "owner/name"
    file.touch()
    unpacked.mkdir(parents=True)
    assert find_model("demo") == DEMO_MODEL
    assert find_model(str(file)) == file
    assert mend_model(str(file), file) is None
    monkeypatch.chdir(tmp_path)
    assert local_path("owner/name") is None, "a hub's name, in whatever folder the service is started"
    (unpacked / "model_config.yaml").touch()
    assert find_model("owner/name") == Path("owner/name")
    assert find_model(str(unpacked)) == unpacked


@pytest.mark.parametrize("name", ["none.nemo", "/no/such/folder", "./none", "~/none", "../owner/name"])
def test_a_path_that_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="names a file that does not exist: ") as refused:
        find_model(name)
    assert refused.value.field == "ASR_MODEL"


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a folder without model_config\.yaml.*: " + str(tmp_path)):
        find_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "repo", "revision"),
    [
        ("nvidia/stt_en-1.5", "nvidia/stt_en-1.5", None),
        ("o/n@main", "o/n", "main"),
        ("o/n@refs/pr/1", "o/n", "refs/pr/1"),
        ("O1/n_2@v1.0-rc_1", "O1/n_2", "v1.0-rc_1"),
    ],
)
def test_names_of_a_hub(name: str, repo: str, revision: str | None) -> None:
    assert (parse_hub_name(name).repo, parse_hub_name(name).revision) == (repo, revision)


@pytest.mark.parametrize(
    "name",
    ["Demo", "o", "o/", "/n", "o/n/m", "o/n@", "o/n@a b", "o/n@../../x", "o/n@/x", "o//n", "o/n--m", "o/n.git", "o/-n",
     "o/n.", "https://huggingface.co/o/n", "o/" + "n" * 97, "o/nü"],
)  # fmt: skip
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(ModelError, match="which names no model: write owner/name") as refused:
        parse_hub_name(name)
    assert repr(name) in refused.value.message and refused.value.field == "ASR_MODEL"


def test_which_file_of_a_repository_is_its_model() -> None:
    name = parse_hub_name("o/n")
    assert choose_file(name, ["README.md", "other.nemo"]) == "other.nemo"
    assert choose_file(name, ["a.nemo", "n.nemo", "z.nemo"]) == "n.nemo"
    with pytest.raises(
        ModelError, match=r"o/n has 2 \.nemo files and none that is called n\.nemo: a\.nemo, b\.nemo;"
    ):
        choose_file(name, ["b.nemo", "a.nemo", "README.md"])
    with pytest.raises(ModelError, match=r"o/n has no \.nemo file; it has README\.md, model\.safetensors;"):
        choose_file(name, ["model.safetensors", "README.md"])
    with pytest.raises(ModelError, match="and 2 more; "):
        choose_file(name, [f"part-{k:02}" for k in range(12)])


def test_paths_that_no_file_can_have() -> None:
    with pytest.raises(
        ModelError, match=r"'~nobody-at-all/x\.nemo', and there is no home folder for that"
    ) as refused:
        find_model("~nobody-at-all/x.nemo")
    assert refused.value.field == "ASR_MODEL"
    with pytest.raises(ModelError, match=r"^ASR_MODEL: /n+\.nemo cannot be read: File name too long"):
        find_model("/" + "n" * 300 + ".nemo")
    with pytest.raises(ModelError, match="which names no model: write owner/name"):
        find_model("owner/" + "n" * 300)


def test_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "model.nemo").touch()
    with without_rights(folder):
        for name in (folder / "model.nemo", folder / "unpacked"):
            with pytest.raises(
                ModelError,
                match=f"^ASR_MODEL: {name} cannot be read: Permission denied; give this user the right",
            ) as refused:
                find_model(str(name))
            assert refused.value.field == "ASR_MODEL"
