"""The server's own dialects as `ToolDialect`s: OpenAI's chats and responses, Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

from quire.contracts import Tool
from quire_server.testing.tool_dialect import Asked, Reply, ToolDialect, sse

__all__ = ["ChatTools", "MessagesTools", "ResponsesTools", "function"]

_TURN = {"role": "user", "content": "Rome?"}


def function(tool: Tool) -> dict[str, Any]:
    """A tool as OpenAI's chats have it."""
    return {"name": tool.name, "parameters": dict(tool.parameters), "strict": tool.strict}


class ChatTools(ToolDialect):
    """OpenAI's chat completions."""

    path = "/v1/chat/completions"
    has_n = True
    called, cut = "tool_calls", "length"

    def body(self, asked: Asked) -> dict[str, Any]:
        """See `ToolDialect`."""
        choice: Any = asked.choice
        if asked.named is not None:
            choice = {"type": "function", "function": {"name": asked.named}}
        return {
            "messages": [_TURN],
            "tools": [{"type": "function", "function": function(tool)} for tool in asked.tools],
            "tool_choice": choice,
            "parallel_tool_calls": asked.parallel,
            "n": asked.n,
            "logprobs": asked.logprobs,
            "max_tokens": asked.max_tokens,
            "temperature": asked.temperature,
            "seed": asked.seed,
        }

    def whole(self, answer: Any) -> list[Reply]:
        """See `ToolDialect`."""
        replies = []
        for choice in answer["choices"]:
            message = choice["message"]
            told = (choice["logprobs"] or {}).get("content") or ()
            calls = [call["function"] for call in message.get("tool_calls") or ()]
            replies.append(
                Reply(
                    message["content"] or "",
                    message.get("reasoning_content") or "",
                    [(call["name"], json.loads(call["arguments"])) for call in calls],
                    choice["finish_reason"],
                    [one["token"] for one in told],
                )
            )
        return replies

    def streamed(self, text: str) -> list[Reply]:
        """See `ToolDialect`."""
        replies: dict[int, Reply] = {}
        arguments: dict[int, list[str]] = {}
        names: dict[int, list[str]] = {}
        for event in sse(text):
            for choice in event["choices"]:
                index, delta = choice["index"], choice["delta"]
                reply = replies.setdefault(index, Reply())
                reply.content += delta.get("content") or ""
                reply.reasoning += delta.get("reasoning_content") or ""
                for call in delta.get("tool_calls") or ():
                    own = arguments.setdefault(index, [])
                    if "id" in call:
                        assert call["index"] == len(own), "calls are numbered as they come"
                        own.append("")
                        names.setdefault(index, []).append(call["function"]["name"])
                    own[call["index"]] += call["function"]["arguments"]
                    reply.pieces += bool(call["function"]["arguments"])
                reply.tokens += [one["token"] for one in (choice["logprobs"] or {}).get("content") or ()]
                reply.ended = choice["finish_reason"] or reply.ended
        for index, texts in arguments.items():
            complete = [
                (name, text) for name, text in zip(names[index], texts, strict=True) if _is_json(text)
            ]
            replies[index].calls = [(name, json.loads(text)) for name, text in complete]
        return [replies[index] for index in sorted(replies)]


class ResponsesTools(ToolDialect):
    """OpenAI's responses."""

    path = "/v1/responses"
    called, cut = "completed", "incomplete"

    def body(self, asked: Asked) -> dict[str, Any]:
        """See `ToolDialect`."""
        choice: Any = asked.choice
        if asked.named is not None:
            choice = {"type": "function", "name": asked.named}
        return {
            "input": "Rome?",
            "tools": [{"type": "function", **function(tool)} for tool in asked.tools],
            "tool_choice": choice,
            "parallel_tool_calls": asked.parallel,
            "include": ["message.output_text.logprobs"] if asked.logprobs else None,
            "max_output_tokens": asked.max_tokens,
            "temperature": asked.temperature,
            "seed": asked.seed,
        }

    def whole(self, answer: Any) -> list[Reply]:
        """See `ToolDialect`."""
        reply = Reply(ended=answer["status"])
        for item in answer["output"]:
            if item["type"] == "message":
                for part in item["content"]:
                    reply.content += part["text"]
                    reply.tokens += [one["token"] for one in part.get("logprobs") or ()]
            elif item["type"] == "reasoning":
                reply.reasoning += "".join(part["text"] for part in item["content"])
            else:
                reply.calls.append((item["name"], json.loads(item["arguments"])))
        return [reply]

    def streamed(self, text: str) -> list[Reply]:
        """See `ToolDialect`."""
        reply = Reply()
        for event in sse(text):
            match event["type"].removeprefix("response."):
                case "output_text.delta":
                    reply.content += event["delta"]
                    reply.tokens += [one["token"] for one in event.get("logprobs") or ()]
                case "reasoning_text.delta":
                    reply.reasoning += event["delta"]
                case "function_call_arguments.delta":
                    reply.pieces += 1
                case "function_call_arguments.done":
                    reply.calls.append((event["name"], json.loads(event["arguments"])))
                case "completed" | "incomplete" | "failed":
                    reply.ended = event["response"]["status"]
        return [reply]


class MessagesTools(ToolDialect):
    """Anthropic's messages, which have no seed and no log probabilities."""

    path = "/v1/messages"
    called, cut = "tool_use", "max_tokens"

    def body(self, asked: Asked) -> dict[str, Any]:
        """See `ToolDialect`."""
        choice: dict[str, Any] = {"type": "any" if asked.choice == "required" else asked.choice}
        if asked.named is not None:
            choice = {"type": "tool", "name": asked.named}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = not asked.parallel
        tools = [
            {"name": tool.name, "input_schema": dict(tool.parameters), "strict": tool.strict}
            for tool in asked.tools
        ]
        return {
            "model": "fake",
            "messages": [_TURN],
            "tools": tools,
            "tool_choice": choice,
            "max_tokens": asked.max_tokens,
            "temperature": asked.temperature,
        }

    def whole(self, answer: Any) -> list[Reply]:
        """See `ToolDialect`."""
        reply = Reply(ended=answer["stop_reason"])
        for block in answer["content"]:
            match block["type"]:
                case "text":
                    reply.content += block["text"]
                case "thinking":
                    reply.reasoning += block["thinking"]
                case "tool_use":
                    reply.calls.append((block["name"], block["input"]))
        return [reply]

    def streamed(self, text: str) -> list[Reply]:
        """See `ToolDialect`."""
        reply = Reply()
        name, arguments = "", ""
        for event in sse(text):
            delta = event.get("delta", {})
            match event["type"], delta.get("type"):
                case "content_block_start", _:
                    name, arguments = event["content_block"].get("name", ""), ""
                case _, "text_delta":
                    reply.content += delta["text"]
                case _, "thinking_delta":
                    reply.reasoning += delta["thinking"]
                case _, "input_json_delta":
                    arguments += delta["partial_json"]
                    reply.pieces += 1
                case "content_block_stop", _ if name and _is_json(arguments):
                    reply.calls.append((name, json.loads(arguments)))
                case "message_delta", _:
                    reply.ended = delta["stop_reason"]
        return [reply]


def _is_json(text: str) -> bool:
    """A call that the limit has cut has half of its arguments; whole answers leave it out."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
