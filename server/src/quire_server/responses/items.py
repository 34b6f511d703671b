"""Items of a request's input - messages, calls, their outputs, thinking - and what templates take for them.

Knows OpenAI's request form. Knows no engine, no store and no answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Tag

from quire_server.errors import ApiError, bad_request
from quire_server.http.fields import BoundedModel

Message = dict[str, Any]
"""A turn of a chat: role, content and what else chat templates take."""

# Which of the two is meant is decided first, so that an error names the field inside.
EITHER = Discriminator(lambda value: "text" if isinstance(value, str) else "list")

_KNOWN = {
    "message": frozenset({"id", "status", "phase"}),
    "function_call": frozenset({"id", "status", "call_id", "name", "arguments", "namespace"}),
    "function_call_output": frozenset({"id", "status", "call_id", "output"}),
    "reasoning": frozenset({"id", "status", "summary", "encrypted_content"}),
}
_KNOWN_PART = frozenset({"annotations", "logprobs"})
_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


class Part(BoundedModel):
    """A piece of a message's content. Its other fields stay in `model_extra` until the type is known."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


class Item(BoundedModel):
    """An item of the input: a message, unless its type says otherwise."""

    model_config = ConfigDict(extra="allow")

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Annotated[Annotated[str, Tag("text")] | Annotated[list[Part], Tag("list")], EITHER] | None = None

    def view(self) -> dict[str, Any]:
        """The item as it is told of, with the beginning of an id."""
        own: dict[str, Any] = {"id": _PREFIXES[self.type], "type": self.type, "status": "completed"}
        if self.type != "message":
            return {**self.model_dump(exclude_none=True), **own}
        message = _message(self, "input")
        part = {"type": "input_text", "text": message["content"]}
        if message["role"] == "assistant":
            part = {"type": "output_text", "text": message["content"], "annotations": []}
        return own | {"role": message["role"], "content": [part]}


def read_items(items: Sequence[Item]) -> list[Message]:
    """The turns that items stand for: thinking, an answer and calls in a row are one turn of the assistant.

    Raises:
        ApiError: 400, an item or a piece of content cannot be served.
    """
    turns: list[Message] = []
    thinking: list[str] = []
    for index, item in enumerate(items):
        where = f"input[{index}]"
        if item.type not in _KNOWN:
            raise _unsupported(
                f"{where}.type",
                f"items of type {item.type[:200]!r} are not served; {', '.join(_KNOWN)}: these are.",
            )
        _only(item.model_extra, _KNOWN[item.type], where)
        extra = item.model_extra or {}
        if item.type == "reasoning":
            thinking.append(_thinking(item, where))
            continue
        if item.type == "function_call":
            if not turns or turns[-1]["role"] != "assistant" or thinking:
                turns.append({"role": "assistant", "content": ""})
            turns[-1].setdefault("tool_calls", []).append(_call(extra, where))
        elif item.type == "function_call_output":
            turns.append(_output(extra, where))
        else:
            turns.append(_message(item, where))
        if thinking and turns[-1]["role"] == "assistant":
            turns[-1]["reasoning_content"] = "\n".join(thinking)
        thinking = []
    return turns


def _message(item: Item, where: str) -> Message:
    if item.role is None:
        raise bad_request(f"{where} has no role.", f"{where}.role")
    if item.content is None:
        raise bad_request(f"{where} has no content.", f"{where}.content")
    # Templates know "system"; "developer" is OpenAI's later name for it.
    role = "system" if item.role == "developer" else item.role
    if isinstance(item.content, str):
        return {"role": role, "content": item.content}
    return {"role": role, "content": _text(item.content, f"{where}.content")}


def _call(extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = _string(extra, "arguments", where)
    try:
        given = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise bad_request(
            f"{where}.arguments must be a JSON object, written as a string.", f"{where}.arguments"
        )
    return {
        "id": _string(extra, "call_id", where),
        "type": "function",
        "function": {"name": _string(extra, "name", where), "arguments": given},
    }


def _output(extra: Mapping[str, Any], where: str) -> Message:
    output = extra.get("output")
    if isinstance(output, list):
        texts = []
        for index, part in enumerate(output):
            here = f"{where}.output[{index}]"
            if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS:
                raise _unsupported(f"{here}.type", "outputs of calls are text.")
            texts.append(_string(part, "text", here))
        output = "\n".join(texts)
    if not isinstance(output, str):
        raise bad_request(f"{where}.output must be a string or a list of text parts.", f"{where}.output")
    return {"role": "tool", "tool_call_id": _string(extra, "call_id", where), "content": output}


def _thinking(item: Item, where: str) -> str:
    """The text of thinking, or its summary where there is no text."""
    if isinstance(item.content, str):
        raise bad_request(f"{where}.content must be a list of parts.", f"{where}.content")
    summary = (item.model_extra or {}).get("summary")
    parts = [part.text for part in item.content or ()] or [
        part.get("text") for part in (summary if isinstance(summary, list) else ()) if isinstance(part, dict)
    ]
    return "\n".join(part for part in parts if isinstance(part, str))


def _text(parts: Sequence[Part], where: str) -> str:
    texts = []
    for index, part in enumerate(parts):
        here = f"{where}[{index}]"
        if part.type not in _TEXT_PARTS:
            raise _unsupported(f"{here}.type", f"content of type {part.type[:200]!r} is not served; text is.")
        _only(part.model_extra, _KNOWN_PART, here)
        if part.text is None:
            raise bad_request(f"{here} has no text.", f"{here}.text")
        texts.append(part.text)
    return "\n".join(texts)  # as the engine joins a message's parts


def _string(extra: Mapping[str, Any], name: str, where: str) -> str:
    value = extra.get(name)
    if not isinstance(value, str):
        raise bad_request(f"{where}.{name} must be a string.", f"{where}.{name}")
    return value


def _only(extra: Mapping[str, Any] | None, known: frozenset[str], where: str) -> None:
    for name in extra or ():
        if name not in known:
            raise bad_request(
                f"Unknown field {name[:200]!r} of {where}: leave it out.", where, "unknown_parameter"
            )


def _unsupported(param: str, reason: str) -> ApiError:
    return bad_request(f"{param} cannot be served: {reason}", param, "unsupported_parameter")
