"""Which plugins serve one network of an engine, be it the served model or one that proposes to it.

Both are planned alike; the roles of their plugins differ by a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.config import EngineConfig
from quire.contracts import AttentionNeed, Model, ModelFiles, ModelNeed, QuantizationNeed, TensorHeader
from quire.engine.planning.quantization_names import resolve_quantization
from quire.errors import PluginError, UnsupportedModelError
from quire.layers import ModelFacts, describe
from quire.plugin_plan import PlanBuilder
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import renamed_headers

__all__ = ["choose_attention", "choose_network", "kv_dtype", "quantization_need"]


def choose_network(
    builder: PlanBuilder,
    config: EngineConfig,
    files: ModelFiles,
    model_config: Mapping[str, Any],
    device: str,
    dtype: str,
    *,
    quantization: str | None,
    prefix: str = "",
) -> tuple[ModelFacts, str]:
    """Choose the plugins for a network's architecture and its weights' format, and see what it needs.

    Args:
        builder: takes the choices.
        config: the user's settings.
        files, model_config: of the network.
        device, dtype: it will run on and in.
        quantization: as the user named it for this network; None for what the checkpoint says.
        prefix: of the roles.

    Returns:
        What it needs, and what was understood otherwise than it was written, if anything.

    Raises:
        PluginError, ModelError: nothing serves it; or the checkpoint is broken.
    """
    model_class = _choose_model(builder, config, model_config, device, dtype, f"{prefix}model")
    named = resolve_quantization(quantization, _quant_method(model_config), builder.registry)
    role = f"{prefix}quantization"
    chosen = builder.choose(
        "quantization",
        quantization_need(config, device, dtype, model_config),
        requested=named.requested,
        key=named.stored,
        role=role,
    )
    facts = describe(
        model_class,
        model_config,
        dtype=dtype,
        device=device,
        kv_dtype=kv_dtype(config),
        quantization=chosen,
        headers=_headers(config, files, model_class),
        options=builder.options(role),
    )
    return facts, named.note


def choose_attention(
    builder: PlanBuilder,
    config: EngineConfig,
    facts: ModelFacts,
    device: str,
    dtype: str,
    *,
    prefix: str = "",
) -> tuple[AttentionNeed, ...]:
    """Choose a backend for each KV group of a network; what was asked of them."""
    needs = tuple(
        AttentionNeed(
            device=device,
            dtype=dtype,
            deterministic=config.deterministic,
            cache=group.cache,
            num_q_heads=group.num_q_heads,
            block_size=config.block_size,
            soft_cap=group.soft_cap,
        )
        for group in facts.attention
    )
    for group, need in enumerate(needs):
        role = f"{prefix}attention/{group}"
        builder.choose("attention", need, requested=config.attention_backend, role=role)
    return needs


def quantization_need(
    config: EngineConfig, device: str, dtype: str, model_config: Mapping[str, Any]
) -> QuantizationNeed:
    """What is asked of a network's weight format."""
    settings = model_config.get("quantization_config") or {}
    return QuantizationNeed(device=device, dtype=dtype, deterministic=config.deterministic, config=settings)


def kv_dtype(config: EngineConfig) -> str | None:
    """Name of the dtype that K and V are kept in; None for the compute dtype."""
    return None if config.kv_cache_dtype == "auto" else "float8_e4m3fn"


def _headers(config: EngineConfig, files: ModelFiles, model_class: type[Model]) -> Mapping[str, TensorHeader]:
    """The checkpoint's headers: formats decide by them, and a broken file is found before anything starts."""
    if config.load_format == "dummy":
        return {}
    return renamed_headers(Checkpoint(files.directory), model_class.mapping)


def _choose_model(
    builder: PlanBuilder,
    config: EngineConfig,
    model_config: Mapping[str, Any],
    device: str,
    dtype: str,
    role: str,
) -> type[Model]:
    """The first of the checkpoint's architectures that a plugin serves."""
    architectures = [str(name) for name in model_config.get("architectures") or ()]
    if not architectures:
        raise UnsupportedModelError(
            "The checkpoint's config.json names no `architectures`, so no model plugin can be chosen. "
            "Add the field, or pass hf_overrides={'architectures': [...]}."
        )
    reasons = []
    for name in architectures:
        need = ModelNeed(
            device=device,
            dtype=dtype,
            deterministic=config.deterministic,
            architecture=name,
            config=model_config,
        )
        try:
            model_class: type[Model] = builder.choose("model", need, key=name, role=role)
        except PluginError as error:
            reasons.append(str(error))
        else:
            return model_class
    installed = sorted(
        {name for found in builder.registry.of_kind("model") for name in getattr(found.spec, "matches", ())}
    )
    if set(architectures) <= set(installed):  # there is one, and it has said why it does not
        raise UnsupportedModelError(" ".join(reasons))
    raise UnsupportedModelError(
        f"No installed plugin of the kind 'model' implements {' or '.join(architectures)}. "
        f"Installed architectures: {', '.join(installed) or 'none'}. {' '.join(reasons)}"
    )


def _quant_method(model_config: Mapping[str, Any]) -> str:
    settings = model_config.get("quantization_config") or {}
    return str(settings.get("quant_method", "none"))
