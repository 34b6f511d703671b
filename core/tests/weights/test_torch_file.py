"""Files of torch.save are read as torch reads them, and nothing that is in them is run (T4, T5)."""

from __future__ import annotations

import builtins
import io
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.contracts import Span
from quire.errors import CheckpointError
from quire.weights.checkpoint import Checkpoint
from quire.weights.torch_file import read_torch_entries

DTYPES = ("float16", "bfloat16", "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    made = {
        name: torch.randint(0, 2, (3, 5), generator=generator).to(getattr(torch, name)) for name in DTYPES
    }
    whole = torch.randn(6, 4, generator=generator)
    others = {"number": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    return {**made, "part": whole[2:4], "whole": whole, **others}


def save(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path / "pytorch_model.bin", **options)
    return path / "pytorch_model.bin"


def assert_reads_as(path: Path, expected: dict[str, torch.Tensor]) -> None:
    checkpoint = Checkpoint([path])
    assert set(checkpoint.headers()) == set(expected)
    for name, tensor in expected.items():
        assert checkpoint.headers()[name].shape == tuple(tensor.shape)
        found = checkpoint.read(name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)


def test_tensors_are_those_that_torch_reads(tmp_path: Path) -> None:
    assert_reads_as(save(tmp_path, tensors()), tensors())
    state = OrderedDict(tensors())
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    state["learnt"] = torch.nn.Parameter(torch.ones(2, 2))
    assert_reads_as(save(tmp_path, state), {**tensors(), "learnt": torch.ones(2, 2)})


def test_a_module_is_found_as_it_is_saved(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    assert_reads_as(save(tmp_path, module.state_dict()), dict(module.state_dict()))


def test_parts_are_cut_out(tmp_path: Path) -> None:
    checkpoint = Checkpoint([save(tmp_path, tensors())])
    found = checkpoint.read("whole", [Span(start=1, stop=3, full=6), Span(start=0, stop=2, full=4)])
    assert torch.equal(found, tensors()["whole"][1:3, :2])


class Canary:
    """Calls something when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (lambda mark: {"a": Canary(open, mark, "w")}, "open"),
        (lambda mark: {"a": torch.ones(2), "b": Canary(builtins.exec, f"open({mark!r}, 'w')")}, "exec"),
        (lambda mark: Canary(builtins.eval, f"open({mark!r}, 'w')"), "eval"),
        (lambda mark: Canary(torch.hub.load_state_dict_from_url, f"file://{mark}"), "torch.hub"),
    ],
)
def test_what_it_would_call_is_named_and_not_called(tmp_path: Path, content: Any, asked: str) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(CheckpointError, match=rf"asks for .*{asked}.*Nothing was run"):
        read_torch_entries(save(tmp_path, content(str(mark))))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(3, 4).T}, "not contiguous"),
        ({"epoch": 3}, "'epoch', which is no tensor"),
        ({"model": {"a": torch.ones(2)}}, "'model', which is no tensor"),
        (torch.ones(2), "does not hold tensors by name"),
        ({3: torch.ones(2)}, "broken data.pkl"),
        ([torch.ones(2)], "has the instruction"),
    ],
)
def test_only_tables_of_tensors_are_read(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_torch_entries(save(tmp_path, content))


def test_other_formats_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no archive as torch\.save writes it since version 1\.6"):
        read_torch_entries(save(tmp_path, tensors(), _use_new_zipfile_serialization=False))
    with pytest.raises(CheckpointError, match="another pickle protocol"):
        read_torch_entries(save(tmp_path, tensors(), pickle_protocol=4))
    file = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(CheckpointError, match=r"has no data\.pkl"):
        read_torch_entries(file)
    with pytest.raises(CheckpointError, match="Cannot read"):
        read_torch_entries(tmp_path / "gone.bin")


def rewritten(file: Path, name: str, content: bytes, how: int = zipfile.ZIP_STORED) -> Path:
    """The archive with another member in place of one."""
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members[name] = content
    with zipfile.ZipFile(file, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data, compress_type=how if member == name else zipfile.ZIP_STORED)
    return file


@pytest.mark.parametrize(
    ("name", "content", "how", "message"),
    [
        ("pytorch_model/data/0", b"123", zipfile.ZIP_STORED, "do not make the 2 elements"),
        ("pytorch_model/data/0", bytes(8), zipfile.ZIP_DEFLATED, "packed"),
        ("pytorch_model/data.pkl", b"\x80\x02}.", zipfile.ZIP_DEFLATED, r"data\.pkl' packed"),
        ("pytorch_model/byteorder", bytes(10**7), zipfile.ZIP_DEFLATED, "byteorder' packed"),
        ("pytorch_model/data.pkl", bytes(10**7), zipfile.ZIP_STORED, "more than 1000000 bytes"),
        ("pytorch_model/byteorder", b"big", zipfile.ZIP_STORED, "another byte order"),
        ("pytorch_model/data.pkl", b"\x80\x02}", zipfile.ZIP_STORED, "broken"),
        ("pytorch_model/data.pkl", b"\x80\x02tR.", zipfile.ZIP_STORED, "broken"),
        ("pytorch_model/data.pkl", b"\x80\x02cos\nsystem\n.", zipfile.ZIP_STORED, "asks for 'os.system'"),
    ],
)
def test_lies_are_found(tmp_path: Path, name: str, content: bytes, how: int, message: str) -> None:
    file = rewritten(save(tmp_path, {"a": torch.ones(2)}), name, content, how)
    with pytest.raises(CheckpointError, match=message):
        read_torch_entries(file)


def test_a_tensor_may_not_reach_behind_its_storage(tmp_path: Path) -> None:
    file = save(tmp_path, {"a": torch.ones(2)})
    with zipfile.ZipFile(file) as archive:
        pickled = archive.read("pytorch_model/data.pkl")
    shape = b"K\x02\x85"  # a tuple of 2
    assert pickled.count(shape) == 1
    for size in (3, 2**31 - 1):
        longer = b"J" + struct.pack("<i", size) + b"\x85"
        rewritten(file, "pytorch_model/data.pkl", pickled.replace(shape, longer))
        with pytest.raises(CheckpointError, match="ends behind its data"):
            read_torch_entries(file)


def test_a_long_list_of_members_is_not_read(tmp_path: Path) -> None:
    file = save(tmp_path, {"a": torch.ones(2)})
    with zipfile.ZipFile(file, "a") as archive:
        for number in range(15_000):
            archive.writestr(f"pytorch_model/{number:020}", b"")
    with pytest.raises(CheckpointError, match="list of members of more than"):
        read_torch_entries(file)


def test_marks_upon_marks_take_no_longer_than_the_file_is_long(tmp_path: Path) -> None:
    many = b"\x80\x02" + b"N(" * 300_000 + b"t" * 300_000 + b"."
    file = rewritten(save(tmp_path, {"a": torch.ones(2)}), "pytorch_model/data.pkl", many)
    with pytest.raises(CheckpointError, match="does not hold tensors"):
        read_torch_entries(file)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_reads_alike(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever bytes are changed, cut or put in: no other error, no other shape, no byte from elsewhere."""
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bool)}, buffer)
    good = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good) - 1))
        length = data.draw(st.integers(0, 4))
        good[at : at + length] = data.draw(st.binary(max_size=4))
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(good)
    try:
        entries = read_torch_entries(file)
    except CheckpointError:
        return
    for entry in entries.values():
        assert 0 <= entry.start <= entry.stop <= len(good)
    for name in entries:
        Checkpoint([file]).read(name)
