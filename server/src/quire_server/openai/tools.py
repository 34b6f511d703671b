"""Tools and calls in the form of OpenAI's chats, read from requests and written into answers."""

from __future__ import annotations

import json
import re
from typing import Any

from quire.contracts import Tool
from quire_server.errors import ApiError, bad_request
from quire_server.service import ToolCall
from quire_server.service.chat import MAX_TOOLS, ToolChoice

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_CHOICES = ("none", "auto", "required")
_MAX_CALLS = 1024


def read_tools(value: Any) -> tuple[Tool, ...]:
    """The field `tools`.

    Raises:
        ApiError: 400, with the place in `param`.
    """
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise bad_request(f"tools must be a list of at most {MAX_TOOLS} tools.", "tools")
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(value))


def _tool(tool: Any, where: str) -> Tool:
    if not isinstance(tool, dict):
        raise bad_request(f"{where} must be an object with type and function.", where)
    if tool.get("type") != "function":
        raise unsupported(f"{where}.type", f"tools of type {shown(tool.get('type'))}; 'function' is served")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise bad_request(f"{where}.function must be an object with a name.", f"{where}.function")
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not _NAME.match(name):
        raise bad_request(
            f"{where}.function.name must be 1 to 128 letters, digits, '_', '.' and '-'.",
            f"{where}.function.name",
        )
    if description is not None and not isinstance(description, str):
        raise bad_request(f"{where}.function.description must be a string.", f"{where}.function.description")
    parameters, strict = function.get("parameters"), function.get("strict")
    if parameters is not None and not isinstance(parameters, dict):
        raise bad_request(
            f"{where}.function.parameters must be a JSON schema, an object.", f"{where}.function.parameters"
        )
    if strict is not None and not isinstance(strict, bool):
        raise bad_request(f"{where}.function.strict must be true or false.", f"{where}.function.strict")
    schema: dict[str, Any] = {} if parameters is None else {"parameters": parameters}
    return Tool(name=name, description=description, strict=bool(strict), **schema)


def read_tool_choice(value: Any, tools: tuple[Tool, ...]) -> tuple[ToolChoice, str | None]:
    """The field `tool_choice`: the choice, and the tool that is named.

    Raises:
        ApiError: 400.
    """
    if value is None:
        return "auto" if tools else "none", None
    if isinstance(value, str) and value in _CHOICES:
        return value, None  # type: ignore[return-value]
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise bad_request(
            f"tool_choice must be one of {', '.join(_CHOICES)}, or name a function: "
            "{'type': 'function', 'function': {'name': '...'}}.",
            "tool_choice",
        )
    return "required", name


def read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """An assistant's earlier calls, with their arguments as objects: templates write them anew.

    Raises:
        ApiError: 400, with the place in `param`.
    """
    if not isinstance(value, list) or len(value) > _MAX_CALLS:
        raise bad_request(f"{where} must be a list of at most {_MAX_CALLS} calls.", where)
    return [_call(call, f"{where}[{index}]") for index, call in enumerate(value)]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise bad_request(f"{where} must be an object with id, type and function.", where)
    if call.get("type", "function") != "function":
        raise unsupported(f"{where}.type", f"calls of type {shown(call['type'])}")
    call_id = call.get("id")
    if call_id is not None and not isinstance(call_id, str):
        raise bad_request(f"{where}.id must be a string.", f"{where}.id")
    place = f"{where}.function.arguments"
    arguments = read_arguments(function.get("arguments"), place)
    return {
        **({} if call_id is None else {"id": call_id}),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def read_arguments(value: Any, where: str) -> dict[str, Any]:
    """Arguments of an earlier call; nothing is an empty object.

    Raises:
        ApiError: 400, they are no JSON object.
    """
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError):
            found = None
    if not isinstance(found, dict):
        raise bad_request(f"{where} must be a JSON object, written as a string.", where)
    return found


def call_object(call: ToolCall) -> dict[str, Any]:
    """A call in a whole answer."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def shown(value: Any) -> str:
    """A value from outside, short enough for a message."""
    return repr(value[:64]) if isinstance(value, str) else f"a {type(value).__name__}"


def unsupported(where: str, what: str) -> ApiError:
    """What is well-formed and cannot be served."""
    return bad_request(f"{where} cannot be served: {what}.", where, "unsupported_parameter")
