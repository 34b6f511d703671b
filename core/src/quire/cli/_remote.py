"""A client of a running server that speaks OpenAI's API: what `quire chat --url` and `complete` talk with.

Knows HTTP, server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) and the
two endpoints; knows no engine. What a server refuses or breaks becomes an error of Quire's tree, and no
message repeats the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from quire.errors import (
    ConfigError,
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    QuireError,
    RequestFailedError,
)
from quire.outputs import CompletionOutput, RequestOutput

__all__ = ["RemoteServer", "Usage"]

# Seconds. An answer may wait long for its turn, so only the connection has a limit; Ctrl-C ends the rest.
_TIMEOUT = httpx2.Timeout(None, connect=10.0)
_LONGEST_REASON = 500  # characters of a server's own words


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the server counted."""

    prompt_tokens: int
    completion_tokens: int


class RemoteServer:
    """One server, and the sampling fields that go with every request.

    Attributes:
        usage: of the last stream, once it has ended; None if the server told none.
        thinking: what the model has thought in the last stream so far, for its first answer.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: the server's address, with or without `/v1`.
            model: None for the first that the server lists.
            api_key: sent as a bearer token.
            fields: sampling parameters by their names in requests.

        Raises:
            ConfigError: the address is none, or the key cannot be sent in a header.
        """
        self._url = _base(url)
        self._model = model
        self._fields = dict(fields or {})
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("The API key has characters that no HTTP header can carry.")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._client = httpx2.Client(headers=headers, timeout=_TIMEOUT)
        self.usage: Usage | None = None
        self.thinking = ""

    def __enter__(self) -> RemoteServer:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def model(self) -> str:
        """The model that is asked: the one that was named, or the first of the server's.

        Raises:
            QuireError: see `stream`; or it has none.
        """
        if self._model is None:
            listed = self._json("GET", "/models", None).get("data")
            names = [one.get("id") for one in listed if isinstance(one, dict)] if listed else []
            if not names or not isinstance(names[0], str):
                raise ModelNotFoundError(f"{self._url} lists no model. Name one with --model.")
            self._model = names[0]
        return self._model

    def complete(self, prompt: str) -> dict[str, Any]:
        """The server's whole answer to a prompt, as it gives it.

        Raises:
            QuireError: see `stream`.
        """
        return self._json("POST", "/completions", self._body(prompt=prompt))

    def stream(self, prompt: str) -> Iterator[RequestOutput]:
        """Continue a prompt. Each output holds all text so far, as `LLM.stream`'s do, but no token ids.

        Raises:
            ConfigError: the server wants another key.
            InvalidRequestError: it refuses the request.
            ModelNotFoundError: it has no such model, or no such endpoint.
            OverloadedError: it has no room now.
            RequestFailedError: the answer broke off.
            EngineError: nothing answers, or it failed.
        """
        return self._outputs("/completions", self._body(prompt=prompt))

    def stream_chat(self, messages: Sequence[Mapping[str, str]]) -> Iterator[RequestOutput]:
        """Answer a conversation. As `stream`."""
        body = self._body(messages=list(messages))
        if "logprobs" in body:  # a number for completions, but a switch and a number for chats
            body |= {"logprobs": True, "top_logprobs": body["logprobs"]}
        return self._outputs("/chat/completions", body)

    def _body(self, **content: Any) -> dict[str, Any]:
        return {"model": self.model(), **content, **self._fields}

    def _outputs(self, path: str, body: Mapping[str, Any]) -> Iterator[RequestOutput]:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        answers: dict[int, CompletionOutput] = {}
        request_id = "?"
        self.usage = None
        self.thinking = ""
        for event in self._events(path, body):
            request_id = str(event.get("id") or request_id)
            if event.get("error"):
                raise RequestFailedError(f"The server failed: {_reason(event)}", request_id=request_id)
            usage = event.get("usage")
            if isinstance(usage, dict):
                self.usage = Usage(
                    int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
                )
            for choice in event.get("choices") or ():
                index = int(choice.get("index") or 0)
                answer = answers.setdefault(index, CompletionOutput(index, "", []))
                delta = choice.get("delta") or {}
                answer.text += choice.get("text") or delta.get("content") or ""
                if index == 0:
                    self.thinking += delta.get("reasoning_content") or delta.get("reasoning") or ""
                answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            outputs = [answers[index] for index in sorted(answers)]
            yield RequestOutput(
                request_id=request_id,
                prompt=None,
                prompt_token_ids=[],
                outputs=outputs,
                finished=bool(outputs) and all(one.finished() for one in outputs),
            )
        if not answers or not all(answer.finished() for answer in answers.values()):
            raise RequestFailedError(
                f"The answer of {self._url} broke off before its end. Ask again.", request_id=request_id
            )

    def _events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The JSON objects of a stream, to `[DONE]` or its end."""
        with self._failures(), self._client.stream("POST", self._url + path, json=body) as response:
            if response.status_code != 200:
                response.read()
                raise self._refusal(response)
            for data in _data(response.iter_bytes()):
                if data == b"[DONE]":
                    return
                yield _object(data, self._url)

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        with self._failures():
            response = self._client.request(method, self._url + path, json=body)
        if response.status_code != 200:
            raise self._refusal(response)
        return _object(response.content, self._url)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns what the transport raises into errors of the tree."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise EngineError(
                f"No server answers at {self._url}: {_words(error)}. Is it running? `quire serve` starts one."
            ) from error
        except (httpx2.ReadError, httpx2.RemoteProtocolError) as error:
            raise RequestFailedError(
                f"The connection to {self._url} broke before the answer's end: {_words(error)}.",
                request_id="?",
            ) from error
        except httpx2.HTTPError as error:
            raise EngineError(f"{self._url} cannot be asked: {_words(error)}.") from error

    def _refusal(self, response: httpx2.Response) -> QuireError:
        """What an answer other than 200 means for the user."""
        status = response.status_code
        try:
            reason = _reason(response.json())
        except ValueError:
            reason = response.text.strip()[:_LONGEST_REASON] or response.reason_phrase
        said = f"{self._url} answers {status}: {reason}"
        match status:
            case 401 | 403:
                return ConfigError(f"{said} Give the server's key with --api-key or as QUIRE_API_KEY.")
            case 404:
                return ModelNotFoundError(f"{said} Check --url and --model.")
            case 429:
                wait = response.headers.get("Retry-After")
                return OverloadedError(f"{said} Try again {f'in {wait} s' if wait else 'later'}.")
            case _ if 400 <= status < 500:
                return InvalidRequestError(said)
            case _:
                return EngineError(said)


def _base(url: str) -> str:
    """The address that paths are added to, `/v1` included."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError, ValueError) as error:
        raise ConfigError(f"--url {url!r} is no address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"--url {url!r} must be such as http://127.0.0.1:8000.")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError("--url must have no user, query or fragment. A key goes into --api-key.")
    base = str(parsed).rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def _data(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The data of each event. Lines end at LF or CR LF alone: JSON may hold what `splitlines` splits at."""
    rest = b""
    lines: list[bytes] = []
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                lines.append(line[5:].removeprefix(b" "))
            elif not line and lines:
                yield b"\n".join(lines)
                lines.clear()


def _object(data: bytes, url: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise EngineError(f"{url} does not speak OpenAI's API: it sends {data[:80]!r}.")
    return found


def _reason(body: Any) -> str:
    """The server's words, from OpenAI's error object or what is near it."""
    found = body
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return (found if isinstance(found, str) else json.dumps(found))[:_LONGEST_REASON]


def _words(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).rstrip(".")
