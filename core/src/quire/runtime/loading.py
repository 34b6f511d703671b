"""From a worker's configuration to a loaded model, its backends, its sampler and its speculator."""

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
    HeadModel,
    KernelsInit,
    LogitsProcessor,
    LogitsProcessorInit,
    Model,
    QuantizationInit,
    Sampler,
    SamplerInit,
    Speculator,
    SpeculatorInit,
)
from quire.layers import Build, ParallelGroup, weight_bytes
from quire.plugin_plan import PROCESSOR_ROLE
from quire.runtime.config import DraftConfig, WorkerConfig
from quire.runtime.draft_head import PagedHead
from quire.runtime.draft_model import PagedDraftModel
from quire.runtime.dtypes import torch_dtype
from quire.runtime.guessing import Guessing
from quire.runtime.heap import large_blocks_returned
from quire.runtime.processors import Processors
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import initialise_dummy, load, renamed_headers

if TYPE_CHECKING:
    from quire.ops import Kernels

_DRAFT = "draft/"


@dataclass(slots=True)
class LoadedNetwork:
    """A model, ready to run.

    Attributes:
        model: the model.
        backends: one per KV group.
        group_of_layer: KV group of each attention layer.
        weight_bytes: memory that the weights hold.
    """

    model: Model
    backends: list[AttentionBackend]
    group_of_layer: list[int]
    weight_bytes: int


@dataclass(slots=True)
class LoadedModel:
    """What loading gives.

    Attributes:
        network: the served model.
        kernels: of the engine.
        sampler: seated with nobody.
        processors: active logits processors, in their order; seated with nobody.
        speculator: who proposes, None if nobody does.
        draft: the model that it proposes by, None without one.
    """

    network: LoadedNetwork
    kernels: Kernels
    sampler: Sampler
    processors: Processors
    speculator: Speculator | None
    draft: PagedDraftModel | None


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
    network = _load_network(config, config, "", kernels, device)
    sampler: Sampler = plugins["sampler"].load()(
        SamplerInit(
            need=config.sampler,
            device=device,
            max_num_seqs=config.max_num_seqs,
            kernels=kernels,
            eos_token_ids=config.eos_token_ids,
            options=plugins["sampler"].load_options(),
        )
    )
    active: list[LogitsProcessor] = [
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
    processors, draft = Processors(active), None
    if config.draft is not None:
        guessing = Guessing(sampler, processors, kernels)
        draft = _load_draft(config, config.draft, network.model, kernels, guessing, device)
    speculator = _open_speculator(config, device, draft)
    return LoadedModel(network, kernels, sampler, processors, speculator, draft)


def open_backends(config: WorkerConfig, device: str) -> list[AttentionBackend]:
    """The planned attention backends of the served model, one per KV group."""
    return _open_backends(config, config, "", device)


def open_draft_backends(config: WorkerConfig, device: str) -> list[AttentionBackend]:
    """Those of the draft model; none without one."""
    return [] if config.draft is None else _open_backends(config, config.draft, _DRAFT, device)


def _load_draft(
    config: WorkerConfig, part: DraftConfig, served: Model, kernels: Kernels, guessing: Guessing, device: str
) -> PagedDraftModel:
    """The model that proposes to the served one."""
    loaded = _load_network(config, part, _DRAFT, kernels, device)
    model, backends, groups = loaded.model, loaded.backends, loaded.group_of_layer
    sizes = {
        "weight_bytes": loaded.weight_bytes,
        "max_num_seqs": config.max_num_seqs,
        "max_num_batched_tokens": config.max_num_batched_tokens,
    }
    if not isinstance(model, HeadModel):
        return PagedDraftModel(part, model, backends, groups, guessing, device, **sizes)
    model.adopt(served)
    dtype, block_size = torch_dtype(config.dtype), config.block_size
    return PagedHead(
        part, model, backends, groups, guessing, device, dtype=dtype, block_size=block_size, **sizes
    )


def _load_network(
    config: WorkerConfig, part: WorkerConfig | DraftConfig, prefix: str, kernels: Kernels, device: str
) -> LoadedNetwork:
    """One of the worker's models.

    Args:
        config: of the worker.
        part: of the model.
        prefix: what the roles of its plugins begin with.
        kernels, device: of the worker.
    """
    plugins = config.plugins
    backends = _open_backends(config, part, prefix, device)
    model_class: type[Model] = plugins[f"{prefix}model"].load()
    checkpoint = None if config.load_format == "dummy" else Checkpoint(part.directory)
    headers = {} if checkpoint is None else renamed_headers(checkpoint, model_class.mapping)
    planned = plugins[f"{prefix}quantization"]
    quantization = planned.load()(
        QuantizationInit(
            need=part.quantization,
            headers=headers,
            kernels=kernels,
            device=device,
            options=planned.load_options(),
        )
    )
    group_of = {(need.cache, need.soft_cap): group for group, need in enumerate(part.attention)}

    def attention(cache: CacheSpec, num_q_heads: int, soft_cap: float | None) -> tuple[int, AttentionBackend]:
        group = group_of[cache, soft_cap]
        return group, backends[group]

    build = Build(
        config=part.model_config,
        mapping=model_class.mapping,
        kernels=kernels,
        quantization=quantization,
        attention=attention,
        parallel=ParallelGroup(),
        device=device,
        dtype=torch_dtype(config.dtype),
        kv_dtype=config.kv_dtype,
        max_model_len=part.max_model_len,
    )
    with large_blocks_returned() if config.device == "cpu" else nullcontext():
        model = model_class(part.model_config, build)
        if checkpoint is None:
            initialise_dummy(model.weights(), seed=config.seed)
        else:
            load(model.weights(), checkpoint, model_class.mapping, progress=config.show_progress)
        model.finish()
    groups = [registered.group for registered in build.attention_layers]
    return LoadedNetwork(model, backends, groups, weight_bytes(cast(nn.Module, model)))


def _open_speculator(
    config: WorkerConfig, device: str, draft_model: PagedDraftModel | None
) -> Speculator | None:
    """The planned speculator, None if none was planned."""
    if config.speculator is None:
        return None
    planned = config.plugins["speculator"]
    speculator: Speculator = planned.load()(
        SpeculatorInit(
            need=config.speculator,
            device=device,
            max_num_seqs=config.max_num_seqs,
            max_model_len=config.max_model_len,
            options=planned.load_options(),
            draft_model=draft_model,
        )
    )
    return speculator


def _open_backends(
    config: WorkerConfig, part: WorkerConfig | DraftConfig, prefix: str, device: str
) -> list[AttentionBackend]:
    backends = []
    for group, need in enumerate(part.attention):
        planned = config.plugins[f"{prefix}attention/{group}"]
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
