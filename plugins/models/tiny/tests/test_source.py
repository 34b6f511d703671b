"""The hook, and the source over a folder of the test's own."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import quire_models_tiny
from quire.contracts import KINDS, ModelRequest, ModelSource
from quire.errors import CheckpointError, ModelNotFoundError
from quire_models_tiny import source
from quire_models_tiny.source import TinySource


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data folders with the names that are needed; the first model's."""
    for attribute in ("DATA", "DRAFT", "EAGLE"):
        folder = tmp_path / attribute.lower()
        folder.mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / name).write_bytes(b"{}")
        monkeypatch.setattr(source, attribute, folder)
    return tmp_path / "data"


def test_the_hook_describes_the_source() -> None:
    (spec,) = quire_models_tiny.quire_model_sources()
    assert (spec.name, spec.api, spec.names) == (
        "tiny",
        KINDS["source"].api,
        frozenset({"tiny", "tiny-draft", "tiny-eagle"}),
    )
    assert 0 < spec.priority < 100  # after directories, before the hub
    module, attribute = spec.target.split(":")
    assert getattr(importlib.import_module(module), attribute) is TinySource
    assert isinstance(TinySource(), ModelSource)


def test_resolves_to_the_data_folder(data: Path) -> None:
    files = TinySource().resolve(ModelRequest(model="tiny"))
    assert files is not None
    assert (files.directory, files.source) == (data, "tiny")
    assert files.weights == (data / "model.safetensors",)


@pytest.mark.parametrize("name", ["draft", "eagle"])
def test_what_proposes_has_a_folder_of_its_own(name: str, data: Path) -> None:
    files = TinySource().resolve(ModelRequest(model=f"tiny-{name}"))
    assert files is not None
    assert (files.model, files.directory) == (f"tiny-{name}", data.parent / name)
    assert files.weights == (files.directory / "model.safetensors",)


def test_the_head_needs_no_tokenizer(data: Path) -> None:
    (data.parent / "eagle" / "tokenizer.json").unlink()
    assert TinySource().resolve(ModelRequest(model="tiny-eagle")) is not None


def test_the_tokenizer_alone(data: Path) -> None:
    files = TinySource().resolve(ModelRequest(model="tiny", tokenizer_only=True))
    assert files is not None
    assert files.weights == ()


@pytest.mark.parametrize("name", ["Tiny", "tiny2", "tiny-draft2", "tiny-eagle3", "org/tiny", ""])
def test_other_names_are_not_its_own(data: Path, name: str) -> None:
    assert TinySource().resolve(ModelRequest(model=name)) is None


def test_a_revision_is_not_dropped_silently(data: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="Leave `revision` out"):
        TinySource().resolve(ModelRequest(model="tiny", revision="main"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_installation_is_named(data: Path, name: str) -> None:
    (data / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        TinySource().resolve(ModelRequest(model="tiny"))


def test_the_hook_module_is_light() -> None:
    code = "import sys, quire_models_tiny; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
