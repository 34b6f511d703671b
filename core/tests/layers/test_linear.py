from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from quire.contracts import LinearMethod, LinearSpec, Quantization, TensorHeader
from quire.errors import ConfigError, PluginError
from quire.layers import Build, Linear, Unquantized

MakeBuild = Callable[..., Build]
Fill = Callable[..., None]

K, SIZES = 12, {"q_proj": 16, "k_proj": 8, "v_proj": 8}


def _tensors(bias: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"a.{p}.weight": torch.randn(n, K, generator=generator) for p, n in SIZES.items()}
    if bias:
        tensors |= {f"a.{p}.bias": torch.randn(n, generator=generator) for p, n in SIZES.items()}
    return tensors


def _expected(x: torch.Tensor, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [F.linear(x, tensors[f"a.{p}.weight"], tensors.get(f"a.{p}.bias")) for p in SIZES]


def _ready(layer: Linear, tensors: dict[str, torch.Tensor], fill: Fill) -> Linear:
    fill(layer.weights(), tensors)
    layer.finish()
    return layer


@pytest.mark.parametrize("bias", [False, True])
def test_fused_projection(make_build: MakeBuild, fill: Fill, bias: bool) -> None:
    tensors, x = _tensors(bias), torch.randn(3, K)
    layer = _ready(make_build().linear("a.qkv_proj", K, SIZES, bias=bias, style="column"), tensors, fill)
    torch.testing.assert_close(layer(x), torch.cat(_expected(x, tensors), dim=-1))


def test_column_shards_cut_every_part(make_build: MakeBuild, fill: Fill) -> None:
    tensors, x = _tensors(True), torch.randn(3, K)
    outs = []
    for rank in (0, 1):
        build = make_build(rank=rank, size=2)
        layer = _ready(build.linear("a.qkv_proj", K, SIZES, bias=True, style="column"), tensors, fill)
        outs.append(layer(x).split([n // 2 for n in SIZES.values()], dim=-1))
    joined = [torch.cat(pair, dim=-1) for pair in zip(*outs, strict=True)]
    for ours, theirs in zip(joined, _expected(x, tensors), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_row_shards_sum_and_count_the_bias_once(make_build: MakeBuild, fill: Fill) -> None:
    tensors = {"o_proj.weight": torch.randn(5, K), "o_proj.bias": torch.randn(5)}
    x = torch.randn(3, K)
    parts = [
        _ready(make_build(rank=rank, size=2).linear("o_proj", K, 5, bias=True, style="row"), tensors, fill)(
            x[:, rank * 6 : rank * 6 + 6]
        )
        for rank in (0, 1)
    ]
    torch.testing.assert_close(parts[0] + parts[1], F.linear(x, *tensors.values()))


def test_kv_heads_are_replicated_over_a_larger_group(make_build: MakeBuild, fill: Fill) -> None:
    """4 workers, 2 KV heads of 4: workers 0 and 1 hold the first, 2 and 3 the second."""
    tensors, x = _tensors(False), torch.randn(3, K)
    k = _expected(x, tensors)[1]
    for rank in range(4):
        build = make_build(rank=rank, size=4)
        parts = {
            "q_proj": build.q_heads(4, 4),
            "k_proj": build.kv_heads(2, 4),
            "v_proj": build.kv_heads(2, 4),
        }
        out = _ready(build.linear("a.qkv_proj", K, parts, style="column"), tensors, fill)(x)
        head = rank // 2
        torch.testing.assert_close(out[:, 4:8], k[:, head * 4 : head * 4 + 4])


def test_a_bias_in_the_headers_is_loaded_unasked(make_build: MakeBuild, fill: Fill) -> None:
    """Only k has one: the other parts' stays zero."""
    tensors, x = _tensors(False), torch.randn(3, K)
    tensors["a.k_proj.bias"] = torch.randn(8)
    build = make_build(headers={"a.k_proj.bias": TensorHeader("F32", (8,), "f")})
    layer = _ready(build.linear("a.qkv_proj", K, SIZES, style="column"), tensors, fill)
    torch.testing.assert_close(layer(x), torch.cat(_expected(x, tensors), dim=-1))


class PerPart(Quantization):
    """Plain weights, but one method per part, as formats do whose scales do not fuse."""

    def linear(self, spec: LinearSpec) -> list[LinearMethod]:
        plain = Unquantized(self.init)
        return [m for i in range(len(spec.parts)) for m in plain.linear(spec.run(i, i + 1))]


def test_a_format_may_split_the_parts(make_build: MakeBuild, fill: Fill) -> None:
    tensors, x = _tensors(True), torch.randn(3, K)
    build = make_build()
    build.quantization = PerPart(build.quantization.init)
    layer = _ready(build.linear("a.qkv_proj", K, SIZES, bias=True), tensors, fill)
    assert len(layer.methods) == 3
    torch.testing.assert_close(layer(x), torch.cat(_expected(x, tensors), dim=-1))


def test_weights_are_dropped_once_packed(make_build: MakeBuild, fill: Fill) -> None:
    layer = make_build().linear("a.qkv_proj", K, SIZES)
    assert layer.nbytes() == 32 * K * 4
    _ready(layer, _tensors(False), fill)
    assert list(layer.weights()) == []
    assert layer.nbytes() == 32 * K * 4


def test_parts_must_be_those_of_the_mapping(make_build: MakeBuild) -> None:
    with pytest.raises(PluginError, match=r"a\.qkv_proj from q_proj, k_proj"):
        make_build().linear("a.qkv_proj", K, {"q_proj": 4, "k_proj": 4})
    with pytest.raises(PluginError, match="declares x"):
        make_build().linear("x", K, {"y": 4})


def test_features_that_do_not_divide_are_named(make_build: MakeBuild) -> None:
    with pytest.raises(ConfigError, match="down_proj's inputs"):
        make_build(size=2).linear("down_proj", 5, 4, style="row")
