"""The contract suite of quantization plugins: a file in, the dequantized reference's products out.

Subclass `QuantizationSuite` and say how your format encodes a matrix; every test here then writes
files, loads them through Quire's own path and multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from quire.contracts import (
    KernelsInit,
    KernelsNeed,
    LinearMethod,
    LinearPart,
    LinearSpec,
    Quantization,
    QuantizationInit,
    QuantizationNeed,
    Span,
    WeightMapping,
)
from quire.errors import CheckpointError
from quire.ops import Kernels
from quire.testing.quantized_activations import quantized_and_back
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import load


@dataclass(frozen=True, slots=True)
class Encoded:
    """One module as a format stores it.

    Attributes:
        tensors: name -> tensor, as in a checkpoint.
        weight: `[N, K]`, what they decode to.
        activation, input_scale: as in `QuantizedWeight`, where the format quantizes activations too.
    """

    tensors: Mapping[str, torch.Tensor]
    weight: torch.Tensor
    activation: str | None = None
    input_scale: torch.Tensor | None = None


class QuantizationSuite:
    """What every quantization plugin must do.

    Attributes:
        in_features: K of every test; raise it if the format's groups are larger.
        part_features: N of the parts of the fused tests.
        tolerance: largest error of a product, relative to the largest product.
        row_tolerance: the same where two workers share the inputs and the format quantizes each one's weights
            by themselves; None where it does not.
        shards: whether two workers can share a layer of these sizes.
    """

    in_features = 64
    part_features: tuple[int, ...] = (64, 32, 32)
    tolerance = 1e-5
    row_tolerance: float | None = None
    shards = True

    @pytest.fixture
    def quantization_class(self) -> type[Quantization]:
        """The plugin's class."""
        raise NotImplementedError("Give the suite a fixture `quantization_class`.")

    @pytest.fixture
    def kernels_class(self) -> type[Kernels]:
        """The kernels to pack with."""
        return Kernels

    @pytest.fixture
    def config(self) -> Mapping[str, Any]:
        """`quantization_config` of the checkpoint."""
        return {}

    def encode(self, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Encoded:
        """Store `weight` `[N, K]` (and `bias` `[N]`) as module `name`, as the format's own tools do."""
        raise NotImplementedError("Tell the suite how your format encodes a matrix.")

    @pytest.fixture
    def bench(
        self,
        quantization_class: type[Quantization],
        kernels_class: type[Kernels],
        config: Mapping[str, Any],
        tmp_path: Path,
    ) -> Bench:
        """A checkpoint of one fused layer with biases, and its reference."""
        return Bench(self, quantization_class, kernels_class, config, tmp_path)

    @pytest.mark.parametrize("bias", [False, True])
    def test_one_module(self, bench: Bench, bias: bool) -> None:
        bench.write(parts=1, bias=bias)
        bench.check(bench.spec(bias=bias))

    @pytest.mark.parametrize("bias", [False, True])
    def test_fused_parts(self, bench: Bench, bias: bool) -> None:
        bench.write(parts=len(self.part_features), bias=bias)
        bench.check(bench.spec(bias=bias))

    def test_a_bias_the_architecture_does_not_know_is_added(self, bench: Bench) -> None:
        bench.write(parts=1, bias=True)
        bench.check(bench.spec(bias=False))

    def test_methods_are_runs_of_the_parts(self, bench: Bench) -> None:
        bench.write(parts=len(self.part_features), bias=False)
        spec = bench.spec(bias=False)
        widths = [m.apply(torch.zeros(1, self.in_features)).shape[-1] for m in bench.methods(spec)]
        assert sum(widths) == spec.out_features

    def test_column_shards_join(self, bench: Bench) -> None:
        """Two workers' outputs, part by part, are the whole layer's."""
        if not self.shards:
            pytest.skip("the format does not shard at this size")
        bench.write(parts=len(self.part_features), bias=True)
        outs = [bench.apply(bench.spec(bias=True, style="column", rank=rank)) for rank in (0, 1)]
        halves = [torch.split(out, [n // 2 for n in self.part_features], dim=-1) for out in outs]
        joined = [half for pair in zip(*halves, strict=True) for half in pair]
        bench.close(torch.cat(joined, dim=-1))

    def test_row_shards_sum(self, bench: Bench) -> None:
        """Two workers' partial sums add up, the bias counted once."""
        if not self.shards:
            pytest.skip("the format does not shard at this size")
        bench.write(parts=1, bias=True)
        specs = [bench.spec(bias=True, style="row", rank=rank) for rank in (0, 1)]
        # Each worker quantizes what it has of a token.
        bench.expected = bench.product([spec.inp for spec in specs])
        bench.close(sum(bench.apply(spec) for spec in specs), self.row_tolerance)

    def test_leading_axes_are_kept(self, bench: Bench) -> None:
        bench.write(parts=1, bias=False)
        (method,) = bench.methods(bench.spec(bias=False))
        assert method.apply(bench.x.reshape(1, *bench.x.shape)).shape == (1, *bench.expected.shape)
        assert method.apply(bench.x[:0]).shape == (0, bench.expected.shape[-1])

    def test_memory_is_accounted_for(self, bench: Bench) -> None:
        bench.write(parts=1, bias=False)
        assert all(method.nbytes() > 0 for method in bench.methods(bench.spec(bias=False)))

    def test_a_missing_tensor_is_named(self, bench: Bench) -> None:
        bench.write(parts=1, bias=False)
        spec = bench.spec(bias=False)
        elsewhere = LinearSpec(name="other", parts=(LinearPart("other", spec.parts[0].out),), inp=spec.inp)
        with pytest.raises(CheckpointError, match="other"):
            bench.methods(elsewhere)


class Bench:
    """One layer on disk, beside what it must compute."""

    def __init__(
        self,
        suite: QuantizationSuite,
        quantization_class: type[Quantization],
        kernels_class: type[Kernels],
        config: Mapping[str, Any],
        directory: Path,
    ) -> None:
        self._suite = suite
        self._class = quantization_class
        self._kernels = kernels_class(
            KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu")
        )
        self._config = config
        self._file = directory / "model.safetensors"
        self._names: list[str] = []
        self._modules: list[tuple[Encoded, torch.Tensor | None]] = []  # with the bias
        generator = torch.Generator().manual_seed(0)
        self._generator = generator
        self.x = torch.randn(5, suite.in_features, generator=generator)  # [T, K]
        self.expected = torch.empty(0)

    def write(self, *, parts: int, bias: bool) -> None:
        """Encode `parts` modules into one file."""
        tensors: dict[str, torch.Tensor] = {}
        self._modules = []
        self._names = [f"layer.part{index}" for index in range(parts)]
        for name, size in zip(self._names, self._suite.part_features, strict=False):
            weight = torch.randn(size, self._suite.in_features, generator=self._generator)
            offset = torch.randn(size, generator=self._generator) if bias else None
            encoded = self._suite.encode(name, weight, offset)
            tensors |= encoded.tensors
            self._modules.append((encoded, offset))
        save_file(tensors, self._file)
        self.expected = self.product([Span.whole(self._suite.in_features)])

    def product(self, shares: Sequence[Span]) -> torch.Tensor:
        """`[T, N]`, what the layer must compute if workers have these shares of the inputs."""
        products = []
        for encoded, offset in self._modules:
            out = torch.zeros(()) if offset is None else offset
            for share in shares:
                x = self.x[:, share.start : share.stop]
                x = quantized_and_back(x, encoded.activation, encoded.input_scale)
                out = out + x @ encoded.weight.double()[:, share.start : share.stop].t()
            products.append(out.float())
        return torch.cat(products, dim=-1)

    def spec(self, *, bias: bool, style: Any = "replicated", rank: int | None = None) -> LinearSpec:
        """The layer that was written; with a rank, one of two workers' share."""

        def span(size: int, sharded: bool) -> Span:
            half = size // 2
            return (
                Span(rank * half, (rank + 1) * half, size)
                if sharded and rank is not None
                else Span.whole(size)
            )

        sizes = zip(self._names, self._suite.part_features, strict=False)
        return LinearSpec(
            name="layer.fused",
            parts=tuple(LinearPart(name, span(size, style == "column")) for name, size in sizes),
            inp=span(self._suite.in_features, style == "row"),
            bias=bias,
            style=style,
        )

    def methods(self, spec: LinearSpec) -> Sequence[LinearMethod]:
        """Open the format on the file, load the layer and repack it."""
        checkpoint = Checkpoint([self._file])
        quantization = self._class(
            QuantizationInit(
                need=QuantizationNeed(device="cpu", dtype="float32", config=self._config),
                headers=checkpoint.headers(),
                kernels=self._kernels,
                device="cpu",
            )
        )
        methods = quantization.linear(spec)
        weights = [weight for method in methods for weight in method.create_weights()]
        load(weights, checkpoint, WeightMapping())
        for method in methods:
            method.finish()
        return methods

    def apply(self, spec: LinearSpec) -> torch.Tensor:
        """`x` (or this worker's inputs of it) through the layer."""
        x = self.x[:, spec.inp.start : spec.inp.stop]
        return torch.cat([method.apply(x) for method in self.methods(spec)], dim=-1)

    def check(self, spec: LinearSpec) -> None:
        """The layer computes what it decodes to."""
        self.close(self.apply(spec))

    def close(self, out: torch.Tensor | int, tolerance: float | None = None) -> None:
        """Within the suite's tolerance of the reference, or this one."""
        limit = (tolerance or self._suite.tolerance) * self.expected.abs().max().item()
        torch.testing.assert_close(out, self.expected, rtol=0, atol=limit)
