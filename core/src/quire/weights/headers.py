"""Reading a safetensors header as if it lied.

Format: 8 bytes little-endian header length, that many bytes of JSON, then the data
(https://huggingface.co/docs/safetensors). Knows one file at a time and reads nothing but its header.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from quire.contracts import TensorHeader
from quire.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

MAX_AXES = 32

BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element, by the format's dtype names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor and where its bytes are.

    Attributes:
        header: dtype, shape, file.
        path: the file.
        start, stop: byte range in the file.
    """

    header: TensorHeader
    path: Path
    start: int
    stop: int


def read_entries(path: Path) -> dict[str, Entry]:
    """The tensors of one file, validated against each other and the file's size.

    Raises:
        CheckpointError: the file is truncated, or its header is malformed or contradicts the data.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                _refuse(path, f"is truncated: {size} bytes, where a header's length alone takes 8")
            length = int.from_bytes(prefix, "little")
            if length > min(MAX_HEADER_BYTES, size - 8):
                _refuse(
                    path,
                    f"announces a header of {length} bytes, but has {size - 8} after the length "
                    f"and the format allows {MAX_HEADER_BYTES}: truncated, or not a safetensors file",
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error
    data = 8 + length
    entries = {
        name: _entry(path, name, fields, data, size)
        for name, fields in _parse(path, text).items()
        if name != "__metadata__"
    }
    _check_cover(path, entries, data, size)
    return entries


def _refuse(path: Path, reason: str) -> NoReturn:
    raise CheckpointError(f"{path} {reason}.")


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                _refuse(path, f"names {key!r} twice in its header")
            found[key] = value
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a header that is not JSON: {type(error).__name__}.") from error
    if not isinstance(header, dict):
        _refuse(path, "has a header that is not a JSON object")
    return header


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _entry(path: Path, name: str, fields: Any, data: int, size: int) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"describes tensor {name!r} by something else than dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(path, f"gives tensor {name!r} the unknown dtype {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(_is_count(n) for n in shape):
        _refuse(path, f"gives tensor {name!r} a shape that is not a list of at most {MAX_AXES} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        _refuse(path, f"gives tensor {name!r} data_offsets that are not a pair of offsets")
    start, stop = data + offsets[0], data + offsets[1]
    if not data <= start <= stop <= size:
        _refuse(
            path,
            f"puts tensor {name!r} at bytes {start} to {stop}, but ends at {size}: truncated or damaged",
        )
    if (stop - start) * 8 != _bits(dtype, shape, limit=size * 8):
        _refuse(
            path, f"holds {stop - start} bytes for tensor {name!r}, which do not make {dtype} {shape[:8]}"
        )
    return Entry(TensorHeader(dtype=dtype, shape=tuple(shape), file=path.name), path, start, stop)


def _bits(dtype: str, shape: list[int], limit: int) -> int | None:
    """Bits of the tensor; None once they exceed `limit`, so that no huge product is ever computed."""
    empty = 0 in shape
    bits = BITS[dtype]
    for n in shape:
        bits *= max(n, 1)
        # The other axes of an empty tensor must still fit an address.
        if bits > (2**62 if empty else limit):
            return None
    return 0 if empty else bits


def _check_cover(path: Path, entries: dict[str, Entry], data: int, size: int) -> None:
    """Tensors must lie end to end and fill the file: anything else hides or shares bytes."""
    at, before = data, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != at:
            relation = "overlaps" if entry.start < at else "leaves a gap after"
            _refuse(path, f"lies: tensor {name!r} {relation} {before}")
        at, before = entry.stop, f"tensor {name!r}"
    if at != size:
        _refuse(path, f"ends at byte {size}, but its tensors end at {at}")
