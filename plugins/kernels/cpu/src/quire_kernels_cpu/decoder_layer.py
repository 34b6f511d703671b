"""`CpuDecoderLayer`: a whole decoder layer in one call of the library.

Knows the parts of a layer and their addresses, which it looks up once; per step it fills in one structure.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

import torch

from quire.contracts import DecoderLayerParts, NormParts, ProjectionParts
from quire.layers import Step
from quire_native_cpu import Library
from quire_native_cpu.attention import NativeAttention
from quire_native_cpu.layer import ACTIVATIONS, PHASES, Layer, LayerCall, Norm
from quire_native_cpu.linear import NativeLinear


def describe(parts: DecoderLayerParts, library: Library) -> Layer | None:
    """The layer as the library reads it; None if it cannot compute such a layer."""
    attention, mlp = parts.attention, parts.mlp
    linears = [_linear(one) for one in (attention.qkv, attention.out, mlp.gate_up, mlp.down)]
    native = attention.native
    norms = [parts.input_norm, parts.post_norm, attention.q_norm, attention.k_norm]
    if not isinstance(native, NativeAttention) or native.library != library.name:
        return None
    if any(linear is None for linear in linears) or mlp.activation not in ACTIVATIONS:
        return None
    qkv, out, gate_up, down = (linear.native for linear in linears if linear is not None)
    dtypes = {linear.dtype for linear in linears if linear is not None}
    dtypes |= {norm.weight.dtype for norm in norms if norm is not None}
    if len(dtypes) > 1 or qkv.dtype != native.dtype:
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
        scratch: Callable[[int], torch.Tensor],
    ) -> None:
        """Keep the layer's addresses.

        Args:
            library: computes it.
            native: the layer as `describe` gives it.
            parts: what `native` points to; kept, so that it lives as long.
            scratch: gives memory that lasts for a call.
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
        call.scratch = self._scratch(self.scratch_bytes(rows)).data_ptr()
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


def _linear(parts: ProjectionParts) -> NativeLinear | None:
    """Its one packed weight; None if it has several, or of another make, or sums over workers."""
    first = parts.packed[0]
    single = len(parts.packed) == 1 and parts.all_reduce is None
    return first if single and isinstance(first, NativeLinear) else None


def _phases(parts: DecoderLayerParts) -> list[str]:
    """`PHASES` by the names of this model's projections, as a profile has them."""
    attention, mlp = parts.attention, parts.mlp
    own = {"qkv": attention.qkv, "out": attention.out, "gate_up": mlp.gate_up, "down": mlp.down}
    names = {phase: one.spec.name.rpartition(".")[2] for phase, one in own.items()}
    names["gate_up"] += "+activation"
    return [names.get(phase, phase) for phase in PHASES]


def _norm(parts: NormParts | None) -> Norm:
    return Norm(None, 0.0) if parts is None else Norm(parts.weight.data_ptr(), parts.eps)
