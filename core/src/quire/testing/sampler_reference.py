"""The sampler's processors once more, one row at a time, in plain Python: what samplers are held to.

Slow and obvious on purpose; shares no code with any sampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from quire.sampling_params import SamplingParams

__all__ = ["reference_logits", "reference_probabilities"]


def reference_logits(
    logits: Sequence[float],
    params: SamplingParams,
    prompt_ids: Sequence[int] = (),
    output_ids: Sequence[int] = (),
    eos_token_ids: Sequence[int] = (),
) -> list[float]:
    """Processed logits of one row, -inf where a token is excluded.

    Args:
        logits: V numbers, none of them NaN or +inf.
        params: sampling parameters; at temperature 0 the processors end with the penalties.
        prompt_ids, output_ids: what the request has so far.
        eos_token_ids: the model's end tokens.
    """
    row = list(logits)
    outputs = list(output_ids)
    for token in _excluded(len(row), params, outputs):
        row[token] = -math.inf
    if len(outputs) < params.min_tokens:
        ends = {*(params.stop_token_ids or ()), *(() if params.ignore_eos else eos_token_ids)}
        going_on = [-math.inf if token in ends else x for token, x in enumerate(row)]
        row = row if max(going_on) == -math.inf else going_on
    for token, bias in (params.logit_bias or {}).items():
        row[token] += bias
    for token in {*prompt_ids, *outputs}:
        factor = params.repetition_penalty
        row[token] = row[token] / factor if row[token] > 0 else row[token] * factor
    for token in set(outputs):
        row[token] -= params.frequency_penalty * outputs.count(token) + params.presence_penalty
    if params.greedy:
        return row
    row = [x / params.temperature for x in row]
    if params.min_p > 0:
        probs = reference_probabilities(row)
        row = _keep(row, [i for i, p in enumerate(probs) if p >= params.min_p * max(probs) * (1 - 1e-6)])
    ranked = sorted(range(len(row)), key=lambda i: (-row[i], i))
    if params.top_k > 0:
        ranked = ranked[: params.top_k]
        row = _keep(row, ranked)
    if params.top_p < 1:
        probs = reference_probabilities(row)
        nucleus: list[int] = []
        while ranked and math.fsum(probs[i] for i in nucleus) < params.top_p:
            nucleus.append(ranked.pop(0))
        row = _keep(row, nucleus)
    return row


def reference_probabilities(logits: Sequence[float]) -> list[float]:
    """Softmax of one row."""
    peak = max(logits)
    weights = [math.exp(x - peak) for x in logits]
    total = math.fsum(weights)
    return [w / total for w in weights]


def _excluded(vocab_size: int, params: SamplingParams, outputs: list[int]) -> set[int]:
    excluded: set[int] = set()
    if params.allowed_token_ids is not None:
        excluded |= set(range(vocab_size)) - set(params.allowed_token_ids)
    for word in params.bad_words_token_ids:
        *beginning, last = word
        if outputs[len(outputs) - len(beginning) :] == beginning:
            excluded.add(last)
    return excluded


def _keep(row: list[float], kept: Sequence[int]) -> list[float]:
    wanted = set(kept)
    return [x if i in wanted else -math.inf for i, x in enumerate(row)]
