"""Local directories, and names that can only be paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.contracts import ModelRequest, ModelSource
from quire.errors import CheckpointError, ModelError, ModelNotFoundError
from quire.weights.sources.directory import DirectorySource


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`models/tiny` under the working directory."""
    directory = tmp_path / "models" / "tiny"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}", encoding="utf-8")
    (directory / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return directory


def test_is_a_model_source() -> None:
    assert isinstance(DirectorySource(), ModelSource)


@pytest.mark.parametrize("name", ["models/tiny", "./models/tiny", "models/tiny/", "{absolute}"])
def test_finds_a_directory(model: Path, name: str) -> None:
    files = DirectorySource().resolve(ModelRequest(model=name.format(absolute=model)))
    assert files is not None
    assert files.directory == model.resolve()
    assert [path.name for path in files.weights] == ["model.safetensors"]
    assert (files.source, files.revision) == ("directory", None)


def test_a_bare_name_is_a_directory_first(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    files = DirectorySource().resolve(ModelRequest(model="tiny"))
    assert files is not None
    assert files.directory == model.resolve()


def test_the_home_directory_is_expanded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model.parent))
    files = DirectorySource().resolve(ModelRequest(model="~/tiny"))
    assert files is not None


@pytest.mark.parametrize("name", ["tiny", "org/model", "gpt2", "x" * 5000, "a\0b"])
def test_names_of_others_are_left_to_them(model: Path, name: str) -> None:
    assert DirectorySource().resolve(ModelRequest(model=name)) is None


@pytest.mark.parametrize(
    "name",
    [
        "./nope",
        "../nope",
        "/nope/x",
        "~/nope",
        "~nobody-of-that-name/x",
        "a/b/c",
        "models/nope",
        "nope/",
        ".",
    ],
)
def test_paths_to_nothing_are_not_passed_on(model: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"no directory|no config\.json"):
        DirectorySource().resolve(ModelRequest(model=name))


def test_a_directory_without_config_is_no_model(model: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        DirectorySource().resolve(ModelRequest(model="models/tiny"))
    assert DirectorySource().resolve(ModelRequest(model="models/tiny", tokenizer_only=True)) is not None


def test_a_directory_with_pickles_is_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="runs whatever code"):
        DirectorySource().resolve(ModelRequest(model="models/tiny"))


def test_the_tokenizer_alone_needs_no_weights(model: Path) -> None:
    files = DirectorySource().resolve(ModelRequest(model="models/tiny", tokenizer_only=True))
    assert files is not None
    assert files.weights == ()


def test_a_file_is_no_directory(model: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        DirectorySource().resolve(ModelRequest(model="models/tiny/model.safetensors"))


def test_a_revision_is_not_dropped_silently(model: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no revisions"):
        DirectorySource().resolve(ModelRequest(model="models/tiny", revision="main"))
