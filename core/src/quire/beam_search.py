"""What `LLM.beam_search` gives, in the shape that vLLM's users know. No torch, no engine."""

from __future__ import annotations

from dataclasses import dataclass

from quire.outputs import Logprob

__all__ = ["BeamSearchOutput", "BeamSearchSequence"]


@dataclass(slots=True)
class BeamSearchSequence:
    """One result.

    Attributes:
        tokens: prompt and output, without the token that ended it unless that was asked for.
        logprobs: per output token, the one that ended it included, a mapping id -> `Logprob`.
        cum_logprob: their sum. Results are ranked by this divided by the number of output tokens, the one
            that ended it included, to the power of `length_penalty`.
        text: of `tokens`, special tokens included.
        finish_reason: "stop", or "length".
        stop_reason: None, as only the model's end token ends a beam.
    """

    tokens: list[int]
    logprobs: list[dict[int, Logprob]]
    cum_logprob: float
    text: str
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """What was found for one prompt.

    Attributes:
        sequences: `beam_width` of them, best first.
    """

    sequences: list[BeamSearchSequence]
