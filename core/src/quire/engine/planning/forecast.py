"""What a start would take, told without one: the report behind `quire plan`.

Plans as a real start does, reads config.json and safetensors headers, and divides the memory by the
same rules. Loads no weights and runs no model, so what a profile run would measure is estimated here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.config import EngineConfig
from quire.engine.planning.memory import MemoryBudget, divide
from quire.engine.planning.plan import EnginePlan, make_plan
from quire.errors import CapacityError, CheckpointError
from quire.layers import ModelFacts
from quire.plugins import PluginRegistry
from quire.runtime.device import Memory, open_device
from quire.runtime.draft_batches import spare_blocks
from quire.runtime.draft_head import feature_bytes
from quire.runtime.dtypes import torch_dtype
from quire.runtime.graphs import can_capture
from quire.runtime.kv_cache import KVCache
from quire.runtime.loading import open_backends, open_draft_backends
from quire.runtime.profile import MemoryProfile, graphs_bytes
from quire.weights.checkpoint import Checkpoint
from quire.weights.config_files import derive_max_model_len

# Elements per row that a decoder layer's step was measured to hold at its peak, beside the widest of
# its temporaries: residual, input, output and their normalised copies, each of the hidden size.
_HIDDEN_COPIES = 6
# Bytes per logit that sampling in plain PyTorch was measured to hold: float32 logits, their sorted copy, its
# order. Kernels that need no sorted copy hold less.
_BYTES_PER_LOGIT = 16

HOW_ESTIMATED = (
    "Estimates: a start measures activations with a profile run; here they are "
    "max_num_batched_tokens rows of 6 hidden sizes and of a layer's widest temporaries, or "
    f"max_num_seqs rows (each with its drafts) of {_BYTES_PER_LOGIT} bytes per logit, whichever is more. "
    "Captured steps keep both for max_num_seqs rows."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What would happen.

    Attributes:
        plan: the decisions; its directory is gone where only headers were fetched.
        checkpoint_bytes: the weights on disk, or where they would be fetched from; 0 for dummy weights.
        fetched: whether the weights are on this machine.
        memory: of the device, before anything is loaded; or as much as was supposed.
        profile: what a start would measure; `activations` and `graphs` are estimates.
        kv_bytes_per_token: of all layers.
        budget: the division of the memory, None if the model does not fit.
        problem: why it does not.
        largest: the longest `max_model_len` that would fit with the other settings, 0 if none does.
    """

    plan: EnginePlan
    checkpoint_bytes: int
    fetched: bool
    memory: Memory
    profile: MemoryProfile
    kv_bytes_per_token: int
    budget: MemoryBudget | None
    problem: str | None
    largest: int


def forecast(
    config: EngineConfig, *, memory: int | None = None, registry: PluginRegistry | None = None
) -> Forecast:
    """Plan a start and divide the memory for it.

    Args:
        config: the user's settings.
        memory: bytes of a device that nothing else uses, None for what this machine's has free.
        registry: what is installed; discovered if None.

    Raises:
        ConfigError, PluginError, ModelError: the first decision that cannot be made, with its reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(config, registry, headers_in=Path(scratch))
        dummy = config.load_format == "dummy"
        checkpoint_bytes = 0 if dummy else Checkpoint(plan.files.directory).nbytes()
        fetched = not plan.files.directory.is_relative_to(scratch)
    available = open_device(plan.device).memory() if memory is None else Memory(total=memory, free=memory)
    profile = estimate(plan, available)
    asked = config.max_model_len is not None
    budget, problem = _divide(plan, profile, plan.max_model_len, asked=asked)
    longest, _ = _divide(plan, profile, _own_length(plan), asked=False)
    return Forecast(
        plan=plan,
        checkpoint_bytes=checkpoint_bytes,
        fetched=fetched,
        memory=available,
        profile=profile,
        kv_bytes_per_token=-(-profile.kv_bytes_per_block // config.block_size),
        budget=budget,
        problem=problem,
        largest=0 if longest is None else longest.max_model_len,
    )


def estimate(plan: EnginePlan, memory: Memory) -> MemoryProfile:
    """What a start would measure, as `HOW_ESTIMATED` tells.

    Args:
        plan: the decisions.
        memory: of the device, before anything is loaded.

    Raises:
        PluginError: a planned attention backend cannot be loaded here.
    """
    config, device = plan.config, open_device(plan.device)
    worker = plan.worker_config(show_progress=False)
    backends = open_backends(worker, device.name)
    kv_bytes, spare = KVCache.bytes_per_block(backends, _group_of_layer(plan.facts)), 0
    weights = plan.facts.weight_bytes + (plan.facts.tied_head_bytes or _repacked(plan, plan.model_config))
    if plan.draft is not None:
        draft = plan.draft
        its_own = KVCache.bytes_per_block(
            open_draft_backends(worker, device.name), _group_of_layer(draft.facts)
        )
        kv_bytes += its_own
        most, features = draft.worker_config.num_speculative_tokens, draft.worker_config.feature_size
        kv_bytes += feature_bytes(features, torch_dtype(plan.dtype), config.block_size)
        beside = spare_blocks(most, config.block_size) + (features > 0)
        spare = config.max_num_seqs * beside * its_own
        weights += draft.facts.weight_bytes + _repacked(plan, draft.worker_config.model_config)
    per_row, of_logits = _row_bytes(plan), plan.vocab_size * _BYTES_PER_LOGIT
    of_sampling, of_seats = worker.max_sampled_rows * of_logits, config.max_num_seqs * of_logits
    graphs = 0
    if not config.enforce_eager and can_capture(device, backends):
        graphs = graphs_bytes(worker, per_row, of_seats, len(backends))
        if plan.draft is not None and not plan.draft.worker_config.feature_size:
            graphs *= 2  # as `profile` does
    return MemoryProfile(
        weights=weights,
        activations=max(config.max_num_batched_tokens * per_row, of_sampling) + spare,
        graphs=graphs,
        kv_bytes_per_block=kv_bytes,
        device_free=max(memory.free - weights, 0),
        device_total=memory.total,
        measured_rows=0,
    )


def _divide(
    plan: EnginePlan, profile: MemoryProfile, max_model_len: int, *, asked: bool
) -> tuple[MemoryBudget | None, str | None]:
    """The division, or why there is none."""
    config = plan.config
    try:
        budget = divide(
            profile,
            device=plan.device,
            utilization=config.gpu_memory_utilization,
            kv_bytes=config.kv_cache_memory_bytes,
            block_size=config.block_size,
            max_model_len=max_model_len,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            windows=plan.windows,
            asked_max_model_len=asked,
        )
    except CapacityError as error:
        return None, str(error)
    return budget, None


def _own_length(plan: EnginePlan) -> int:
    """The longest sequence that the model was made for."""
    try:
        return derive_max_model_len(plan.model_config)
    except CheckpointError:  # it says none; then the user did
        return plan.max_model_len


def _group_of_layer(facts: ModelFacts) -> list[int]:
    """KV group of each attention layer."""
    return [group for group, one in enumerate(facts.attention) for _ in range(one.num_layers)]


def _repacked(plan: EnginePlan, model_config: Mapping[str, Any]) -> int:
    """Bytes of a second copy: a CPU's kernels pack a head for its product, and a tied one also embeds."""
    tied = bool(model_config.get("tie_word_embeddings"))
    if plan.device != "cpu" or not tied:
        return 0
    return int(model_config["vocab_size"]) * _hidden_size(model_config) * torch_dtype(plan.dtype).itemsize


def _hidden_size(model_config: Mapping[str, Any]) -> int:
    return int(model_config.get("hidden_size") or 0)


def _row_bytes(plan: EnginePlan) -> int:
    """Bytes that a step's temporaries take for each of its rows, as `HOW_ESTIMATED` tells."""
    hidden = _hidden_size(plan.model_config)
    feed_forward = 3 * int(plan.model_config.get("intermediate_size") or 4 * hidden)  # gate, up, product
    attention = max(
        (
            2 * need.num_q_heads * need.cache.head_dim + 2 * need.cache.num_kv_heads * need.cache.head_dim
            for need in plan.attention
        ),
        default=0,
    )  # queries, keys, values, and what comes out
    return (_HIDDEN_COPIES * hidden + max(feed_forward, attention)) * torch_dtype(plan.dtype).itemsize
