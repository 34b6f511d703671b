"""What a file that `torch.save` wrote holds, and where, without unpickling it.

Such a file is an archive of raw tensors and a pickle that says which name has which
(https://docs.pytorch.org/docs/stable/notes/serialization.html). A pickle is a program: whoever runs it does
what its author wanted, and unpicklers that allow some names only have been tricked (CVE-2025-32434,
CVE-2026-24747). So it is not run. Its instructions are read as a description, and only those of which a table
of tensors is made; what they would call is compared with a few names, and never looked up. Anything else is
refused. Nothing is made but numbers, strings, tuples, dictionaries and the descriptions below.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.contracts import TensorHeader
from quire.errors import CheckpointError
from quire.weights.headers import BITS, MAX_AXES, Entry

__all__ = ["read_torch_entries"]

MAX_TABLE_BYTES = 1_000_000
"""Of the archive's list of members, and of the pickle: some thousand tensors take as much."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_STORAGES = {
    "BFloat16Storage": "BF16",
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "ShortStorage": "I16",
}
_DICT = "collections.OrderedDict"
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_NAMES = frozenset({_DICT, _TENSOR, _PARAMETER, *(f"torch.{name}" for name in _STORAGES)})


class _RefusedError(Exception):
    """The rest of a sentence that begins with the file's name."""


class _Bounded(io.FileIO):
    """Reads little at a time, whatever sizes the file itself announces."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes, or the rest, of which no more than the bound is looked at."""
        if size is None or size < 0:
            size = MAX_TABLE_BYTES
        if size > MAX_TABLE_BYTES:
            raise _RefusedError(f"has a list of members of more than {MAX_TABLE_BYTES} bytes")
        return super().read(size) or b""


@dataclass(frozen=True, slots=True)
class _Name:
    """Of something that a pickle would call; nothing is behind it."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A member of the archive: its name there, elements, and their dtype."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A part of a storage; offset and shape are in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]


def read_torch_entries(path: Path) -> dict[str, Entry]:
    """The tensors of one file, each within its member of the archive.

    Raises:
        CheckpointError: it is of another format, damaged, or not a table of plain tensors alone.
    """
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            root, tensors = _table(archive)
            places = {tensor.storage.key: _place(path, archive, root, tensor) for tensor in tensors.values()}
    except _RefusedError as refused:
        raise CheckpointError(f"{path} {refused}.") from None
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no archive as torch.save writes it since version 1.6: {error}. "
            "Fetch it again, or look for a variant of the model in safetensors."
        ) from error
    entries = {}
    for name, tensor in tensors.items():
        dtype, first = tensor.storage.dtype, places[tensor.storage.key]
        start = first + tensor.offset * BITS[dtype] // 8
        stop = start + math.prod(tensor.shape) * BITS[dtype] // 8
        header = TensorHeader(dtype=dtype, shape=tensor.shape, file=path.name)
        entries[name] = Entry(header, path, start, stop)
    return entries


def _table(archive: zipfile.ZipFile) -> tuple[str, dict[str, _Tensor]]:
    """The archive's folder, and its tensors by name."""
    pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].filename.count("/") != 1:
        raise _RefusedError("has no data.pkl in one folder at its top, so torch.save did not write it")
    root = pickles[0].filename.removesuffix("data.pkl")
    order = archive.NameToInfo.get(f"{root}byteorder")  # older versions wrote none
    if order is not None and _small(archive, order) != b"little":
        raise _RefusedError("was written by a machine of another byte order")
    found = _Description(_small(archive, pickles[0])).read()
    if not isinstance(found, dict):
        raise _RefusedError("does not hold tensors by name")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise _RefusedError(
                f"holds {str(name)[:80]!r}, which is no tensor: only tensors by name are read"
            )
    return root, found


def _small(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's content."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_TABLE_BYTES:
        raise _RefusedError(
            f"has its member {info.filename[:80]!r} packed, or of more than {MAX_TABLE_BYTES} bytes"
        )
    return archive.read(info)


def _place(path: Path, archive: zipfile.ZipFile, root: str, tensor: _Tensor) -> int:
    """Where the tensor's storage begins in the file."""
    storage = tensor.storage
    try:
        info = archive.getinfo(f"{root}data/{storage.key}")
    except KeyError:
        raise _RefusedError(f"lacks the member data/{storage.key[:40]} that its tensors are in") from None
    with path.open("rb") as file:
        file.seek(info.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size))
        start = info.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)
        size = file.seek(0, 2)
    if signature != b"PK\x03\x04" or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise _RefusedError(f"has the member data/{storage.key[:40]} packed, encrypted or damaged")
    if start + info.file_size > size or info.file_size * 8 != storage.count * BITS[storage.dtype]:
        raise _RefusedError(
            f"has {info.file_size} bytes in data/{storage.key[:40]}, which are cut off or do not make the "
            f"{storage.count} elements of {storage.dtype} that are announced"
        )
    return start


class _Description:
    """The instructions of a pickle of protocol 2, read as what they describe."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._stack: list[Any] = []
        self._marks: list[int] = []  # heights of the stack
        self._memo: dict[int, Any] = {}

    def read(self) -> Any:
        """What it would leave."""
        try:
            while (code := self._take(1)) != b".":
                if code not in _INSTRUCTIONS:
                    raise _RefusedError(f"has the instruction {code!r}, which no table of tensors needs")
                _INSTRUCTIONS[code](self)
            return self._stack.pop()
        except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
            raise _RefusedError(f"has a broken data.pkl ({type(error).__name__})") from error

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise ValueError("ends early")
        self._at += count
        return taken

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _line(self) -> str:
        end = self._data.index(b"\n", self._at)
        return self._take(end + 1 - self._at)[:-1].decode()

    def _since_mark(self) -> list[Any]:
        place = self._marks.pop()
        above = self._stack[place:]
        del self._stack[place:]
        return above

    def protocol(self) -> None:
        """The pickle's own; torch.save writes the second."""
        if self._number("<B") != 2:
            raise _RefusedError("is of another pickle protocol than torch.save writes")

    def push(self, value: Any) -> None:
        """A value that takes no reading."""
        self._stack.append(value)

    def mark(self) -> None:
        """Where a tuple or several items begin."""
        self._marks.append(len(self._stack))

    def number(self, form: str) -> None:
        """An integer."""
        self._stack.append(self._number(form))

    def long(self) -> None:
        """An integer of any size; here of 16 bytes at most."""
        size = self._number("<B")
        if size > 16:
            raise ValueError("no size is that large")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def text(self) -> None:
        """A string."""
        self._stack.append(self._take(self._number("<I")).decode())

    def name(self) -> None:
        """What would be imported."""
        name = f"{self._line()}.{self._line()}"
        if name not in _NAMES:
            raise _RefusedError(
                f"asks for {name[:80]!r}, which no table of tensors needs. Nothing was run; do not trust "
                "whoever made the file"
            )
        self._stack.append(_Name(name))

    def put(self, form: str) -> None:
        """Keep what is on top."""
        self._memo[self._number(form)] = self._stack[-1]

    def get(self, form: str) -> None:
        """What was kept."""
        self._stack.append(self._memo[self._number(form)])

    def tuple_of(self, count: int | None) -> None:
        """Of the last few, or of those since the mark."""
        if count is None:
            self._stack.append(tuple(self._since_mark()))
        else:
            self._stack[-count:] = [tuple(self._stack[-count:])]

    def items(self, *, several: bool) -> None:
        """Into a dictionary."""
        flat = self._since_mark() if several else [self._stack.pop(-2), self._stack.pop()]
        keys, values = flat[::2], flat[1::2]
        into = self._stack[-1]
        if not isinstance(into, dict) or not all(isinstance(key, str) for key in keys):
            raise TypeError
        for key, value in zip(keys, values, strict=True):
            if key in into:
                raise _RefusedError(f"names {key[:80]!r} twice")
            into[key] = value

    def state(self) -> None:
        """Attributes of a dictionary, such as versions of modules; they are of no use."""
        self._stack.pop()
        if not isinstance(self._stack[-1], dict):
            raise TypeError

    def storage(self) -> None:
        """A member of the archive."""
        kind, dtype, key, _, count = self._stack.pop()
        if kind != "storage" or not isinstance(key, str) or not _is_count(count):
            raise TypeError
        self._stack.append(_Storage(_STORAGES[dtype.name.removeprefix("torch.")], key, count))

    def call(self) -> None:
        """What a call would give."""
        arguments, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, _Name) or not isinstance(arguments, tuple):
            raise TypeError
        if called.name == _DICT and not arguments:
            self._stack.append({})
        elif called.name == _PARAMETER and isinstance(arguments[0], _Tensor):
            self._stack.append(arguments[0])
        elif called.name == _TENSOR:
            self._stack.append(_tensor(*arguments[:4]))
        else:
            raise _RefusedError(f"calls {called.name} otherwise than a table of tensors does")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(storage: object, offset: object, shape: Sequence[int], strides: Sequence[int]) -> _Tensor:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise TypeError
    if (
        len(shape) != len(strides)
        or len(shape) > MAX_AXES
        or not all(map(_is_count, (offset, *shape, *strides)))
    ):
        raise TypeError
    assert isinstance(offset, int)
    count = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != count and 0 not in shape:
            raise _RefusedError(f"holds a tensor of shape {list(shape)[:8]} that is not contiguous")
        count *= size
        if count > 2**62:
            raise TypeError
    if offset + count > storage.count:
        raise _RefusedError(f"holds a tensor of shape {list(shape)[:8]} that ends behind its data")
    return _Tensor(storage, offset, shape)


_INSTRUCTIONS: dict[bytes, Callable[[_Description], None]] = {
    b"\x80": _Description.protocol,
    b"(": _Description.mark,
    b")": lambda it: it.push(()),
    b"}": lambda it: it.push({}),
    b"N": lambda it: it.push(None),
    b"\x88": lambda it: it.push(True),
    b"\x89": lambda it: it.push(False),
    b"K": lambda it: it.number("<B"),
    b"M": lambda it: it.number("<H"),
    b"J": lambda it: it.number("<i"),
    b"\x8a": _Description.long,
    b"X": _Description.text,
    b"c": _Description.name,
    b"q": lambda it: it.put("<B"),
    b"r": lambda it: it.put("<I"),
    b"h": lambda it: it.get("<B"),
    b"j": lambda it: it.get("<I"),
    b"t": lambda it: it.tuple_of(None),
    b"\x85": lambda it: it.tuple_of(1),
    b"\x86": lambda it: it.tuple_of(2),
    b"\x87": lambda it: it.tuple_of(3),
    b"s": lambda it: it.items(several=False),
    b"u": lambda it: it.items(several=True),
    b"b": _Description.state,
    b"Q": _Description.storage,
    b"R": _Description.call,
}
"""Those that `torch.save` writes for a dictionary of tensors."""
