"""Weights of 8 bits or fewer packed by the library, and products of fp32 or bf16 rows with them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from quire.contracts import QuantizedWeight
from quire_native_cpu.arena import Arena
from quire_native_cpu.dtypes import DTYPES
from quire_native_cpu.library import Library
from quire_native_cpu.linear import as_rows

_COLUMNS, _UNIT, _MOST_SPAN = 16, 32, 256
"""`PANEL` and `K_BLOCK` in `csrc/weight.h`, `MOST_SPAN` in `csrc/wna16_weight.h`."""


_KEPT = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}
"""`Kept` in `csrc/wna16_weight.h`."""


class Wna16Weight(ctypes.Structure):
    """`Wna16Weight` in `csrc/wna16_weight.h`."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("shifts", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("gather", ctypes.c_void_p),
        ("k", ctypes.c_int32),
        ("n", ctypes.c_int32),
        ("packed_k", ctypes.c_int32),
        ("span", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("scales_kept", ctypes.c_int32),
        ("shifts_kept", ctypes.c_int32),
        ("exact", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class NativeWna16:
    """A matrix of codes in panels of sixteen columns, with scales for spans of rows.

    Attributes:
        native: the same as the library reads it; points into `held`.
        held: whatever tensors it points to.
    """

    native: Wna16Weight
    held: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for tensor in self.held)


@dataclass(frozen=True, slots=True)
class Spans:
    """How the rows of a weight lie in spans, which each have one scale per column.

    Attributes:
        size: rows of a span, a multiple of 32.
        groups: `[spans]` int64, the group of each.
        gather: `[spans * size]` int32, the row of the weight at each place, -1 where there is none; None
            if all are in order.
    """

    size: int
    groups: torch.Tensor
    gather: torch.Tensor | None


def spans_of(rows: int, groups: int, index: torch.Tensor | None) -> Spans:
    """Lay out rows `[K]` so that each group is whole spans; within a group they keep their order.

    Groups that are no multiple of 32 rows are padded to one. `index` is the group of each row, `[K]`; None if
    they are equally many, one group after the other.
    """
    if index is None:
        index = torch.arange(rows) // (rows // groups)
    order = index.argsort(stable=True)
    counts = index.bincount(minlength=groups)
    present = counts.nonzero().flatten()
    padded = (counts[present] + _UNIT - 1) // _UNIT * _UNIT
    largest = int(padded[0])
    size = _UNIT
    if bool((padded == largest).all()):
        size = max(n for n in range(_UNIT, _MOST_SPAN + 1, _UNIT) if largest % n == 0)
    of_spans = present.repeat_interleave(padded // size)
    # The rows of a group, in order, follow where it begins.
    starts = torch.zeros(groups, dtype=torch.int64)
    starts[present] = padded.cumsum(0) - padded
    before = counts.cumsum(0) - counts
    of_rows = index[order]
    places = starts[of_rows] + torch.arange(rows) - before[of_rows]
    gather = torch.full((int(padded.sum()),), -1, dtype=torch.int32)
    gather[places] = order.to(torch.int32)
    in_order = gather.numel() == rows and bool((gather == torch.arange(rows)).all())
    return Spans(size, of_spans, None if in_order else gather)


def pack(library: Library, arena: Arena, weight: QuantizedWeight, *, exact: bool) -> NativeWna16 | None:
    """Pack a weight without activation scheme; it may be dropped afterwards. None if codes do not fit.

    `exact`: no weight is ever rounded, and a row's bits depend on that row alone. Otherwise products of many
    bf16 rows may round each weight to bf16, by 2^-9 of it at most.
    """
    k, n = weight.codes.shape
    index = None if weight.group_index is None else weight.group_index.long()
    spans = spans_of(k, weight.scales.shape[0], index)
    packed_k = spans.size * spans.groups.numel()
    bits = 8 if weight.bits == 8 else 4
    is_signed = weight.codes.dtype == torch.int8
    centre = 0 if is_signed else 1 << (weight.bits - 1)
    zeros = torch.zeros_like(weight.scales) if weight.zeros is None else weight.zeros
    shifts = zeros.float() - centre
    calls = library.calls
    codes = arena.take(calls.quire_wna16_bytes(packed_k, n, bits))
    padded = -(-n // _COLUMNS) * _COLUMNS

    def panels(table: torch.Tensor, *narrow: torch.dtype) -> torch.Tensor:
        """`[G, N]` as `[panels, spans, 16]` in the first of the dtypes that changes nothing, or fp32."""
        dtype = next((one for one in narrow if _holds(one, table)), torch.float32)
        to = arena.take(dtype.itemsize * padded * spans.groups.numel()).view(dtype)
        wide = torch.nn.functional.pad(table.to(dtype), (0, padded - n))
        to.view(-1, spans.groups.numel(), _COLUMNS).copy_(
            wide[spans.groups].view(-1, padded // _COLUMNS, _COLUMNS).transpose(0, 1)
        )
        return to

    held = {
        "codes": codes,
        "scales": panels(weight.scales.float(), torch.float16, torch.bfloat16),
        "shifts": panels(shifts, torch.int8) if shifts.any() else None,
        "bias": None
        if weight.bias is None
        else torch.nn.functional.pad(weight.bias.float(), (0, padded - n)),
        "gather": spans.gather,
    }
    kept = {name: tensor for name, tensor in held.items() if tensor is not None}
    addresses = {name: tensor.data_ptr() for name, tensor in kept.items()}
    kinds = {f"{name}_kept": _KEPT[kept[name].dtype] for name in ("scales", "shifts") if name in kept}
    native = Wna16Weight(
        **addresses, **kinds, k=k, n=n, packed_k=packed_k, span=spans.size, bits=bits, exact=exact
    )
    rows = weight.codes if weight.codes.stride(1) == 1 else weight.codes.contiguous()
    fit = calls.quire_wna16_pack(
        rows.data_ptr(), rows.stride(0), is_signed, centre, ctypes.byref(native), torch.get_num_threads()
    )
    return NativeWna16(native, tuple(kept.values())) if fit else None


def _holds(dtype: torch.dtype, table: torch.Tensor) -> bool:
    """Whether these numbers are finite, and the same in that dtype."""
    return bool(table.isfinite().all()) and torch.equal(table.to(dtype).float(), table)


def multiply(library: Library, x: torch.Tensor, packed: NativeWna16) -> torch.Tensor:
    """`[..., K] -> [..., N]`, bias included, in x's dtype, fp32 or bf16."""
    rows = as_rows(x)
    out = torch.empty((*x.shape[:-1], packed.native.n), dtype=x.dtype)
    library.calls.quire_wna16_linear(
        rows.data_ptr(),
        rows.stride(0),
        rows.shape[0],
        DTYPES[x.dtype],
        ctypes.byref(packed.native),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out
