"""Content of a turn: text, or blocks of text, thinking, uses of tools and their results; and what chat
templates take for it.

Knows Anthropic's request form. Knows no engine and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Tag

from quire_server.errors import ApiError, bad_request
from quire_server.http.fields import BoundedModel

Turn = dict[str, Any]
"""Role, content and what else chat templates take."""

_THINKING = ("thinking", "redacted_thinking")
_CACHED = frozenset({"cache_control"})
_KNOWN = {
    "text": _CACHED | {"citations"},
    "thinking": frozenset({"thinking", "signature"}),
    "redacted_thinking": frozenset({"data"}),
    "tool_use": _CACHED | {"id", "name", "input", "caller"},
    "tool_result": _CACHED | {"tool_use_id", "content", "is_error"},
}
_ALLOWED = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", *_THINKING),
    "system": ("text",),
}


class Block(BoundedModel):
    """A piece of content. Its other fields stay in `model_extra` until the type is known."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


# Which of the two is meant is decided first, so that an error names the field inside.
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Block], Tag("list")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
]


def read_turns(role: str, content: str | Sequence[Block], where: str) -> list[Turn]:
    """The turns that a message stands for: one, and one more for each result of a tool.

    Text blocks are joined by line breaks, as the engine joins a message's parts.

    Raises:
        ApiError: 400, a piece cannot be served.
    """
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    turns: list[Turn] = []
    texts: list[str] = []
    thinking: list[str] = []
    calls: list[dict[str, Any]] = []
    for index, block in enumerate(content):
        here = f"{where}[{index}]"
        check_block(block, _ALLOWED[role], here)
        extra = block.model_extra or {}
        if block.type == "text":
            texts.append(_text(block, here))
        elif block.type == "thinking":
            thinking.append(_string(extra, "thinking", here))
        elif block.type == "tool_use":
            calls.append(_call(extra, here))
        elif block.type == "tool_result":
            turns.append(_result(extra, here))
    # Results answer the calls of the turn before, so they come ahead of what the user adds.
    if texts or calls or thinking or not turns:
        turn: Turn = {"role": role, "content": "\n".join(texts)}
        if calls:
            turn["tool_calls"] = calls
        if thinking:
            turn["reasoning_content"] = "\n".join(thinking)
        turns.append(turn)
    return turns


def read_text(content: str | Sequence[Block], where: str) -> str:
    """Content that must be text.

    Raises:
        ApiError: 400, a piece is something else.
    """
    turn: str = read_turns("system", content, where)[0]["content"]
    return turn


def check_block(block: Block, allowed: Sequence[str], here: str) -> None:
    """Refuse blocks of other types, and fields that are not known."""
    if block.type not in allowed:
        raise bad_request(
            f"Blocks of type {block.type[:200]!r} are not served here; {', '.join(allowed)}: these are.",
            f"{here}.type",
            "unsupported_parameter",
        )
    for name, value in (block.model_extra or {}).items():
        if name not in _KNOWN[block.type] or (name == "citations" and value):
            raise bad_request(
                f"Field {name[:200]!r} of a {block.type} block is not served: leave it out.", here
            )


def _text(block: Block, here: str) -> str:
    if block.text is None:
        raise bad_request("A text block has no text.", f"{here}.text")
    return block.text


def _call(extra: Mapping[str, Any], here: str) -> dict[str, Any]:
    given = extra.get("input")
    if not isinstance(given, dict):
        raise bad_request("A tool_use block's input must be an object.", f"{here}.input")
    return {
        "id": _string(extra, "id", here),
        "type": "function",
        "function": {"name": _string(extra, "name", here), "arguments": given},
    }


def _result(extra: Mapping[str, Any], here: str) -> Turn:
    content = extra.get("content")
    if content is None:
        content = ""
    elif isinstance(content, list):
        content = "\n".join(
            _result_text(part, f"{here}.content[{index}]") for index, part in enumerate(content)
        )
    elif not isinstance(content, str):
        raise bad_request("A tool_result's content must be text or a list of text blocks.", f"{here}.content")
    # Templates have no place for the mark of an error, and the model is to know.
    failed = extra.get("is_error") is True
    return {
        "role": "tool",
        "tool_call_id": _string(extra, "tool_use_id", here),
        "content": f"Error: {content}" if failed else content,
    }


def _result_text(part: Any, here: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise _unsupported(f"{here}.type", "results of tools are text")


def _string(extra: Mapping[str, Any], name: str, here: str) -> str:
    value = extra.get(name)
    if not isinstance(value, str):
        raise bad_request(f"{here}.{name} must be a string.", f"{here}.{name}")
    return value


def _unsupported(where: str, what: str) -> ApiError:
    return bad_request(f"{where} cannot be served: {what}.", where, "unsupported_parameter")
