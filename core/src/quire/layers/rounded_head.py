"""A language-model head that a checkpoint left in floats, rounded to 8 bits while it is loaded.

Such a head is most of what a decode step still reads in 16 bits beside projections of 4. Weights alone are
rounded: activations stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from quire.contracts import LinearMethod, LinearSpec, QuantizationInit, QuantizedWeight, Weight
from quire.layers.rounding import quantize_rows

if TYPE_CHECKING:
    from quire.ops import PackedQuantized

GROUP_SIZES = (128, 64, 32)
"""Inputs that share a scale: the first that divides them; one group if none does."""


class HeadOptions(BaseModel):
    """Options of formats that may find a head in floats."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    head: Literal["int8"] | None = Field(
        default=None,
        description="`int8` rounds a language-model head that the checkpoint has in floats to 8 bits while "
        "loading, also one that shares the embedding. By default it stays as the checkpoint has it.",
    )


def rounds_head(init: QuantizationInit) -> bool:
    """Whether the options ask for it."""
    return isinstance(init.options, HeadOptions) and init.options.head == "int8"


class RoundedHead(LinearMethod):
    """int8 codes, symmetric, a scale per output and group of inputs.

    Scales are held to bf16's precision: kernels that keep them in it read less, and the error of a weight
    is at most half its scale all the same.
    """

    def __init__(self, spec: LinearSpec, init: QuantizationInit) -> None:
        """Allocates nothing.

        Args:
            spec: of one part.
            init: the quantization's.
        """
        self._spec = spec
        self._init = init
        self._codes: torch.Tensor | None = None  # [N, K] until packed
        self._scales: torch.Tensor | None = None  # [N, G] bf16 until packed
        self._bias: torch.Tensor | None = None  # [N] fp32 until packed
        self._packed: PackedQuantized | None = None

    def create_weights(self) -> Sequence[Weight]:
        spec, device = self._spec, self._init.device
        (part,) = spec.parts
        inputs, outputs = spec.inp.size, part.out.size
        groups = inputs // next((size for size in GROUP_SIZES if inputs % size == 0), inputs)
        self._codes = torch.empty(outputs, inputs, device=device, dtype=torch.int8)
        self._scales = torch.ones(outputs, groups, device=device, dtype=torch.bfloat16)
        name = f"{part.name}.weight"
        weights = [
            Weight(
                name=name,
                shape=(part.out.full, spec.inp.full),
                target=self._codes,
                take=(part.out, spec.inp),
                fill=partial(quantize_rows, codes=self._codes, scales=self._scales, name=name),
            )
        ]
        if spec.bias or f"{part.name}.bias" in self._init.headers:
            self._bias = torch.zeros(outputs, device=device)
            weights.append(
                Weight(
                    name=f"{part.name}.bias",
                    shape=(part.out.full,),
                    target=self._bias,
                    take=(part.out,),
                    required=spec.bias,
                )
            )
        return weights

    def finish(self) -> None:
        assert self._codes is not None
        assert self._scales is not None
        self._packed = self._init.kernels.pack_wna16(
            QuantizedWeight(codes=self._codes.t(), bits=8, scales=self._scales.t().float(), bias=self._bias)
        )
        self._codes = self._scales = self._bias = None

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        assert self._packed is not None
        return self._init.kernels.wna16_linear(x, self._packed)

    def nbytes(self) -> int:
        if self._packed is not None:
            return self._packed.nbytes
        held = (self._codes, self._scales, self._bias)
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    def packed(self) -> PackedQuantized | None:
        return self._packed
