"""Projections whose weights a checkpoint stores packed: everything about them that is not the format.

A format says, module by module, which tensors there are and how they decode (`StoredModule`); this file
loads them, joins the parts of a fused projection, has the kernels pack them, and multiplies. Knows no
format, and no device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from quire.contracts import (
    LinearMethod,
    LinearPart,
    LinearSpec,
    QuantizationInit,
    QuantizedWeight,
    Span,
    TensorHeader,
    Weight,
)
from quire.errors import CheckpointError
from quire.layers.unquantized import Unquantized

if TYPE_CHECKING:
    from quire.ops import PackedQuantized

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""safetensors dtypes a scale or a bias may have; they are held in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One of the tensors that a module is stored as.

    Attributes:
        suffix: its name after the module's: "qweight" of "model.layers.0.mlp.up_proj.qweight".
        shape: its full shape on disk.
        take: per axis the span this worker reads.
        dtype: what it is held in until it is decoded.
        dtypes: safetensors dtypes it may have.
        required: whether the module cannot be decoded without it.
    """

    suffix: str
    shape: tuple[int, ...]
    take: tuple[Span, ...]
    dtype: torch.dtype = torch.float32
    dtypes: frozenset[str] = FLOATS
    required: bool = True


class StoredModule(ABC):
    """One checkpoint module as its format stores it; formats subclass it.

    Biases are not its business: `QuantizedLinear` reads `<module>.bias`.
    """

    def __init__(self, part: LinearPart, inp: Span, headers: Mapping[str, TensorHeader]) -> None:
        """Read what the headers say of the module; nothing is allocated.

        Args:
            part: the module, and this worker's outputs of it.
            inp: this worker's inputs.
            headers: of the whole checkpoint; empty if weights are made up.

        Raises:
            CheckpointError: a subclass's check of its settings against the headers failed.
        """
        self.part = part
        self.inp = inp
        self._headers = headers

    @property
    @abstractmethod
    def kind(self) -> Hashable:
        """Modules of equal kind may share one matrix: bits, groups, presence of zeros, activations agree."""

    @abstractmethod
    def tensors(self) -> Sequence[StoredTensor]:
        """What is to be read."""

    @abstractmethod
    def decode(self, raw: Mapping[str, torch.Tensor]) -> QuantizedWeight:
        """The normalised form of this worker's part, without bias.

        Args:
            raw: by suffix, of the shapes of `take`; an absent optional tensor is left out. Floats are finite.

        Raises:
            CheckpointError: a value cannot be; use `where` to name it.
        """

    def name(self, suffix: str) -> str:
        """Full name of one of its tensors."""
        return f"{self.part.name}.{suffix}"

    def header(self, suffix: str) -> TensorHeader | None:
        """The header of one of its tensors, if the checkpoint has it."""
        return self._headers.get(self.name(suffix))

    def where(self, suffix: str) -> str:
        """`FILE: tensor 'NAME'`, to begin an error with."""
        header = self.header(suffix)
        return f"{'' if header is None else f'{header.file}: '}tensor {self.name(suffix)!r}"

    def check_headers(self) -> None:
        """Compare what is to be read with what the checkpoint has; formats call it once they know themselves.

        A bias is looked at too.

        Raises:
            CheckpointError: a tensor is missing, or of another shape or dtype.
        """
        if not self._headers:
            return
        out = self.part.out
        bias = StoredTensor(suffix="bias", shape=(out.full,), take=(out,), required=False)
        for tensor in (*self.tensors(), bias):
            header = self.header(tensor.suffix)
            if header is None:
                if tensor.required:
                    raise CheckpointError(
                        f"Missing tensor {self.name(tensor.suffix)!r}, expected shape {list(tensor.shape)}."
                    )
            elif header.shape != tensor.shape:
                raise CheckpointError(
                    f"{self.where(tensor.suffix)} has shape {list(header.shape)}, "
                    f"expected {list(tensor.shape)}."
                )
            elif header.dtype not in tensor.dtypes:
                raise CheckpointError(
                    f"{self.where(tensor.suffix)} has dtype {header.dtype}, "
                    f"expected {' or '.join(sorted(tensor.dtypes))}."
                )


def quantized_linears(
    spec: LinearSpec, modules: Sequence[StoredModule | None], init: QuantizationInit
) -> list[LinearMethod]:
    """Methods for a projection: one per run of parts that may share a matrix.

    Args:
        spec: the projection.
        modules: one per part of it, in order; None for a part that the checkpoint left unquantized.
        init: the quantization's.
    """
    assert len(modules) == len(spec.parts)
    methods: list[LinearMethod] = []
    start = 0
    for _, group in groupby(modules, lambda module: None if module is None else (module.kind,)):
        run = list(group)
        part = spec.run(start, start + len(run))
        start += len(run)
        stored = [module for module in run if module is not None]
        methods += [QuantizedLinear(part, stored, init)] if stored else Unquantized(init).linear(part)
    return methods


class QuantizedLinear(LinearMethod):
    """Modules of one kind side by side, packed by the kernels.

    The stored tensors are held as they are on disk until `finish`, which decodes part by part: codes as
    bytes exist for one layer at a time. Parts whose rows are ordered differently, or whose inputs have other
    static scales, cannot share a matrix; they are multiplied one by one. A bias of zeros, which some tools
    write everywhere, is none.
    """

    def __init__(self, spec: LinearSpec, modules: Sequence[StoredModule], init: QuantizationInit) -> None:
        self.spec = spec
        self._modules = tuple(modules)
        self._init = init
        self._raw: list[dict[str, torch.Tensor]] = []  # per part, until packed
        self._bias: torch.Tensor | None = None  # [N] fp32, until packed
        self._packed: tuple[PackedQuantized, ...] = ()
        self._multiply = init.kernels.wna16_linear

    def create_weights(self) -> Sequence[Weight]:
        spec, init = self.spec, self._init
        has_bias = spec.bias or any(module.header("bias") is not None for module in self._modules)
        adds_bias = has_bias and (spec.style != "row" or spec.inp.start == 0)
        if adds_bias:
            # Zeros, for a part whose bias the checkpoint leaves out.
            self._bias = torch.zeros(spec.out_features, device=init.device)
        weights = []
        start = 0
        for module in self._modules:
            raw: dict[str, torch.Tensor] = {}
            parameters = module.part.out.size * module.inp.size
            for tensor in module.tensors():
                if not tensor.required and module.header(tensor.suffix) is None:
                    continue
                sizes = [span.size for span in tensor.take]
                raw[tensor.suffix] = torch.empty(sizes, dtype=tensor.dtype, device=init.device)
                weights.append(
                    Weight(
                        name=module.name(tensor.suffix),
                        shape=tensor.shape,
                        target=raw[tensor.suffix],
                        take=tensor.take,
                        dtypes=tensor.dtypes,
                        parameters=parameters,
                    )
                )
                parameters = 0  # the first tensor stands for all
            self._raw.append(raw)
            out = module.part.out
            if has_bias:
                # A worker that does not add the bias still knows it: checked, and nothing of it is read.
                rows = torch.empty(0, device=init.device)
                weights.append(
                    Weight(
                        name=module.name("bias"),
                        shape=(out.full,),
                        target=rows if self._bias is None else self._bias[start : start + out.size],
                        take=(Span(0, 0, out.full) if self._bias is None else out,),
                        required=spec.bias,
                        parameters=None if spec.bias else 0,  # perhaps but zeros
                    )
                )
            start += out.size
        return weights

    def finish(self) -> None:
        kernels = self._init.kernels
        weights = join([self._decoded(module) for module in self._modules])
        biases = self._biases([weight.codes.shape[1] for weight in weights])
        packed = []
        while weights:
            weight = replace(weights.pop(0), bias=biases.pop(0))
            if weight.activation is None:
                packed.append(kernels.pack_wna16(weight))
            else:
                self._multiply = kernels.w8a8_linear
                packed.append(kernels.pack_w8a8(weight))
        self._packed = tuple(packed)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        if len(self._packed) == 1:
            return self._multiply(x, self._packed[0])
        return torch.cat([self._multiply(x, packed) for packed in self._packed], dim=-1)

    def nbytes(self) -> int:
        if self._packed:
            return sum(packed.nbytes for packed in self._packed)
        held = [tensor for raw in self._raw for tensor in raw.values()]
        if self._bias is not None:
            held.append(self._bias)
        return sum(tensor.nbytes for tensor in held)

    def packed(self) -> PackedQuantized | None:
        return self._packed[0] if len(self._packed) == 1 else None

    def _decoded(self, module: StoredModule) -> QuantizedWeight:
        """The next part's weight; what it was stored as is dropped."""
        raw = self._raw.pop(0)
        _check_finite(module, raw)
        return module.decode(raw)

    def _biases(self, sizes: list[int]) -> list[torch.Tensor | None]:
        """This worker's biases, for matrices of these many outputs."""
        bias, self._bias = self._bias, None
        if bias is None:
            return [None] * len(sizes)
        parts = torch.split(bias, [module.part.out.size for module in self._modules])
        for module, part in zip(self._modules, parts, strict=True):
            _check_finite(module, {"bias": part})
        return [part if bool(part.any()) else None for part in torch.split(bias, sizes)]


def join(weights: Sequence[QuantizedWeight]) -> list[QuantizedWeight]:
    """Weights of one kind side by side along N: one, or one per run of like order of rows and static scale.

    Args:
        weights: without biases; of equal bits, number of groups and activations.
    """
    joined: list[QuantizedWeight] = []
    runs: list[list[QuantizedWeight]] = []
    for weight in weights:
        if runs and _ordered_alike(runs[-1][0], weight) and _scaled_alike(runs[-1][0], weight):
            runs[-1].append(weight)
        else:
            runs.append([weight])
    for run in runs:
        if len(run) == 1:
            joined += run
            continue
        zeros = [weight.zeros for weight in run if weight.zeros is not None]
        joined.append(
            replace(
                run[0],
                codes=torch.cat([weight.codes for weight in run], dim=1),
                scales=torch.cat([weight.scales for weight in run], dim=1),
                zeros=torch.cat(zeros, dim=1) if zeros else None,
            )
        )
    return joined


def _ordered_alike(first: QuantizedWeight, second: QuantizedWeight) -> bool:
    if first.group_index is None or second.group_index is None:
        return first.group_index is second.group_index
    return torch.equal(first.group_index, second.group_index)


def _scaled_alike(first: QuantizedWeight, second: QuantizedWeight) -> bool:
    """Whether what comes in is quantized alike: modules of one input were measured one by one."""
    if first.input_scale is None or second.input_scale is None:
        return first.input_scale is second.input_scale
    return torch.equal(first.input_scale, second.input_scale)


def _check_finite(module: StoredModule, raw: Mapping[str, torch.Tensor]) -> None:
    for suffix, tensor in raw.items():
        if tensor.dtype == torch.float32 and not bool(tensor.isfinite().all()):
            at = (~tensor.isfinite()).nonzero()[0].tolist()
            raise CheckpointError(
                f"{module.where(suffix)} holds {tensor[tuple(at)].item()} at {at}, expected finite numbers. "
                "Fetch the file again, or quantize the model again."
            )
