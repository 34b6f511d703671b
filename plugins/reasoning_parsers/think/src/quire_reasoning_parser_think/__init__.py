"""Reasoning parsers for thinking in tags. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import ReasoningParserSpec, hookimpl


@hookimpl
def quire_reasoning_parsers() -> Iterable[ReasoningParserSpec]:
    """`think` by the template; `qwen3` and `deepseek_r1` by name."""
    yield ReasoningParserSpec(
        name="think",
        api=1,
        target="quire_reasoning_parser_think.parser:ThinkParser",
        options="quire_reasoning_parser_think.options:ThinkOptions",
        markers=("</think>",),
        summary="Thinking in <think> tags, opened by the template or by the model",
    )
    yield ReasoningParserSpec(
        name="qwen3",
        api=1,
        target="quire_reasoning_parser_think.parser:ThinkParser",
        summary="The same, by vLLM's name",
    )
    yield ReasoningParserSpec(
        name="deepseek_r1",
        api=1,
        target="quire_reasoning_parser_think.parser:OpenThinkParser",
        summary="Thinking from the first word on, up to </think>",
    )
