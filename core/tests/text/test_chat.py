"""Chat templates: what they render, what is refused, and that a hostile one is stopped (T3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.errors import CheckpointError, InvalidRequestError
from quire.text import Tokenizer, encode_chat, load_tokenizer, render_chat
from quire.text._renderer import TemplateRenderer
from quire.text.chat import RESERVED_VARIABLES

Save = Callable[..., Path]

CHATML = """{{ bos_token }}{% for message in messages %}
<|{{ message.role }}|>{{ message.content | trim }}{{ eos_token }}
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
# The usual means of templates: loops with controls, namespaces, tests, filters, marks for training.
RICH = """{%- set ns = namespace(system='', seen=0) -%}
{%- for m in messages -%}
{%- if m['role'] == 'system' -%}{%- set ns.system = m['content'] -%}{%- continue -%}{%- endif -%}
{%- set ns.seen = ns.seen + 1 -%}
{{ '<' + m.role + '>' }}{% generation %}{{ m.content.strip() | upper }}{% endgeneration %}
{% if loop.last and tools is defined and tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- endfor -%}
[{{ ns.system }}|{{ ns.seen }}|{{ 'é' | tojson }}|{{ missing | default('none') }}|{{ enable_thinking }}]
{{- strftime_now('%Y') | length }}"""
MESSAGES = [{"role": "user", "content": "Hello "}, {"role": "assistant", "content": "go  "}]


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    """A renderer with limits that a test can reach."""
    renderer = TemplateRenderer(seconds=1.0, memory=1 << 28, output=100_000)
    yield renderer
    renderer.close()


@pytest.fixture
def chat_tokenizer(save_tokenizer: Save) -> Callable[[Any], Tokenizer]:
    """A tokenizer whose files have this template."""

    def make(template: Any) -> Tokenizer:
        directory = save_tokenizer(chat_template=template, bos_token="<s>", eos_token="</s>")
        return load_tokenizer(directory)

    return make


@pytest.mark.parametrize("template", [CHATML, RICH])
@pytest.mark.parametrize("generate", [True, False])
def test_renders_what_transformers_renders(
    chat_tokenizer: Callable[[Any], Tokenizer], template: str, generate: bool
) -> None:
    tokenizer = chat_tokenizer(template)
    messages = [{"role": "system", "content": "Be <brief> & kind"}, *MESSAGES]
    shown = [{"type": "function", "function": {"name": "f", "description": "<é>"}}]
    tools = shown if "tools" in template else None
    rendered = render_chat(
        tokenizer, messages, generate, tools=tools, chat_template_kwargs={"enable_thinking": False}
    )
    assert rendered == tokenizer.hf.apply_chat_template(
        messages, add_generation_prompt=generate, tokenize=False, tools=tools, enable_thinking=False
    )


@pytest.mark.parametrize("content", ["go", "go  ", "a\n"])
def test_continues_the_last_message(chat_tokenizer: Callable[[Any], Tokenizer], content: str) -> None:
    tokenizer = chat_tokenizer(CHATML)
    messages = [MESSAGES[0], {"role": "assistant", "content": content}]
    text = render_chat(tokenizer, messages, False, True)
    assert text == tokenizer.hf.apply_chat_template(messages, continue_final_message=True, tokenize=False)
    assert text.endswith(content.rstrip())


def test_bos_comes_once(chat_tokenizer: Callable[[Any], Tokenizer]) -> None:
    tokenizer = chat_tokenizer(CHATML)
    ids = encode_chat(tokenizer, MESSAGES)
    assert ids.count(tokenizer.bos_token_id or 0) == 1
    assert tokenizer.decode(ids, skip_special_tokens=False) == render_chat(tokenizer, MESSAGES)


def test_text_parts_are_joined(chat_tokenizer: Callable[[Any], Tokenizer]) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    text = render_chat(chat_tokenizer(CHATML), [{"role": "user", "content": parts}])
    assert "<|user|>one\ntwo</s>" in text


def test_template_from_a_jinja_file(save_tokenizer: Save) -> None:
    directory = save_tokenizer()
    (directory / "chat_template.jinja").write_text("from file: {{ messages[0].content }}", encoding="utf-8")
    assert render_chat(load_tokenizer(directory), MESSAGES) == "from file: Hello "


def test_named_templates(chat_tokenizer: Callable[[Any], Tokenizer]) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    tokenizer = chat_tokenizer(named)
    assert render_chat(tokenizer, MESSAGES) == "plain"
    assert render_chat(tokenizer, MESSAGES, tools=[{"name": "f"}]) == "tools"
    with pytest.raises(InvalidRequestError, match="none named 'default'"):
        render_chat(chat_tokenizer([{"name": "rag", "template": "x"}]), MESSAGES)


def test_a_model_without_a_template_says_what_to_do(chat_tokenizer: Callable[[Any], Tokenizer]) -> None:
    with pytest.raises(InvalidRequestError, match=r"no chat template.*generate.*chat_template\.jinja"):
        render_chat(chat_tokenizer(None), MESSAGES)


def test_a_script_may_bring_its_own_template(chat_tokenizer: Callable[[Any], Tokenizer]) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    own = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    for theirs in (None, "plain", named):
        assert "<Hello >" in render_chat(chat_tokenizer(theirs), MESSAGES, chat_template=own)
    with pytest.raises(InvalidRequestError, match="shows no tools"):
        render_chat(chat_tokenizer(named), MESSAGES, chat_template=own, tools=[{"name": "f"}])
    with pytest.raises(CheckpointError):
        render_chat(chat_tokenizer("plain"), MESSAGES, chat_template="{% for %}")


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        ([], "is empty"),
        ("hello", "must be a list"),
        ({"role": "user", "content": "x"}, "must be a list"),
        (["hello"], r"messages\[0\] must be a mapping"),
        ([{"content": "x"}], "role None"),
        ([{"role": "user|>", "content": "x"}], r"role 'user\|>'"),
        ([{"role": "user"}], "no content"),
        ([{"role": "user", "content": 3}], "not int"),
        ([{"role": "user", "content": b"x"}], "not bytes"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "not 'image_url'"),
        ([{"role": "user", "content": ["x"]}], "not 'str'"),
        ([{"role": "user", "content": "x", "more": object()}], "plain JSON"),
        ([{"role": "user", "content": "x", "more": float("nan")}], "plain JSON"),
    ],
)
def test_malformed_messages_are_refused(
    chat_tokenizer: Callable[[Any], Tokenizer], messages: Any, part: str
) -> None:
    with pytest.raises(InvalidRequestError, match=part):
        render_chat(chat_tokenizer(CHATML), messages)


@pytest.mark.parametrize("field", ["tools", "documents"])
@pytest.mark.parametrize("value", ["x", {"name": "f"}, ["x"]])
def test_tools_and_documents_are_lists_of_mappings(
    chat_tokenizer: Callable[[Any], Tokenizer], field: str, value: Any
) -> None:
    with pytest.raises(InvalidRequestError, match=f"{field} must be a list"):
        render_chat(chat_tokenizer(CHATML), MESSAGES, **{field: value})


def test_messages_are_data_and_no_template(chat_tokenizer: Callable[[Any], Tokenizer]) -> None:
    text = render_chat(chat_tokenizer(CHATML), [{"role": "user", "content": "{{ 7 * 7 }}{% raw %}"}])
    assert "{{ 7 * 7 }}{% raw %}" in text


def test_generating_and_continuing_exclude_each_other(chat_tokenizer: Callable[[Any], Tokenizer]) -> None:
    with pytest.raises(InvalidRequestError, match="exclude each other"):
        render_chat(chat_tokenizer(CHATML), MESSAGES, True, True)


def test_a_template_that_drops_the_last_message_cannot_continue_it(
    chat_tokenizer: Callable[[Any], Tokenizer],
) -> None:
    with pytest.raises(InvalidRequestError, match="leaves out"):
        render_chat(chat_tokenizer("nothing"), MESSAGES, False, True)


def test_what_a_template_raises_is_the_requests_fault(renderer: TemplateRenderer) -> None:
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        renderer.render("{{ raise_exception('roles must alternate') }}", {})


HOSTILE = {
    "endless loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "endless output": "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "one huge string": "{{ 'x' * 10**12 }}",
    "doubling": "{% set n = namespace(x='xx') %}{% for a in range(99) %}{% set n.x=n.x~n.x %}{% endfor %}",
    "huge width": "{{ '%1000000000000d' % 1 }}",
    "huge number": "{{ 10 ** (10 ** 10) }}",
    "huge list": "{{ [1] * 10**12 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "syntax": "{% for %}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "namespace": "{{ namespace(__class__=1) }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "mutation": "{{ messages.clear() }}",
    "include": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_template_is_stopped(renderer: TemplateRenderer, template: str) -> None:
    """It fails within its time, and the next template is served."""
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="chat template failed"):
        renderer.render(template, {"messages": MESSAGES})
    assert time.monotonic() - started < 30
    assert renderer.render("{{ messages | length }}", {"messages": MESSAGES}) == "2"


@pytest.mark.parametrize(
    "template", ["{{ raise_exception.__globals__ }}", "{{ ''|attr('__class__')|attr('__mro__') }}"]
)
def test_pythons_internals_are_not_to_be_seen(renderer: TemplateRenderer, template: str) -> None:
    assert renderer.render(template, {}) == ""


def test_a_closed_renderer_starts_again(renderer: TemplateRenderer) -> None:
    renderer.close()
    assert renderer.render("again", {}) == "again"


def test_large_messages_go_through(renderer: TemplateRenderer) -> None:
    """Larger than a pipe's buffer both ways."""
    text = "é" * 90_000
    assert renderer.render("{{ text }}", {"text": text}) == text


@pytest.mark.parametrize("value", [None, 1, "x", [1], {"a": 1}])
@pytest.mark.parametrize("name", ["bos_token", *sorted(RESERVED_VARIABLES)])
def test_template_arguments_from_outside_cannot_take_the_place_of_ours(
    chat_tokenizer: Callable[[Any], Tokenizer], name: str, value: Any
) -> None:
    with pytest.raises(InvalidRequestError, match=f"'{name}' cannot be given") as caught:
        render_chat(chat_tokenizer(CHATML), MESSAGES, chat_template_kwargs={name: value})
    assert caught.value.field == "chat_template_kwargs"


def test_template_arguments_from_outside_reach_the_template(
    chat_tokenizer: Callable[[Any], Tokenizer],
) -> None:
    tokenizer = chat_tokenizer("{{ thinking }}{{ renderer }}")
    kwargs = {"thinking": False, "renderer": 1, "self": 1, "": 2, "\x00": 3, "import": 4}
    assert render_chat(tokenizer, MESSAGES, False, chat_template_kwargs=kwargs) == "False1"
