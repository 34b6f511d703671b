"""The weight files of a directory: what is chosen, and what is not followed or believed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import quire.weights.sources._files as module
from quire.errors import CheckpointError
from quire.weights.checkpoint import Checkpoint
from quire.weights.sources._files import INDEX, find_weights

A, B = torch.arange(24.0).reshape(2, 3, 4), torch.arange(5)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards and an index."""
    save_file({"a": A}, tmp_path / "one.safetensors")
    save_file({"b": B}, tmp_path / "two.safetensors")
    _index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    return tmp_path


def _index(directory: Path, weight_map: object) -> None:
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_the_index_decides(sharded: Path) -> None:
    save_file({"c": B}, sharded / "consolidated.safetensors")
    assert [p.name for p in find_weights(sharded)] == ["one.safetensors", "two.safetensors"]


def test_then_the_single_file(tmp_path: Path) -> None:
    for name in ("model", "adapter_model"):
        save_file({"a": A}, tmp_path / f"{name}.safetensors")
    assert [p.name for p in find_weights(tmp_path)] == ["model.safetensors"]


def test_then_all_there_are(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert [p.name for p in find_weights(sharded)] == ["one.safetensors", "two.safetensors"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.ckpt"])
def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"only as pickles \({re.escape(name)}\)"):
        find_weights(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no \.safetensors file"):
        find_weights(tmp_path)
    with pytest.raises(CheckpointError, match="not a directory"):
        find_weights(tmp_path / "gone")


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "..\\x.safetensors",
        "x.bin",
        "",
        7,
        None,
    ],
)
def test_the_index_names_plain_files_only(tmp_path: Path, name: object) -> None:
    save_file({"a": A}, tmp_path.parent / "x.safetensors")
    _index(tmp_path, {"a": name})
    with pytest.raises(CheckpointError, match=r"(only \.safetensors files beside the index|is broken)"):
        find_weights(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "[" * 100_000, "\udcff"])
def test_a_malformed_index(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match="is broken"):
        find_weights(tmp_path)


def test_an_index_of_absurd_size(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INDEX_BYTES", 10)
    with pytest.raises(CheckpointError, match="larger than 10 bytes"):
        find_weights(sharded)


def test_a_shard_that_is_missing(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing, the first is 'two\.safetensors'"):
        find_weights(sharded)


def test_links_out_of_the_directory_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    save_file({"a": A}, outside)
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "model.safetensors").symlink_to(outside)
    with pytest.raises(CheckpointError, match="not followed"):
        find_weights(inside)


def test_an_index_that_is_such_a_link_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    inside = tmp_path / "model"
    inside.mkdir()
    save_file({"a": A}, inside / "model.safetensors")
    (inside / INDEX).symlink_to(outside)
    with pytest.raises(CheckpointError, match="not followed"):
        find_weights(inside)


def test_links_within_it_are_followed(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "real.bin")
    (tmp_path / "model.safetensors").symlink_to("real.bin")
    assert Checkpoint(tmp_path).headers()["a"].shape == (2, 3, 4)


def test_the_hub_cache_links_to_its_blobs(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({"a": A}, blobs / "123")
    (snapshot / "model.safetensors").symlink_to(Path("../../blobs/123"))
    assert find_weights(snapshot) == (snapshot / "model.safetensors",)


def test_nor_does_a_snapshot_reach_further(tmp_path: Path) -> None:
    snapshot = tmp_path / "repository" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file({"a": A}, tmp_path / "repository" / "other.safetensors")
    (snapshot / "model.safetensors").symlink_to(Path("../../other.safetensors"))
    with pytest.raises(CheckpointError, match="not followed"):
        find_weights(snapshot)
