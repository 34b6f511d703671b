"""What every packed format leaves to `QuantizedLinear`, with a format of one byte per code."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quire.contracts import (
    KernelsInit,
    KernelsNeed,
    LinearMethod,
    LinearPart,
    LinearSpec,
    QuantizationInit,
    QuantizationNeed,
    QuantizedWeight,
    Span,
    WeightMapping,
)
from quire.errors import CheckpointError
from quire.layers import QuantizedLinear, StoredModule, StoredTensor, quantized_linears
from quire.ops import Kernels
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import load

INPUTS = 8


class Bytes(StoredModule):
    """`codes` `[K, N]` U8, `scales` `[1, N]`, and perhaps `order` `[K]`, which shuffles two groups."""

    @property
    def kind(self) -> Hashable:
        return self.header("order") is None

    def tensors(self) -> Sequence[StoredTensor]:
        out, inp = self.part.out, self.inp
        groups = Span.whole(1 if self.header("order") is None else 2)
        return [
            StoredTensor(
                suffix="codes",
                shape=(inp.full, out.full),
                take=(inp, out),
                dtype=torch.uint8,
                dtypes=frozenset({"U8"}),
            ),
            StoredTensor(suffix="scales", shape=(groups.full, out.full), take=(groups, out)),
            StoredTensor(
                suffix="order",
                shape=(inp.full,),
                take=(inp,),
                dtype=torch.int32,
                dtypes=frozenset({"I32"}),
                required=False,
            ),
        ]

    def decode(self, raw: Mapping[str, torch.Tensor]) -> QuantizedWeight:
        return QuantizedWeight(
            codes=raw["codes"],
            bits=8,
            scales=raw["scales"],
            zeros=torch.full_like(raw["scales"], 100),
            group_index=raw.get("order"),
            permutation=raw["order"].argsort(stable=True) if "order" in raw else None,
        )


def module(
    outputs: int, *, order: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """A random module's tensors, by suffix."""
    tensors = {
        "codes": torch.randint(256, (INPUTS, outputs), dtype=torch.uint8),
        "scales": torch.rand(1 if order is None else 2, outputs, dtype=torch.float16),
    }
    return tensors | ({} if order is None else {"order": order}) | ({} if bias is None else {"bias": bias})


def dense(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """`[K, N]`."""
    index = tensors.get("order", torch.zeros(INPUTS, dtype=torch.int32)).long()
    return (tensors["codes"].float() - 100) * tensors["scales"].float()[index]


class Rig:
    """Modules on disk, and the methods that read them."""

    def __init__(self, directory: Path, modules: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        file = directory / "model.safetensors"
        save_file({f"{m}.{s}": t for m, tensors in modules.items() for s, t in tensors.items()}, file)
        self.checkpoint = Checkpoint([file])
        self.init = QuantizationInit(
            need=QuantizationNeed(device="cpu", dtype="float32"),
            headers=self.checkpoint.headers(),
            kernels=Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu")),
            device="cpu",
        )
        outputs = {m: tensors[next(iter(tensors))].shape for m, tensors in modules.items()}
        self.spec = LinearSpec(
            name="fused",
            parts=tuple(
                LinearPart(m, Span.whole(shape[1] if "codes" in modules[m] else shape[0]))
                for m, shape in outputs.items()
            ),
            inp=Span.whole(INPUTS),
        )

    def linears(self, spec: LinearSpec | None = None) -> list[LinearMethod]:
        spec = spec or self.spec
        stored = [
            Bytes(part, spec.inp, self.init.headers) if f"{part.name}.codes" in self.init.headers else None
            for part in spec.parts
        ]
        return quantized_linears(spec, stored, self.init)

    def loaded(self, spec: LinearSpec | None = None) -> list[LinearMethod]:
        methods = self.linears(spec)
        weights = [weight for method in methods for weight in method.create_weights()]
        load(weights, self.checkpoint, WeightMapping())
        for method in methods:
            method.finish()
        return methods


def product(methods: Sequence[LinearMethod], x: torch.Tensor) -> torch.Tensor:
    return torch.cat([method.apply(x) for method in methods], dim=-1)


X = torch.randn(3, INPUTS, generator=torch.Generator().manual_seed(0))


def test_parts_of_one_kind_share_a_matrix(tmp_path: Path) -> None:
    modules = {"q": module(6), "k": module(4)}
    rig = Rig(tmp_path, modules)
    methods = rig.loaded()
    assert len(methods) == 1
    assert methods[0].packed() is not None
    torch.testing.assert_close(product(methods, X), X @ torch.cat([dense(m) for m in modules.values()], 1))


def test_runs_end_where_the_kind_changes_or_a_part_is_plain(tmp_path: Path) -> None:
    order = torch.tensor([0, 1] * 4, dtype=torch.int32)
    modules = {"a": module(6), "b": module(4, order=order), "c": {"weight": torch.randn(5, INPUTS)}}
    methods = Rig(tmp_path, modules).loaded()
    assert len(methods) == 3
    expected = torch.cat([dense(modules["a"]), dense(modules["b"]), modules["c"]["weight"].t()], 1)
    torch.testing.assert_close(product(methods, X), X @ expected)


@pytest.mark.parametrize("alike", [True, False])
def test_rows_in_another_order_are_multiplied_apart(tmp_path: Path, alike: bool) -> None:
    order = torch.tensor([0, 1] * 4, dtype=torch.int32)
    other = order if alike else order.flip(0).contiguous()
    modules = {
        "q": module(6, order=order, bias=torch.ones(6)),
        "k": module(4, order=other.clone()),
        "v": module(2, order=other.clone(), bias=torch.ones(2)),
    }
    methods = Rig(tmp_path, modules).loaded()
    assert len(methods) == 1  # headers cannot tell
    assert (methods[0].packed() is not None) == alike
    expected = X @ torch.cat([dense(m) for m in modules.values()], 1)
    bias = torch.tensor([1.0] * 6 + [0.0] * 4 + [1.0] * 2)
    torch.testing.assert_close(product(methods, X), expected + bias)


def test_a_bias_of_zeros_is_none(tmp_path: Path) -> None:
    seen = []

    class Watching(Kernels):
        def pack_wna16(self, weight: QuantizedWeight) -> object:  # type: ignore[override] # only watched
            seen.append(weight.bias)
            return super().pack_wna16(weight)

    rig = Rig(tmp_path, {"a": module(3, bias=torch.zeros(3)), "b": module(2, bias=torch.zeros(2))})
    watching = Watching(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
    rig.init = replace(rig.init, kernels=watching)
    rig.loaded()
    assert seen == [None]


def test_memory_is_the_raw_tensors_then_what_was_packed(tmp_path: Path) -> None:
    (method,) = Rig(tmp_path, {"a": module(3)}).linears()
    assert isinstance(method, QuantizedLinear)
    weights = method.create_weights()
    assert sum(weight.parameters or 0 for weight in weights) == INPUTS * 3
    assert method.nbytes() == sum(weight.target.nbytes for weight in weights) == INPUTS * 3 + 4 * 3
    for weight in weights:
        weight.target.zero_()
    method.finish()
    packed = method.packed()
    assert packed is not None
    assert method.nbytes() == packed.nbytes


@pytest.mark.parametrize("suffix", ["scales", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(tmp_path: Path, suffix: str, value: float) -> None:
    tensors = module(3, bias=torch.ones(3))
    tensors[suffix][..., 1] = value
    with pytest.raises(CheckpointError, match=rf"model.safetensors: tensor 'b.{suffix}' holds {value} at"):
        Rig(tmp_path, {"a": module(3, bias=torch.ones(3)), "b": tensors}).loaded()


@pytest.mark.parametrize(
    ("suffix", "replacement", "message"),
    [
        ("scales", None, r"Missing tensor 'a.scales', expected shape \[1, 3\]"),
        (
            "scales",
            torch.ones(2, 3),
            r"model.safetensors: tensor 'a.scales' has shape \[2, 3\], expected \[1, 3\]",
        ),
        ("bias", torch.ones(4), r"model.safetensors: tensor 'a.bias' has shape \[4\], expected \[3\]"),
        ("scales", torch.ones(1, 3, dtype=torch.int32), "'a.scales' has dtype I32, expected BF16 or F16"),
    ],
)
def test_headers_are_compared(
    tmp_path: Path, suffix: str, replacement: torch.Tensor | None, message: str
) -> None:
    tensors = module(3)
    tensors.pop(suffix, None)
    rig = Rig(tmp_path, {"a": tensors | ({} if replacement is None else {suffix: replacement})})
    with pytest.raises(CheckpointError, match=message):
        Bytes(rig.spec.parts[0], rig.spec.inp, rig.init.headers).check_headers()
    Bytes(rig.spec.parts[0], rig.spec.inp, {}).check_headers()  # weights that are made up have none
