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
    SpeculatorNeed,
)
from quire.plugin_plan import PluginPlan
from quire.runtime.threads import Threads


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftConfig:
    """A model that a worker loads beside its own, to propose tokens by.

    Attributes:
        directory, model_config, attention, quantization: as in `WorkerConfig`. The roles of its plugins begin
            with "draft/".
        max_model_len: tokens of the longest context it can follow.
        vocab_size: width of the served model's logits.
        num_speculative_tokens: most tokens proposed at a time.
        group: KV group by whose block tables its K and V lie: the first of the served model that keeps all
            tokens; if none does, a group of its own after those.
        feature_size: elements of the features that it keeps of each token (see `HeadModel`); 0 if it keeps
            none.
    """

    directory: Path
    model_config: Mapping[str, Any]
    attention: tuple[AttentionNeed, ...]
    quantization: QuantizationNeed
    max_model_len: int
    vocab_size: int
    num_speculative_tokens: int
    group: int
    feature_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Everything a worker needs to load its model and run steps.

    Attributes:
        directory: the model's files.
        model_config: config.json as a mapping, overrides applied.
        plugins: what to load, by role: "model", "quantization", "kernels", "sampler", "attention/<group>",
            "logits_processor/<name>" in the order in which they run.
            and "speculator" where one is used.
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
        speculator: the need the speculator was chosen for, None without one.
        draft: the speculator's model, None without one.
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
    speculator: SpeculatorNeed | None = None
    draft: DraftConfig | None = None

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Per KV group its sliding window in tokens, None where all tokens are kept."""
        windows = [need.cache.window for need in self.attention]
        if self.draft is not None and self.draft.group == len(windows):
            windows.append(None)
        return tuple(windows)

    @property
    def max_sampled_rows(self) -> int:
        """Rows that a step samples in at most: one per sequence, and one more for each of its drafts."""
        ahead = 0 if self.speculator is None else self.speculator.num_speculative_tokens
        most = max(self.max_num_seqs, self.max_num_batched_tokens)
        return min(self.max_num_seqs * (1 + ahead), most)
