from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from quire.contracts import (
    CacheKind,
    CacheSpec,
    LinearPart,
    Model,
    ModelNeed,
    Span,
    Weight,
    WeightMapping,
)
from quire.errors import UnsupportedModelError
from quire.layers import (
    AttentionFacts,
    AttentionGroups,
    Build,
    HeadOptions,
    ParallelGroup,
    Step,
    StoredFormat,
    StoredModule,
    describe,
    finish,
    weights_of,
)


class Toy(nn.Module):
    """Alternating full and sliding layers of one projection each."""

    mapping: ClassVar[WeightMapping] = WeightMapping()

    def __init__(self, config: Mapping[str, Any], build: Build) -> None:
        super().__init__()
        self.embedding = build.embedding("embed", 10, 16)
        self.layers = nn.ModuleList()
        rotary = build.rotary(4)
        for index in range(config["layers"]):
            self.layers.append(build.linear(f"l{index}", 16, 16, style="column"))
            self.layers.append(build.attention(4, 2, 4, rotary=rotary, window=8 if index % 2 else None))
        self.head = build.lm_head("lm_head", 10, 16, tied_to=self.embedding)

    @classmethod
    def reject(cls, need: ModelNeed) -> str | None:
        return None

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        raise AssertionError("never run")

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        raise AssertionError("never run")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        raise AssertionError("never run")

    def weights(self) -> Iterable[Weight]:
        return weights_of(self)

    def finish(self) -> None:
        finish(self)


def _cache(window: int | None, heads: int = 2, dtype: str = "bfloat16") -> CacheSpec:
    kind = CacheKind.FULL if window is None else CacheKind.SLIDING_WINDOW
    return CacheSpec(kind=kind, num_kv_heads=heads, head_dim=4, dtype=dtype, window=window)


def test_groups_and_sizes() -> None:
    toy: type[Model] = Toy
    facts = describe(toy, {"layers": 3}, dtype="bfloat16")
    assert facts.attention == (
        AttentionFacts(_cache(None), num_q_heads=4, soft_cap=None, num_layers=2),
        AttentionFacts(_cache(8), num_q_heads=4, soft_cap=None, num_layers=1),
    )
    assert facts.num_parameters == 10 * 16 + 3 * 16 * 16
    assert facts.weight_bytes == 2 * facts.num_parameters


def test_layers_are_alike_by_cache_and_soft_cap() -> None:
    groups = AttentionGroups()
    layers = [(None, 4, None), (None, 8, None), (None, 4, 30.0), (8, 4, None), (None, 2, None)]
    assert [groups.add(_cache(window), heads, cap) for window, heads, cap in layers] == [0, 0, 1, 2, 0]
    assert [(g.num_q_heads, g.num_layers) for g in groups.groups] == [(8, 3), (4, 1), (4, 1)]


def test_one_of_two_workers_has_its_share() -> None:
    facts = describe(Toy, {"layers": 1}, dtype="float32", kv_dtype="float16", parallel=ParallelGroup(1, 2))
    assert facts.attention == (
        AttentionFacts(_cache(None, heads=1, dtype="float16"), num_q_heads=2, soft_cap=None, num_layers=1),
    )
    assert facts.num_parameters == 5 * 16 + 8 * 16


def test_a_model_of_any_size_takes_no_memory() -> None:
    """A table of 64 Ti tokens' positions and such weights would not fit; "meta" holds none of it."""

    class Huge(Toy):
        def __init__(self, config: Mapping[str, Any], build: Build) -> None:
            super().__init__(config, build)
            self.extra = build.linear("extra", 2**24, 2**24)

    assert describe(Huge, {"layers": 1}, dtype="bfloat16").weight_bytes > 2**48


def test_what_the_model_refuses_is_refused_here_already() -> None:
    with pytest.raises(UnsupportedModelError, match="Unknown rope type"):
        describe(Toy, {"layers": 1, "rope_scaling": {"type": "su"}}, dtype="float32")


class Floats(StoredFormat):
    """A format in which every module was left as it is."""

    def module(self, part: LinearPart, inp: Span) -> StoredModule | None:
        return None


def test_a_tied_head_in_a_form_of_its_own_is_counted() -> None:
    plain = describe(Toy, {"layers": 1}, dtype="bfloat16", quantization=Floats)
    rounded = describe(
        Toy, {"layers": 1}, dtype="bfloat16", quantization=Floats, options=HeadOptions(head="int8")
    )
    assert plain.tied_head_bytes == 0
    assert rounded.tied_head_bytes == 10 * 16 + 10 * 2
    assert rounded.weight_bytes == plain.weight_bytes
    assert rounded.num_parameters == plain.num_parameters
