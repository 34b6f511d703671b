"""From what a caller hands over to a request that the engine can run: tokenized, checked, complete."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias

from quire.contracts import ReasoningParser, ReasoningParserInit
from quire.contracts.grammar import GrammarNeed
from quire.engine.arguments import RequestArguments
from quire.engine.grammars.compiler import CompileStats, GrammarCompiler
from quire.engine.grammars.plan import grammar_plugins
from quire.engine.info import EngineInfo
from quire.errors import InvalidRequestError
from quire.request import CompiledGrammar, EngineRequest, ThinkingBudget
from quire.sampling_params import SamplingParams
from quire.text.tokenizer import Tokenizer
from quire.text.vocabulary import make_vocabulary

Prompt: TypeAlias = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, or a mapping with "prompt" or "prompt_token_ids" and, optionally, "cache_salt" and
"continued", the beginning of an answer that the prompt ends with."""

_KEYS = {"prompt", "prompt_token_ids", "cache_salt", "continued", "priority"}


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request in both forms.

    Attributes:
        engine: for the engine.
        prompt: its text, None if it was given as token ids.
        params: as asked for; the engine's copy may ask for more (see `best_of`).
    """

    engine: EngineRequest
    prompt: str | None
    params: SamplingParams


def chat_prompt(text: str, continued: Mapping[str, Any] | None) -> Prompt:
    """The prompt of a chat, out of its text and the message that the answer continues, if there is one."""
    said = None if continued is None else continued.get("content")
    return {"prompt": text, "continued": said} if isinstance(said, str) else text


class InputProcessor:
    """Tokenizes and validates. Draws ids and seeds, so that no caller's id is ever used as a key."""

    def __init__(self, info: EngineInfo, tokenizer: Tokenizer, stream: int = 0) -> None:
        """Prepare requests for an engine.

        Args:
            info: the engine's facts.
            tokenizer: its model's.
            stream: number of this front end among those of one engine, so that their seeds differ.
        """
        self._info = info
        self._tokenizer = tokenizer
        self._max_model_len = info.max_model_len
        self._ids = itertools.count()
        self._seeds = random.Random(info.seed + (stream << 64))
        self._arguments = RequestArguments(info.arguments)
        self._grammars = GrammarCompiler(
            grammar_plugins(info.plugins),
            GrammarNeed(device=info.device, dtype=info.dtype, vocab_size=info.vocab_size),
            lambda: make_vocabulary(tokenizer, info.vocab_size, info.eos_token_ids),
            info.grammar_limits,
        )

    def close(self) -> None:
        """End what compiles grammars."""
        self._grammars.close()

    @property
    def compile_stats(self) -> CompileStats:
        """What compiling grammars came to."""
        return self._grammars.stats

    def compile(self, params: SamplingParams | None) -> Future[CompiledGrammar] | None:
        """Have the form that parameters ask for compiled; None if they ask for none.

        Raises:
            InvalidRequestError: it never can be.
            OverloadedError: too many wait.
        """
        if params is None or params.structured_outputs is None:
            return None
        return self._grammars.submit(params.structured_outputs.source)

    def default_params(self) -> SamplingParams:
        """What a request gets that names no parameters: the checkpoint's own values, else the defaults."""
        return SamplingParams(**self._info.sampling_defaults)

    def prepare(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        add_special_tokens: bool = True,
        grammar: CompiledGrammar | None = None,
    ) -> PreparedRequest:
        """A request that the engine can run.

        Args:
            prompt: see `Prompt`.
            params: how to sample; the defaults if None.
            priority: lower runs earlier under the policy "priority".
            add_special_tokens: whether text gets the tokenizer's BOS (chat templates bring their own).
            grammar: what `compile` made of the parameters' form; waited for here if there is none.

        Raises:
            InvalidRequestError: names the field, the value and what would do.
        """
        text, ids, salt, priority = self._read(prompt, priority, add_special_tokens)
        asked = (params if params is not None else self.default_params()).validated()
        self._check_prompt(ids)
        self._check_params(asked)
        engine = asked.validated()
        room = self._max_model_len - len(ids)
        engine.max_tokens = room if asked.max_tokens is None else min(asked.max_tokens, room)
        engine.min_tokens = min(asked.min_tokens, engine.max_tokens)  # the engine checks them together again
        engine.bad_words_token_ids = self._bad_words(asked)
        engine.extra_args = self._arguments.validate(asked.extra_args)
        engine.check_vocabulary(self._info.vocab_size)
        if asked.num_completions > asked.n and engine.logprobs is None:
            engine.logprobs = 0  # completions are ranked by their cumulative log probability
        engine.structured_outputs = engine.thinking_token_budget = None
        if grammar is None and (under_way := self.compile(asked)) is not None:
            grammar = under_way.result()
        seed = asked.seed if asked.seed is not None else self._seeds.getrandbits(63)
        request = EngineRequest(
            request_id=str(next(self._ids)),
            prompt_ids=ids,
            params=engine,
            seed=seed,
            priority=priority,
            arrival_time=time.monotonic(),
            cache_salt=salt,
            eos_token_ids=self._info.eos_token_ids,
            grammar=grammar,
            thinking=self._thinking(prompt, text, ids, asked),
        )
        return PreparedRequest(request, text, asked)

    def _read(
        self, prompt: Prompt, priority: int, add_special_tokens: bool
    ) -> tuple[str | None, list[int], str | None, int]:
        if isinstance(prompt, str):
            return prompt, self._tokenizer.encode(prompt, add_special_tokens), None, priority
        if not isinstance(prompt, Mapping):
            return None, _as_ids(prompt), None, priority
        unknown = sorted(set(map(str, prompt)) - _KEYS)
        if unknown:
            raise InvalidRequestError(
                f"Unknown key {unknown[0]!r} in a prompt. Choose from: {', '.join(sorted(_KEYS))}.",
                field=unknown[0],
            )
        salt = prompt.get("cache_salt")
        if salt is not None and not (isinstance(salt, str) and salt):
            raise InvalidRequestError(
                f"cache_salt must be a string that is not empty, got {salt!r}.", field="cache_salt"
            )
        priority = int(prompt.get("priority", priority))
        text = prompt.get("prompt")
        if text is not None and not isinstance(text, str):
            raise InvalidRequestError(f"prompt must be text, got {type(text).__name__}.", field="prompt")
        if "prompt_token_ids" in prompt:
            return text, _as_ids(prompt["prompt_token_ids"]), salt, priority
        if text is None:
            raise InvalidRequestError(
                "A prompt given as a mapping needs 'prompt' or 'prompt_token_ids'.", field="prompt"
            )
        return text, self._tokenizer.encode(text, add_special_tokens), salt, priority

    def _check_prompt(self, ids: list[int]) -> None:
        if not ids:
            raise InvalidRequestError("The prompt is empty: it needs at least one token.", field="prompt")
        if len(ids) >= self._max_model_len:
            raise InvalidRequestError(
                f"The prompt has {len(ids)} tokens, and this model's maximum context length is "
                f"{self._max_model_len} tokens, prompt and output together. Shorten the prompt to at most "
                f"{self._max_model_len - 1} tokens.",
                field="prompt",
            )
        lowest, highest = min(ids), max(ids)
        if lowest < 0 or highest >= self._info.vocab_size:
            wrong = lowest if lowest < 0 else highest
            raise InvalidRequestError(
                f"Token id {wrong} of the prompt is out of range: ids are 0 to {self._info.vocab_size - 1}.",
                field="prompt_token_ids",
            )

    def _check_params(self, params: SamplingParams) -> None:
        limit = self._info.max_logprobs
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(params, name)
            if value is not None and (value > limit or (value < 0 and limit < self._info.vocab_size)):
                raise InvalidRequestError(
                    f"{name} {value} is more than max_logprobs, which is {limit}. "
                    f"Ask for at most {limit}, or raise max_logprobs.",
                    field=name,
                )
        if params.use_beam_search:
            ends = {*(params.stop_token_ids or ()), *(() if params.ignore_eos else self._info.eos_token_ids)}
            if params.width + len(ends) > self._info.vocab_size:
                raise InvalidRequestError(
                    f"{params.width} beams and {len(ends)} end tokens are more than the "
                    f"{self._info.vocab_size} tokens of the vocabulary. Ask for fewer.",
                    field="best_of" if params.best_of is not None else "n",
                )

    def _thinking(
        self, prompt: Prompt, text: str | None, ids: list[int], params: SamplingParams
    ) -> ThinkingBudget | None:
        """The budget of thinking that parameters give, with what those need who keep to it."""
        tokens = params.thinking_token_budget
        if tokens is None:
            return None
        planned = self._info.plugins.plugins.get("reasoning_parser")
        if planned is None:
            raise InvalidRequestError(
                "thinking_token_budget needs a reasoning parser, and none knows this model's chat template. "
                "Name one as reasoning_parser.",
                field="thinking_token_budget",
            )
        continued = prompt.get("continued") if isinstance(prompt, Mapping) else None
        if not isinstance(continued, str | None):
            raise InvalidRequestError(
                f"continued must be text, got {type(continued).__name__}.", field="continued"
            )
        init = ReasoningParserInit(
            prompt=self._tokenizer.decode(ids, skip_special_tokens=False) if text is None else text,
            continued=continued,
            options=planned.load_options(),
        )
        parser: ReasoningParser = planned.load()(init)
        return ThinkingBudget(
            tokens=min(tokens, self._max_model_len),
            open=parser.inside,
            end_ids=tuple(self._tokenizer.encode(parser.end, add_special_tokens=False)),
            prompt=init.prompt,
            continued=init.continued,
        )

    def _bad_words(self, params: SamplingParams) -> tuple[tuple[int, ...], ...]:
        """Each word as it is spelt at the start of a text, and as it is spelt after a space."""
        sequences = []
        for word in params.bad_words or ():
            for spelling in (word.lstrip(), " " + word.lstrip()):
                ids = tuple(self._tokenizer.encode(spelling, add_special_tokens=False))
                if ids and ids not in sequences:
                    sequences.append(ids)
        return tuple(sequences)


def _as_ids(ids: object) -> list[int]:
    """Token ids as a list of ints.

    Raises:
        InvalidRequestError: it holds something else.
    """
    if not isinstance(ids, Sequence) or isinstance(ids, (str, bytes)):
        raise InvalidRequestError(
            f"A prompt must be text, a list of token ids or a mapping, got {type(ids).__name__}.",
            field="prompt",
        )
    for value in ids:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidRequestError(
                f"Token ids must be integers, got {value!r} of type {type(value).__name__}.",
                field="prompt_token_ids",
            )
    return list(ids)
