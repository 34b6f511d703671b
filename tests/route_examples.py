"""A valid request for every route that acts, of every front end there is. A new route is added here."""

from __future__ import annotations

from quire_route_ollama.request import ChatRequest, GenerateRequest, ShowRequest
from quire_server.anthropic.request import CountTokens, CreateMessage
from quire_server.openai.chat import ChatBody
from quire_server.openai.completions import CompletionBody
from quire_server.openai.tokens import TokenizeBody
from quire_server.responses.request import CreateResponse
from quire_server.testing import Example, refusals

TURNS = [{"role": "user", "content": "say it"}]

OPENAI = (
    Example(
        path="/v1/completions",
        body={"model": "fake", "prompt": "abc", "max_tokens": 5},
        streamed={"stream": True, "stream_options": {"include_usage": True}},
        refused=refusals(CompletionBody),
    ),
    Example(
        path="/v1/chat/completions",
        body={"model": "fake", "messages": TURNS, "max_completion_tokens": 5},
        streamed={"stream": True, "stream_options": {"include_usage": True}},
        refused=refusals(ChatBody),
    ),
    Example(
        path="/tokenize",
        body={"model": "fake", "prompt": "abc"},
        generates=False,
        refused=refusals(TokenizeBody),
    ),
    Example(path="/detokenize", body={"model": "fake", "tokens": [97, 98]}, generates=False),
    Example(path="/v1/embeddings", body={"model": "fake", "input": "abc"}, generates=False, status=400),
)
RESPONSES = (
    Example(
        path="/v1/responses",
        body={"model": "fake", "input": "abc", "max_output_tokens": 5},
        refused=refusals(CreateResponse),
    ),
    Example(path="/v1/responses/{response_id}", method="DELETE", body=None, generates=False, status=404),
    Example(path="/v1/responses/{response_id}/cancel", body=None, generates=False, status=404),
)
ANTHROPIC = (
    Example(
        path="/v1/messages",
        body={"model": "fake", "messages": TURNS, "max_tokens": 5},
        refused=refusals(CreateMessage),
    ),
    Example(
        path="/v1/messages/count_tokens",
        body={"model": "fake", "messages": TURNS},
        generates=False,
        refused=refusals(CountTokens),
    ),
)
OLLAMA = (
    Example(
        path="/api/generate",
        body={"model": "fake", "prompt": "abc", "options": {"num_predict": 5}},
        refused=refusals(GenerateRequest),
    ),
    Example(
        path="/api/chat",
        body={"model": "fake", "messages": TURNS, "options": {"num_predict": 5}},
        refused=refusals(ChatRequest),
    ),
    Example(path="/api/show", body={"model": "fake"}, generates=False, refused=refusals(ShowRequest)),
)
EVERY = (*OPENAI, *RESPONSES, *ANTHROPIC, *OLLAMA)
