"""What would be chosen on this machine, and why: the report behind `quire doctor`. Loads no weights."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

import quire
from quire._config_speculation import Speculation
from quire.config import EngineConfig
from quire.contracts import AttentionNeed, KernelsNeed
from quire.engine.planning.forecast import estimate
from quire.engine.planning.plan import EnginePlan, make_plan
from quire.engine.units import size
from quire.errors import QuireError
from quire.plugins import OK, PluginRegistry, discover
from quire.runtime.device import open_device, resolve_device
from quire.runtime.threads import choose_threads, read_machine


@dataclass(frozen=True, slots=True)
class ChoiceReport:
    """One choice.

    Attributes:
        kind: role it was made for.
        need: what was asked for, in words.
        chosen: `distribution:name`, or None.
        reason: why it was chosen, or why nothing was.
        rejected: (`distribution:name`, reason) of the others.
    """

    kind: str
    need: str
    chosen: str | None
    reason: str
    rejected: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """The whole report.

    Attributes:
        sections: titled lists of (name, value).
        choices: one per role.
        problems: what stands in the way; empty if the engine would start.
    """

    sections: list[tuple[str, list[tuple[str, str]]]]
    choices: list[ChoiceReport]
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)


def examine(config: EngineConfig) -> DoctorReport:
    """Look at this machine with the eyes of an engine that is about to start.

    With a model in the configuration everything is planned as for a real start; without one only
    the choices that need none are made.
    """
    registry = discover(config.plugins.allow)
    sections = [_software(), _hardware(config)]
    problems = [
        f"{one.distribution} {one.version}: {one.reason}" for one in registry.skipped if not one.by_allowlist
    ]
    problems += [
        f"{found.qualified}: {found.status}"
        for found in registry.found
        if found.status != OK and not found.lacks
    ]
    choices: list[ChoiceReport] = []
    try:
        if config.model:
            model, choices = _with_model(config, registry)
            sections.append(model)
        else:
            choices = _without_model(config, registry)
    except QuireError as error:
        problems.append(str(error))
    return DoctorReport(sections, choices, problems)


def _software() -> tuple[str, list[tuple[str, str]]]:
    return "Software", [
        ("quire", quire.__version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("platform", platform.platform()),
    ]


def _hardware(config: EngineConfig) -> tuple[str, list[tuple[str, str]]]:
    cpu = open_device("cpu").memory()
    threads = choose_threads(config.threads, read_machine())
    pinned = f"; pinned to {', '.join(map(str, threads.cpus))}" if config.cpu_pinning else ""
    lines = [
        ("threads", f"{threads}{pinned}"),
        ("cpu capability", torch.backends.cpu.get_cpu_capability()),
        ("memory", f"{size(cpu.free)} free of {size(cpu.total)}"),
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            lines.append((f"cuda:{index}", f"{properties.name}, {size(properties.total_memory)}"))
    else:
        lines.append(("cuda", "none that PyTorch can see"))
    return "Machine", lines


def _with_model(
    config: EngineConfig, registry: PluginRegistry
) -> tuple[tuple[str, list[tuple[str, str]]], list[ChoiceReport]]:
    plan = make_plan(config, registry)
    needs = {f"attention/{group}": _attention(need) for group, need in enumerate(plan.attention)}
    needs |= dict.fromkeys(("tool_parser", "reasoning_parser"), "the model's chat template")
    if plan.draft is not None:
        groups = plan.draft.worker_config.attention
        needs |= {f"draft/attention/{group}": _attention(need) for group, need in enumerate(groups)}
    if config.speculation is not None:
        needs["speculator"] = _speculation(config.speculation)
    model = (
        "Model",
        [
            ("model", f"{config.model} ({plan.files.source})"),
            ("files", str(plan.files.directory)),
            (
                "parameters",
                f"{plan.facts.num_parameters / 1e6:.1f} M, {size(plan.facts.weight_bytes)} of weights",
            ),
            *_draft(plan),
            ("runs in", f"{plan.dtype} on {plan.device}"),
            ("context", f"{plan.max_model_len} tokens"),
            ("memory", _memory(plan)),
        ],
    )
    choices = [
        ChoiceReport(
            one.role,
            needs.get(one.role, f"{plan.dtype} on {plan.device}"),
            None if one.chosen == "none" else one.chosen,
            one.reason,
            list(one.rejected),
        )
        for one in plan.plugins.explanations
    ]
    return model, choices


def _without_model(config: EngineConfig, registry: PluginRegistry) -> list[ChoiceReport]:
    """Only kernels can be chosen for a device alone; the rest depends on a model."""
    device = resolve_device(config.device)
    need = KernelsNeed(
        device=device,
        dtype="bfloat16" if config.dtype == "auto" else config.dtype,
        deterministic=config.deterministic,
    )
    _, why = registry.choose("kernels", need, requested=config.kernels)
    return [ChoiceReport(why.role, f"{need.dtype} on {device}", why.chosen, why.reason, list(why.rejected))]


def _draft(plan: EnginePlan) -> list[tuple[str, str]]:
    """The model that proposes tokens, if there is one."""
    if plan.draft is None:
        return []
    facts, files = plan.draft.facts, plan.draft.files
    parameters = f"{facts.num_parameters / 1e6:.1f} M parameters, {size(facts.weight_bytes)} of weights"
    return [("draft model", f"{plan.draft.name} ({files.source}): {parameters}")]


def _memory(plan: EnginePlan) -> str:
    """What is taken beside the KV cache."""
    profile = estimate(plan, open_device(plan.device).memory())
    graphs = f"about {size(profile.graphs)}" if profile.graphs else "none"
    return (
        f"weights {size(profile.weights)}, activations about {size(profile.activations)}, graphs {graphs}; "
        f"`quire plan` tells what is left for the KV cache"
    )


def _speculation(asked: Speculation) -> str:
    """Speculative decoding in words."""
    model = "" if asked.model is None else f", with the draft model {asked.model}"
    return f"up to {asked.num_speculative_tokens} tokens ahead of a request{model}"


def _attention(need: AttentionNeed) -> str:
    """A KV group in words."""
    cache = need.cache
    window = "" if cache.window is None else f", window {cache.window}"
    return (
        f"{need.num_q_heads} query and {cache.num_kv_heads} KV heads of {cache.head_dim}{window}, "
        f"{cache.dtype}, blocks of {need.block_size}, on {need.device}"
    )
