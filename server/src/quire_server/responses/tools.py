"""The fields `tools` and `tool_choice` of a request. Knows OpenAI's request form alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from quire.contracts import Tool
from quire_server.errors import ApiError, bad_request
from quire_server.service.chat import ToolChoice

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_CHOICES: Mapping[str, ToolChoice] = {"none": "none", "auto": "auto", "required": "required"}
_KNOWN = frozenset({"type", "name", "description", "parameters", "strict", "defer_loading"})


def read_tools(tools: Sequence[Mapping[str, Any]] | None) -> tuple[Tool, ...]:
    """The tools.

    Raises:
        ApiError: 400, with the place in `param`.
    """
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools or ()))


def _tool(tool: Mapping[str, Any], where: str) -> Tool:
    kind = tool.get("type")
    if kind != "function":
        shown = repr(kind[:64]) if isinstance(kind, str) else f"a {type(kind).__name__}"
        raise _unsupported(
            f"{where}.type", f"this server runs no tools of type {shown}; 'function' is served."
        )
    for field in tool:
        if field not in _KNOWN:
            raise bad_request(
                f"Unknown field {field[:200]!r} of {where}: leave it out.", where, "unknown_parameter"
            )
    name, description = tool.get("name"), tool.get("description")
    parameters, strict = tool.get("parameters"), tool.get("strict")
    if not isinstance(name, str) or not _NAME.match(name):
        raise bad_request(
            f"{where}.name must be 1 to 128 letters, digits, '_', '.' and '-'.", f"{where}.name"
        )
    if description is not None and not isinstance(description, str):
        raise bad_request(f"{where}.description must be a string.", f"{where}.description")
    if parameters is not None and not isinstance(parameters, dict):
        raise bad_request(f"{where}.parameters must be a JSON schema, an object.", f"{where}.parameters")
    if strict is not None and not isinstance(strict, bool):
        raise bad_request(f"{where}.strict must be true or false.", f"{where}.strict")
    schema: dict[str, Any] = {} if parameters is None else {"parameters": parameters}
    return Tool(name=name, description=description, strict=bool(strict), **schema)


def read_tool_choice(value: Any, tools: Sequence[Tool]) -> tuple[ToolChoice, str | None]:
    """The choice, and the tool that is named.

    Raises:
        ApiError: 400.
    """
    if value is None:
        return "auto" if tools else "none", None
    if isinstance(value, str) and value in _CHOICES:
        return _CHOICES[value], None
    if isinstance(value, dict) and value.get("type") == "function" and isinstance(value.get("name"), str):
        return "required", value["name"]
    raise bad_request(
        f"tool_choice must be one of {', '.join(_CHOICES)}, or name a function: "
        "{'type': 'function', 'name': '...'}.",
        "tool_choice",
    )


def _unsupported(param: str, reason: str) -> ApiError:
    return bad_request(f"{param} cannot be served: {reason}", param, "unsupported_parameter")
