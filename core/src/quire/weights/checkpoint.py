"""A checkpoint on disk: which files it is, what they hold, and slices of it.

Everything is validated against the headers before any tensor memory is taken. Reads safetensors, and a file
that `torch.save` wrote as what is described in it: nothing is unpickled. Which of the two a model may come as
is decided where it is found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from quire.contracts import Span, TensorHeader
from quire.errors import CheckpointError
from quire.weights.headers import Entry, read_entries
from quire.weights.sources._files import INDEX, find_weights, index_bytes
from quire.weights.torch_file import read_torch_entries

CHUNK_BYTES = 32 * 2**20
"""Bounds the rows read at once when columns are cut out of them."""

TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class Checkpoint:
    """The tensors of a directory or of some files, by their names on disk."""

    def __init__(self, source: Path | Iterable[Path]) -> None:
        """Read and validate every header.

        Args:
            source: a checkpoint directory, or its files.

        Raises:
            CheckpointError: a file is missing, truncated or lies; a tensor is in two files, or not in the
                one the index names.
        """
        self.files = find_weights(source, torch_files=True) if isinstance(source, Path) else tuple(source)
        self._entries: dict[str, Entry] = {}
        for path in self.files:
            read = read_torch_entries if path.suffix == ".bin" else read_entries
            for name, entry in read(path).items():
                if name in self._entries:
                    raise CheckpointError(
                        f"Tensor {name!r} is in two files, {self._entries[name].path.name} and {path.name}."
                    )
                self._entries[name] = entry
        if isinstance(source, Path) and (source / INDEX).exists():
            self._check_index(source)
        self._headers = {name: entry.header for name, entry in self._entries.items()}

    def headers(self) -> Mapping[str, TensorHeader]:
        """Tensor name -> header."""
        return self._headers

    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.stop - entry.start for entry in self._entries.values())

    def place(self, name: str) -> tuple[int, int]:
        """(Number of its file, first byte): in this order each file is read once through."""
        entry = self._entries[name]
        return self.files.index(entry.path), entry.start

    def read(self, name: str, spans: Sequence[Span] | None = None) -> torch.Tensor:
        """A tensor, or the part of it that `spans` (one per axis) cut out, on the CPU.

        Memory taken is the part's, plus at most `CHUNK_BYTES` (or one row).

        Raises:
            CheckpointError: there is no such tensor, its dtype cannot be read, the spans are not of its
                shape, or the file changed since its header was read.
        """
        if name not in self._entries:
            raise CheckpointError(f"There is no tensor {name!r} in {', '.join(p.name for p in self.files)}.")
        entry = self._entries[name]
        header = entry.header
        if header.dtype not in TORCH_DTYPES:
            raise CheckpointError(
                f"{header.file}: tensor {name!r} has dtype {header.dtype}, which cannot be read."
            )
        dtype = TORCH_DTYPES[header.dtype]
        spans = [Span.whole(n) for n in header.shape] if spans is None else list(spans)
        if tuple(span.full for span in spans) != header.shape:
            raise CheckpointError(
                f"{header.file}: tensor {name!r} has shape {list(header.shape)}, "
                f"not {[span.full for span in spans]}."
            )
        if not spans:
            return _read_bytes(entry, 0, dtype.itemsize).view(dtype).reshape(())
        rows, columns = spans[0], spans[1:]
        row_bytes = dtype.itemsize * math.prod(header.shape[1:])
        if all(span.is_full for span in columns):
            raw = _read_bytes(entry, rows.start * row_bytes, rows.size * row_bytes)
            return raw.view(dtype).reshape([span.size for span in spans])
        part = torch.empty([span.size for span in spans], dtype=dtype)
        if part.numel() == 0:
            return part
        cut = tuple(slice(span.start, span.stop) for span in columns)
        each = max(1, CHUNK_BYTES // row_bytes)
        for first in range(rows.start, rows.stop, each):
            count = min(each, rows.stop - first)
            raw = _read_bytes(entry, first * row_bytes, count * row_bytes).view(dtype)
            part[first - rows.start :][:count] = raw.reshape(count, *header.shape[1:])[(slice(None), *cut)]
        return part

    def _check_index(self, directory: Path) -> None:
        # Its form was checked when the files were chosen by it.
        for tensor, name in json.loads(index_bytes(directory))["weight_map"].items():
            entry = self._entries.get(tensor)
            if entry is None or entry.path.name != name:
                where = "no file has it" if entry is None else f"it is in {entry.path.name}"
                raise CheckpointError(f"{directory / INDEX} puts tensor {tensor!r} into {name}, but {where}.")


def _read_bytes(entry: Entry, offset: int, count: int) -> torch.Tensor:
    """`count` bytes of a tensor from `offset`, `[count]` uint8."""
    raw = torch.empty(count, dtype=torch.uint8)
    try:
        with entry.path.open("rb", buffering=0) as file:
            file.seek(entry.start + offset)
            view = raw.numpy().data
            while view:
                got = file.readinto(view)
                if not got:
                    raise CheckpointError(f"{entry.path} became shorter while it was read.")
                view = view[got:]
    except OSError as error:
        raise CheckpointError(f"Cannot read {entry.path}: {error.strerror or error}.") from error
    return raw
