"""Puts an engine together from a configuration: plan, workers, scheduler; and, beside it, text."""

from __future__ import annotations

from dataclasses import dataclass

import quire
from quire.config import EngineConfig
from quire.contracts import GrammarNeed, Vocabulary
from quire.engine.client import EngineClient, InProcessClient
from quire.engine.core import EngineCore
from quire.engine.grammars.plan import load_grammars
from quire.engine.grammars.runner import GrammarRunner
from quire.engine.info import EngineInfo, GrammarLimits
from quire.engine.inputs import InputProcessor
from quire.engine.outputs import OutputProcessor
from quire.engine.planning.memory import MemoryBudget, divide
from quire.engine.planning.plan import EnginePlan, make_plan
from quire.engine.report import StartupReport, Stopwatch
from quire.engine.thinking_runner import ThinkingReader, ThinkingRunner
from quire.executors.in_process import InProcessExecutor
from quire.plugins import discover
from quire.runtime.profile import MemoryProfile
from quire.scheduler import Scheduler, SchedulerConfig
from quire.text.tokenizer import Tokenizer, load_tokenizer
from quire.text.vocabulary import make_vocabulary


@dataclass(slots=True)
class LoadedCore:
    """An engine core, ready to step, and what is known of it.

    Attributes:
        core: the engine core.
        plan: what was decided.
        info: what front ends need.
        report: how start-up went.
        tokenizer: the model's, if it had to be loaded.
    """

    core: EngineCore
    plan: EnginePlan
    info: EngineInfo
    report: StartupReport
    tokenizer: Tokenizer | None


@dataclass(slots=True)
class Engine:
    """A started engine and the text side of its front end, all in this process.

    Attributes:
        client: to the engine core.
        inputs: prompts -> requests.
        outputs: step outputs -> request outputs.
        tokenizer: the model's.
        info: facts.
        plan: what was decided.
        report: how start-up went.
    """

    client: EngineClient
    inputs: InputProcessor
    outputs: OutputProcessor
    tokenizer: Tokenizer
    info: EngineInfo
    plan: EnginePlan
    report: StartupReport


def start_engine(config: EngineConfig, *, show_progress: bool = True) -> Engine:
    """Load everything, in this process.

    Raises:
        QuireError: the first thing that stands in the way.
    """
    loaded = load_core(config, show_progress=show_progress, with_tokenizer=True)
    assert loaded.tokenizer is not None
    return Engine(
        client=InProcessClient(loaded.core),
        inputs=InputProcessor(loaded.info, loaded.tokenizer),
        outputs=OutputProcessor(loaded.tokenizer),
        tokenizer=loaded.tokenizer,
        info=loaded.info,
        plan=loaded.plan,
        report=loaded.report,
    )


def load_core(config: EngineConfig, *, show_progress: bool, with_tokenizer: bool) -> LoadedCore:
    """Plan, load and profile the model, and size its cache.

    Args:
        config: the settings.
        show_progress: draw progress bars.
        with_tokenizer: load the tokenizer in any case; else only to learn an end token that the
            checkpoint does not name.

    Raises:
        QuireError: the first thing that stands in the way.
    """
    watch = Stopwatch()
    watch.phases.append(("imports", quire._import_seconds))
    with watch.phase("plugins"):
        registry = discover(config.plugins.allow)
    with watch.phase("plan"):
        plan = make_plan(config, registry, show_progress=show_progress)
    tokenizer = None
    if with_tokenizer or not plan.generation.eos_token_ids:
        with watch.phase("tokenizer"):
            tokenizer = load_tokenizer(plan.tokenizer_files)
            if not plan.generation.eos_token_ids and tokenizer.eos_token_id is not None:
                plan = plan.with_eos(tokenizer.eos_token_id)
    with watch.phase("weights"):
        worker_config = plan.worker_config(show_progress=show_progress)
        executor = InProcessExecutor(worker_config)
    with watch.phase("profile"):
        profile = executor.profile()
        budget = _budget(plan, profile)
    with watch.phase("KV cache"):
        executor.allocate(budget.num_blocks)
        scheduler = Scheduler(_scheduler_config(plan, budget))
    graphs = None
    if executor.can_capture:
        with watch.phase("graphs"):
            graphs = executor.capture()
            budget = budget.with_graphs(graphs.nbytes)
    report = StartupReport(
        model=config.model,
        source=plan.files.source,
        architecture=plan.plugins["model"].name,
        dtype=plan.dtype,
        device=plan.device,
        num_parameters=plan.facts.num_parameters,
        memory=budget,
        plugins=plan.plugins,
        measured_rows=profile.measured_rows,
        graphs=graphs,
        graphs_set_aside=profile.graphs,
        threads=str(worker_config.threads) if plan.device == "cpu" else "",
        notes=plan.notes,
        speculation=config.speculation,
        phases=watch.phases,
    )
    core = EngineCore(scheduler, executor, _grammars(plan, tokenizer), _thinking(plan, tokenizer))
    return LoadedCore(core, plan, _info(plan, budget, report), report, tokenizer)


def _grammars(plan: EnginePlan, tokenizer: Tokenizer | None) -> GrammarRunner:
    """What follows grammars; it loads nothing before there is one."""

    def vocabulary() -> Vocabulary:
        own = tokenizer or load_tokenizer(plan.tokenizer_files)
        return make_vocabulary(own, plan.vocab_size, plan.generation.eos_token_ids)

    need = GrammarNeed(device=plan.device, dtype=plan.dtype, vocab_size=plan.vocab_size)
    return GrammarRunner(
        lambda: load_grammars(plan.plugins, need, vocabulary),
        plan.vocab_size,
        plan.generation.eos_token_ids,
        plan.config.max_num_seqs,
    )


def _thinking(plan: EnginePlan, tokenizer: Tokenizer | None) -> ThinkingRunner | None:
    """What counts thinking; None where no parser tells it from the answer."""
    planned = plan.plugins.plugins.get("reasoning_parser")
    if planned is None:
        return None

    def load() -> ThinkingReader:
        own = tokenizer or load_tokenizer(plan.tokenizer_files)
        return ThinkingReader(own, planned.load(), planned.load_options())

    return ThinkingRunner(load)


def _info(plan: EnginePlan, budget: MemoryBudget, report: StartupReport) -> EngineInfo:
    config = plan.config
    return EngineInfo(
        model=config.model,
        source=plan.files.source,
        architecture=plan.plugins["model"].name,
        dtype=plan.dtype,
        device=plan.device,
        num_parameters=plan.facts.num_parameters,
        tokenizer_files=plan.tokenizer_files,
        vocab_size=plan.vocab_size,
        max_model_len=budget.max_model_len,
        max_logprobs=config.max_logprobs,
        max_num_seqs=config.max_num_seqs,
        block_size=config.block_size,
        num_blocks=budget.num_blocks - 1,  # one is the null block
        weights_bytes=budget.weights,
        kv_bytes=budget.kv,
        seed=config.seed,
        eos_token_ids=plan.generation.eos_token_ids,
        sampling_defaults=plan.generation.sampling,
        enable_prefix_caching=config.enable_prefix_caching,
        auto_tool_choice=config.enable_auto_tool_choice,
        plugins=plan.plugins,
        report=report.lines(),
        arguments=plan.arguments,
        grammar_limits=GrammarLimits(
            seconds=config.structured_outputs.compile_timeout,
            source_bytes=config.structured_outputs.max_source_bytes,
            cache_bytes=config.structured_outputs.cache_bytes,
        ),
    )


def _budget(plan: EnginePlan, profile: MemoryProfile) -> MemoryBudget:
    config = plan.config
    return divide(
        profile,
        device=plan.device,
        utilization=config.gpu_memory_utilization,
        kv_bytes=config.kv_cache_memory_bytes,
        block_size=config.block_size,
        max_model_len=plan.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        windows=plan.windows,
        asked_max_model_len=config.max_model_len is not None,
    )


def _scheduler_config(plan: EnginePlan, budget: MemoryBudget) -> SchedulerConfig:
    config = plan.config
    return SchedulerConfig(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=budget.max_model_len,
        block_size=config.block_size,
        num_blocks=tuple(budget.num_blocks for _ in plan.windows),
        enable_prefix_caching=config.enable_prefix_caching,
        enable_chunked_prefill=config.enable_chunked_prefill,
        policy=config.scheduling_policy,
        num_speculative_tokens=0 if config.speculation is None else config.speculation.num_speculative_tokens,
        windows=plan.windows,
    )
