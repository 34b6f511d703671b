"""int8 weights packed by the library, and products of rows that it quantizes with them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from quire_native_cpu.arena import Arena
from quire_native_cpu.dtypes import DTYPES
from quire_native_cpu.library import Library

_COLUMNS = 16
"""`INT8_COLUMNS` in `csrc/int8_weight.h`."""


class Int8Weight(ctypes.Structure):
    """`Int8Weight` in `csrc/int8_weight.h`."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("k", ctypes.c_int32),
        ("n", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class NativeInt8:
    """A matrix of codes in panels of sixteen columns, with a scale per column.

    Attributes:
        native: the same as the library reads it; points into `held`.
        held: packed codes, uint8; sums of columns, `[N padded]` int32; scales and, if there is one, bias,
            `[N padded]` fp32.
    """

    native: Int8Weight
    held: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for tensor in self.held)


def pack(
    library: Library, arena: Arena, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> NativeInt8:
    """Pack codes `[N, K]` int8 with scales `[N]` and bias `[N]`; they may be dropped afterwards."""
    n, k = codes.shape
    padded = -(-n // _COLUMNS) * _COLUMNS
    calls = library.calls
    packed = arena.take(calls.quire_int8_bytes(k, n))
    sums = torch.empty(padded, dtype=torch.int32)
    rows = codes.contiguous()
    calls.quire_int8_pack(rows.data_ptr(), k, n, packed.data_ptr(), sums.data_ptr(), torch.get_num_threads())
    vectors = [_padded(vector, padded) for vector in (scales, bias) if vector is not None]
    held = (packed, sums, *vectors)
    addresses = [tensor.data_ptr() for tensor in held]
    if bias is None:
        addresses.append(0)  # null
    return NativeInt8(Int8Weight(*addresses, k, n), held)


def multiply(library: Library, x: torch.Tensor, packed: NativeInt8) -> torch.Tensor:
    """`[..., K] -> [..., N]`, bias included, in x's dtype, fp32 or bf16."""
    rows = x if x.dim() == 2 and x.stride(1) == 1 else x.reshape(-1, packed.native.k).contiguous()
    out = torch.empty((*x.shape[:-1], packed.native.n), dtype=x.dtype)
    if rows.shape[0]:
        library.calls.quire_int8_linear(
            rows.data_ptr(),
            rows.stride(0),
            rows.shape[0],
            DTYPES[x.dtype],
            ctypes.byref(packed.native),
            out.data_ptr(),
            torch.get_num_threads(),
        )
    return out


def _padded(vector: torch.Tensor, size: int) -> torch.Tensor:
    """`[N]` as fp32 with zeros up to `size`."""
    out = torch.zeros(size, dtype=torch.float32)
    out[: vector.shape[0]] = vector
    return out
