"""Chat templates with tools: what they are given, who reads their models' answers, and why not others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from quire import EngineConfig
from quire.engine.doctor import examine
from quire.engine.planning.plan import make_plan
from quire.errors import InvalidRequestError, PluginError
from quire.text import load_tokenizer, render_chat
from quire.text.template_files import read_chat_templates
from tests.chat_templates import LLAMA3, QWEN, TEMPLATES

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather <of> a city & more.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich"}},
}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "Sunny"},
    {"role": "user", "content": "And tomorrow?"},
]
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def save(directory: Path, template: Any) -> Path:
    """A tokenizer of bytes with this chat template."""
    directory.mkdir(exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("name", TEMPLATES)
def test_tools_are_rendered_as_transformers_renders_them(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, TEMPLATES[name]))
    for tools in (TOOLS, None):
        rendered = render_chat(tokenizer, MESSAGES, tools=tools)
        assert rendered == tokenizer.hf.apply_chat_template(
            MESSAGES, tools=tools, tokenize=False, add_generation_prompt=True
        )
        assert ("The weather" in rendered) == (tools is not None)
        assert "Zürich" in rendered


def test_a_template_without_tools_is_told_of_none(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, PLAIN))
    with pytest.raises(InvalidRequestError, match="chat template shows no tools") as caught:
        render_chat(tokenizer, MESSAGES, tools=TOOLS)
    assert caught.value.field == "tools"
    assert render_chat(tokenizer, MESSAGES, tools=[])


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_chooses_the_parser(name: str, tmp_path: Path) -> None:
    tokenizer = save(tmp_path, TEMPLATES[name])
    plugins = make_plan(EngineConfig(model="tiny", tokenizer=str(tokenizer))).plugins.plugins
    assert plugins["tool_parser"].name == name
    assert ("reasoning_parser" in plugins) == ("</think>" in TEMPLATES[name])


def test_a_name_chooses_whatever_the_template_is(tmp_path: Path) -> None:
    tokenizer = str(save(tmp_path, QWEN))
    config = EngineConfig(
        model="tiny", tokenizer=tokenizer, tool_call_parser="mistral", reasoning_parser="none"
    )
    plugins = make_plan(config).plugins.plugins
    assert plugins["tool_parser"].name == "mistral"
    assert "reasoning_parser" not in plugins
    with pytest.raises(PluginError, match=r"Unknown tool_parser 'hermis'\. Did you mean 'hermes'"):
        make_plan(EngineConfig(model="tiny", tool_call_parser="hermis"))


def test_the_doctor_tells_why(tmp_path: Path) -> None:
    report = examine(EngineConfig(model="tiny", tokenizer=str(save(tmp_path, LLAMA3))))
    assert not report.problems
    choices = {choice.kind: choice for choice in report.choices}
    assert choices["tool_parser"].chosen == "quire-tool-parser-json:llama3_json"
    reasons = dict(choices["tool_parser"].rejected)
    assert "no '<tool_call>'" in reasons["quire-tool-parser-json:hermes"]
    assert choices["reasoning_parser"].chosen is None
    assert (
        "asked for by name"
        in dict(choices["reasoning_parser"].rejected)["quire-reasoning-parser-think:qwen3"]
    )


@pytest.mark.parametrize(
    ("config", "files", "found"),
    [
        ({"chat_template": "a"}, {}, {"default": "a"}),
        (
            {"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]},
            {},
            {"default": "a", "tool_use": "b"},
        ),
        ({"chat_template": "a"}, {"chat_template.jinja": "c"}, {"default": "c"}),
        ({}, {"chat_template.json": '{"chat_template": "d"}'}, {"default": "d"}),
        ({}, {"additional_chat_templates/tool_use.jinja": "e"}, {"tool_use": "e"}),
        ({}, {"chat_template.json": "{"}, {}),
    ],
)
def test_templates_are_found_where_transformers_finds_them(
    tmp_path: Path, config: dict[str, Any], files: dict[str, str], found: dict[str, str]
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_chat_templates(tmp_path) == found
