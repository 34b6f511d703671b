from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import quire.weights.checkpoint as module
from quire.contracts import Span
from quire.errors import CheckpointError
from quire.weights.checkpoint import TORCH_DTYPES, Checkpoint
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
