"""`CpuDecoderLayer`: a whole decoder layer in one call of the library.

Knows the parts of a layer and their addresses, which it looks up once; per step it fills in one structure.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch

from quire.contracts import DecoderLayerParts, NormParts, ProjectionParts
from quire.layers import Step
from quire.ops import PackedQuantized
from quire_native_cpu import Library
from quire_native_cpu.attention import NativeAttention
from quire_native_cpu.dtypes import DTYPES
from quire_native_cpu.int8 import NativeInt8
from quire_native_cpu.layer import ACTIVATIONS, PHASES, Layer, LayerCall, Norm, Projection
from quire_native_cpu.linear import NativeLinear
from quire_native_cpu.memory import Memory
from quire_native_cpu.wna16 import NativeWna16


def describe(parts: DecoderLayerParts, library: Library) -> Layer | None:
    """The layer as the library reads it; None if it cannot compute such a layer."""
    attention, mlp = parts.attention, parts.mlp
    native = attention.native
    if not isinstance(native, NativeAttention) or native.library != library.name:
        return None
    dtype = native.dtype
    norms = [parts.input_norm, parts.post_norm, attention.q_norm, attention.k_norm]
    if any(norm is not None and DTYPES.get(norm.weight.dtype) != dtype for norm in norms):
        return None
    qkv, out, gate_up, down = (
        _projection(one, dtype) for one in (attention.qkv, attention.out, mlp.gate_up, mlp.down)
    )
    if qkv is None or out is None or gate_up is None or down is None or mlp.activation not in ACTIVATIONS:
        return None
    rope = attention.rope
    return Layer(
        input_norm=_norm(parts.input_norm),
        post_norm=_norm(parts.post_norm),
        q_norm=_norm(attention.q_norm),
        k_norm=_norm(attention.k_norm),
        qkv=qkv,
        out=out,
        gate_up=gate_up,
        down=down,
        dtype=dtype,
        q_heads=attention.layer.num_q_heads,
        kv_heads=attention.layer.num_kv_heads,
        head_dim=attention.layer.head_dim,
        scale=native.scale,
        soft_cap=native.soft_cap,
        cos_sin=None if rope is None else rope.cos_sin.data_ptr(),
        rotary_dim=0 if rope is None else rope.cos_sin.shape[1],
        interleaved=rope is not None and rope.interleaved,
        activation=ACTIVATIONS[mlp.activation],
    )


class CpuDecoderLayer:
    """A `FusedLayer`: its phases follow one another in one parallel region.

    Attributes:
        native: the layer as the library reads it.
        group, index: its KV group, and its place in `Step.kv`.
        names: of `PHASES`, by this model's projections.
    """

    def __init__(
        self,
        library: Library,
        native: Layer,
        parts: DecoderLayerParts,
        scratch: Memory,
    ) -> None:
        """Keep the layer's addresses.

        Args:
            library: computes it.
            native: the layer as `describe` gives it.
            parts: what `native` points to; kept, so that it lives as long.
            scratch: memory that calls of all layers share.
        """
        self._parts = parts
        self.native = native
        self._scratch = scratch
        self._calls = library.calls
        self._run = library.calls.quire_layer
        self._layer = ctypes.byref(native)
        self._call = LayerCall()
        self._call_address = ctypes.byref(self._call)
        self._seconds: ctypes.Array[ctypes.c_double] | None = None
        self.group, self.index = parts.attention.group, parts.attention.layer.index
        self.names = _phases(parts)

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `FusedLayer`."""
        x = x.contiguous()
        out, total = torch.empty_like(x), torch.empty_like(x)
        rows = x.shape[0]
        if rows == 0:
            return out, total
        if residual is not None:
            residual = residual.contiguous()
        plan, cache = step.metadata[self.group], step.kv[self.index]
        call = self._call
        call.rows, call.threads = rows, torch.get_num_threads()
        call.x = x.data_ptr()
        call.residual = None if residual is None else residual.data_ptr()
        call.positions = positions.data_ptr()
        call.plan, call.workspace = plan.address, plan.workspace
        call.k_cache, call.v_cache = cache["k"].data_ptr(), cache["v"].data_ptr()
        call.scratch = self._scratch.take(self.scratch_bytes(rows)).data_ptr()
        call.out, call.residual_out = out.data_ptr(), total.data_ptr()
        self._run(self._layer, self._call_address)
        return out, total

    def scratch_bytes(self, rows: int) -> int:
        """Bytes of scratch that a call of so many rows needs."""
        size: int = self._calls.quire_layer_scratch(self._layer, rows)
        return size

    def profile(self, on: bool) -> None:
        """Whether to measure the phases from now on."""
        self._seconds = (ctypes.c_double * len(PHASES))() if on else None
        self._call.seconds = ctypes.addressof(self._seconds) if self._seconds is not None else None

    def phases(self) -> Mapping[str, float]:
        """Seconds per phase since the last call of this; empty if they are not measured."""
        if self._seconds is None:
            return {}
        taken = dict(zip(self.names, self._seconds, strict=True))
        ctypes.memset(self._seconds, 0, ctypes.sizeof(self._seconds))
        return taken


def _phases(parts: DecoderLayerParts) -> list[str]:
    """What `PHASES` are called in a profile: a projection by its name, gates with what they gate."""
    attention, mlp = parts.attention, parts.mlp
    projections = {"qkv": attention.qkv, "out": attention.out, "gate_up": mlp.gate_up, "down": mlp.down}
    names = {phase: one.spec.name.rpartition(".")[2] for phase, one in projections.items()}
    names["gate_up"] += "+activation"
    return [names.get(phase, phase) for phase in PHASES]


def _projection(parts: ProjectionParts, dtype: int) -> Projection | None:
    """Its one packed weight; None if it has several, or of another make or dtype, or sums over workers."""
    if len(parts.packed) != 1 or parts.all_reduce is not None:
        return None
    first = parts.packed[0]
    if isinstance(first, NativeLinear):
        return Projection(plain=first.native) if first.native.dtype == dtype else None
    if isinstance(first, PackedQuantized) and isinstance(first.data, NativeInt8):
        return Projection(int8=first.data.native)
    if isinstance(first, PackedQuantized) and isinstance(first.data, NativeWna16):
        return Projection(wna16=first.data.native)
    return None


def _norm(parts: NormParts | None) -> Norm:
    return Norm(None, 0.0) if parts is None else Norm(parts.weight.data_ptr(), parts.eps)
