"""Log probabilities in OpenAI's two forms: parallel lists for completions, objects for chats.

In both, the chosen token's value is the same wherever it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire import Logprob
from quire_server.openai.echo import Echo

LOWEST = -9999.0
"""Stands for minus infinity, which JSON has no word for; clients know this value from vLLM."""

Entry = dict[int, Logprob]


class CompletionLogprobs:
    """The parallel lists of one choice of a completion, made in one go or chunk by chunk.

    Attributes:
        count: how many of the most likely tokens are shown; -1 for all.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._offset = 0

    def take(
        self, ids: Sequence[int], entries: Sequence[Entry | None], echo: Echo | None = None
    ) -> dict[str, Any]:
        """Lists for these tokens. Offsets go on where the last ones ended.

        Args:
            ids: the tokens.
            entries: per token what the engine says, the chosen one among it; None for a prompt's first.
            echo: says what that first token is.
        """
        tokens: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for token, entry in zip(ids, entries, strict=True):
            offsets.append(self._offset)
            if entry is None:
                text = "" if echo is None else echo.first or ""
                # A BOS that the tokenizer put before the text is not in it.
                self._offset += len(text) if echo is not None and echo.text.startswith(text) else 0
            else:
                text = _text(token, entry[token])
                self._offset += len(text)
            tokens.append(text)
            values.append(None if entry is None else _value(entry[token]))
            tops.append(None if entry is None else _by_text(token, entry, self.count))
        return {"text_offset": offsets, "token_logprobs": values, "tokens": tokens, "top_logprobs": tops}


def chat_logprobs(ids: Sequence[int], entries: Sequence[Entry], count: int) -> dict[str, Any]:
    """The `logprobs` object of a chat's choice.

    Args:
        ids: generated tokens.
        entries: per token what the engine says.
        count: how many of the most likely tokens are shown per token; -1 for all.
    """
    content = []
    for token, entry in zip(ids, entries, strict=True):
        # The chosen token comes first in an entry and sorting is stable, so that among equals it stays.
        likely = sorted(entry.items(), key=lambda item: -item[1].logprob)
        shown = likely if count == -1 else likely[:count]
        top = [_object(other, logprob) for other, logprob in shown]
        content.append(_object(token, entry[token]) | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def prompt_logprobs(entries: Sequence[Entry | None]) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: per token an object from token id to its figures; null for the first."""
    return [
        None
        if entry is None
        else {
            str(token): {
                "logprob": _value(logprob),
                "rank": logprob.rank,
                "decoded_token": logprob.decoded_token,
            }
            for token, logprob in entry.items()
        }
        for entry in entries
    ]


def _by_text(token: int, entry: Entry, count: int) -> dict[str, float]:
    """Text -> value: the chosen token and the most likely ones.

    Several tokens may have the same text, such as parts of a character: the first keeps it, the chosen one
    before all others, and the rest are named by their ids.
    """
    found = {_text(token, entry[token]): _value(entry[token])}
    for other, logprob in entry.items():
        if other == token or (count != -1 and logprob.rank is not None and logprob.rank > count):
            continue
        text = _text(other, logprob)
        found[f"token_id:{other}" if text in found else text] = _value(logprob)
    return found


def _object(token: int, logprob: Logprob) -> dict[str, Any]:
    text = _text(token, logprob)
    # A token that is part of a character decodes to U+FFFD, whose bytes are not the token's.
    encoded = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": _value(logprob), "bytes": encoded}


def _text(token: int, logprob: Logprob) -> str:
    return f"token_id:{token}" if logprob.decoded_token is None else logprob.decoded_token


def _value(logprob: Logprob) -> float:
    return max(logprob.logprob, LOWEST)
