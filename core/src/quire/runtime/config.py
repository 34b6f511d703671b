"""What a worker is started with. Plain data: it crosses process boundaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.contracts import (
    AttentionNeed,
    KernelsNeed,
    LogitsProcessorNeed,
    QuantizationNeed,
    SamplerNeed,
)
from quire.plugin_plan import PluginPlan
from quire.runtime.threads import Threads


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Everything a worker needs to load its model and run steps.

    Attributes:
        directory: the model's files.
        model_config: config.json as a mapping, overrides applied.
        plugins: what to load, by role: "model", "quantization", "kernels", "sampler", "attention/<group>",
            "logits_processor/<name>" in the order in which they run.
        device: device type.
        threads: how many to compute with on the CPU, and where.
        cpu_pinning: whether each is bound to its processor.
        dtype: compute dtype's name.
        kv_dtype: dtype's name K and V are kept in; None for the compute dtype.
        block_size: tokens per KV block.
        max_num_seqs, max_num_batched_tokens, max_model_len: bounds of a step.
        attention: per KV group the need its backend was chosen for, in the order in which the
            model registers the groups.
        quantization: the need the quantization was chosen for; kernels, sampler and logits_processors alike.
        enforce_eager: capture no graphs.
        load_format: "safetensors", or "dummy" for random weights.
        seed: seed of dummy weights.
        eos_token_ids: the model's end tokens.
        show_progress: draw a progress bar while loading.
    """

    directory: Path
    model_config: Mapping[str, Any]
    plugins: PluginPlan
    device: str
    threads: Threads
    cpu_pinning: bool
    dtype: str
    kv_dtype: str | None
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    attention: tuple[AttentionNeed, ...]
    quantization: QuantizationNeed
    kernels: KernelsNeed
    sampler: SamplerNeed
    logits_processors: LogitsProcessorNeed
    enforce_eager: bool
    load_format: str
    seed: int
    eos_token_ids: tuple[int, ...]
    show_progress: bool
