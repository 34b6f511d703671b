"""`CpuAttention`: paged attention in C++, over the block table without gathering.

Declares the cache that the kernels like, and hands addresses to `quire_native_cpu`. How it is computed is
described there, in `csrc/attention*.h`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch

from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    AttentionInit,
    AttentionLayer,
    AttentionNeed,
    CacheKind,
    KVLayout,
    KVTensor,
    Rope,
)
from quire.errors import PluginError
from quire_attn_cpu.options import CpuAttentionOptions
from quire_native_cpu import UnavailableError, load
from quire_native_cpu.attention import LARGEST_HEAD, AttentionPlan, Call, NativeAttention, Shape
from quire_native_cpu.dtypes import DTYPES
from quire_native_cpu.memory import Memory

_KINDS = (CacheKind.FULL, CacheKind.SLIDING_WINDOW)
_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
_LANES = 16


class CpuAttention(AttentionBackend):
    """Attention for processors in fp32 and bf16.

    Where blocks hold a multiple of 16 tokens and heads have a multiple of 16 elements, K and V are kept in
    words of 4 bytes (an fp32, or two bf16), as the products take them: sixteen keys make one vector, u
    elements of a head (K) or u tokens (V) one word. Elsewhere they are plain rows, turned to fp32 while
    they are read.
    """

    applies_rotary = True

    def __init__(self, init: AttentionInit) -> None:
        """Load the library.

        Raises:
            PluginError: it lacks the instruction set that the options name.
        """
        super().__init__(init)
        options = init.options if isinstance(init.options, CpuAttentionOptions) else CpuAttentionOptions()
        try:
            self._library = load(options.isa)
        except UnavailableError as error:
            raise PluginError(f"attention.cpu: {error}") from error
        need = init.need
        self._dtype = _NAMES[need.dtype]
        self._word = 4 // self._dtype.itemsize
        self._in_words = need.block_size % _LANES == 0 and need.cache.head_dim % _LANES == 0
        self._shape = Shape(
            block_size=need.block_size,
            q_heads=need.num_q_heads,
            kv_heads=need.cache.num_kv_heads,
            head_dim=need.cache.head_dim,
            window=need.cache.window or 0,
            dtype=DTYPES[self._dtype],
            layout=int(self._in_words),
            deterministic=int(need.deterministic),
        )
        self._workspace, self._rotated = Memory(), Memory()
        self._calls: dict[int, Call] = {}

    @classmethod
    def reject(cls, need: AttentionNeed) -> str | None:
        """Refuses caches that are not K and V in the compute dtype, and machines without the library."""
        cache = need.cache
        if cache.kind not in _KINDS:
            return f"keeps K and V, not {cache.kind.value} state"
        if need.dtype not in _NAMES:
            return f"computes in {' and '.join(_NAMES)}, not in {need.dtype}"
        if cache.dtype != need.dtype:
            return f"stores K and V in the compute dtype, {need.dtype}, not in {cache.dtype}"
        if need.num_q_heads % cache.num_kv_heads:
            return f"{need.num_q_heads} query heads do not divide over {cache.num_kv_heads} KV heads"
        if cache.head_dim > LARGEST_HEAD:
            return f"heads have up to {LARGEST_HEAD} elements, not {cache.head_dim}"
        try:
            load()
        except UnavailableError as error:
            return str(error)
        return None

    def kv_layout(self, num_blocks: int) -> KVLayout:
        """`k` and `v`.

        In words of u elements: `[num_blocks, num_kv_heads, head_dim / u, block_size, u]` and
        `[num_blocks, num_kv_heads, block_size / u, head_dim, u]`. In rows, both
        `[num_blocks, num_kv_heads, block_size, head_dim]`.
        """
        need, u = self.init.need, self._word
        heads, dim, size = need.cache.num_kv_heads, need.cache.head_dim, need.block_size
        k: tuple[int, ...] = (num_blocks, heads, size, dim)
        v = k
        if self._in_words:
            k, v = (num_blocks, heads, dim // u, size, u), (num_blocks, heads, size // u, dim, u)
        return KVLayout({"k": KVTensor(k, need.dtype), "v": KVTensor(v, need.dtype)})

    def plan(self, batch: AttentionBatch) -> AttentionPlan:
        """The step's tasks, each a block of rows and a range of keys."""
        return AttentionPlan(self._library, self._shape, batch, self._workspace)

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kv: Mapping[str, torch.Tensor],
        metadata: AttentionPlan,
        layer: AttentionLayer,
        rope: Rope | None = None,
    ) -> torch.Tensor:
        """Rotate, write K and V, attend; q is rotated in a copy."""
        out = torch.empty(q.shape, dtype=q.dtype)
        rows = q.shape[0]
        if rows == 0:
            return out
        q, k, v = _in_rows(q), _in_rows(k), _in_rows(v)
        call = self._calls.get(layer.index)
        if call is None:
            call = self._calls[layer.index] = self._call(layer)
        width = call.out_stride
        call.plan, call.workspace = metadata.address, metadata.workspace
        call.k, call.v = k.data_ptr(), v.data_ptr()
        call.k_stride, call.v_stride = k.stride(0), v.stride(0)
        call.k_cache, call.v_cache = kv["k"].data_ptr(), kv["v"].data_ptr()
        call.out = out.data_ptr()
        source = None
        if rope is None:
            call.q, call.q_stride, call.cos_sin = q.data_ptr(), q.stride(0), None
        else:
            source = q.data_ptr()
            call.q, call.q_stride = self._rotated.take(rows * width * q.element_size()).data_ptr(), width
            call.positions, call.cos_sin = metadata.positions.data_ptr(), rope.cos_sin.data_ptr()
            call.rotary_dim, call.interleaved = rope.cos_sin.shape[1], rope.interleaved
        self._library.calls.quire_attention(ctypes.byref(call), source, q.stride(0), rows)
        return out

    def native(self, layer: AttentionLayer) -> NativeAttention:
        """The layer's constants; the rest is in the plan."""
        return NativeAttention(
            self._library.name,
            DTYPES[self._dtype],
            layer.scale,
            0.0 if layer.soft_cap is None else layer.soft_cap,
        )

    def _call(self, layer: AttentionLayer) -> Call:
        """What does not change from step to step."""
        native = self.native(layer)
        width = layer.num_q_heads * layer.head_dim
        return Call(dtype=native.dtype, scale=native.scale, soft_cap=native.soft_cap, out_stride=width)


def _in_rows(x: torch.Tensor) -> torch.Tensor:
    """`[T, heads, D]` whose heads lie beside each other, in rows any distance apart."""
    _, stride, element = x.stride()
    return x if element == 1 and stride == x.shape[2] else x.contiguous()
