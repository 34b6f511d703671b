"""Tools, calls and choices, read from requests. Knows no engine and no answer.

Ollama has tools and calls. What it has not - `strict`, a `tool_choice` - is written as in OpenAI's chats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from quire.contracts import Tool
from quire_server.errors import ApiError, bad_request
from quire_server.service.chat import ToolChoice

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_MAX_CALLS = 1024
_CHOICES: Mapping[str, ToolChoice] = {"none": "none", "auto": "auto", "required": "required"}


def read_tools(value: Sequence[dict[str, Any]] | None) -> tuple[Tool, ...]:
    """The field `tools`, which has OpenAI's form.

    Raises:
        ApiError: 400, with the place in `param`.
    """
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(value or ()))


def _tool(tool: dict[str, Any], where: str) -> Tool:
    function = tool.get("function")
    if tool.get("type", "function") != "function":
        raise _wrong(f"{where}.type", "must be 'function'")
    if not isinstance(function, dict):
        raise _wrong(f"{where}.function", "must be an object with a name")
    name, description = function.get("name"), function.get("description")
    parameters, strict = function.get("parameters"), function.get("strict")
    if not isinstance(name, str) or not _NAME.match(name):
        raise _wrong(f"{where}.function.name", "must be 1 to 128 letters, digits, '_', '.' and '-'")
    if description is not None and not isinstance(description, str):
        raise _wrong(f"{where}.function.description", "must be a string")
    if parameters is not None and not isinstance(parameters, dict):
        raise _wrong(f"{where}.function.parameters", "must be a JSON schema, an object")
    if strict is not None and not isinstance(strict, bool):
        raise _wrong(f"{where}.function.strict", "must be true or false")
    schema: dict[str, Any] = {} if parameters is None else {"parameters": parameters}
    return Tool(name=name, description=description, strict=bool(strict), **schema)


def read_tool_choice(value: str | dict[str, Any] | None) -> tuple[ToolChoice, str | None]:
    """The field `tool_choice`: the choice, and the tool that is named.

    Raises:
        ApiError: 400.
    """
    if value is None:
        return "auto", None
    if isinstance(value, str) and value in _CHOICES:
        return _CHOICES[value], None
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise _wrong(
            "tool_choice",
            f"must be one of {', '.join(_CHOICES)}, or name a function: "
            "{'type': 'function', 'function': {'name': '...'}}",
        )
    return "required", name


def read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls in an earlier answer, as templates take them.

    Raises:
        ApiError: 400, with the place in `param`.
    """
    if not isinstance(value, list) or len(value) > _MAX_CALLS:
        raise _wrong(where, f"must be a list of at most {_MAX_CALLS} calls")
    calls = []
    for index, call in enumerate(value):
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        arguments = (function.get("arguments") or {}) if isinstance(function, dict) else None
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise _wrong(f"{where}[{index}]", "must be an object with a function: its name and arguments")
        own = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        calls.append({**own, "type": "function", "function": {"name": name, "arguments": arguments}})
    return calls


def _wrong(where: str, what: str) -> ApiError:
    return bad_request(f"{where} {what}.", where)
