"""`CpuDecoderStack`: all decoder layers of a step in one call of the library.

Knows the layers' constants, and the addresses of their caches, which it looks up when the cache is another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import torch

from quire.layers import Step
from quire_kernels_cpu.decoder_layer import CpuDecoderLayer
from quire_native_cpu import Library
from quire_native_cpu.layer import PHASES, LayerCall
from quire_native_cpu.memory import Memory
from quire_native_cpu.stack import StackLayer


class CpuDecoderStack:
    """A `FusedStack` of `CpuDecoderLayer`s."""

    def __init__(
        self,
        library: Library,
        layers: Sequence[CpuDecoderLayer],
        scratch: Memory,
    ) -> None:
        """Keep the layers.

        Args:
            library: computes them.
            layers: in order, at least one.
            scratch: memory that calls share.
        """
        self._layers = list(layers)
        self._scratch = scratch
        self._run = library.calls.quire_layers
        self._native = (StackLayer * len(layers))(
            *(StackLayer(ctypes.addressof(layer.native), None, None, layer.group) for layer in layers)
        )
        groups = 1 + max(layer.group for layer in layers)
        self._plans, self._workspaces = (ctypes.c_void_p * groups)(), (ctypes.c_void_p * groups)()
        self._call = LayerCall()
        self._call_address = ctypes.byref(self._call)
        self._seconds: ctypes.Array[ctypes.c_double] | None = None
        self._caches: Sequence[Mapping[str, torch.Tensor]] = ()
        self._rows, self._scratch_bytes, self._spare_bytes = 0, 0, 0

    def __call__(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        positions: torch.Tensor,
        step: Step,
        first: int,
        stop: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `FusedStack`."""
        x = x.contiguous()
        residual = residual.contiguous() if residual is not None else None
        rows = x.shape[0]
        if rows == 0:
            return x, x
        out, total = torch.empty_like(x), torch.empty_like(x)
        if step.kv is not self._caches:
            self._use(step.kv)
        if rows != self._rows:
            self._rows, self._spare_bytes = rows, -(-x.nbytes // 64) * 64
            self._scratch_bytes = max(layer.scratch_bytes(rows) for layer in self._layers)
        # The layers' own, then an output and a residual for every other layer.
        scratch = self._scratch.take(self._scratch_bytes + 2 * self._spare_bytes).data_ptr()
        spare = scratch + self._scratch_bytes
        for group, plan in enumerate(step.metadata[: len(self._plans)]):
            self._plans[group], self._workspaces[group] = plan.address, plan.workspace
        call = self._call
        call.rows, call.threads = rows, torch.get_num_threads()
        call.x, call.positions = x.data_ptr(), positions.data_ptr()
        call.residual = residual.data_ptr() if residual is not None else None
        call.scratch = scratch
        call.out, call.residual_out = out.data_ptr(), total.data_ptr()
        self._run(
            ctypes.byref(self._native, first * ctypes.sizeof(StackLayer)),
            stop - first,
            self._call_address,
            self._plans,
            self._workspaces,
            spare,
            spare + self._spare_bytes,
        )
        return out, total

    def profile(self, on: bool) -> None:
        """Whether to measure the phases from now on."""
        self._seconds = (ctypes.c_double * len(PHASES))() if on else None
        self._call.seconds = ctypes.addressof(self._seconds) if self._seconds is not None else None

    def phases(self) -> Mapping[str, float]:
        """Seconds per phase since the last call of this, over all layers; empty if they are not measured."""
        if self._seconds is None:
            return {}
        taken = dict(zip(self._layers[0].names, self._seconds, strict=True))
        ctypes.memset(self._seconds, 0, ctypes.sizeof(self._seconds))
        return taken

    def _use(self, caches: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Look up the addresses of a step's caches, which are kept for as long as these are."""
        for layer, native in zip(self._layers, self._native, strict=True):
            cache = caches[layer.index]
            native.k_cache, native.v_cache = cache["k"].data_ptr(), cache["v"].data_ptr()
        self._caches = caches
