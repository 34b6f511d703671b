"""From a configuration to a frozen plan: which files, which plugins, which sizes.

Reads config.json and decides; loads no weights and takes no memory. `LLM`, `AsyncLLM` and
`quire doctor` all plan here, so that the doctor tells what would really happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quire.config import EngineConfig
from quire.contracts import (
    AttentionNeed,
    GrammarNeed,
    KernelsNeed,
    ModelFiles,
    ModelRequest,
    ModelSource,
    SamplerNeed,
    ServedModel,
    Speculator,
    SpeculatorNeed,
)
from quire.engine.grammars.plan import choose_grammars
from quire.engine.planning.draft import DraftPlan, Served, plan_draft
from quire.engine.planning.network import choose_attention, choose_network, kv_dtype, quantization_need
from quire.engine.planning.parsers import choose_parsers
from quire.engine.planning.processors import choose_processors, processor_need
from quire.errors import CheckpointError, ConfigError
from quire.layers import ModelFacts
from quire.plugin_plan import PlanBuilder, PluginPlan
from quire.plugins import PluginRegistry, discover
from quire.runtime.config import WorkerConfig
from quire.runtime.device import resolve_device
from quire.runtime.threads import choose_threads, read_machine
from quire.weights.config_files import (
    GenerationDefaults,
    derive_max_model_len,
    load_generation_config,
    load_model_config,
)
from quire.weights.sources.resolve import resolve_model

_DTYPES = {
    "half": "float16",
    "float": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float32": "float32",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """All decisions made before anything is loaded.

    Attributes:
        config: the user's settings.
        files: the model's files.
        tokenizer_files: the tokenizer's; the model's own unless another was named.
        model_config: config.json, overrides applied.
        generation: the checkpoint's default sampling values and end tokens.
        plugins: what was chosen, and why.
        facts: the model's KV groups and size.
        attention: per KV group what was asked of its backend.
        device, dtype: resolved.
        max_model_len: asked for, or the model's own.
        vocab_size: width of the logits.
        notes: what was understood otherwise than it was written, for the start-up report.
        arguments: by active logits processor the model of what requests may say to it, if there is one.
        draft: the model that proposes tokens to it, None without one.
    """

    config: EngineConfig
    files: ModelFiles
    tokenizer_files: ModelFiles
    model_config: Mapping[str, Any]
    generation: GenerationDefaults
    plugins: PluginPlan
    facts: ModelFacts
    attention: tuple[AttentionNeed, ...]
    device: str
    dtype: str
    max_model_len: int
    vocab_size: int
    notes: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=dict)
    draft: DraftPlan | None = None

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Per KV group its sliding window in tokens; None where all tokens are kept."""
        windows = [need.cache.window for need in self.attention]
        if self.draft is not None and self.draft.worker_config.group == len(windows):
            windows.append(None)
        return tuple(windows)

    def with_eos(self, token_id: int) -> EnginePlan:
        """The same plan with an end token, for a checkpoint that names none."""
        return replace(self, generation=replace(self.generation, eos_token_ids=(token_id,)))

    def worker_config(self, *, show_progress: bool) -> WorkerConfig:
        """What a worker needs of the plan."""
        config = self.config
        return WorkerConfig(
            directory=self.files.directory,
            model_config=self.model_config,
            plugins=self.plugins,
            device=self.device,
            threads=choose_threads(config.threads, read_machine()),
            cpu_pinning=config.cpu_pinning,
            dtype=self.dtype,
            block_size=config.block_size,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            attention=self.attention,
            quantization=quantization_need(config, self.device, self.dtype, self.model_config),
            kernels=_kernels_need(config, self.device, self.dtype),
            sampler=_sampler_need(config, self.device, self.dtype, self.vocab_size),
            logits_processors=processor_need(config, self.device, self.dtype, self.vocab_size),
            kv_dtype=kv_dtype(config),
            enforce_eager=config.enforce_eager,
            load_format="dummy" if config.load_format == "dummy" else "safetensors",
            seed=config.seed,
            eos_token_ids=self.generation.eos_token_ids,
            show_progress=show_progress,
            speculator=_speculator_need(config, self.device, self.dtype, self.vocab_size),
            draft=None if self.draft is None else self.draft.worker_config,
        )


def make_plan(
    config: EngineConfig,
    registry: PluginRegistry | None = None,
    *,
    show_progress: bool = True,
    headers_in: Path | None = None,
) -> EnginePlan:
    """Decide everything that can be decided before loading.

    Args:
        config: the user's settings.
        registry: what is installed; discovered if None.
        show_progress: draw progress bars while files are fetched.
        headers_in: an empty directory for weights' headers, for a plan that is never started: weights that
            are not here stay where they are.

    Raises:
        ConfigError, PluginError, ModelError: the first decision that cannot be made, with its reason.
    """
    if not config.model:
        raise ConfigError("model is not set. Name a local directory, a bundled model or a hub id.")
    registry = registry or discover(config.plugins.allow)
    sources = _sources(registry)
    request = ModelRequest(
        model=config.model,
        revision=config.revision,
        tokenizer_only=config.load_format == "dummy",  # random weights need no files
        show_progress=show_progress,
    )
    files = resolve_model(sources, request, headers_in=headers_in)
    tokenizer_files = files
    if config.tokenizer is not None:
        tokenizer_files = resolve_model(
            sources, replace(request, model=config.tokenizer, tokenizer_only=True)
        )
    model_config = load_model_config(files, config.hf_overrides)
    device = resolve_device(config.device)
    dtype = _dtype(config.dtype, model_config)
    builder = PlanBuilder(registry, config.plugins.options)
    facts, note = choose_network(
        builder, config, files, model_config, device, dtype, quantization=config.quantization
    )
    vocab_size = int(model_config["vocab_size"])
    builder.choose("kernels", _kernels_need(config, device, dtype), requested=config.kernels)
    builder.choose("sampler", _sampler_need(config, device, dtype, vocab_size), requested=config.sampler)
    arguments = choose_processors(builder, config, device, dtype, vocab_size)
    choose_parsers(builder, config, tokenizer_files, device, dtype)
    grammars = GrammarNeed(device=device, dtype=dtype, vocab_size=vocab_size)
    choose_grammars(builder, grammars, config.grammars.backend)
    attention = choose_attention(builder, config, facts, device, dtype)
    max_model_len = _max_model_len(config, model_config)
    proposing = _speculator_need(config, device, dtype, vocab_size)
    draft = None
    if config.speculation is not None and proposing is not None:
        method, options = config.speculation.method, config.speculation.options
        speculator: type[Speculator] = builder.choose(
            "speculator", proposing, requested=method, given=("speculative_config", options)
        )
        served = Served(
            tokenizer_files=tokenizer_files,
            attention=attention,
            model=ServedModel(
                hidden_size=int(model_config.get("hidden_size") or 0),
                num_depths=facts.num_depths,
                vocab_size=vocab_size,
                max_model_len=max_model_len,
            ),
            device=device,
            dtype=dtype,
        )
        draft = plan_draft(
            builder, config, sources, served, speculator, show_progress=show_progress, headers_in=headers_in
        )
    return EnginePlan(
        config=config,
        files=files,
        tokenizer_files=tokenizer_files,
        model_config=model_config,
        generation=_generation(config, files, model_config),
        plugins=builder.build(),
        facts=facts,
        attention=attention,
        device=device,
        dtype=dtype,
        max_model_len=max_model_len,
        vocab_size=vocab_size,
        notes=(note,) if note else (),
        draft=draft,
        arguments=arguments,
    )


def _sources(registry: PluginRegistry) -> list[ModelSource]:
    return [registry.load(found)() for found in registry.all_of("source")]


def _kernels_need(config: EngineConfig, device: str, dtype: str) -> KernelsNeed:
    return KernelsNeed(device=device, dtype=dtype, deterministic=config.deterministic)


def _sampler_need(config: EngineConfig, device: str, dtype: str, vocab_size: int) -> SamplerNeed:
    return SamplerNeed(
        device=device,
        dtype=dtype,
        deterministic=config.deterministic,
        vocab_size=vocab_size,
        coupled=config.speculation is not None and config.speculation.model is not None,
    )


def _speculator_need(config: EngineConfig, device: str, dtype: str, vocab_size: int) -> SpeculatorNeed | None:
    asked = config.speculation
    if asked is None:
        return None
    return SpeculatorNeed(
        device=device,
        dtype=dtype,
        deterministic=config.deterministic,
        vocab_size=vocab_size,
        num_speculative_tokens=asked.num_speculative_tokens,
        model=asked.model,
    )


def _dtype(asked: str, model_config: Mapping[str, Any]) -> str:
    """The compute dtype; "auto" takes the checkpoint's own."""
    if asked != "auto":
        return _DTYPES[asked]
    stored = str(model_config.get("dtype") or model_config.get("torch_dtype") or "float32")
    stored = stored.removeprefix("torch.")
    if stored not in _DTYPES:
        raise ConfigError(
            f"The checkpoint's dtype is {stored!r}, which nothing computes in. "
            f"Set dtype to one of: {', '.join(_DTYPES)}."
        )
    return _DTYPES[stored]


def _max_model_len(config: EngineConfig, model_config: Mapping[str, Any]) -> int:
    if config.max_model_len is None:
        return derive_max_model_len(model_config)
    try:
        own = derive_max_model_len(model_config)
    except CheckpointError:  # it gives no length: then what the user says is all there is
        return config.max_model_len
    if config.max_model_len > own:
        raise ConfigError(
            f"max_model_len {config.max_model_len} is more than the {own} tokens the model was made for. "
            f"Use at most {own}, or change its rope parameters through hf_overrides."
        )
    return config.max_model_len


def _generation(
    config: EngineConfig, files: ModelFiles, model_config: Mapping[str, Any]
) -> GenerationDefaults:
    """The checkpoint's generation_config.json; end tokens count even where its sampling values do not."""
    if config.generation_config not in ("auto", "vllm"):
        elsewhere = replace(files, directory=Path(config.generation_config))
        return load_generation_config(elsewhere, model_config)
    defaults = load_generation_config(files, model_config)
    return defaults if config.generation_config == "auto" else replace(defaults, sampling={})
