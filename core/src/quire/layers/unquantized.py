"""Plain weights: the format "none", which is a quantization like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from quire.contracts import (
    LinearMethod,
    LinearSpec,
    Quantization,
    QuantizationInit,
    Span,
    TensorHeader,
    Weight,
)

if TYPE_CHECKING:
    from quire.ops import PackedLinear


class Unquantized(Quantization):
    """Weights in the compute dtype, all parts of a projection in one matrix."""

    def linear(self, spec: LinearSpec) -> Sequence[LinearMethod]:
        return [PlainLinear(spec, self.init)]


class PlainLinear(LinearMethod):
    """One dense matrix. The checkpoint's layout `[N, K]` is dropped once the kernels have packed it.

    A bias is added if the architecture has one or the checkpoint carries one; in style "row" only by
    the worker whose inputs start at 0, since outputs are summed over workers.
    """

    def __init__(self, spec: LinearSpec, init: QuantizationInit) -> None:
        self.spec = spec
        self._init = init
        self._weight: torch.Tensor | None = None  # [N, K] until packed
        self._bias: torch.Tensor | None = None  # [N] until packed
        self._packed: PackedLinear | None = None
        self._nbytes = 0

    def create_weights(self) -> Sequence[Weight]:
        spec, dtype = self.spec, getattr(torch, self._init.need.dtype)
        self._weight = torch.empty(spec.out_features, spec.inp.size, device=self._init.device, dtype=dtype)
        has_bias = spec.bias or _carries_bias(spec, self._init.headers)
        adds_bias = has_bias and (spec.style != "row" or spec.inp.start == 0)
        if adds_bias:
            # Zeros, for a part whose bias the checkpoint leaves out.
            self._bias = torch.zeros(spec.out_features, device=self._init.device, dtype=dtype)
        self._nbytes = self._weight.nbytes + (0 if self._bias is None else self._bias.nbytes)

        weights = []
        start = 0
        for part in spec.parts:
            stop = start + part.out.size
            weights.append(
                Weight(
                    name=f"{part.name}.weight",
                    shape=(part.out.full, spec.inp.full),
                    target=self._weight[start:stop],
                    take=(part.out, spec.inp),
                )
            )
            if has_bias:
                # A worker that does not add the bias still knows it: checked, and nothing of it is read.
                weights.append(
                    Weight(
                        name=f"{part.name}.bias",
                        shape=(part.out.full,),
                        target=self._weight.new_empty(0) if self._bias is None else self._bias[start:stop],
                        take=(Span(0, 0, part.out.full) if self._bias is None else part.out,),
                        required=spec.bias,
                    )
                )
            start = stop
        return weights

    def finish(self) -> None:
        assert self._weight is not None
        self._packed = self._init.kernels.pack_linear(self._weight, self._bias)
        self._weight = self._bias = None
        self._nbytes = self._packed.nbytes

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        assert self._packed is not None
        return self._init.kernels.linear(x, self._packed)

    def nbytes(self) -> int:
        return self._nbytes

    def packed(self) -> PackedLinear | None:
        return self._packed


def _carries_bias(spec: LinearSpec, headers: Mapping[str, TensorHeader]) -> bool:
    return any(f"{part.name}.bias" in headers for part in spec.parts)
