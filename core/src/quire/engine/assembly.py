"""Puts an engine together from a configuration: plan, workers, scheduler, text."""

from __future__ import annotations

from dataclasses import dataclass

import quire
from quire.config import EngineConfig
from quire.engine.client import EngineClient, InProcessClient
from quire.engine.core import EngineCore
from quire.engine.inputs import InputProcessor
from quire.engine.memory import MemoryBudget, divide
from quire.engine.outputs import OutputProcessor
from quire.engine.planning import EnginePlan, make_plan
from quire.engine.report import StartupReport, Stopwatch
from quire.executors.in_process import InProcessExecutor
from quire.plugins import discover
from quire.runtime.profile import MemoryProfile
from quire.scheduler import Scheduler, SchedulerConfig
from quire.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(slots=True)
class Engine:
    """A started engine and the text side of its front end.

    Attributes:
        client: to the engine core.
        inputs: prompts -> requests.
        outputs: step outputs -> request outputs.
        tokenizer: the model's.
        plan: what was decided.
        report: how start-up went.
    """

    client: EngineClient
    inputs: InputProcessor
    outputs: OutputProcessor
    tokenizer: Tokenizer
    plan: EnginePlan
    report: StartupReport


def start_engine(config: EngineConfig, *, show_progress: bool = True) -> Engine:
    """Load everything, in this process.

    Raises:
        QuireError: the first thing that stands in the way.
    """
    watch = Stopwatch()
    watch.phases.append(("imports", quire._import_seconds))
    with watch.phase("plugins"):
        registry = discover(config.plugins.allow)
    with watch.phase("plan"):
        plan = make_plan(config, registry, show_progress=show_progress)
    with watch.phase("tokenizer"):
        tokenizer = load_tokenizer(plan.tokenizer_files)
        if not plan.generation.eos_token_ids and tokenizer.eos_token_id is not None:
            plan = plan.with_eos(tokenizer.eos_token_id)
    with watch.phase("weights"):
        executor = InProcessExecutor(plan.worker_config(show_progress=show_progress))
    with watch.phase("profile"):
        profile = executor.profile()
        budget = _budget(plan, profile)
    with watch.phase("KV cache"):
        executor.allocate(budget.num_blocks)
        scheduler = Scheduler(_scheduler_config(plan, budget))
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
        phases=watch.phases,
    )
    return Engine(
        client=InProcessClient(EngineCore(scheduler, executor)),
        inputs=InputProcessor(plan, tokenizer, budget.max_model_len),
        outputs=OutputProcessor(tokenizer),
        tokenizer=tokenizer,
        plan=plan,
        report=report,
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
        num_blocks=tuple(budget.num_blocks for _ in plan.attention),
        enable_prefix_caching=config.enable_prefix_caching,
        enable_chunked_prefill=config.enable_chunked_prefill,
        policy=config.scheduling_policy,
        windows=plan.windows,
    )
