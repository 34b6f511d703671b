"""Text of a file as token ids: most of it to calibrate with, its last tenth kept back for perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire import LLM, SamplingParams
from quire.errors import ConfigError

_KEPT_BACK = 0.1


@dataclass(frozen=True, slots=True)
class Samples:
    """Token ids in pieces of one length.

    Attributes:
        calibration: what the tool sees.
        held_out: what it does not.
    """

    calibration: list[list[int]]
    held_out: list[list[int]]


def read_samples(path: Path, tokenizer: Any, *, count: int, length: int) -> Samples:
    """Cut a file into pieces.

    Args:
        path: UTF-8 text.
        tokenizer: has `encode(text) -> ids`.
        count: pieces to calibrate with, at most; they are spread over the text.
        length: tokens of a piece.

    Raises:
        ConfigError: the text is too short for one piece of each kind.
    """
    ids = list(tokenizer.encode(path.read_text(encoding="utf-8")))
    pieces = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    if len(pieces) < 2:
        raise ConfigError(
            f"{path} has {len(ids)} tokens; two pieces of {length} are the least. "
            f"Give a longer text, or a smaller --sequence-length."
        )
    kept = max(1, math.floor(len(pieces) * _KEPT_BACK))
    rest, held_out = pieces[:-kept], pieces[-kept:]
    step = max(1, len(rest) // count)
    return Samples(rest[::step][:count], held_out)


def perplexity(llm: LLM, texts: Sequence[Sequence[int]], progress: Any) -> float:
    """exp of the mean negative log likelihood per token, by Quire's engine.

    Args:
        llm: the engine.
        texts: token ids, each judged by itself.
        progress: wraps the texts while they are gone through.
    """
    return math.exp(-math.fsum(found := list(_logprobs(llm, texts, progress))) / len(found))


def _logprobs(llm: LLM, texts: Sequence[Sequence[int]], progress: Any) -> Iterator[float]:
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    for ids in progress(texts):
        (output,) = llm.generate({"prompt_token_ids": list(ids)}, params, use_tqdm=False)
        assert output.prompt_logprobs is not None
        for token, entry in zip(ids[1:], output.prompt_logprobs[1:], strict=True):
            assert entry is not None
            yield entry[token].logprob
