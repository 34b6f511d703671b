"""Headers that lie, each in its own way, and then at random (T5)."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from quire.errors import CheckpointError
from quire.weights.checkpoint import Checkpoint
from quire.weights.headers import BITS, read_entries

WriteRaw = Callable[..., Path]


def _entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_reads_what_safetensors_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(
        {"a": torch.zeros(2, 3), "b": torch.zeros(0, 5, dtype=torch.int8), "c": torch.tensor(1.0)},
        path,
        metadata={"format": "pt"},
    )
    entries = read_entries(path)
    assert {n: (e.header.dtype, e.header.shape) for n, e in entries.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("I8", (0, 5)),
        "c": ("F32", ()),
    }
    assert all(e.header.file == "x.safetensors" for e in entries.values())


def test_elements_below_a_byte_are_counted_in_bits(write_raw: WriteRaw) -> None:
    path = write_raw({"a": _entry("F4", [6], [0, 3])}, b"\0" * 3)
    assert read_entries(path)["a"].header.dtype == "F4"


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{", b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
        (b"[]", b"", "not a JSON object"),
        (b"[" * 100_000, b"", "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", b"", "not JSON"),
        (b'{"a": 1, "a": 2}', b"", "names 'a' twice"),
        ({"a": 1}, b"", "'a' by something else"),
        ({"a": {**_entry(), "more": 1}}, b"\0" * 8, "'a' by something else"),
        ({"a": _entry("F33")}, b"\0" * 8, "unknown dtype 'F33'"),
        ({"a": _entry(["F32"])}, b"\0" * 8, "unknown dtype"),  # type: ignore[arg-type]
        ({"a": _entry(shape=[-2])}, b"\0" * 8, "'a' a shape"),
        ({"a": _entry(shape=[2.0])}, b"\0" * 8, "'a' a shape"),
        ({"a": _entry(shape=[True, 2])}, b"\0" * 8, "'a' a shape"),
        ({"a": _entry(shape=[1] * 33)}, b"\0" * 8, "'a' a shape"),
        ({"a": _entry(shape="2")}, b"\0" * 8, "'a' a shape"),
        ({"a": _entry(offsets=[0])}, b"\0" * 8, "not a pair"),
        ({"a": _entry(offsets=[8, 0])}, b"\0" * 8, "ends at"),
        ({"a": _entry(offsets=[-8, 0])}, b"\0" * 8, "not a pair"),
        ({"a": _entry(offsets=[0, 2**70])}, b"\0" * 8, "not a pair"),
        ({"a": _entry()}, b"\0" * 7, "truncated"),
        ({"a": _entry(shape=[3])}, b"\0" * 8, r"8 bytes for tensor 'a'.*F32 \[3\]"),
        ({"a": _entry(shape=[2**31, 2**31, 2**31])}, b"\0" * 8, "do not make"),
        ({"a": _entry(shape=[0, 2**62], offsets=[0, 0])}, b"", "do not make"),
        ({"a": _entry("F4", [3], [0, 2])}, b"\0" * 2, "do not make"),
        ({"a": _entry(), "b": _entry()}, b"\0" * 8, "'b' overlaps tensor 'a'"),
        ({"a": _entry(), "b": _entry(offsets=[4, 12])}, b"\0" * 12, "'b' overlaps tensor 'a'"),
        ({"a": _entry(offsets=[4, 12])}, b"\0" * 12, "'a' leaves a gap after the header"),
        ({"a": _entry()}, b"\0" * 9, "ends at byte"),
    ],
)
def test_lies_are_named(write_raw: WriteRaw, header: Any, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_entries(write_raw(header, data))
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("length", [3, 2**32, 2**63, 2**64 - 1, 100_000_001])
def test_an_absurd_header_length_takes_no_memory(write_raw: WriteRaw, length: int) -> None:
    path = write_raw(b"{}", length=length)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=f"a header of {length} bytes"):
        read_entries(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("size", range(8))
def test_a_file_shorter_than_a_length(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\0" * size)
    with pytest.raises(CheckpointError, match="truncated"):
        read_entries(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Cannot read .*No such file"):
        read_entries(tmp_path / "gone.safetensors")


GOOD = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.int64)})

_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([*BITS, "", "x"]),
    st.lists(st.one_of(st.integers(-4, 2**66), st.text(max_size=3)), max_size=4),
)
_ENTRIES = st.one_of(
    _VALUES,
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.one_of(st.sampled_from(sorted(BITS)), _VALUES),
            "shape": st.one_of(st.lists(st.integers(0, 8), max_size=4), _VALUES),
            "data_offsets": st.one_of(st.lists(st.integers(0, 64), min_size=2, max_size=2), _VALUES),
        },
    ),
)


def _survives(path: Path) -> None:
    """The file is read whole, or refused; nothing else, and in little memory."""
    tracemalloc.start()
    try:
        checkpoint = Checkpoint([path])
        for name, header in checkpoint.headers().items():
            assert checkpoint.read(name).shape == header.shape
    except CheckpointError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


_FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_FUZZ
@given(cut=st.integers(0, len(GOOD)))
def test_truncations(scratch: Path, cut: int) -> None:
    scratch.write_bytes(GOOD[:cut])
    if cut == len(GOOD):
        assert set(read_entries(scratch)) == {"a", "b"}
    else:
        with pytest.raises(CheckpointError):
            read_entries(scratch)


@_FUZZ
@given(flips=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes(scratch: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in flips:
        data[at] = value
    scratch.write_bytes(data)
    _survives(scratch)


@_FUZZ
@given(header=st.dictionaries(st.text(max_size=4), _ENTRIES, max_size=4), data=st.binary(max_size=64))
def test_made_up_headers(scratch: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    scratch.write_bytes(len(text).to_bytes(8, "little") + text + data)
    _survives(scratch)


@_FUZZ
@given(text=st.binary(max_size=64), data=st.binary(max_size=16))
def test_headers_that_are_noise(scratch: Path, text: bytes, data: bytes) -> None:
    scratch.write_bytes(len(text).to_bytes(8, "little") + text + data)
    _survives(scratch)
