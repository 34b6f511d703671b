"""`Record`: one response, from its acceptance to its end, and its form for clients.

Fed with the engine's deltas. Knows neither who asked nor where it is kept.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from quire import Logprob, RequestOutput
from quire_server.errors import ApiError
from quire_server.responses.request import CreateResponse, Message
from quire_server.service import Usage

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


def new_id(prefix: str) -> str:
    """An id that cannot be guessed: knowing a stored response's id is what gives access to it."""
    return f"{prefix}_{secrets.token_hex(24)}"


@dataclass(slots=True, kw_only=True)
class Record:
    """One response.

    Attributes:
        body: what was asked.
        model: served name of the model.
        temperature, top_p: what is sampled with.
        messages: the conversation that led here, without instructions.
        store: whether it outlives its request.
        id, item_id: of the response, and of the message in it.
        created, completed: Unix times, in seconds.
        status: where it stands.
        text, logprobs: output so far.
        usage: tokens so far.
        error: what it failed with.
    """

    body: CreateResponse
    model: str
    temperature: float
    top_p: float
    messages: list[Message]
    store: bool
    id: str = field(default_factory=lambda: new_id("resp"))
    item_id: str = field(default_factory=lambda: new_id("msg"))
    created: int = field(default_factory=lambda: int(time.time()))
    completed: int | None = None
    status: Status = "queued"
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    usage: Usage | None = None
    error: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """True once nothing more will come."""
        return self.status not in ("queued", "in_progress")

    @property
    def conversation(self) -> list[Message]:
        """What a response that follows this one begins with."""
        return [*self.messages, {"role": "assistant", "content": self.text}]

    def add(self, output: RequestOutput) -> tuple[str, list[dict[str, Any]]]:
        """Take what is new.

        Returns:
            New text, and log probabilities of its tokens.

        Raises:
            ApiError: 500, the engine ended it before its time.
        """
        self.status = "in_progress"
        one = output.outputs[0]
        logprobs: list[dict[str, Any]] = []
        if self.body.logprobs is not None and one.logprobs is not None:
            pairs = zip(one.token_ids, one.logprobs, strict=True)
            logprobs = [_logprob(token, known, self.body.logprobs) for token, known in pairs]
        self.text += one.text
        self.logprobs += logprobs
        if one.finish_reason in ("abort", "error"):
            raise ApiError(500, "The engine ended the request before its end.", kind="server_error")
        if one.finish_reason is not None:
            self.end("completed" if one.finish_reason == "stop" else "incomplete")
        return one.text, logprobs

    def end(self, status: Status) -> None:
        """Nothing more will come."""
        self.status = status
        self.completed = int(time.time())

    def fail(self, error: ApiError) -> None:
        """It ended with an error."""
        self.error = {"code": "server_error", "message": error.message}
        self.end("failed")

    def part(self) -> dict[str, Any]:
        """The text with what belongs to it."""
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}

    def item(self, *, begun: bool = False) -> dict[str, Any]:
        """The message; with `begun` as it is announced, before it has content."""
        status = {"completed": "completed", "in_progress": "in_progress"}.get(self.status, "incomplete")
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": "in_progress" if begun else status,
            "content": [] if begun else [self.part()],
        }

    def view(self) -> dict[str, Any]:
        """The response object."""
        body = self.body
        shown = self.status in ("completed", "incomplete") or bool(self.text)
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
            "output": [self.item()] if shown else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": None,
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": self.store,
            "temperature": self.temperature,
            "text": {"format": body.format_shown(), "verbosity": "medium"},
            "tool_choice": "none",
            "tools": [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": self.top_p,
            "truncation": "disabled",
            "usage": None if self.usage is None or not self.ended else _usage(self.usage),
            "user": body.user,
        }

    def inputs(self) -> list[dict[str, Any]]:
        """The request's own input as items. An item's id is its place, so that it is the same every time."""
        own = self.body.messages()
        return [
            {
                "id": f"msg_{self.id.removeprefix('resp_')}_{index}",
                "type": "message",
                "role": one["role"],
                "status": "completed",
                "content": [_content(one)],
            }
            for index, one in enumerate(own)
        ]


def _content(message: Message) -> dict[str, Any]:
    if message["role"] == "assistant":
        return {"type": "output_text", "text": message["content"], "annotations": []}
    return {"type": "input_text", "text": message["content"]}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
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
