"""What a captured step does with arrays of slots: read each row's input, record each row's token."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels_triton.rows import launch_options

ROWS = 128


@triton.jit
def take_kernel(  # type: ignore[no-untyped-def]
    last_ids, lengths, slots, given_ids, given_positions, ids, positions, rows, ROWS: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slot = tl.load(slots + row, mask=row < rows, other=-1).to(tl.int64)
    seated = slot >= 0
    token = tl.load(given_ids + row, mask=seated, other=0)
    position = tl.load(given_positions + row, mask=seated, other=0)
    from_slot = seated & (token < 0)
    token = tl.where(from_slot, tl.load(last_ids + slot, mask=from_slot, other=0), token)
    position = tl.where(from_slot, tl.load(lengths + slot, mask=from_slot, other=1) - 1, position)
    tl.store(ids + row, token, mask=row < rows)
    tl.store(positions + row, position, mask=row < rows)


@triton.jit
def record_kernel(  # type: ignore[no-untyped-def]
    last_ids, lengths, slots, ids, rows, ROWS: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slot = tl.load(slots + row, mask=row < rows, other=-1).to(tl.int64)
    seated = slot >= 0
    token = tl.load(ids + row, mask=seated, other=0).to(last_ids.dtype.element_ty)
    length = tl.load(lengths + slot, mask=seated, other=0)
    tl.store(last_ids + slot, token, mask=seated)
    tl.store(lengths + slot, length + 1, mask=seated)


def take(
    last_ids: torch.Tensor,
    lengths: torch.Tensor,
    slots: torch.Tensor,
    given_ids: torch.Tensor,
    given_positions: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's token and its position: what is given, or its slot's last."""
    ids, positions = (torch.empty(slots.shape, dtype=x.dtype, device=x.device) for x in (last_ids, lengths))
    kernel: Any = take_kernel
    kernel[(triton.cdiv(len(slots), ROWS),)](
        last_ids,
        lengths,
        slots,
        given_ids,
        given_positions,
        ids,
        positions,
        len(slots),
        ROWS=ROWS,
        **launch_options(4),
    )
    return ids, positions


def record(last_ids: torch.Tensor, lengths: torch.Tensor, slots: torch.Tensor, ids: torch.Tensor) -> None:
    """Each row's token becomes its slot's last, and the slot one longer; in place."""
    kernel: Any = record_kernel
    kernel[(triton.cdiv(len(slots), ROWS),)](
        last_ids, lengths, slots, ids, len(slots), ROWS=ROWS, **launch_options(4)
    )
