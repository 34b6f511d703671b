"""What a front end knows of an engine: facts once it is loaded, figures while it runs. Plain data.

Both cross process boundaries (msgspec can encode every field). No torch, no scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from quire.contracts import ModelFiles
from quire.plugin_plan import PluginPlan
from quire.scheduler import SchedulerStats

__all__ = ["STEP_BUCKETS", "EngineInfo", "EngineStats", "GrammarLimits", "GrammarStats"]

STEP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of step times, in seconds; one more bucket has no bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarLimits:
    """What compiling a grammar may take, and what is kept.

    Attributes:
        seconds: for one source, by one backend.
        source_bytes, artefact_bytes: sizes.
        memory_bytes: above what the process takes when it begins.
        cache_entries, cache_bytes: what is kept of artefacts.
        waiting: sources that may wait their turn.
    """

    seconds: float = 2.0
    source_bytes: int = 1 << 18
    artefact_bytes: int = 1 << 24
    memory_bytes: int = 1 << 30
    cache_entries: int = 1024
    cache_bytes: int = 1 << 26
    waiting: int = 64


@dataclass(frozen=True, slots=True)
class GrammarStats:
    """What following grammars came to, since the start.

    Attributes:
        mask_seconds: time spent following outputs and making masks.
        num_masks: rows of masks handed to the worker.
    """

    mask_seconds: float = 0.0
    num_masks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """A loaded engine.

    Attributes:
        model, source: the name it was asked for by, and where its files came from.
        architecture, dtype, device: what runs, in what, on what.
        num_parameters: elements of all weights.
        tokenizer_files: for loading the tokenizer at the front end's side.
        vocab_size: width of the logits; token ids are below it.
        max_model_len: prompt and output together, in tokens.
        max_logprobs: most log probabilities per token.
        max_num_seqs: most sequences in one step.
        block_size, num_blocks: of the KV cache; blocks that requests can hold, per group.
        weights_bytes, kv_bytes: memory.
        seed: from which requests without a seed draw theirs.
        eos_token_ids: the model's end tokens.
        sampling_defaults: sampling parameters that the checkpoint suggests.
        enable_prefix_caching: whether prefixes are cached.
        auto_tool_choice: whether the model may decide to call tools.
        plugins: what was chosen and why.
        report: the start-up report, a line each.
        arguments: see `EnginePlan.arguments`.
        grammar_limits: what compiling a grammar may take.
    """

    model: str
    source: str
    architecture: str
    dtype: str
    device: str
    num_parameters: int
    tokenizer_files: ModelFiles
    vocab_size: int
    max_model_len: int
    max_logprobs: int
    max_num_seqs: int
    block_size: int
    num_blocks: int
    weights_bytes: int
    kv_bytes: int
    seed: int
    eos_token_ids: tuple[int, ...]
    sampling_defaults: Mapping[str, Any]
    enable_prefix_caching: bool
    auto_tool_choice: bool = True
    plugins: PluginPlan = field(default_factory=PluginPlan)
    report: list[str] = field(default_factory=list)
    arguments: Mapping[str, str] = field(default_factory=dict)
    grammar_limits: GrammarLimits = GrammarLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """An engine at one moment. Counters count since the start.

    Attributes:
        scheduler: requests and blocks.
        steps: steps run.
        prompt_tokens, generation_tokens: tokens computed for prompts (cached ones are not) and sampled.
        step_seconds: time spent in steps.
        step_histogram: steps per bucket of `step_buckets`, and above the last.
        grammars: what following grammars came to.
        num_thinking_ended: outputs whose thinking was ended because its budget was spent.
        step_buckets: `STEP_BUCKETS`, for those who only have the figures.
    """

    step_buckets: ClassVar[tuple[float, ...]] = STEP_BUCKETS

    scheduler: SchedulerStats
    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    step_seconds: float = 0.0
    step_histogram: tuple[int, ...] = (0,) * (len(STEP_BUCKETS) + 1)
    grammars: GrammarStats = GrammarStats()
    num_thinking_ended: int = 0
