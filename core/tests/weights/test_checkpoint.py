from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import quire.weights.checkpoint as module
from quire.contracts import Span
from quire.errors import CheckpointError
from quire.weights.checkpoint import TORCH_DTYPES, Checkpoint, find_weights
from quire.weights.headers import Entry
from quire.weights.sources._files import INDEX

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


class TestFindWeights:
    def test_the_index_decides(self, sharded: Path) -> None:
        save_file({"c": B}, sharded / "consolidated.safetensors")
        assert [p.name for p in find_weights(sharded)] == ["one.safetensors", "two.safetensors"]

    def test_then_the_single_file(self, tmp_path: Path) -> None:
        for name in ("model", "adapter_model"):
            save_file({"a": A}, tmp_path / f"{name}.safetensors")
        assert [p.name for p in find_weights(tmp_path)] == ["model.safetensors"]

    def test_then_all_there_are(self, sharded: Path) -> None:
        (sharded / INDEX).unlink()
        assert [p.name for p in find_weights(sharded)] == ["one.safetensors", "two.safetensors"]

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "x.ckpt"])
    def test_pickled_weights_are_refused_with_the_reason(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match=rf"only as pickles \({re.escape(name)}\)"):
            find_weights(tmp_path)

    def test_nothing_there(self, tmp_path: Path) -> None:
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
    def test_the_index_names_plain_files_only(self, tmp_path: Path, name: object) -> None:
        save_file({"a": A}, tmp_path.parent / "x.safetensors")
        _index(tmp_path, {"a": name})
        with pytest.raises(CheckpointError, match=r"(only \.safetensors files beside the index|is broken)"):
            find_weights(tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "[" * 100_000, "\udcff"])
    def test_a_malformed_index(self, tmp_path: Path, text: str) -> None:
        (tmp_path / INDEX).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(CheckpointError, match="is broken"):
            find_weights(tmp_path)

    def test_an_index_of_absurd_size(self, sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_INDEX_BYTES", 10)
        with pytest.raises(CheckpointError, match="larger than 10 bytes"):
            find_weights(sharded)

    def test_a_shard_that_is_missing(self, sharded: Path) -> None:
        (sharded / "two.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"missing, the first is 'two\.safetensors'"):
            find_weights(sharded)

    def test_links_out_of_the_directory_are_refused(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside.safetensors"
        save_file({"a": A}, outside)
        inside = tmp_path / "model"
        inside.mkdir()
        (inside / "model.safetensors").symlink_to(outside)
        with pytest.raises(CheckpointError, match="not followed"):
            find_weights(inside)

    def test_an_index_that_is_such_a_link_is_refused(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside.json"
        outside.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
        inside = tmp_path / "model"
        inside.mkdir()
        save_file({"a": A}, inside / "model.safetensors")
        (inside / INDEX).symlink_to(outside)
        with pytest.raises(CheckpointError, match="not followed"):
            find_weights(inside)

    def test_links_within_it_are_followed(self, tmp_path: Path) -> None:
        save_file({"a": A}, tmp_path / "real.bin")
        (tmp_path / "model.safetensors").symlink_to("real.bin")
        assert Checkpoint(tmp_path).headers()["a"].shape == (2, 3, 4)

    def test_the_hub_cache_links_to_its_blobs(self, tmp_path: Path) -> None:
        snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        save_file({"a": A}, blobs / "123")
        (snapshot / "model.safetensors").symlink_to(Path("../../blobs/123"))
        assert find_weights(snapshot) == (snapshot / "model.safetensors",)

    def test_nor_does_a_snapshot_reach_further(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "repository" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        save_file({"a": A}, tmp_path / "repository" / "other.safetensors")
        (snapshot / "model.safetensors").symlink_to(Path("../../other.safetensors"))
        with pytest.raises(CheckpointError, match="not followed"):
            find_weights(snapshot)


class TestHeaders:
    def test_all_shards_together(self, sharded: Path) -> None:
        checkpoint = Checkpoint(sharded)
        headers = checkpoint.headers()
        assert {n: (h.dtype, h.shape, h.file) for n, h in headers.items()} == {
            "a": ("F32", (2, 3, 4), "one.safetensors"),
            "b": ("I64", (5,), "two.safetensors"),
        }
        assert checkpoint.nbytes() == 24 * 4 + 5 * 8
        assert checkpoint.place("a")[0] < checkpoint.place("b")[0]

    def test_a_tensor_in_two_files(self, sharded: Path) -> None:
        save_file({"a": A}, sharded / "two.safetensors")
        with pytest.raises(
            CheckpointError, match=r"'a' is in two files, one\.safetensors and two\.safetensors"
        ):
            Checkpoint(sharded)

    def test_an_index_that_lies(self, sharded: Path) -> None:
        _index(sharded, {"a": "two.safetensors", "b": "one.safetensors"})
        with pytest.raises(
            CheckpointError, match=r"'a' into two\.safetensors, but it is in one\.safetensors"
        ):
            Checkpoint(sharded)
        _index(sharded, {"a": "one.safetensors", "c": "two.safetensors"})
        with pytest.raises(CheckpointError, match=r"'c' into two\.safetensors, but no file has it"):
            Checkpoint(sharded)


class TestRead:
    def test_whole(self, sharded: Path) -> None:
        assert Checkpoint(sharded).read("a").equal(A)
        assert Checkpoint([sharded / "two.safetensors"]).read("b").equal(B)

    def test_scalar(self, tmp_path: Path) -> None:
        save_file({"s": torch.tensor(2.5)}, tmp_path / "model.safetensors")
        assert Checkpoint(tmp_path).read("s").equal(torch.tensor(2.5))

    def test_every_dtype(self, tmp_path: Path) -> None:
        tensors = {d: torch.ones(3).to(t) for d, t in TORCH_DTYPES.items()}
        save_file(tensors, tmp_path / "model.safetensors")
        checkpoint = Checkpoint(tmp_path)
        for dtype, tensor in tensors.items():
            assert checkpoint.headers()[dtype].dtype == dtype
            assert checkpoint.read(dtype).view(torch.uint8).equal(tensor.view(torch.uint8))

    def test_slices_equal_indexing(self, sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also when rows are read a few at a time."""
        checkpoint = Checkpoint(sharded)

        @settings(max_examples=60, deadline=None)
        @given(st.data())
        def check(data: st.DataObject) -> None:
            monkeypatch.setattr(module, "CHUNK_BYTES", data.draw(st.sampled_from([1, 50, 2**20])))
            spans = []
            for full in A.shape:
                start = data.draw(st.integers(0, full))
                spans.append(Span(start, data.draw(st.integers(start, full)), full))
            expected = A[tuple(slice(s.start, s.stop) for s in spans)]
            assert checkpoint.read("a", spans).equal(expected)

        check()

    def test_columns_are_cut_in_bounded_memory(self, sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        read = module._read_bytes

        def recorded(entry: Entry, offset: int, count: int) -> torch.Tensor:
            sizes.append(count)
            return read(entry, offset, count)

        monkeypatch.setattr(module, "_read_bytes", recorded)
        monkeypatch.setattr(module, "CHUNK_BYTES", 50)
        Checkpoint(sharded).read("a", [Span.whole(2), Span(0, 1, 3), Span.whole(4)])
        assert sizes == [48, 48]  # a row at a time
        sizes.clear()
        Checkpoint(sharded).read("a", [Span(1, 2, 2), Span.whole(3), Span.whole(4)])
        assert sizes == [48]  # rows alone: nothing but what is wanted

    def test_what_cannot_be_read(self, sharded: Path) -> None:
        checkpoint = Checkpoint(sharded)
        with pytest.raises(CheckpointError, match="no tensor 'x'"):
            checkpoint.read("x")
        with pytest.raises(CheckpointError, match=r"shape \[5\], not \[4\]"):
            checkpoint.read("b", [Span.whole(4)])

    def test_a_file_cut_short_meanwhile(self, sharded: Path) -> None:
        checkpoint = Checkpoint(sharded)
        path = sharded / "one.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match="became shorter"):
            checkpoint.read("a")
        path.unlink()
        with pytest.raises(CheckpointError, match="Cannot read"):
            checkpoint.read("a")
