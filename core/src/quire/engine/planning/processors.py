"""Which logits processors are active, and what requests may say to them."""

from __future__ import annotations

from quire.config import EngineConfig
from quire.contracts import LogitsProcessorNeed, LogitsProcessorSpec
from quire.errors import ConfigError
from quire.plugin_plan import PROCESSOR_ROLE, PlanBuilder, import_target

__all__ = ["choose_processors", "processor_need"]


def choose_processors(
    builder: PlanBuilder, config: EngineConfig, device: str, dtype: str, vocab_size: int
) -> dict[str, str]:
    """Plan the logits processors that the configuration names; by name the models of their arguments.

    Raises:
        ConfigError: one is named twice, or two read arguments of the same name.
    """
    need = processor_need(config, device, dtype, vocab_size)
    models: dict[str, str] = {}
    readers: dict[str, str] = {}
    for name in config.logits_processors:
        if config.logits_processors.count(name) > 1:
            raise ConfigError(f"logits_processors names {name!r} twice; name it once.")
        builder.choose("logits_processor", need, requested=name, role=f"{PROCESSOR_ROLE}{name}")
        spec = builder.registry.named("logits_processor", name).spec
        assert isinstance(spec, LogitsProcessorSpec)
        if spec.arguments is None:
            continue
        models[spec.name] = spec.arguments
        for argument in import_target("logits_processor", spec.name, spec.arguments).model_fields:
            if argument in readers:
                raise ConfigError(
                    f"logits_processors: {readers[argument]!r} and {spec.name!r} both read the argument "
                    f"{argument!r}; activate one of them."
                )
            readers[argument] = spec.name
    return models


def processor_need(config: EngineConfig, device: str, dtype: str, vocab_size: int) -> LogitsProcessorNeed:
    """What is asked of each of them."""
    return LogitsProcessorNeed(
        device=device, dtype=dtype, deterministic=config.deterministic, vocab_size=vocab_size
    )
