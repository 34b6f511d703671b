"""Every pluggy hook of Quire, in one file.

Hooks describe; they never mutate. A hook yields frozen specs and imports nothing heavy: each
is called once, at start-up, by `quire.plugins.discover`. Implement one with
`@quire.contracts.hookimpl` in the module that your distribution's entry point in the group
`quire` names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from quire.contracts import (
        AttentionSpec,
        CommandSpec,
        GrammarSpec,
        KernelsSpec,
        LogitsProcessorSpec,
        ModelSourceSpec,
        ModelSpec,
        QuantizationSpec,
        ReasoningParserSpec,
        RouteSpec,
        SamplerSpec,
        SpeculatorSpec,
        ToolParserSpec,
    )

hookspec = pluggy.HookspecMarker("quire")
hookimpl = pluggy.HookimplMarker("quire")


@hookspec
def quire_attention_backends() -> Iterable[AttentionSpec]:  # type: ignore[empty-body]
    """Paged attention backends. One is chosen per KV group, by name or by priority."""


@hookspec
def quire_models() -> Iterable[ModelSpec]:  # type: ignore[empty-body]
    """Model architectures. Chosen by the `architectures` entry of the checkpoint's config.json."""


@hookspec
def quire_quantizations() -> Iterable[QuantizationSpec]:  # type: ignore[empty-body]
    """Weight formats. Chosen by the checkpoint's `quant_method`, or by name."""


@hookspec
def quire_samplers() -> Iterable[SamplerSpec]:  # type: ignore[empty-body]
    """Samplers. One is chosen per engine, by name or by priority."""


@hookspec
def quire_kernels() -> Iterable[KernelsSpec]:  # type: ignore[empty-body]
    """Compute operations for a device. One is chosen per engine, by name or by priority."""


@hookspec
def quire_logits_processors() -> Iterable[LogitsProcessorSpec]:  # type: ignore[empty-body]
    """Edits of logits before sampling. Active only if the configuration names them."""


@hookspec
def quire_tool_parsers() -> Iterable[ToolParserSpec]:  # type: ignore[empty-body]
    """Readers of tool calls in a model's text. Chosen by the chat template, or by name."""


@hookspec
def quire_reasoning_parsers() -> Iterable[ReasoningParserSpec]:  # type: ignore[empty-body]
    """Readers of a model's thinking. Chosen by the chat template, or by name."""


@hookspec
def quire_grammars() -> Iterable[GrammarSpec]:  # type: ignore[empty-body]
    """Grammar backends for structured output: the one named, or each by priority until one can do it."""


@hookspec
def quire_speculators() -> Iterable[SpeculatorSpec]:  # type: ignore[empty-body]
    """What proposes tokens ahead (speculative decoding). Used only if `speculative_config` names it."""


@hookspec
def quire_model_sources() -> Iterable[ModelSourceSpec]:  # type: ignore[empty-body]
    """Where models come from. Asked in order of priority for the name the user gave."""


@hookspec
def quire_commands() -> Iterable[CommandSpec]:  # type: ignore[empty-body]
    """Subcommands of `quire`. All installed ones are offered; names are unique within a group."""


@hookspec
def quire_routes() -> Iterable[RouteSpec]:  # type: ignore[empty-body]
    """HTTP routes for the server. Mounted only if the configuration names them."""
