"""Beam search in plain words over whole token tuples, following the steps of transformers' `_beam_search`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple
from zlib import crc32

from quire.request import EngineRequest
from quire.scheduler.beams import BeamRules

from .fake_model import log_probabilities

Tokens = tuple[int, ...]
Model = Callable[[Tokens], Sequence[float]]
"""The log probability of every token of the vocabulary, after some tokens of output."""


class Found(NamedTuple):
    """A result."""

    score: float
    total: float
    tokens: Tokens


def search(model: Model, rules: BeamRules) -> list[Found]:
    """The results of a search that ranks every token of the vocabulary in each step, best first."""
    width, ends, penalty = rules.width, rules.stop_ids, rules.length_penalty
    running: list[tuple[float, Tokens]] = [(0.0, ())]
    finished: list[Found] = []
    for length in range(1, rules.max_tokens + 1):
        everything = [
            (total + logprob, (*tokens, token))
            for total, tokens in running
            for token, logprob in enumerate(model(tokens))
            if not (token in ends and length <= rules.min_tokens)
        ]
        kept = sorted(everything, key=lambda one: -one[0])[: max(2, 1 + len(ends)) * width]
        hits = [tokens[-1] in ends or length == rules.max_tokens for _, tokens in kept]
        for (total, tokens), hit in list(zip(kept, hits, strict=True))[:width]:
            if hit:
                finished.append(Found(total / length**penalty, total, tokens))
        finished = sorted(finished, key=lambda one: -one.score)[:width]
        running = [one for one, hit in zip(kept, hits, strict=True) if not hit][:width]
        worst = finished[-1].score if len(finished) == width else -math.inf
        best_length = rules.max_tokens if rules.early_stopping == "never" and penalty > 0 else length
        improvable = bool(running) and running[0][0] / best_length**penalty > worst
        complete = len(finished) == width and (rules.early_stopping is True or width == 1)
        if not improvable or complete:
            break
    return finished


def every_output(model: Model, rules: BeamRules, vocabulary: int) -> list[Found]:
    """All outputs there are, best first, by trying each sequence of tokens."""
    found: list[Found] = []
    for length in range(1, rules.max_tokens + 1):
        for tokens in product(range(vocabulary), repeat=length):
            early = [place for place, token in enumerate(tokens, start=1) if token in rules.stop_ids]
            ends = tokens[-1] in rules.stop_ids or length == rules.max_tokens
            if not ends or any(place < length or place <= rules.min_tokens for place in early):
                continue
            total = 0.0
            for place, token in enumerate(tokens):
                total += model(tokens[:place])[token]
            found.append(Found(total / length**rules.length_penalty, total, tokens))
    return sorted(found, key=lambda one: -one.score)


def searched(asked: EngineRequest, *rooms: int) -> list[tuple[list[int], str, int | None, float]]:
    """What a beam search must find: of each completion output ids, finish and stop reason, and their sum.

    Args:
        rooms: tokens that a sequence can have.
    """
    params, prompt = asked.params, asked.prompt_ids
    eos = frozenset() if params.ignore_eos else frozenset(asked.eos_token_ids)
    room = min(rooms) - len(prompt)
    assert params.max_tokens is not None
    rules = BeamRules(
        params.best_of or params.n,
        min(params.max_tokens, room),
        params.min_tokens,
        eos | frozenset(params.stop_token_ids or ()),
        1.0 if params.length_penalty is None else params.length_penalty,
        params.early_stopping or False,
    )

    def model(tokens: tuple[int, ...]) -> list[float]:
        prefix = crc32((asked.adapter or "").encode())
        for token in (*prompt, *tokens):
            prefix = hash((prefix, token))
        return log_probabilities(prefix)

    found = []
    for one in search(model, rules)[: params.n]:
        last = one.tokens[-1]
        reason = "stop" if last in rules.stop_ids else "length"
        stop = last if last in rules.stop_ids - eos else None
        found.append((list(one.tokens), reason, stop, one.total))
    return found
