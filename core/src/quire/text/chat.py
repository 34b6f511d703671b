"""Chat templates: from messages to the prompt that the model was trained on.

Templates come from the model's files, or from a script, never from a request. They run in jinja's sandbox in
a process of its own with limits of time, memory and output (`quire.text._renderer`), so that a
template can neither run code, nor loop for ever, nor fill memory.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import CheckpointError, InvalidRequestError
from quire.text._renderer import TemplateRenderer, shared_renderer
from quire.text.tokenizer import Tokenizer

__all__ = ["RESERVED_VARIABLES", "encode_chat", "render_chat"]

_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
RESERVED_VARIABLES = frozenset(
    {
        *("chat_template", "messages", "tokenize", "tools", "documents"),
        *("add_generation_prompt", "continue_final_message"),
        *("namespace", "raise_exception", "strftime_now"),
    }
)
"""Variables of templates that no `chat_template_kwargs` may set: the engine does, or they are functions."""


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    renderer: TemplateRenderer | None = None,
) -> str:
    """The prompt text for a chat.

    The text has whatever BOS the template writes: encode it without adding special tokens, as
    `encode_chat` does.

    Args:
        tokenizer: the model's; its template is used unless another is given.
        messages: `{"role": str, "content": str | list of {"type": "text", "text": str}}` and what else
            the template knows (`name`, `tool_calls`, ...). Text parts are joined by line breaks.
        add_generation_prompt: end with the beginning of the assistant's answer.
        continue_final_message: leave the last message open, for the model to go on with.
        tools: tools, each `{"type": "function", "function": {"name", "description", "parameters"}}`; the
            template must show them.
        documents: documents, for templates that show them.
        chat_template: a template to use instead; never what a stranger sent.
        chat_template_kwargs: further variables of the template, e.g. `{"enable_thinking": False}`.
        renderer: where templates are run; the process's shared one if None.

    Raises:
        InvalidRequestError: malformed messages, a model without a template where none is given, or a
            template that refuses these messages or shows no tools.
        CheckpointError: the template is broken or went beyond its limits.
    """
    variables = dict(chat_template_kwargs or {})
    _check_kwargs(tokenizer, variables)
    if continue_final_message and add_generation_prompt:
        raise InvalidRequestError(
            "continue_final_message and add_generation_prompt exclude each other: "
            "pass add_generation_prompt=False to go on with the last message.",
            field="continue_final_message",
        )
    template = chat_template or _choose_template(tokenizer, with_tools=bool(tools))
    chat = _check_messages(messages)
    renderer = renderer or shared_renderer()
    shown = _check_objects(tools, "tools")
    named = tokenizer.chat_template
    for_tools = not chat_template and isinstance(named, dict) and "tool_use" in named
    if shown and not for_tools and not _shows_tools(tokenizer, template, renderer):
        raise InvalidRequestError(
            "The model's chat template shows no tools, so the model would not learn of them. "
            "Leave `tools` out, or use a model that was trained to call tools.",
            field="tools",
        )
    # Nobody who writes a message can know it, so that it is found where it was put. The space
    # behind it shows whether the template trims its messages.
    end = f"<end-{secrets.token_hex(8)}> "
    if continue_final_message:
        if not isinstance(chat[-1].get("content"), str):
            raise InvalidRequestError("The last message has no text to continue.", field="messages")
        chat[-1]["content"] += end
    text = renderer.render(
        template,
        {
            **tokenizer.special_tokens,
            **variables,
            "messages": chat,
            "tools": shown or None,
            "documents": _check_objects(documents, "documents"),
            "add_generation_prompt": add_generation_prompt,
        },
    )
    return _cut(text, end) if continue_final_message else text


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    **kwargs: Any,
) -> list[int]:
    """Prompt ids for a chat: `render_chat`, encoded without a second BOS. Arguments and errors are its."""
    text = render_chat(tokenizer, messages, add_generation_prompt, continue_final_message, **kwargs)
    return tokenizer.encode(text, add_special_tokens=False)


def _choose_template(tokenizer: Tokenizer, *, with_tools: bool) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        named = template
        template = (named.get("tool_use") if with_tools else None) or named.get("default")
        if template is None and named:
            raise InvalidRequestError(
                f"The model has chat templates named {', '.join(sorted(named))}, but none named 'default'."
            )
    if not template:
        raise InvalidRequestError(
            "The model has no chat template, so it cannot chat. Give it a plain prompt through `generate`, "
            "use its instruction-tuned variant, or put a chat_template.jinja among its files."
        )
    return template


def _shows_tools(tokenizer: Tokenizer, template: str, renderer: TemplateRenderer) -> bool:
    """Whether a template makes anything of tools: rendered with some and with none, it gives two texts.

    What is asked is the template's doing alone, and the same for each of its requests: it is asked once.
    """
    known = _KNOWN_TEMPLATES.get(template)
    if known is None:
        variables = {
            **tokenizer.special_tokens,
            "messages": [{"role": "user", "content": "Hello"}],
            "documents": None,
            "add_generation_prompt": True,
        }
        texts = []
        for tools in (None, [_PROBE]):
            try:
                texts.append(renderer.render(template, {**variables, "tools": tools}))
            except (InvalidRequestError, CheckpointError):
                texts.append("")  # the request itself will say it better
        known = texts[0] != texts[1] or not texts[1]
        if len(_KNOWN_TEMPLATES) < _MAX_KNOWN:
            _KNOWN_TEMPLATES[template] = known
    return known


_PROBE = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
_MAX_KNOWN = 64
_KNOWN_TEMPLATES: dict[str, bool] = {}


def _check_kwargs(tokenizer: Tokenizer, kwargs: Mapping[str, Any]) -> None:
    for name in kwargs:
        if name in RESERVED_VARIABLES:
            reason = (
                "what comes with a request is no template"
                if name == "chat_template"
                else "it is set by the engine"
            )
            raise InvalidRequestError(
                f"{name!r} cannot be given as a template argument: {reason}.", field="chat_template_kwargs"
            )
        if name in tokenizer.special_tokens:
            raise InvalidRequestError(
                f"{name!r} cannot be given as a template argument: it is the tokenizer's.",
                field="chat_template_kwargs",
            )


def _check_objects(values: Sequence[Mapping[str, Any]] | None, field: str) -> list[dict[str, Any]] | None:
    if values is None:
        return None
    if isinstance(values, str | bytes | Mapping) or not all(isinstance(value, Mapping) for value in values):
        raise InvalidRequestError(f"{field} must be a list of mappings.", field=field)
    return [dict(value) for value in values]


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fresh, validated copies of the messages; fields that are None are left out."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InvalidRequestError(
            f"messages must be a list of {{'role', 'content'}} mappings, not {type(messages).__name__}.",
            field="messages",
        )
    if not messages:
        raise InvalidRequestError("messages is empty: a chat needs at least one message.", field="messages")
    return [_check_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _check_message(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(
            f"{where} must be a mapping, not {type(message).__name__}.", field="messages"
        )
    role = message.get("role")
    if not isinstance(role, str) or not _ROLE.match(role):
        raise InvalidRequestError(
            f"{where}: role {role!r} is no role; usual ones are 'system', 'user', 'assistant' and 'tool'.",
            field="messages",
        )
    content = message.get("content")
    if content is None:
        if not message.get("tool_calls"):
            raise InvalidRequestError(f"{where} has no content.", field="messages")
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        content = "\n".join(_text_of(part, f"{where}.content[{index}]") for index, part in enumerate(content))
    elif not isinstance(content, str):
        raise InvalidRequestError(
            f"{where}: content must be text or a list of text parts, not {type(content).__name__}.",
            field="messages",
        )
    checked = {key: value for key, value in message.items() if value is not None}
    if content is not None:
        checked["content"] = content
    return checked


def _text_of(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(text := part.get("text"), str):
        return text
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidRequestError(
        f"{where}: only parts of the form {{'type': 'text', 'text': str}} are served, not {kind!r}.",
        field="messages",
    )


def _cut(text: str, end: str) -> str:
    """`text` up to where the last message's content ends."""
    at = text.rfind(end.rstrip())
    if at < 0:
        raise InvalidRequestError(
            "The model's chat template changes or leaves out the last message, so it cannot be continued.",
            field="continue_final_message",
        )
    trimmed = not text.startswith(end, at)
    return text[:at].rstrip() if trimmed else text[:at]
