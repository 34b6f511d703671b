"""Attention's plan of a step and call of a layer, as Python hands them to the library.

Shared by the attention backend, which makes plans, and by fused layers, which read them. Knows addresses and
`csrc/attention.h`'s structures; the cache's tensors, and which needs can be served, are the backend's.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from quire.contracts import AttentionBatch
from quire_native_cpu.library import Library
from quire_native_cpu.memory import Memory

LARGEST_HEAD = 512
"""Elements of a head for which the library has room."""


class Shape(ctypes.Structure):
    """`AttentionShape` in `csrc/attention_plan.h`: a KV group's, and the number of requests."""

    _fields_ = (
        ("requests", ctypes.c_int32),
        ("block_size", ctypes.c_int32),
        ("q_heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("window", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("deterministic", ctypes.c_int32),
    )


class Call(ctypes.Structure):
    """`AttentionCall` in `csrc/attention.h`: one layer's work."""

    _fields_ = (
        ("plan", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("k_stride", ctypes.c_int64),
        ("v_stride", ctypes.c_int64),
        ("positions", ctypes.c_void_p),
        ("cos_sin", ctypes.c_void_p),
        ("k_cache", ctypes.c_void_p),
        ("v_cache", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("out_stride", ctypes.c_int64),
        ("workspace", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rotary_dim", ctypes.c_int32),
        ("interleaved", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("soft_cap", ctypes.c_float),
    )


@dataclass(frozen=True, slots=True)
class NativeAttention:
    """What a fused layer of this library needs to attend by itself: an `AttentionBackend.native`.

    Heads and window are in the plan: `AttentionPlan.address` and `.workspace` of the step's metadata
    go into `AttentionCall`, as do the cache's tensors `k` and `v`.

    Attributes:
        library: the instruction set that the backend attends with; all write the same cache.
        dtype: of q, k, v, out and the cache, as `dtypes.DTYPES` has it.
        scale, soft_cap: as in `AttentionCall`, a soft cap of 0 being none.
    """

    library: str
    dtype: int
    scale: float
    soft_cap: float


class AttentionPlan:
    """One step of one KV group: the library's plan, and the tensors it points to.

    Attributes:
        address: of the library's `AttentionPlan`, which lives as long as this object.
        workspace: address of the memory that its layers use one after the other; it has 64-byte alignment.
        positions: the step's `[T]` positions.
    """

    __slots__ = ("_free", "_memory", "_tensors", "address", "positions", "workspace")

    def __init__(self, library: Library, shape: Shape, batch: AttentionBatch, memory: Memory) -> None:
        """Plan a step.

        Args:
            library: makes the plan.
            shape: the group's; `requests` and `threads` are filled in here.
            batch: the step, on the host.
            memory: where the workspace is taken from.
        """
        table = batch.block_table if batch.block_table.stride(-1) == 1 else batch.block_table.contiguous()
        shape.requests, shape.threads = len(batch.seq_lens_host), torch.get_num_threads()
        calls = library.calls
        self.address, self._free = 0, calls.quire_attention_free
        self._tensors = (batch.query_start, batch.seq_lens, table, batch.slot_mapping)
        self.positions = batch.positions
        self.address = calls.quire_attention_plan(
            ctypes.byref(shape),
            batch.query_start.data_ptr(),
            batch.seq_lens.data_ptr(),
            table.data_ptr(),
            table.stride(0),
            batch.slot_mapping.data_ptr(),
        )
        self._memory = memory.take(calls.quire_attention_workspace(self.address))
        self.workspace = self._memory.data_ptr()

    def __del__(self) -> None:
        if self.address:
            self._free(self.address)
