"""Which parsers read the model's text: of tool calls, and of what it thinks."""

from __future__ import annotations

from quire.config import EngineConfig
from quire.contracts import ModelFiles, TemplateNeed
from quire.plugin_plan import PlanBuilder
from quire.text.template_files import read_chat_templates

__all__ = ["choose_parsers"]


def choose_parsers(
    builder: PlanBuilder, config: EngineConfig, files: ModelFiles, device: str, dtype: str
) -> None:
    """Choose them by the model's chat templates, unless they are named; a model may have none."""
    templates = "\n".join(read_chat_templates(files.directory).values())
    why = "the chat template shows none that is known" if templates else "the model has no chat template"
    for kind, asked in (
        ("tool_parser", config.tool_call_parser),
        ("reasoning_parser", config.reasoning_parser),
    ):
        need = TemplateNeed(device=device, dtype=dtype, template=templates if asked is None else None)
        builder.choose_if_any(kind, need, requested=asked, without=why)
