"""Requests whose results must not depend on how steps are run, and what is compared of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire import RequestOutput

PROMPTS = [list(range(2 + i, 2 + i + 5 * (i % 4 + 1))) for i in range(11)]
SHARED = [[*range(40, 75), 3 + i] for i in range(5)]


def said(outputs: Sequence[RequestOutput]) -> list[Any]:
    """All that a caller sees of results, times aside."""
    return [
        (
            output.prompt_token_ids,
            [
                (one.index, one.token_ids, one.text, one.finish_reason, one.stop_reason)
                for one in output.outputs
            ],
            [
                [
                    {token: (entry.logprob, entry.rank) for token, entry in position.items()}
                    for position in one.logprobs
                ]
                for one in output.outputs
                if one.logprobs is not None
            ],
            output.prompt_logprobs is not None and len(output.prompt_logprobs),
        )
        for output in outputs
    ]


CASES: dict[str, tuple[list[list[int]], dict[str, Any], dict[str, Any]]] = {
    "greedy": (PROMPTS, {"temperature": 0.0, "max_tokens": 9, "ignore_eos": True}, {}),
    "one token": (PROMPTS, {"temperature": 0.0, "max_tokens": 1}, {}),
    "seeded": (PROMPTS, {"temperature": 1.0, "seed": 5, "max_tokens": 12, "top_p": 0.9}, {}),
    "penalties": (
        PROMPTS,
        {
            "temperature": 0.7,
            "seed": 1,
            "max_tokens": 16,
            "repetition_penalty": 1.3,
            "frequency_penalty": 0.5,
        },
        {},
    ),
    "log probabilities": (
        PROMPTS,
        {"temperature": 0.0, "max_tokens": 6, "logprobs": 3, "prompt_logprobs": 2, "ignore_eos": True},
        {},
    ),
    # A request that ended unforeseen is in one step more, and its slot is given to another meanwhile.
    "a slot's next request: penalties": (
        PROMPTS,
        {"seed": 9, "max_tokens": 24, "stop_token_ids": list(range(0, 320, 5)), "presence_penalty": 2.0},
        {"max_num_seqs": 2},
    ),
    "a slot's next request: chunks": (
        [[*range(2, 40 + 7 * i)] for i in range(8)],
        {"seed": 9, "max_tokens": 24, "stop_token_ids": list(range(0, 320, 5))},
        {"max_num_seqs": 2, "max_num_batched_tokens": 16},
    ),
    "several completions": (PROMPTS, {"n": 3, "temperature": 1.0, "seed": 2, "max_tokens": 7}, {}),
    "beams": (
        PROMPTS,
        {
            "use_beam_search": True,
            "n": 2,
            "best_of": 3,
            "max_tokens": 12,
            "stop_token_ids": [*range(0, 320, 9)],
        },
        {"max_num_seqs": 7},
    ),
    "beams that take turns": (
        PROMPTS[:4],
        {"use_beam_search": True, "n": 4, "max_tokens": 8, "early_stopping": "never"},
        {"max_num_seqs": 3, "max_num_batched_tokens": 16},
    ),
    "stop ids": (
        PROMPTS,
        {"temperature": 1.0, "seed": 3, "max_tokens": 40, "stop_token_ids": list(range(0, 320, 9))},
        {},
    ),
    "stop strings": (
        PROMPTS,
        {"temperature": 1.0, "seed": 4, "max_tokens": 40, "stop": ["a", "e", "%", "1"]},
        {},
    ),
    "minimum": (PROMPTS, {"temperature": 1.0, "seed": 4, "max_tokens": 20, "min_tokens": 12}, {}),
    "chunks": (
        [[*range(2, 102)], [*range(5, 85)], [7] * 33],
        {"temperature": 0.0, "max_tokens": 8, "ignore_eos": True},
        {"max_num_batched_tokens": 16},
    ),
    # As many decode as fit but for one token: rows alike, of which one's is not its last.
    "chunks of one token": (
        [[2, 3], [4, 5], [6, 7], [*range(8, 28)]],
        {"temperature": 1.0, "seed": 8, "max_tokens": 30, "ignore_eos": True},
        {"max_num_batched_tokens": 4},
    ),
    "prefixes": (SHARED, {"temperature": 0.0, "max_tokens": 6, "ignore_eos": True}, {}),
    "preemption": (
        PROMPTS,
        {"temperature": 1.0, "seed": 7, "max_tokens": 40, "ignore_eos": True},
        {"kv_cache_memory_bytes": "150KiB", "max_num_seqs": 6},
    ),
    "the context's end": (
        [[3] * 60, [4] * 50],
        {"temperature": 0.0, "max_tokens": 99, "ignore_eos": True},
        {"max_model_len": 64},
    ),
}
