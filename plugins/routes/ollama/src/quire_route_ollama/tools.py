"""Tools, calls and thinking in Ollama's form, read from requests. Knows no engine and no answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from quire.contracts import Tool
from quire_server.errors import ApiError, bad_request

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_MAX_CALLS = 1024


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
    parameters = function.get("parameters")
    if not isinstance(name, str) or not _NAME.match(name):
        raise _wrong(f"{where}.function.name", "must be 1 to 128 letters, digits, '_', '.' and '-'")
    if description is not None and not isinstance(description, str):
        raise _wrong(f"{where}.function.description", "must be a string")
    if parameters is not None and not isinstance(parameters, dict):
        raise _wrong(f"{where}.function.parameters", "must be a JSON schema, an object")
    schema: dict[str, Any] = {} if parameters is None else {"parameters": parameters}
    return Tool(name=name, description=description, **schema)


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
