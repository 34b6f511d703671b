"""Tool parsers for calls written as JSON. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import ToolParserSpec, hookimpl


@hookimpl
def quire_tool_parsers() -> Iterable[ToolParserSpec]:
    """`hermes`, `llama3_json` and `mistral`."""
    yield ToolParserSpec(
        name="hermes",
        api=1,
        target="quire_tool_parser_json.hermes:HermesParser",
        markers=("<tool_call>",),
        foreign=("<function=", "<arg_key>"),
        summary="Calls in <tool_call> tags: Hermes, Qwen 2.5 and 3",
    )
    yield ToolParserSpec(
        name="llama3_json",
        api=1,
        target="quire_tool_parser_json.llama3:Llama3Parser",
        markers=("<|start_header_id|>", '"parameters": '),
        summary="An answer that is a call's JSON: Llama 3.1 and later",
    )
    yield ToolParserSpec(
        name="mistral",
        api=1,
        target="quire_tool_parser_json.mistral:MistralParser",
        markers=("[TOOL_CALLS]",),
        summary="Calls behind [TOOL_CALLS]: Mistral",
    )
