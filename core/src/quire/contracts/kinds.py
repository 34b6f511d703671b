"""The table of plugin kinds. Adding a kind is one row here and one hook in `quire.hookspecs`."""

from __future__ import annotations

from quire.contracts.attention import AttentionSpec
from quire.contracts.base import Choice, Kind
from quire.contracts.command import CommandSpec
from quire.contracts.grammar import GrammarSpec
from quire.contracts.kernels import KernelsSpec
from quire.contracts.logits_processor import LogitsProcessorSpec
from quire.contracts.model import ModelSpec
from quire.contracts.quantization import QuantizationSpec
from quire.contracts.reasoning_parser import ReasoningParserSpec
from quire.contracts.route import RouteSpec
from quire.contracts.sampler import SamplerSpec
from quire.contracts.source import ModelSourceSpec
from quire.contracts.speculator import SpeculatorSpec
from quire.contracts.tool_parser import ToolParserSpec

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="attention",
            hook="quire_attention_backends",
            spec=AttentionSpec,
            api=1,
            choice=Choice.PRIORITY,
            title="attention backends",
        ),
        Kind(name="model", hook="quire_models", spec=ModelSpec, api=1, choice=Choice.MATCH, title="models"),
        Kind(
            name="quantization",
            hook="quire_quantizations",
            spec=QuantizationSpec,
            api=1,
            choice=Choice.MATCH,
            title="quantizations",
        ),
        Kind(
            name="sampler",
            hook="quire_samplers",
            spec=SamplerSpec,
            api=1,
            choice=Choice.PRIORITY,
            title="samplers",
        ),
        Kind(
            name="kernels",
            hook="quire_kernels",
            spec=KernelsSpec,
            api=1,
            choice=Choice.PRIORITY,
            title="kernels",
        ),
        Kind(
            name="logits_processor",
            hook="quire_logits_processors",
            spec=LogitsProcessorSpec,
            api=1,
            choice=Choice.NAMED,
            title="logits processors",
        ),
        Kind(
            name="tool_parser",
            hook="quire_tool_parsers",
            spec=ToolParserSpec,
            api=1,
            choice=Choice.PRIORITY,
            title="tool parsers",
        ),
        Kind(
            name="reasoning_parser",
            hook="quire_reasoning_parsers",
            spec=ReasoningParserSpec,
            api=1,
            choice=Choice.PRIORITY,
            title="reasoning parsers",
        ),
        Kind(
            name="grammar",
            hook="quire_grammars",
            spec=GrammarSpec,
            api=1,
            choice=Choice.PRIORITY,
            title="grammar backends",
        ),
        Kind(
            name="speculator",
            hook="quire_speculators",
            spec=SpeculatorSpec,
            api=1,
            choice=Choice.NAMED,
            title="speculators",
        ),
        Kind(
            name="source",
            hook="quire_model_sources",
            spec=ModelSourceSpec,
            api=1,
            choice=Choice.ALL,
            title="model sources",
        ),
        Kind(
            name="command",
            hook="quire_commands",
            spec=CommandSpec,
            api=1,
            choice=Choice.ALL,
            title="commands",
        ),
        Kind(name="route", hook="quire_routes", spec=RouteSpec, api=1, choice=Choice.NAMED, title="routes"),
    )
}
