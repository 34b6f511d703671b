"""The GPTQ plugin passes the conformance suite in every form, and decides module by module."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
    QuantizedWeight,
    Span,
    TensorHeader,
)
from quire.errors import CheckpointError
from quire.layers import QuantizedLinear
from quire.ops import Kernels, PackedQuantized, dequantize
from quire.testing.quantization import Encoded, QuantizationSuite
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import initialise_dummy
from quire_quant_gptq.module import GptqModule
from quire_quant_gptq.quantization import Gptq
from quire_quant_gptq.settings import ModuleSettings
from quire_quant_gptq.testing import Variant

KERNELS = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
VARIANTS = [
    *(Variant(bits=bits, sym=sym) for bits in (2, 3, 4, 8) for sym in (False, True)),
    *(Variant(bits=bits, gptqmodel=True) for bits in (2, 3, 4, 8)),
    *(Variant(bits=bits, stored_format="gptq_v2") for bits in (3, 4)),
    *(Variant(bits=bits, desc_act=True, group_size=size) for bits in (3, 4) for size in (32, 64, -1)),
    *(Variant(group_size=size) for size in (64, 128, -1)),
    Variant(bits=8, desc_act=True, sym=True, stored_format="gptq_v2"),
    Variant(group_size=48, desc_act=True),  # the last group is shorter
]


def named(variant: Variant) -> str:
    marks = [f"b{variant.bits}", f"g{variant.group_size}", variant.stored_format]
    return "-".join([*marks, *(m for m in ("sym", "desc_act", "gptqmodel") if getattr(variant, m))])


class TestGptq(QuantizationSuite):
    in_features = 128
    variant: Variant

    @pytest.fixture
    def quantization_class(self) -> type[Quantization]:
        return Gptq

    @pytest.fixture(params=VARIANTS, ids=named)
    def config(self, request: pytest.FixtureRequest) -> Mapping[str, Any]:
        type(self).variant = request.param
        return self.variant.config()

    def encode(self, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Encoded:
        tensors, dense = self.variant.encode(weight)
        if bias is not None:
            tensors["bias"] = bias
        return Encoded({f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()}, dense)


def headers(tensors: Mapping[str, torch.Tensor], name: str = "m") -> dict[str, TensorHeader]:
    """What a file of these tensors would say."""
    dtypes = {torch.int32: "I32", torch.float16: "F16", torch.float32: "F32"}
    return {
        f"{name}.{suffix}": TensorHeader(dtypes[tensor.dtype], tuple(tensor.shape), "model.safetensors")
        for suffix, tensor in tensors.items()
    }


def opened(found: Mapping[str, TensorHeader], config: Mapping[str, Any] | None = None) -> Gptq:
    return Gptq(
        QuantizationInit(
            need=QuantizationNeed(
                device="cpu", dtype="float32", config=Variant().config() if config is None else config
            ),
            headers=found,
            kernels=KERNELS,
            device="cpu",
        )
    )


def spec(*names: str, outputs: int = 32, inputs: int = 128) -> LinearSpec:
    parts = tuple(LinearPart(name, Span.whole(outputs)) for name in names)
    return LinearSpec(name=names[0], parts=parts, inp=Span.whole(inputs))


@settings(deadline=None, max_examples=60)
@given(variant=st.sampled_from([*VARIANTS, Variant(bits=3, group_size=40)]), data=st.data())
def test_a_worker_decodes_its_share_wherever_it_is_cut(variant: Variant, data: st.DataObject) -> None:
    tensors, dense = variant.encode(torch.randn(48, 96, generator=torch.Generator().manual_seed(1)))

    def cut(size: int) -> Span:
        start = data.draw(st.integers(0, size - 1))
        return Span(start, data.draw(st.integers(start + 1, size)), size)

    rows, columns = cut(96), cut(48)
    module = GptqModule(
        LinearPart("m", columns),
        rows,
        headers(tensors),
        ModuleSettings(variant.bits, variant.group_size),
        opened({}, variant.config())._settings.stored_zeros,
    )
    raw = {
        tensor.suffix: tensors[tensor.suffix][tuple(slice(s.start, s.stop) for s in tensor.take)]
        for tensor in module.tensors()
    }
    raw["scales"] = raw["scales"].float()
    weight = module.decode(raw)
    packed = KERNELS.pack_wna16(weight)  # which checks that its tensors fit together
    assert packed.nbytes > 0
    expected = dense[columns.start : columns.stop, rows.start : rows.stop].t()
    torch.testing.assert_close(dequantize(weight), expected, rtol=0, atol=1e-6)
    if weight.permutation is not None:
        assert weight.group_index is not None
        assert weight.group_index[weight.permutation].diff().ge(0).all()


def test_a_zero_of_nought_survives_subtraction_by_words() -> None:
    variant = Variant(gptqmodel=True, group_size=-1)
    dense = torch.cat([torch.rand(32, 64) + 0.1, torch.randn(32, 64)])  # all positive: their zero is 0
    tensors, expected = variant.encode(dense)
    words = tensors["qzeros"]
    assert (words & 0xF).eq(0xF).any()  # borrowed
    (method,) = opened(headers(tensors), variant.config()).linear(spec("m", outputs=64, inputs=64))
    fill(method, tensors)
    torch.testing.assert_close(method.apply(torch.eye(64)).t(), expected, rtol=0, atol=1e-6)


def fill(method: LinearMethod, tensors: Mapping[str, torch.Tensor]) -> None:
    for weight in method.create_weights():
        weight.store(tensors[weight.name.rpartition(".")[2]])
    method.finish()


def test_modules_are_quantized_by_what_is_present() -> None:
    tensors, _ = Variant().encode(torch.randn(32, 128))
    plain = {"k.weight": TensorHeader("F16", (32, 128), "model.safetensors")}
    found = {**headers(tensors, "q"), **plain, **headers(tensors, "lm_head")}
    quantization = opened(found, Variant().config() | {"dynamic": {"-:q": {}}, "lm_head": False})
    kinds = [isinstance(m, QuantizedLinear) for m in quantization.linear(spec("q", "k"))]
    assert kinds == [True, False]
    assert isinstance(quantization.linear(spec("lm_head"))[0], QuantizedLinear)
    with pytest.raises(CheckpointError, match=r"Missing tensor 'v\.qweight' \(or 'v\.weight'"):
        quantization.linear(spec("q", "v"))


def test_overrides_split_a_projection_into_runs() -> None:
    eight, _ = Variant(bits=8).encode(torch.randn(32, 128))
    four, _ = Variant().encode(torch.randn(32, 128))
    found = {**headers(four, "a.q"), **headers(eight, "a.k"), **headers(eight, "a.v")}
    config = Variant().config() | {"dynamic": {r".*\.[kv]": {"bits": 8}}}
    methods = opened(found, config).linear(spec("a.q", "a.k", "a.v"))
    assert [len(method.spec.parts) for method in methods if isinstance(method, QuantizedLinear)] == [1, 2]


def test_overrides_go_by_the_checkpoints_own_names() -> None:
    """A model may call a module something else: the settings cannot know."""
    eight, _ = Variant(bits=8).encode(torch.randn(32, 128))
    found = {
        name: replace(header, name=name.replace("model.", "transformer.", 1))
        for name, header in headers(eight, "model.q").items()
    }
    rules = {r"transformer\.": {"bits": 8}, r"model\.": {"bits": 2}}
    (method,) = opened(found, Variant().config() | {"dynamic": rules}).linear(spec("model.q"))
    fill(method, eight)
    with pytest.raises(CheckpointError, match="the settings say 2 bits"):
        opened(headers(eight, "model.q"), Variant().config() | {"dynamic": rules}).linear(spec("model.q"))


def test_made_up_weights_follow_the_settings() -> None:
    config = Variant().config() | {"dynamic": {"-:left": {}}}
    quantization = opened({}, config)
    (method,) = quantization.linear(spec("m"))
    weights = method.create_weights()
    initialise_dummy(weights)
    method.finish()
    assert method.apply(torch.randn(3, 128)).isfinite().all()
    for name in ("left", "lm_head"):
        assert not isinstance(quantization.linear(spec(name))[0], QuantizedLinear)
    assert isinstance(opened({}, config | {"lm_head": True}).linear(spec("lm_head"))[0], QuantizedLinear)


def test_packed_words_are_gone_before_the_kernels_pack() -> None:
    tensors, _ = Variant().encode(torch.randn(32, 128))
    alive: list[list[bool]] = []

    class Watching(Kernels):
        def pack_wna16(self, weight: QuantizedWeight) -> PackedQuantized:
            alive.append([word() is not None for word in words])
            return super().pack_wna16(weight)

    watching = Watching(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
    init = replace(opened(headers(tensors, "q") | headers(tensors, "k")).init, kernels=watching)
    (method,) = Gptq(init).linear(spec("q", "k"))
    weights = list(method.create_weights())
    for weight in weights:
        weight.store(tensors[weight.name.rpartition(".")[2]])
    words = [weakref.ref(weight.target) for weight in weights if weight.name.endswith(("qweight", "qzeros"))]
    del weight, weights
    method.finish()
    assert alive == [[False] * 4]


@pytest.mark.parametrize("left_out", ["g_idx", "zeroed"])
def test_inputs_are_grouped_as_they_come_where_nothing_says_otherwise(left_out: str) -> None:
    tensors, dense = Variant().encode(torch.randn(32, 128))
    if left_out == "g_idx":
        del tensors["g_idx"]
    else:
        tensors["g_idx"].zero_()
    (method,) = opened(headers(tensors)).linear(spec("m"))
    fill(method, tensors)
    torch.testing.assert_close(method.apply(torch.eye(128)).t(), dense, rtol=0, atol=1e-6)


def test_only_gptq_checkpoints_are_read() -> None:
    need = QuantizationNeed(device="cpu", dtype="float32", config={"quant_method": "awq"})
    assert Gptq.reject(need) == "reads GPTQ checkpoints, and this one says quant_method 'awq'"
    assert Gptq.reject(replace(need, config={})) == "reads GPTQ checkpoints, and this one is not quantized"
    assert Gptq.reject(replace(need, config={"quant_method": "gptq"})) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, r"model.safetensors: tensor 'm.qweight' has shape \[16, 32\], which is 4 bits for 128"),
        ({"group_size": 64}, r"tensor 'm.scales' has 4 groups; group_size 64 and 128 inputs make 2"),
        ({"group_size": 10**30}, r"'m.scales' has 4 groups; group_size 1000"),
    ],
)
def test_settings_must_agree_with_shapes(change: dict[str, Any], message: str) -> None:
    tensors, _ = Variant().encode(torch.randn(32, 128))
    with pytest.raises(CheckpointError, match=message):
        opened(headers(tensors), Variant().config() | change).linear(spec("m"))


@pytest.mark.parametrize("value", [-1, 4, 2**31 - 1])
def test_a_group_out_of_range_is_named(value: int) -> None:
    tensors, _ = Variant(desc_act=True).encode(torch.randn(32, 128))
    tensors["g_idx"][7] = value
    (method,) = opened(headers(tensors)).linear(spec("m"))
    message = f"model.safetensors: tensor 'm.g_idx' puts input 7 into group {value}, expected 0 to 3"
    with pytest.raises(CheckpointError, match=message):
        fill(method, tensors)


def test_scales_that_are_no_numbers_are_named() -> None:
    tensors, _ = Variant().encode(torch.randn(32, 128))
    tensors["scales"][1, 5] = float("nan")
    (method,) = opened(headers(tensors)).linear(spec("m"))
    with pytest.raises(CheckpointError, match=r"tensor 'm.scales' holds nan at \[1, 5\]"):
        fill(method, tensors)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    tensors, _ = Variant().encode(torch.randn(32, 128))
    file = tmp_path / "model.safetensors"
    save_file({f"m.{suffix}": tensor for suffix, tensor in tensors.items()}, file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"model\.safetensors puts tensor 'm"):
        Checkpoint([file])
