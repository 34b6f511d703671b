"""The messages of a chat, from OpenAI's form to what templates read: roles, and contents of plain text."""

from __future__ import annotations

from typing import Any

from quire_server.errors import bad_request
from quire_server.openai.tools import read_calls, shown, unsupported

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_REFUSED = ("function_call", "audio", "refusal")
"""Keys of a message that are harmless while empty."""
_OWN = (*_REFUSED, "tool_calls", "reasoning", "reasoning_content")


def read_messages(value: Any) -> list[dict[str, Any]]:
    """Messages for the model's chat template. Keys that are not OpenAI's reach the template as they are.

    Raises:
        ApiError: 400 for `messages`, or the place in it.
    """
    if not isinstance(value, list):
        raise bad_request("messages must be a list of objects with role and content.", "messages")
    if not value:
        raise bad_request("messages is empty: a chat needs at least one message.", "messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(value)]


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise bad_request(f"{where} must be an object with role and content.", where)
    role = message.get("role")
    if role == "function":
        raise unsupported(f"{where}.role", "the role 'function'; its successor 'tool' is served")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_request(f"{where}.role must be one of: {', '.join(_ROLES)}.", f"{where}.role")
    for key in _REFUSED:
        if message.get(key):
            raise unsupported(f"{where}.{key}", f"{key} in a message is not built yet")
    for key in ("name", "tool_call_id", "reasoning", "reasoning_content"):
        value = message.get(key)
        if value is not None and not isinstance(value, str):
            raise bad_request(f"{where}.{key} must be a string.", f"{where}.{key}")
    return {
        **{key: item for key, item in message.items() if item is not None and key not in _OWN},
        "role": _ROLES[role],
        **_said(message, where),
    }


def _said(message: dict[str, Any], where: str) -> dict[str, Any]:
    """Content, calls and thinking. Templates know the thinking of earlier turns as `reasoning_content`."""
    said: dict[str, Any] = {}
    calls = message.get("tool_calls")
    if calls:
        if message.get("role") != "assistant":
            raise bad_request(f"{where}.tool_calls are an assistant's alone.", f"{where}.tool_calls")
        said["tool_calls"] = read_calls(calls, f"{where}.tool_calls")
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if thinking:
        said["reasoning_content"] = thinking
    content = message.get("content")
    said["content"] = "" if calls and content in (None, []) else _content(content, f"{where}.content")
    return said


def _content(content: Any, where: str) -> str:
    """Text; parts are joined by line breaks, as the engine joins them."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise bad_request(f"{where} must be a string or a list of text parts.", where)
    return "\n".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise bad_request(f"{where} must be an object like {{'type': 'text', 'text': '...'}}.", where)
    kind = part.get("type")
    if kind != "text":
        raise unsupported(
            where, f"the content type {shown(kind)}: this model reads parts of type 'text' only"
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise bad_request(f"{where}.text must be a string.", f"{where}.text")
    return text
