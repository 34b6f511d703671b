"""`Int8Linear`: a projection whose weights become int8 codes while they are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from quire.contracts import LinearMethod, LinearSpec, QuantizationInit, QuantizedWeight, Span, Weight
from quire.layers import quantize_rows
from quire.ops import PackedQuantized


class Int8Linear(LinearMethod):
    """All parts of a projection in one matrix of codes, with a scale per output.

    Each part is quantized as soon as it is read, so that of the float weights only one part exists at a
    time. In style "row" a worker's scales are those of its own inputs, and the bias is added by the worker
    whose inputs start at 0.
    """

    def __init__(self, spec: LinearSpec, init: QuantizationInit) -> None:
        self.spec = spec
        self._init = init
        self._codes: torch.Tensor | None = None  # [N, K] until packed
        self._scales: torch.Tensor | None = None  # [N] until packed
        self._bias: torch.Tensor | None = None  # [N] until packed
        self._packed: PackedQuantized | None = None

    def create_weights(self) -> Sequence[Weight]:
        spec, device = self.spec, self._init.device
        self._codes = torch.empty(spec.out_features, spec.inp.size, device=device, dtype=torch.int8)
        self._scales = torch.ones(spec.out_features, device=device, dtype=torch.float32)
        has_bias = spec.bias or any(f"{part.name}.bias" in self._init.headers for part in spec.parts)
        if has_bias and (spec.style != "row" or spec.inp.start == 0):
            # Zeros, for a part whose bias the checkpoint leaves out.
            self._bias = torch.zeros(spec.out_features, device=device, dtype=torch.float32)
        weights = []
        start = 0
        for part in spec.parts:
            rows = slice(start, start + part.out.size)
            start += part.out.size
            name = f"{part.name}.weight"
            codes = self._codes[rows]
            weights.append(
                Weight(
                    name=name,
                    shape=(part.out.full, spec.inp.full),
                    target=codes,
                    take=(part.out, spec.inp),
                    fill=partial(quantize_rows, codes=codes, scales=self._scales[rows], name=name),
                )
            )
            if has_bias:
                # A worker that does not add the bias still knows it: checked, and nothing of it is read.
                adds = self._bias is not None
                weights.append(
                    Weight(
                        name=f"{part.name}.bias",
                        shape=(part.out.full,),
                        target=self._scales[:0] if self._bias is None else self._bias[rows],
                        take=(part.out if adds else Span(0, 0, part.out.full),),
                        required=spec.bias,
                    )
                )
        return weights

    def finish(self) -> None:
        assert self._codes is not None
        assert self._scales is not None
        self._packed = self._init.kernels.pack_w8a8(
            QuantizedWeight(
                codes=self._codes.t(),
                bits=8,
                scales=self._scales.unsqueeze(0),
                activation="int8_per_token",
                bias=self._bias,
            )
        )
        self._codes = self._scales = self._bias = None

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        assert self._packed is not None
        return self._init.kernels.w8a8_linear(x, self._packed)

    def nbytes(self) -> int:
        if self._packed is not None:
            return self._packed.nbytes
        held = (self._codes, self._scales, self._bias)
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    def packed(self) -> PackedQuantized | None:
        return self._packed
