"""What a model will need, learnt by building it without memory.

Used before any plugin but the model's is chosen: to choose attention backends, to plan memory, and by
`quire doctor`. Allocates nothing and packs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from quire.contracts import (
    AttentionBackend,
    CacheSpec,
    HeadModel,
    KernelsInit,
    KernelsNeed,
    Model,
    Quantization,
    QuantizationInit,
    QuantizationNeed,
    TensorHeader,
)
from quire.layers.build import Build
from quire.layers.embedding import LMHead
from quire.layers.parallel import ParallelGroup
from quire.layers.stack import DecoderStack
from quire.layers.unquantized import Unquantized

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class AttentionFacts:
    """One KV group: what an `AttentionNeed` says about it, and how many layers it has.

    Attributes:
        cache: what each of its layers keeps.
        num_q_heads: query heads on this worker, the most of any layer.
        soft_cap: its layers' soft cap.
        num_layers: layers that share the group's blocks.
    """

    cache: CacheSpec
    num_q_heads: int
    soft_cap: float | None
    num_layers: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as seen from outside, on one worker.

    Attributes:
        attention: its KV groups, in the order the worker will number them.
        num_parameters: elements of all weights, a tied head counted once.
        weight_bytes: bytes of all weights as they are loaded, before any repacking.
        tied_head_bytes: bytes of a tied head beside them that its quantization stores in a form of its own; 0
            if there is none.
        num_depths: hidden states that its layers can tell (see `quire.layers.Tap`); 0 if they tell none.
        feature_size: of a `HeadModel`; 0 of any other.
    """

    attention: tuple[AttentionFacts, ...]
    num_parameters: int
    weight_bytes: int
    tied_head_bytes: int = 0
    num_depths: int = 0
    feature_size: int = 0


class AttentionGroups:
    """Numbers KV groups in order of first use: the rule every attention factory follows."""

    def __init__(self) -> None:
        self.groups: list[AttentionFacts] = []

    def add(self, cache: CacheSpec, num_q_heads: int, soft_cap: float | None) -> int:
        """The group of a layer with these properties; a new one if none is alike."""
        for index, group in enumerate(self.groups):
            if group.cache == cache and group.soft_cap == soft_cap:
                self.groups[index] = AttentionFacts(
                    cache, max(num_q_heads, group.num_q_heads), soft_cap, group.num_layers + 1
                )
                return index
        self.groups.append(AttentionFacts(cache, num_q_heads, soft_cap, 1))
        return len(self.groups) - 1


def describe(
    model_class: type[Model],
    config: Mapping[str, Any],
    *,
    dtype: str,
    device: str = "cpu",
    kv_dtype: str | None = None,
    parallel: ParallelGroup | None = None,
    quantization: type[Quantization] = Unquantized,
    headers: Mapping[str, TensorHeader] | None = None,
    options: BaseModel | None = None,
) -> ModelFacts:
    """Build `model_class` on the "meta" device and read off its needs.

    Args:
        model_class: target of a `ModelSpec`.
        config: the checkpoint's config.json, `hf_overrides` applied.
        dtype: compute dtype's name.
        device: device type the worker will run on, for the quantization's need.
        kv_dtype: dtype's name K and V will be kept in; None for the compute dtype.
        parallel: the worker's group.
        quantization: target of the chosen `QuantizationSpec`.
        headers: the checkpoint's (renamed) headers, for formats that decide by them.
        options: the quantization's validated options.

    Raises:
        UnsupportedModelError: the model does not implement what the config asks for.
        CheckpointError: the quantization found the headers wrong.
    """
    from quire.ops import Kernels

    kernels = Kernels(KernelsInit(need=KernelsNeed(device=device, dtype=dtype), device="meta"))
    opened = quantization(
        QuantizationInit(
            need=QuantizationNeed(device=device, dtype=dtype, config=config.get("quantization_config") or {}),
            headers=headers or {},
            kernels=kernels,
            device="meta",
            options=options,
        )
    )
    groups = AttentionGroups()

    def attention(cache: CacheSpec, num_q_heads: int, soft_cap: float | None) -> tuple[int, AttentionBackend]:
        # No backend is chosen yet, and on "meta" none is called.
        return groups.add(cache, num_q_heads, soft_cap), cast(AttentionBackend, None)

    build = Build(
        config=config,
        kernels=kernels,
        quantization=opened,
        attention=attention,
        mapping=model_class.mapping,
        max_model_len=1,
        parallel=parallel,
        device="meta",
        dtype=getattr(torch, dtype),
        kv_dtype=kv_dtype,
    )
    model = model_class(config, build)
    weights = list(model.weights())
    layers = list(cast(nn.Module, model).modules())
    stacks = [layer for layer in layers if isinstance(layer, DecoderStack)]
    return ModelFacts(
        attention=tuple(groups.groups),
        num_parameters=sum(
            math.prod(span.size for span in weight.take) if weight.parameters is None else weight.parameters
            for weight in weights
        ),
        weight_bytes=sum(weight.target.nbytes for weight in weights),
        tied_head_bytes=sum(layer.nbytes() for layer in layers if isinstance(layer, LMHead)),
        num_depths=len(stacks[0]) + 1 if len(stacks) == 1 else 0,
        feature_size=model.feature_size if isinstance(model, HeadModel) else 0,
    )
