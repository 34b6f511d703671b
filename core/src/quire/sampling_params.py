"""Sampling parameters: what a request may ask of the sampler and of the stopping rules.

Knows ranges and which parameters go together; knows no vocabulary, no tokenizer and no tensor.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from quire import _sampling_checks as check
from quire.errors import InvalidRequestError
from quire.structured_outputs import GuidedDecodingParams, StructuredOutputsParams

__all__ = [
    "GREEDY_BELOW",
    "BeamSearchParams",
    "GuidedDecodingParams",
    "SamplingParams",
    "StructuredOutputsParams",
]

GREEDY_BELOW = 1e-5
"""Temperatures below this take the most likely token: dividing by them says nothing else."""

_MAX_COMPLETIONS = 1024
_MAX_STRINGS, _MAX_STRING_LENGTH = 256, 4096
_MAX_STOP_IDS = 1024
_MAX_BIASES = 65_536
_MAX_ALLOWED = 1 << 20  # four times the largest vocabulary known
_MOST_LENGTH_PENALTY = 10  # in size: of lengths to higher powers there are no numbers
_NOT_FOR_BEAMS: tuple[tuple[str, Any, str], ...] = (
    ("top_p", 1.0, "1"),
    ("top_k", 0, "0"),
    ("min_p", 0.0, "0"),
    ("presence_penalty", 0.0, "0"),
    ("frequency_penalty", 0.0, "0"),
    ("repetition_penalty", 1.0, "1"),
    ("logit_bias", None, "empty"),
    ("allowed_token_ids", None, "None"),
    ("bad_words", [], "empty"),
    ("extra_args", None, "None"),
    ("structured_outputs", None, "None"),
    ("stop", [], "empty (stop_token_ids end a beam, and so does the model's end token)"),
)
"""What beams are not ranked by or ended on, with the value that asks for nothing."""


@dataclass(slots=True)
class SamplingParams:
    """How the tokens of a request are chosen, and when it ends. Names and defaults as in vLLM.

    Checked and normalised at construction (lists are copied, one stop string becomes a list of
    one, absent lists become empty ones), and once more by `validated` when the engine admits the
    request, since attributes may be assigned in between.

    Attributes:
        n: completions to return, 1 to 1024.
        best_of: completions to run, of which the `n` most likely are returned; at least `n`; None for `n`.
        presence_penalty: -2 to 2, subtracted once from every token that the output holds.
        frequency_penalty: -2 to 2, subtracted once per occurrence in the output.
        repetition_penalty: above 0; tokens of prompt and output have positive logits divided
            and negative ones multiplied by it; 1 for none.
        temperature: at least 0; below 1e-5 the most likely token is taken. As every completion
            would be the same, more than one is then refused.
        top_p: in (0, 1]: the fewest most likely tokens whose probability reaches it; 1 for all.
        top_k: the k most likely tokens; 0 or -1 for all.
        min_p: 0 to 1: tokens at least this times as likely as the most likely one.
        seed: -2**63 to 2**64 - 1, of the request's own random stream; None (or -1, as in vLLM) for
            one that the engine draws.
        stop: strings that end the output; need `detokenize`.
        stop_token_ids: token ids that end the output.
        bad_words: strings that the output must not contain.
        include_stop_str_in_output: keep the stop string in the text; needs `detokenize`.
        ignore_eos: go on after the model's end token.
        max_tokens: at most so many new tokens; None for as many as the model's length allows.
        min_tokens: no end or stop token before so many new tokens, unless nothing else is left, as where a
            form has ended; at most `max_tokens`.
        logprobs: log probabilities of the sampled and of this many most likely tokens; -1
            for the whole vocabulary (the engine's `max_logprobs` bounds it); None for none.
        prompt_logprobs: the same for each token of the prompt.
        detokenize: turn ids into text.
        skip_special_tokens: leave special tokens out of the text.
        logit_bias: token id -> -100 to 100, added to its logit.
        allowed_token_ids: only these may be sampled; None for all, an empty list is refused.
        extra_args: what active logits processors are told, by argument name; None for nothing. Which they
            know, and what values, is theirs to say when the request is admitted.
        use_beam_search: search for the `n` best outputs with `best_of` (or `n`) beams, instead of sampling.
            The model's own probabilities count: temperature is 0 or 1, and what shapes them is refused.
        length_penalty: -10 to 10, with beams only: the score of a result is the sum of its log probabilities
            divided by its length to this power; above 0 it favours longer ones; None for 1.
        early_stopping: with beams only: True to end with as many results as beams; False (or None) when
            better ones are not to be expected; "never" when, by a bound, there can be none.
        structured_outputs: the form that the output must have; None for any.
        guided_decoding: the same by vLLM's older name; it becomes `structured_outputs`.
        thinking_token_budget: tokens of thinking after which it is ended and the answer follows; 0 for no
            thinking, None for any amount. It takes a reasoning parser to know thinking.
        bad_words_token_ids: filled by the engine from `bad_words` and the tokenizer; never by users.

    Raises:
        InvalidRequestError: a name is unknown, or a value has the wrong type or is out of range.
    """

    n: int = 1
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    extra_args: dict[str, Any] | None = None
    use_beam_search: bool = False
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    structured_outputs: StructuredOutputsParams | None = None
    guided_decoding: StructuredOutputsParams | None = None
    thinking_token_budget: int | None = None
    bad_words_token_ids: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    def __new__(cls, *args: object, **kwargs: object) -> SamplingParams:
        """Refuse unknown names with the nearest known one; `__init__` stays the dataclass's own."""
        for name in kwargs:
            if name not in cls.__dataclass_fields__:
                if name == "logits_processors":  # vLLM's first engine took functions here
                    raise InvalidRequestError(
                        "logits_processors are no sampling parameter: no code travels in a request. Name an "
                        "installed one in LLM(logits_processors=[...]); extra_args has its arguments.",
                        field=name,
                    )
                known = [f.name for f in fields(cls)]
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else f" Known are: {', '.join(sorted(known))}."
                raise InvalidRequestError(f"Unknown sampling parameter {name!r}.{hint}", field=name)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        self._check_choice()
        self._check_stopping()
        self._check_tokens()
        self._check_together()
        self._check_beams()

    @property
    def greedy(self) -> bool:
        """True if the most likely token is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def width(self) -> int:
        """Outputs that are worked on at a time: completions, or beams."""
        return max(self.n, self.best_of or self.n)

    @property
    def num_completions(self) -> int:
        """Completions that come out of the engine: all that are run, or the `n` best of a beam search."""
        return self.n if self.use_beam_search else self.width

    def validated(self) -> SamplingParams:
        """An independent, normalised and checked copy.

        Raises:
            InvalidRequestError: an attribute was assigned a bad value since construction.
        """
        return replace(self)

    def over(self, **given: Any) -> SamplingParams:
        """Defaults, with what was given over them. A beam search leaves those behind that shape sampling.

        Raises:
            InvalidRequestError: a value is bad, or they rule each other out.
        """
        if given.get("use_beam_search") is True:
            given = {name: nothing for name, nothing, _ in _NOT_FOR_BEAMS} | {"temperature": 0.0} | given
        return replace(self, **given)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Check every token id against the width of the model's logits.

        Raises:
            InvalidRequestError: an id of `logit_bias`, `allowed_token_ids`, `stop_token_ids` or
                `bad_words_token_ids` is outside 0 .. vocab_size - 1.
        """
        check.in_vocabulary("logit_bias", tuple(self.logit_bias or ()), vocab_size)
        check.in_vocabulary("allowed_token_ids", self.allowed_token_ids or (), vocab_size)
        check.in_vocabulary("stop_token_ids", self.stop_token_ids or (), vocab_size)
        for word in self.bad_words_token_ids:
            check.in_vocabulary("bad_words_token_ids", word, vocab_size)

    def _check_choice(self) -> None:
        """What shapes the distribution."""
        self.n = check.integer("n", self.n, 1, _MAX_COMPLETIONS)
        if self.best_of is not None:
            self.best_of = check.integer("best_of", self.best_of, self.n, _MAX_COMPLETIONS)
        for name in ("presence_penalty", "frequency_penalty"):
            setattr(
                self, name, check.real(name, getattr(self, name), -2, 2, permitted="a number from -2 to 2")
            )
        self.repetition_penalty = check.real(
            "repetition_penalty",
            self.repetition_penalty,
            0,
            open_low=True,
            permitted="a finite number above 0",
        )
        self.temperature = check.real(
            "temperature", self.temperature, 0, permitted="a finite number of at least 0"
        )
        self.top_p = check.real(
            "top_p", self.top_p, 0, 1, open_low=True, permitted="a number above 0 and at most 1"
        )
        self.top_k = check.integer(
            "top_k", self.top_k, -1, None, permitted="an integer of at least 1, or 0 or -1 for all tokens"
        )
        self.min_p = check.real("min_p", self.min_p, 0, 1, permitted="a number from 0 to 1")
        if self.seed is not None:
            seed = check.integer("seed", self.seed, -(1 << 63), (1 << 64) - 1)
            self.seed = None if seed == -1 else seed

    def _check_stopping(self) -> None:
        """What ends the output, and what is shown of it."""
        self.stop = check.strings("stop", self.stop, _MAX_STRINGS, _MAX_STRING_LENGTH)
        self.stop_token_ids = check.token_ids("stop_token_ids", self.stop_token_ids, _MAX_STOP_IDS)
        if self.max_tokens is not None:
            self.max_tokens = check.integer("max_tokens", self.max_tokens, 1, None)
        self.min_tokens = check.integer("min_tokens", self.min_tokens, 0, self.max_tokens)
        if self.thinking_token_budget is not None:
            self.thinking_token_budget = check.integer(
                "thinking_token_budget", self.thinking_token_budget, 0, None
            )
        for name in ("include_stop_str_in_output", "ignore_eos", "detokenize", "skip_special_tokens"):
            check.boolean(name, getattr(self, name))
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None:
                permitted = "an integer of at least 0, or -1 for the whole vocabulary"
                setattr(self, name, check.integer(name, value, -1, None, permitted=permitted))

    def _check_tokens(self) -> None:
        """Which tokens are favoured, allowed or forbidden."""
        self.bad_words = check.strings("bad_words", self.bad_words, _MAX_STRINGS * 4, _MAX_STRING_LENGTH)
        self.logit_bias = check.bias("logit_bias", self.logit_bias, _MAX_BIASES, 100)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = check.token_ids(
                "allowed_token_ids", self.allowed_token_ids, _MAX_ALLOWED
            )
            if not self.allowed_token_ids:
                check.refuse("allowed_token_ids", [], "a list of at least one token id, or None for all")
        self.extra_args = check.arguments("extra_args", self.extra_args)
        self.bad_words_token_ids = tuple(
            tuple(check.token_ids("bad_words_token_ids", word, _MAX_STRING_LENGTH))
            for word in self.bad_words_token_ids
        )

    def _check_together(self) -> None:
        """Parameters that rule each other out."""
        for name, form in (
            ("structured_outputs", self.structured_outputs),
            ("guided_decoding", self.guided_decoding),
        ):
            if form is not None and not isinstance(form, StructuredOutputsParams):
                check.refuse(name, form, "StructuredOutputsParams, or None")
        if self.guided_decoding is not None:
            if self.structured_outputs is not None:
                check.refuse("guided_decoding", self.guided_decoding, "None beside structured_outputs")
            self.structured_outputs, self.guided_decoding = self.guided_decoding, None
        if self.greedy and self.width > 1 and self.use_beam_search is not True:
            name = "n" if self.n > 1 else "best_of"
            check.refuse(name, getattr(self, name), "1 at temperature 0, where every completion is the same")
        if not self.detokenize:
            if self.stop:
                check.refuse("stop", self.stop, "empty without detokenize: stop strings are found in text")
            if self.include_stop_str_in_output:
                check.refuse("include_stop_str_in_output", True, "False without detokenize")

    def _check_beams(self) -> None:
        """Beam search, and what it rules out."""
        beams = check.boolean("use_beam_search", self.use_beam_search)
        if self.length_penalty is not None:
            most = _MOST_LENGTH_PENALTY
            permitted = f"a number from {-most} to {most}, or None"
            self.length_penalty = check.real(
                "length_penalty", self.length_penalty, -most, most, permitted=permitted
            )
        early = self.early_stopping
        if early is not None and not isinstance(early, bool) and early != "never":
            check.refuse("early_stopping", early, "True, False, 'never' or None")
        if not beams:
            for name, value in (("length_penalty", 1.0), ("early_stopping", False)):
                if getattr(self, name) not in (None, value):
                    check.refuse(name, getattr(self, name), f"{value}, or None, without use_beam_search")
            return
        if not self.greedy and self.temperature != 1:
            check.refuse("temperature", self.temperature, "0 or 1 with use_beam_search, which draws nothing")
        if self.thinking_token_budget is not None:
            check.refuse("thinking_token_budget", self.thinking_token_budget, "None with use_beam_search")
        for name, nothing, permitted in _NOT_FOR_BEAMS:
            value = getattr(self, name)
            if value and value != nothing and not (name == "top_k" and value == -1):
                check.refuse(name, value, f"{permitted} with use_beam_search")


@dataclass(frozen=True, slots=True)
class BeamSearchParams:
    """What `LLM.beam_search` is to search for. The rules are those of `SamplingParams.use_beam_search`.

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
