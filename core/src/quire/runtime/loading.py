"""From a worker's configuration to a loaded model, its backends and its sampler."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from quire.contracts import (
    AttentionBackend,
    AttentionInit,
    CacheSpec,
    KernelsInit,
    LogitsProcessor,
    LogitsProcessorInit,
    Model,
    QuantizationInit,
    Sampler,
    SamplerInit,
)
from quire.layers import Build, ParallelGroup, weight_bytes
from quire.plugin_plan import PROCESSOR_ROLE
from quire.runtime.config import WorkerConfig
from quire.runtime.dtypes import torch_dtype
from quire.runtime.heap import large_blocks_returned
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import initialise_dummy, load, renamed_headers

if TYPE_CHECKING:
    from quire.ops import Kernels


@dataclass(slots=True)
class LoadedModel:
    """What loading gives.

    Attributes:
        model: ready to run.
        kernels: of the engine.
        backends: one per KV group.
        group_of_layer: KV group of each attention layer.
        sampler: seated with nobody.
        processors: active logits processors, in their order; seated with nobody.
        weight_bytes: memory that the weights hold.
    """

    model: Model
    kernels: Kernels
    backends: list[AttentionBackend]
    group_of_layer: list[int]
    sampler: Sampler
    processors: list[LogitsProcessor]
    weight_bytes: int


@torch.inference_mode()
def load_model(config: WorkerConfig, device: str) -> LoadedModel:
    """Build the model from the planned plugins, and fill it.

    On a CPU the peak is the weights and about one tensor more; for another device the host takes the latter.

    Raises:
        CheckpointError: a file is missing, truncated or contradicts its header.
        PluginError: a planned plugin cannot be loaded here.
    """
    plugins = config.plugins
    kernels: Kernels = plugins["kernels"].load()(
        KernelsInit(need=config.kernels, device=device, options=plugins["kernels"].load_options())
    )
    backends = open_backends(config, device)
    model_class: type[Model] = plugins["model"].load()
    checkpoint = None if config.load_format == "dummy" else Checkpoint(config.directory)
    headers = {} if checkpoint is None else renamed_headers(checkpoint, model_class.mapping)
    quantization = plugins["quantization"].load()(
        QuantizationInit(
            need=config.quantization,
            headers=headers,
            kernels=kernels,
            device=device,
            options=plugins["quantization"].load_options(),
        )
    )
    group_of = {(need.cache, need.soft_cap): group for group, need in enumerate(config.attention)}

    def attention(cache: CacheSpec, num_q_heads: int, soft_cap: float | None) -> tuple[int, AttentionBackend]:
        group = group_of[cache, soft_cap]
        return group, backends[group]

    build = Build(
        config=config.model_config,
        mapping=model_class.mapping,
        kernels=kernels,
        quantization=quantization,
        attention=attention,
        parallel=ParallelGroup(),
        device=device,
        dtype=torch_dtype(config.dtype),
        kv_dtype=config.kv_dtype,
        max_model_len=config.max_model_len,
    )
    with large_blocks_returned() if config.device == "cpu" else nullcontext():
        model = model_class(config.model_config, build)
        if checkpoint is None:
            initialise_dummy(model.weights(), seed=config.seed)
        else:
            load(model.weights(), checkpoint, model_class.mapping, progress=config.show_progress)
        model.finish()
    sampler = plugins["sampler"].load()(
        SamplerInit(
            need=config.sampler,
            device=device,
            max_num_seqs=config.max_num_seqs,
            kernels=kernels,
            eos_token_ids=config.eos_token_ids,
            options=plugins["sampler"].load_options(),
        )
    )
    processors = [
        planned.load()(
            LogitsProcessorInit(
                need=config.logits_processors,
                device=device,
                max_num_seqs=config.max_num_seqs,
                kernels=kernels,
                options=planned.load_options(),
            )
        )
        for role, planned in plugins.plugins.items()
        if role.startswith(PROCESSOR_ROLE)
    ]
    groups = [registered.group for registered in build.attention_layers]
    return LoadedModel(
        model, kernels, backends, groups, sampler, processors, weight_bytes(cast(nn.Module, model))
    )


def open_backends(config: WorkerConfig, device: str) -> list[AttentionBackend]:
    """The planned attention backends, one per KV group."""
    backends = []
    for group, need in enumerate(config.attention):
        planned = config.plugins[f"attention/{group}"]
        backends.append(
            planned.load()(
                AttentionInit(
                    need=need,
                    device=device,
                    max_num_seqs=config.max_num_seqs,
                    max_num_batched_tokens=config.max_num_batched_tokens,
                    max_model_len=config.max_model_len,
                    options=planned.load_options(),
                )
            )
        )
    return backends
