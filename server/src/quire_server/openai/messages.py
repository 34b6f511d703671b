"""The messages of a chat, from OpenAI's form to what templates read: roles, and contents of plain text."""

from __future__ import annotations

from typing import Any

from quire_server.errors import ApiError, bad_request

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = ("tool", "function")
_REFUSED = (
    *("tool_calls", "function_call", "tool_call_id"),
    *("audio", "refusal", "reasoning", "reasoning_content"),
)
"""Keys of a message that are harmless while empty."""


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
    if role in _TOOL_ROLES:
        raise _unbuilt(f"{where}.role", f"the role {role!r}: tools are not built yet")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_request(f"{where}.role must be one of: {', '.join(_ROLES)}.", f"{where}.role")
    for key in _REFUSED:
        if message.get(key):
            raise _unbuilt(f"{where}.{key}", f"{key} in a message is not built yet")
    name = message.get("name")
    if name is not None and not isinstance(name, str):
        raise bad_request(f"{where}.name must be a string.", f"{where}.name")
    rest = {key: item for key, item in message.items() if item is not None and key not in _REFUSED}
    return rest | {"role": _ROLES[role], "content": _content(message.get("content"), f"{where}.content")}


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
        shown = repr(kind[:64]) if isinstance(kind, str) else f"a {type(kind).__name__}"
        raise _unbuilt(where, f"the content type {shown}: this model reads parts of type 'text' only")
    text = part.get("text")
    if not isinstance(text, str):
        raise bad_request(f"{where}.text must be a string.", f"{where}.text")
    return text


def _unbuilt(where: str, what: str) -> ApiError:
    return bad_request(f"{where} cannot be served: {what}.", where, "unsupported_parameter")
