"""`Record`: one response, from its acceptance to its end, and its form for clients.

Fed with the engine's deltas. Knows neither who asked nor where it is kept.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from quire import Logprob, RequestOutput
from quire_server.errors import ApiError
from quire_server.responses.items import Message
from quire_server.responses.output import Output, Told, new_id
from quire_server.responses.request import CreateResponse
from quire_server.service import Usage

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


@dataclass(slots=True, kw_only=True)
class Record:
    """One response.

    Attributes:
        body: what was asked.
        model: served name of the model.
        temperature, top_p: what is sampled with.
        messages: the conversation that led here, without instructions.
        store: whether it outlives its request.
        output: its items so far.
        id: its own.
        created, completed: Unix times, in seconds.
        status: where it stands.
        usage: tokens so far.
        error: what it failed with.
    """

    body: CreateResponse
    model: str
    temperature: float
    top_p: float
    messages: list[Message]
    store: bool
    output: Output
    id: str = field(default_factory=lambda: new_id("resp"))
    created: int = field(default_factory=lambda: int(time.time()))
    completed: int | None = None
    status: Status = "queued"
    usage: Usage | None = None
    error: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """True once nothing more will come."""
        return self.status not in ("queued", "in_progress")

    @property
    def conversation(self) -> list[Message]:
        """What a response that follows this one begins with."""
        turn: Message = {"role": "assistant", "content": self.output.text("message")}
        calls = [
            {
                "id": item.call_id,
                "type": "function",
                "function": {"name": item.name, "arguments": json.loads(item.text)},
            }
            for item in self.output.items
            if item.called
        ]
        if calls:
            turn["tool_calls"] = calls
        if thinking := self.output.text("reasoning"):
            turn["reasoning_content"] = thinking
        return [*self.messages, turn]

    def add(self, output: RequestOutput) -> list[Told]:
        """Take what is new; gives the events that tell of it.

        Raises:
            ApiError: 500, the engine ended it before its time.
        """
        self.status = "in_progress"
        one = output.outputs[0]
        logprobs: list[dict[str, Any]] = []
        if self.body.logprobs is not None and one.logprobs is not None:
            pairs = zip(one.token_ids, one.logprobs, strict=True)
            logprobs = [_logprob(token, known, self.body.logprobs) for token, known in pairs]
        told = self.output.take(one, logprobs)
        if one.finish_reason in ("abort", "error"):
            raise ApiError(500, "The engine ended the request before its end.", kind="server_error")
        if one.finish_reason is not None:
            self.end("completed" if one.finish_reason == "stop" else "incomplete")
        return told

    def end(self, status: Status) -> None:
        """Nothing more will come."""
        self.status = status
        self.completed = int(time.time())

    def fail(self, error: ApiError) -> None:
        """It ended with an error."""
        self.error = {"code": "server_error", "message": error.message}
        self.end("failed")

    @property
    def item_status(self) -> str:
        """What an item that ends with the response is."""
        return {"completed": "completed", "in_progress": "in_progress"}.get(self.status, "incomplete")

    def view(self) -> dict[str, Any]:
        """The response object."""
        body = self.body
        items = self.output.items
        shown = self.status in ("completed", "incomplete") or any(item.text for item in items)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": self.completed if self.status == "completed" else None,
            "status": self.status,
            "background": bool(body.background),
            "error": self.error,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "metadata": body.metadata or {},
            "model": self.model,
            "output": self._items() if shown else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": None if body.reasoning is None else body.reasoning.model_dump(),
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": self.store,
            "temperature": self.temperature,
            "text": {"format": body.format_shown(), "verbosity": "medium"},
            "tool_choice": body.tool_choice or ("auto" if body.tools else "none"),
            "tools": body.tools or [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": self.top_p,
            "truncation": "disabled",
            "usage": None
            if self.usage is None or not self.ended
            else _usage(self.usage, self.output.parser.thinking_tokens),
            "user": body.user,
        }

    def _items(self) -> list[dict[str, Any]]:
        """All items; the last one ends as the response does."""
        items = self.output.items
        return [item.view("completed" if item is not items[-1] else self.item_status) for item in items]

    def inputs(self) -> list[dict[str, Any]]:
        """The request's own input as items. An item's id is its place, so that it is the same every time."""
        own = self.id.removeprefix("resp_")
        return [item | {"id": f"{item['id']}_{own}_{index}"} for index, item in enumerate(self.body.items())]


def _usage(usage: Usage, thinking: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": thinking},
        "total_tokens": usage.total_tokens,
    }


def _logprob(token: int, known: dict[int, Logprob], top: int) -> dict[str, Any]:
    likely = sorted(known.items(), key=lambda pair: pair[1].rank or len(known) + 1)
    return {
        **_told(known[token]),
        "top_logprobs": [_told(one) for _, one in likely[:top]],
    }


def _told(one: Logprob) -> dict[str, Any]:
    text = one.decoded_token or ""
    return {"token": text, "logprob": max(one.logprob, -9999.0), "bytes": list(text.encode())}
