"""What `LLM.beam_search` takes and gives, in the shape that vLLM's users know. No torch, no engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quire.outputs import Logprob
from quire.sampling import SamplingParams

__all__ = ["BeamSearchOutput", "BeamSearchParams", "BeamSearchSequence"]


@dataclass(frozen=True, slots=True)
class BeamSearchParams:
    """What to search for. The rules are those of `SamplingParams.use_beam_search`.

    Attributes:
        beam_width: beams, and sequences returned.
        max_tokens: most new tokens.
        ignore_eos: go on after the model's end token.
        temperature: 0 or 1: beams are ranked by the model's own probabilities.
        length_penalty, early_stopping: see `SamplingParams`.
        include_stop_str_in_output: keep the end token in tokens and text.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    early_stopping: bool | Literal["never"] = False

    def sampling(self) -> SamplingParams:
        """The same as a request's parameters; the text is made from all tokens at the end.

        Raises:
            InvalidRequestError: a value is out of range.
        """
        return SamplingParams(
            n=self.beam_width,
            use_beam_search=True,
            max_tokens=self.max_tokens,
            ignore_eos=self.ignore_eos,
            temperature=self.temperature,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            logprobs=0,
            detokenize=False,
        )


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
