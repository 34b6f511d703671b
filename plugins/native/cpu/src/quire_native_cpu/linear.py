"""Weights packed by the library, and products with them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from quire.ops.linear import PackedLinear
from quire_native_cpu.arena import Arena
from quire_native_cpu.dtypes import DTYPES
from quire_native_cpu.library import Library


class Weight(ctypes.Structure):
    """`Weight` in `csrc/weight.h`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("k", ctypes.c_int32),
        ("n", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class NativeLinear(PackedLinear):
    """A linear layer whose weight lies in panels of sixteen columns.

    Attributes:
        native: the same as the library reads it; points into `weight` and `bias`.
        dtype: of weight, bias, inputs and outputs.
    """

    native: Weight
    dtype: torch.dtype


def pack(library: Library, arena: Arena, weight: torch.Tensor, bias: torch.Tensor | None) -> NativeLinear:
    """Pack a weight `[N, K]`, fp32 or bf16; it may be dropped afterwards."""
    n, k = weight.shape
    code = DTYPES[weight.dtype]
    calls = library.calls
    data = arena.take(calls.quire_packed_bytes(k, n, code))
    rows = weight.detach().contiguous()
    bias = None if bias is None else bias.detach().contiguous().clone()
    calls.quire_pack(rows.data_ptr(), k, n, code, data.data_ptr(), torch.get_num_threads())
    native = Weight(data.data_ptr(), None if bias is None else bias.data_ptr(), k, n, code)
    return NativeLinear(data, bias, data.nbytes + (0 if bias is None else bias.nbytes), native, weight.dtype)


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """`[..., n] -> [rows, n]`, each row's elements beside one another; a copy only where they are not."""
    if x.dim() == 2 and x.stride(1) == 1:
        return x
    return x.reshape(-1, x.shape[-1]).contiguous()


def multiply(library: Library, x: torch.Tensor, packed: NativeLinear) -> torch.Tensor:
    """`[..., K] -> [..., N]`, bias included; x in the weight's dtype."""
    rows = as_rows(x)
    out = torch.empty((*x.shape[:-1], packed.native.n), dtype=x.dtype)
    library.calls.quire_linear(
        rows.data_ptr(),
        rows.stride(0),
        rows.shape[0],
        ctypes.byref(packed.native),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def multiply_head(
    library: Library, x: torch.Tensor, packed: NativeLinear
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """`[R, K] -> [R, N]`, and the result's peaks as `quire_peak` finds them: ids, values (fp32), invalid."""
    rows = as_rows(x)
    count = rows.shape[0]
    out = torch.empty((count, packed.native.n), dtype=x.dtype)
    ids = torch.empty(count, dtype=torch.int64)
    values = torch.empty(count, dtype=torch.float32)
    invalid = torch.empty(count, dtype=torch.bool)
    library.calls.quire_head(
        rows.data_ptr(),
        rows.stride(0),
        count,
        ctypes.byref(packed.native),
        out.data_ptr(),
        ids.data_ptr(),
        values.data_ptr(),
        invalid.data_ptr(),
        torch.get_num_threads(),
    )
    return out, (ids, values, invalid)
