"""Launches of the kernels: tensors and strides in, grids and constants out. Knows no step's history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton

from quire.contracts import AttentionLayer, Rope
from quire_attn_triton.kernels.decode import decode_kernel, reduce_kernel
from quire_attn_triton.kernels.prefill import prefill_kernel
from quire_attn_triton.kernels.tile import LOG2E
from quire_attn_triton.kernels.write import write_kernel
from quire_attn_triton.metadata import StepMetadata
from quire_attn_triton.tables import REDUCE_SPAN, REDUCE_WARPS, WRITE_UNITS, WRITE_WARPS, padded

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether the kernels run in Triton's interpreter: decided when they are decorated, so here."""


OPTIONS = {"enable_fp_fusion": True}
"""Multiply and add in one instruction, whatever is Triton's default."""


class Cache(NamedTuple):
    """One layer's cache; the scales are K and V themselves where there are none."""

    k: torch.Tensor
    v: torch.Tensor
    k_scale: torch.Tensor
    v_scale: torch.Tensor


@dataclass(frozen=True, slots=True)
class Geometry:
    """What is the same for all layers and steps of a KV group.

    Attributes:
        block_size: tokens per block.
        quantized: the cache is in fp8, with scales.
        interpreted: the kernels make up for what Triton's interpreter gets wrong: products of bf16, and
            conversions to e4m3.
    """

    block_size: int
    quantized: bool
    interpreted: bool


def write(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cache: Cache,
    step: StepMetadata,
    geometry: Geometry,
    rope: Rope | None,
) -> torch.Tensor:
    """Rotate q and k, write K and V; q as it is to be attended with, `[T, Hq, D]`."""
    rows, q_heads, head_dim = q.shape
    kv_heads = k.shape[1]
    rotary = 0 if rope is None else rope.cos_sin.shape[1]
    q_out = q if rope is None else torch.empty((rows, q_heads, head_dim), dtype=q.dtype, device=q.device)
    q_parts = 0 if rope is None else triton.cdiv(rows * q_heads, WRITE_UNITS)
    write_kernel[(q_parts + triton.cdiv(rows * kv_heads, WRITE_UNITS),)](
        q,
        k,
        v,
        q_out,
        *cache,
        step.batch.positions if rope is None else rope.cos_sin,
        step.batch.positions,
        step.batch.slot_mapping,
        q.stride(0),
        q.stride(1),
        k.stride(0),
        k.stride(1),
        v.stride(0),
        v.stride(1),
        rows,
        q_heads,
        kv_heads,
        q_parts,
        HEAD=head_dim,
        DIM=padded(head_dim),
        ROTARY=rotary,
        INTERLEAVED=rope is not None and rope.interleaved,
        PAIRS=padded(max(rotary // 2, 1)),
        REST=padded(max(head_dim - rotary, 1)),
        UNITS=WRITE_UNITS,
        BLOCK_SIZE=geometry.block_size,
        QUANTIZED=geometry.quantized,
        ROUND=geometry.quantized and geometry.interpreted,
        num_warps=WRITE_WARPS,
        **OPTIONS,
    )
    return q_out


def attend(
    q: torch.Tensor, cache: Cache, step: StepMetadata, geometry: Geometry, layer: AttentionLayer
) -> torch.Tensor:
    """Attend to what is in the cache: q `[T, Hq, D]` to the same, contiguous."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    work, batch = step.work, step.batch
    kv_heads, head_dim = layer.num_kv_heads, layer.head_dim
    ratio, dim = layer.num_q_heads // kv_heads, padded(head_dim)
    capped = layer.soft_cap is not None
    common = (
        batch.query_start,
        batch.seq_lens,
        batch.block_table,
        batch.block_table.stride(0),
        q.stride(0),
        q.stride(1),
        kv_heads,
    )
    scalars = (
        layer.scale if capped else layer.scale * LOG2E.value,
        layer.soft_cap if capped else 1.0,
        work.window,
    )
    constants = {
        "RATIO": ratio,
        "HEAD": head_dim,
        "DIM": dim,
        "BLOCK_SIZE": geometry.block_size,
        "HAS_CAP": capped,
        "HAS_WINDOW": work.window > 0,
        "QUANTIZED": geometry.quantized,
        "UPCAST": geometry.interpreted and q.dtype == torch.bfloat16,
        **OPTIONS,
    }
    if work.has_prefills:
        prefill_kernel[(step.tiles.shape[0], kv_heads)](
            q,
            out,
            *cache,
            step.tiles,
            *common,
            *scalars,
            BLOCK_M=work.prefill.block_m,
            BLOCK_Q=work.tile_rows,
            TILE=work.prefill.tile,
            num_warps=work.prefill.warps,
            num_stages=work.prefill.stages,
            **constants,
        )
    if work.has_decodes:
        decode_kernel[(step.items.shape[0], kv_heads)](
            q,
            out,
            *step.partials,
            *cache,
            step.items,
            step.splits,
            step.chunk,
            *common,
            work.lanes,
            *scalars,
            BLOCK_M=work.decode_block,
            TILE=work.decode.tile,
            num_warps=work.decode.warps,
            num_stages=work.decode.stages,
            **constants,
        )
        reduce_kernel[(batch.seq_lens.shape[0], kv_heads * work.lanes)](
            out,
            *step.partials,
            step.splits,
            batch.query_start,
            kv_heads,
            work.lanes,
            RATIO=ratio,
            HEAD=head_dim,
            DIM=dim,
            SPAN=REDUCE_SPAN,
            num_warps=REDUCE_WARPS,
            **OPTIONS,
        )
    return out
